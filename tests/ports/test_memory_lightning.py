"""The memory wallets hold, fail and lose answers on demand, on a virtual clock, and conserve money."""

from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from relaymesh.errors import LightningError, RemoteProtocolError
from relaymesh.ports.lightning import (
    Invoice,
    InvoiceRequest,
    InvoiceState,
    InvoiceStatus,
    PaymentAbsent,
    PaymentFailed,
    PaymentOutcome,
    PaymentRequest,
    PaymentSucceeded,
    PaymentUnknown,
)
from relaymesh.ports.memory_lightning import (
    FailPayment,
    HoldPayment,
    LoseAnswer,
    MemoryLightning,
    MemoryWallet,
    PaymentFault,
    decode_memory_invoice,
    encode_memory_invoice,
)
from relaymesh.units import AmountMsat, Timestamp

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Trio on a clock that jumps: an hour takes no time."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
async def network(anyio_backend: object) -> AsyncIterator[MemoryLightning]:
    lightning = MemoryLightning(fee_msat=3)
    lightning.wallet("payer", 1_000_000)
    lightning.wallet("payee")
    yield lightning
    assert (
        sum(wallet.balance_msat for wallet in lightning.wallets.values()) + lightning.fees_collected_msat == 1_000_000
    )


def _pair(network: MemoryLightning) -> tuple[MemoryWallet, MemoryWallet]:
    return network.wallets["payer"], network.wallets["payee"]


async def _issue(payee: MemoryWallet, label: str = "one", amount_msat: int = 400_000) -> Invoice:
    return await payee.create_invoice(InvoiceRequest(label, AmountMsat(amount_msat), "d", 60))


def _order(invoice: Invoice, deadline_ms: int = 5_000) -> PaymentRequest:
    return PaymentRequest(invoice.bolt11, invoice.payment_hash, AmountMsat(10), deadline_ms)


async def test_a_planned_failure_happens_once_and_moves_nothing(network: MemoryLightning) -> None:
    payer, payee = _pair(network)
    invoice = await _issue(payee)
    payer.plan(FailPayment(209, "a hop"))
    assert await payer.pay(_order(invoice)) == PaymentFailed(209, "a hop")
    assert await payer.lookup_payment(invoice.payment_hash) == PaymentFailed(209, "a hop")
    assert payer.balance_msat == 1_000_000
    assert isinstance(await payer.pay(_order(invoice)), PaymentSucceeded)
    assert (payer.balance_msat, payee.balance_msat, network.fees_collected_msat) == (599_997, 400_000, 3)


@pytest.mark.parametrize("paid", [True, False])
async def test_a_held_payment_is_unknown_until_it_is_released(network: MemoryLightning, paid: bool) -> None:
    payer, payee = _pair(network)
    invoice = await _issue(payee)
    payer.plan(HoldPayment())
    started = anyio.current_time()
    assert isinstance(await payer.pay(_order(invoice)), PaymentUnknown)
    assert anyio.current_time() - started == pytest.approx(5)
    assert isinstance(await payer.lookup_payment(invoice.payment_hash), PaymentUnknown)
    assert (await payer.info()).spendable_msat == 1_000_000 - 400_003
    assert (await payee.lookup_invoice("one")).status is InvoiceStatus.OPEN
    payer.release(invoice.payment_hash, paid=paid)
    found = await payer.lookup_payment(invoice.payment_hash)
    assert isinstance(found, PaymentSucceeded if paid else PaymentFailed)
    assert (await payee.lookup_invoice("one")).status is (InvoiceStatus.PAID if paid else InvoiceStatus.OPEN)


async def test_whoever_pays_again_joins_a_held_payment(network: MemoryLightning) -> None:
    payer, payee = _pair(network)
    invoice = await _issue(payee)
    payer.plan(HoldPayment())
    outcomes: list[PaymentOutcome] = []

    async def pay() -> None:
        outcomes.append(await payer.pay(_order(invoice)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pay)
        tasks.start_soon(pay)
        await anyio.wait_all_tasks_blocked()
        payer.release(invoice.payment_hash)
    assert outcomes[0] == outcomes[1]
    assert payee.balance_msat == 400_000


@pytest.mark.parametrize("paid", [True, False])
async def test_a_lost_answer_is_found_by_looking_up(network: MemoryLightning, paid: bool) -> None:
    payer, payee = _pair(network)
    invoice = await _issue(payee)
    payer.plan(LoseAnswer(paid))
    assert isinstance(await payer.pay(_order(invoice)), PaymentUnknown)
    found = await payer.lookup_payment(invoice.payment_hash)
    assert isinstance(found, PaymentSucceeded if paid else PaymentFailed)
    assert payee.balance_msat == (400_000 if paid else 0)


async def test_a_payment_held_beyond_the_expiry_is_refused_by_the_payee(network: MemoryLightning) -> None:
    payer, payee = _pair(network)
    invoice = await _issue(payee)
    payer.plan(HoldPayment())
    assert isinstance(await payer.pay(_order(invoice, 61_000)), PaymentUnknown)
    payer.release(invoice.payment_hash)
    assert isinstance(await payer.lookup_payment(invoice.payment_hash), PaymentFailed)


async def test_a_wallet_out_of_reach_says_so_and_loses_nothing(network: MemoryLightning) -> None:
    payer, payee = _pair(network)
    paid, unpaid = await _issue(payee), await _issue(payee, "two")
    await payer.pay(_order(paid))
    payer.reachable = payee.reachable = False
    assert isinstance(await payer.pay(_order(unpaid)), PaymentFailed)
    assert isinstance(await payer.pay(_order(paid)), PaymentUnknown)
    assert isinstance(await payer.lookup_payment(paid.payment_hash), PaymentUnknown)
    for refused in (payer.info(), payee.lookup_invoice("one"), _issue(payee, "three"), payee.wait_invoice("two")):
        with pytest.raises(LightningError) as raised:
            await refused
        assert raised.value.retryable
    payer.reachable = True
    assert isinstance(await payer.pay(_order(unpaid)), PaymentFailed), "the payee is away"
    payee.reachable = True
    assert isinstance(await payer.pay(_order(unpaid)), PaymentSucceeded)


async def test_what_is_held_cannot_be_spent_twice(network: MemoryLightning) -> None:
    payer, payee = _pair(network)
    first, second = await _issue(payee, "one", 600_000), await _issue(payee, "two", 600_000)
    payer.plan(HoldPayment())
    await payer.pay(_order(first, 10))
    assert isinstance(await payer.pay(_order(second)), PaymentFailed)
    payer.release(first.payment_hash)
    assert payee.balance_msat == 600_000


async def test_a_fee_above_the_limit_is_not_paid(network: MemoryLightning) -> None:
    payer, payee = _pair(network)
    invoice = await _issue(payee)
    assert isinstance(await payer.pay(replace(_order(invoice), maximum_fee_msat=AmountMsat(2))), PaymentFailed)
    assert await payer.lookup_payment(invoice.payment_hash) == PaymentAbsent()


async def test_a_wait_lasts_as_long_as_the_invoice(network: MemoryLightning) -> None:
    payee = network.wallets["payee"]
    await _issue(payee)
    started = anyio.current_time()
    assert await payee.wait_invoice("one") == InvoiceState(InvoiceStatus.EXPIRED, AmountMsat(0))
    assert 59 <= anyio.current_time() - started <= 61


async def test_a_failed_payment_does_not_end_the_payees_wait(network: MemoryLightning) -> None:
    payer, payee = _pair(network)
    invoice = await _issue(payee)
    payer.plan(FailPayment())
    states: list[InvoiceState] = []

    async def wait() -> None:
        states.append(await payee.wait_invoice("one"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await payer.pay(_order(invoice))
        await anyio.wait_all_tasks_blocked()
        assert not states
        await payer.pay(_order(invoice))
    assert states == [InvoiceState(InvoiceStatus.PAID, AmountMsat(400_000))]


async def test_time_can_be_a_tests_own() -> None:
    now = 1_000
    network = MemoryLightning(clock=lambda: Timestamp(now))
    invoice = await _issue(network.wallet("payee"))
    assert invoice.expires_at == 1_060
    now = 1_060
    assert (await network.wallets["payee"].lookup_invoice("one")).status is InvoiceStatus.EXPIRED


async def test_names_amounts_and_descriptions_are_checked(network: MemoryLightning) -> None:
    payee = network.wallets["payee"]
    with pytest.raises(LightningError, match="is taken"):
        network.wallet("payee")
    good = InvoiceRequest("x", AmountMsat(1), "d", 60)
    for bad in (
        replace(good, amount_msat=AmountMsat(0)),
        replace(good, expiry_seconds=0),
        replace(good, description="x" * 640),
    ):
        with pytest.raises(LightningError):
            await payee.create_invoice(bad)


def test_only_what_a_memory_wallet_wrote_is_read() -> None:
    for text in ("", "lnbc1", "lnmemory1", "lnmemory1zz", "lnmemory1" + b"{}".hex(), "lnmemory1" + b"[1]".hex()):
        with pytest.raises(RemoteProtocolError):
            decode_memory_invoice(text)


async def test_an_invoice_can_be_forged_and_is_then_refused(network: MemoryLightning) -> None:
    payer, payee = _pair(network)
    invoice = await _issue(payee)
    cheaper = replace(decode_memory_invoice(invoice.bolt11), amount_msat=AmountMsat(1))
    forged = replace(_order(invoice), bolt11=encode_memory_invoice(cheaper))
    assert isinstance(await payer.pay(forged), PaymentFailed)
    assert payee.balance_msat == 0


FAULTS = st.sampled_from([FailPayment(), HoldPayment(), LoseAnswer(paid=True), LoseAnswer(paid=False)])


@settings(max_examples=40)
@given(
    faults=st.lists(FAULTS, max_size=8),
    payments=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.integers(1, 900)), max_size=12),
    released=st.lists(st.booleans(), min_size=12, max_size=12),
)
async def test_whatever_is_planned_money_is_conserved(
    faults: list[PaymentFault], payments: list[tuple[str, str, int]], released: list[bool]
) -> None:
    network = MemoryLightning(fee_msat=7)
    for name in "abc":
        network.wallet(name, 1_000).plan(*faults)
    for number, (payer, payee, amount_msat) in enumerate(payments):
        invoice = await _issue(network.wallets[payee], str(number), amount_msat)
        await network.wallets[payer].pay(_order(invoice, 1))
        network.wallets[payer].release(invoice.payment_hash, paid=released[number])
        total = sum(wallet.balance_msat for wallet in network.wallets.values()) + network.fees_collected_msat
        assert total == 3_000
        assert all(wallet.balance_msat >= 0 for wallet in network.wallets.values())
