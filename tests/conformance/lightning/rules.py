"""What every pair of wallets keeps to: plain async functions, to be run against one's own.

from tests.conformance.lightning.rules import RULES, WalletsUnderTest

@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_my_wallets(rule):
    await rule(WalletsUnderTest(payer=my_wallet, payee=your_wallet, decode=decode_invoice_on_loop))

Wallets may be shared, real and slow: every label is new, no payment exceeds 200,000 msat, and what takes its time is
polled.
"""

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import anyio
import pytest

from relaymesh.errors import LightningError
from relaymesh.ports.lightning import (
    MAXIMUM_INVOICE_LABEL_BYTES,
    DecodedInvoice,
    Direction,
    Invoice,
    InvoiceRequest,
    InvoiceState,
    InvoiceStatus,
    PaymentAbsent,
    PaymentFailed,
    PaymentLookup,
    PaymentOutcome,
    PaymentRequest,
    PaymentSucceeded,
    PaymentUnknown,
    TransactionState,
    Wallet,
)
from relaymesh.units import AmountMsat

DEADLINE_SECONDS = 45.0
MAXIMUM_FEE_MSAT = AmountMsat(20_000)


@dataclass(frozen=True)
class WalletsUnderTest:
    """Two wallets with a way from one to the other; the payer holds some millions of msat.

    Args:
        payer: Pays.
        payee: Is paid.
        decode: Reads the payee's invoices.
        rest_seconds: How long a balance has to stay the same before earlier payments count as over: a real node's
            channel goes on changing for some 100 ms after either side knows that it was paid.
    """

    payer: Wallet
    payee: Wallet
    decode: Callable[[str], Awaitable[DecodedInvoice]]
    rest_seconds: float = 1.0

    async def invoice(self, amount_msat: int = 20_000, expiry_seconds: int = 600) -> Invoice:
        """A new invoice of the payee."""
        return await self.payee.create_invoice(new_request(amount_msat, expiry_seconds))

    async def pay(self, invoice: Invoice, deadline_ms: int = 30_000) -> PaymentOutcome:
        """Let the payer pay it."""
        return await self.payer.pay(order(invoice, deadline_ms))

    async def balance_at_rest(self, wallet: Wallet) -> int:
        """The wallet's balance once two looks agree: earlier payments may still be leaving the channels."""
        before = -1
        with anyio.fail_after(DEADLINE_SECONDS):
            while (now := (await wallet.info()).balance_msat) != before:
                before = now
                await pause(self.rest_seconds)
        return now

    async def reaches(self, wallet: Wallet, balance_msat: int) -> None:
        """Wait until the wallet's balance is that, and stays."""
        with anyio.fail_after(DEADLINE_SECONDS):
            while await self.balance_at_rest(wallet) != balance_msat:
                pass


Rule = Callable[[WalletsUnderTest], Awaitable[None]]


def new_request(amount_msat: int = 20_000, expiry_seconds: int = 600, preimage: bytes | None = None) -> InvoiceRequest:
    """A request for an invoice that nobody has asked for before."""
    label = f"relaymesh-conformance-{secrets.token_hex(8)}"
    return InvoiceRequest(label, AmountMsat(amount_msat), "conformance", expiry_seconds, preimage)


def order(invoice: Invoice, deadline_ms: int = 30_000) -> PaymentRequest:
    """To pay this invoice."""
    return PaymentRequest(invoice.bolt11, invoice.payment_hash, MAXIMUM_FEE_MSAT, deadline_ms)


async def pause(seconds: float) -> None:
    """Give a real node time before it is asked again: it has no way to say that a balance has come to rest."""
    with anyio.move_on_after(seconds):
        await anyio.sleep_forever()


async def look_until_known(payer: Wallet, payment_hash: str) -> PaymentLookup:
    """What the payer's wallet says once it no longer says that it does not know."""
    with anyio.fail_after(DEADLINE_SECONDS):
        while True:
            found = await payer.lookup_payment(payment_hash)
            if not isinstance(found, PaymentUnknown):
                return found
            await pause(0.05)


def succeeded(outcome: PaymentLookup) -> PaymentSucceeded:
    """The outcome, which has to be a success."""
    assert isinstance(outcome, PaymentSucceeded), outcome
    return outcome


async def a_wallet_says_who_it_is(subject: WalletsUnderTest) -> None:
    payer, payee = await subject.payer.info(), await subject.payee.info()
    for info in (payer, payee):
        assert len(bytes.fromhex(info.public_key)) == 33
        assert info.public_key == info.public_key.lower()
    assert payer.public_key != payee.public_key
    assert payer.network == payee.network
    assert 0 < payer.spendable_msat <= payer.balance_msat


async def an_invoice_says_what_was_asked_for(subject: WalletsUnderTest) -> None:
    request = new_request(12_345, 77)
    invoice = await subject.payee.create_invoice(request)
    assert (invoice.label, invoice.amount_msat) == (request.label, request.amount_msat)
    decoded = await subject.decode(invoice.bolt11)
    assert decoded.payment_hash == invoice.payment_hash
    assert decoded.amount_msat == 12_345
    assert decoded.payee == (await subject.payee.info()).public_key
    assert decoded.description == request.description
    assert decoded.expires_at == invoice.expires_at == decoded.created_at + 77
    assert await subject.payee.lookup_invoice(request.label) == InvoiceState(InvoiceStatus.OPEN, AmountMsat(0))


async def the_same_label_is_the_same_invoice(subject: WalletsUnderTest) -> None:
    for preimage in (None, secrets.token_bytes(32)):
        request = new_request(preimage=preimage)
        assert await subject.payee.create_invoice(request) == await subject.payee.create_invoice(request)


async def a_label_never_stands_for_two_invoices(subject: WalletsUnderTest) -> None:
    request = new_request(preimage=secrets.token_bytes(32))
    await subject.payee.create_invoice(request)
    for other in (
        replace(request, amount_msat=AmountMsat(request.amount_msat + 1)),
        replace(request, description="another"),
        replace(request, preimage=secrets.token_bytes(32)),
    ):
        with pytest.raises(LightningError):
            await subject.payee.create_invoice(other)


async def a_label_may_have_128_bytes_and_no_more(subject: WalletsUnderTest) -> None:
    request = new_request()
    longest = request.label.ljust(MAXIMUM_INVOICE_LABEL_BYTES, "x")
    assert (await subject.payee.create_invoice(replace(request, label=longest))).label == longest
    with pytest.raises(LightningError):
        await subject.payee.create_invoice(replace(request, label=longest + "x"))


async def a_chosen_preimage_is_what_the_payer_gets(subject: WalletsUnderTest) -> None:
    preimage = secrets.token_bytes(32)
    invoice = await subject.payee.create_invoice(new_request(preimage=preimage))
    assert invoice.payment_hash == hashlib.sha256(preimage).hexdigest()
    assert succeeded(await subject.pay(invoice)).preimage == preimage


async def a_preimage_serves_one_invoice(subject: WalletsUnderTest) -> None:
    request = new_request(preimage=secrets.token_bytes(32))
    await subject.payee.create_invoice(request)
    with pytest.raises(LightningError) as refused:
        await subject.payee.create_invoice(replace(request, label=new_request().label))
    assert request.preimage is not None
    assert request.preimage.hex() not in str(refused.value)


async def a_payment_arrives_once_and_whole(subject: WalletsUnderTest) -> None:
    before = await subject.balance_at_rest(subject.payer), await subject.balance_at_rest(subject.payee)
    invoice = await subject.invoice(123_456)
    paid = succeeded(await subject.pay(invoice))
    assert hashlib.sha256(paid.preimage).hexdigest() == invoice.payment_hash
    assert paid.amount_msat == 123_456
    assert 0 <= paid.fee_msat <= MAXIMUM_FEE_MSAT
    assert await subject.payee.lookup_invoice(invoice.label) == InvoiceState(InvoiceStatus.PAID, AmountMsat(123_456))
    assert await look_until_known(subject.payer, invoice.payment_hash) == paid
    await subject.reaches(subject.payer, before[0] - paid.amount_msat - paid.fee_msat)
    await subject.reaches(subject.payee, before[1] + paid.amount_msat)


async def what_was_paid_stands_in_both_histories(subject: WalletsUnderTest) -> None:
    invoice = await subject.invoice(34_567)
    unpaid = await subject.invoice(1_234)
    paid = succeeded(await subject.pay(invoice))
    for wallet, direction, fee_msat in (
        (subject.payer, Direction.OUTGOING, paid.fee_msat),
        (subject.payee, Direction.INCOMING, 0),
    ):
        history = await wallet.transactions(50)
        assert unpaid.payment_hash not in {each.payment_hash for each in history}
        (seen,) = (each for each in history if each.payment_hash == invoice.payment_hash)
        assert (seen.direction, seen.state) == (direction, TransactionState.SETTLED)
        assert (seen.amount_msat, seen.fee_msat) == (34_567, fee_msat)
        assert len(await wallet.transactions(1)) == 1


async def paying_again_moves_nothing(subject: WalletsUnderTest) -> None:
    invoice = await subject.invoice()
    first = succeeded(await subject.pay(invoice))
    balances = await subject.balance_at_rest(subject.payer), await subject.balance_at_rest(subject.payee)
    assert succeeded(await subject.pay(invoice)).preimage == first.preimage
    assert (await subject.balance_at_rest(subject.payer), await subject.balance_at_rest(subject.payee)) == balances


async def paying_twice_at_the_same_time_pays_once(subject: WalletsUnderTest) -> None:
    before = await subject.balance_at_rest(subject.payee)
    invoice = await subject.invoice()
    outcomes: list[PaymentOutcome] = []

    async def pay() -> None:
        outcomes.append(await subject.pay(invoice))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pay)
        tasks.start_soon(pay)
    assert len({succeeded(outcome).preimage for outcome in outcomes}) == 1
    await subject.reaches(subject.payee, before + invoice.amount_msat)


async def an_expired_invoice_is_waited_for_no_longer_and_not_paid(subject: WalletsUnderTest) -> None:
    invoice = await subject.invoice(expiry_seconds=1)
    with anyio.fail_after(DEADLINE_SECONDS):
        assert await subject.payee.wait_invoice(invoice.label) == InvoiceState(InvoiceStatus.EXPIRED, AmountMsat(0))
    assert isinstance(await subject.pay(invoice), PaymentFailed)
    assert isinstance(await look_until_known(subject.payer, invoice.payment_hash), PaymentFailed | PaymentAbsent)
    assert (await subject.payee.lookup_invoice(invoice.label)).status is InvoiceStatus.EXPIRED


async def more_than_there_is_cannot_be_paid(subject: WalletsUnderTest) -> None:
    before = await subject.balance_at_rest(subject.payer)
    invoice = await subject.invoice((await subject.payer.info()).balance_msat + 1_000_000)
    assert isinstance(await subject.pay(invoice), PaymentFailed)
    assert await subject.balance_at_rest(subject.payer) == before
    assert (await subject.payee.lookup_invoice(invoice.label)).status is InvoiceStatus.OPEN


async def an_invoice_with_another_hash_than_expected_is_not_paid(subject: WalletsUnderTest) -> None:
    invoice = await subject.invoice()
    wanted = replace(order(invoice), payment_hash=secrets.token_hex(32))
    assert isinstance(await subject.payer.pay(wanted), PaymentFailed)
    assert isinstance(await look_until_known(subject.payer, invoice.payment_hash), PaymentAbsent)


async def what_is_no_invoice_is_not_paid(subject: WalletsUnderTest) -> None:
    invoice = await subject.invoice()
    last = "q" if invoice.bolt11[-1] != "q" else "p"
    for text in ("", "rubbish", "lnbc1rubbish", "x" * 5000, invoice.bolt11[:-1] + last):
        assert isinstance(await subject.payer.pay(replace(order(invoice), bolt11=text)), PaymentFailed)


async def a_wallet_does_not_pay_itself(subject: WalletsUnderTest) -> None:
    invoice = await subject.invoice()
    assert isinstance(await subject.payee.pay(order(invoice)), PaymentFailed)
    assert (await subject.payee.lookup_invoice(invoice.label)).status is InvoiceStatus.OPEN


async def a_payment_never_sent_is_absent(subject: WalletsUnderTest) -> None:
    assert await subject.payer.lookup_payment(secrets.token_hex(32)) == PaymentAbsent()


async def an_invoice_never_issued_is_absent(subject: WalletsUnderTest) -> None:
    absent = InvoiceState(InvoiceStatus.ABSENT, AmountMsat(0))
    assert await subject.payee.lookup_invoice(new_request().label) == absent
    with anyio.fail_after(DEADLINE_SECONDS):
        assert await subject.payee.wait_invoice(new_request().label) == absent


async def waiting_ends_with_the_payment(subject: WalletsUnderTest) -> None:
    invoice = await subject.invoice()
    seen: list[InvoiceState] = []

    async def wait() -> None:
        seen.append(await subject.payee.wait_invoice(invoice.label))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            succeeded(await subject.pay(invoice))
    assert seen == [InvoiceState(InvoiceStatus.PAID, invoice.amount_msat)]
    assert await subject.payee.wait_invoice(invoice.label) == seen[0]


async def waits_end_at_once_when_cancelled_and_hold_nobody_up(subject: WalletsUnderTest) -> None:
    invoice = await subject.invoice()
    async with anyio.create_task_group() as tasks:
        for _ in range(60):
            tasks.start_soon(subject.payee.wait_invoice, invoice.label)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(10):
            await subject.payee.info()
        cancelled_at = anyio.current_time()
        tasks.cancel_scope.cancel()
    assert anyio.current_time() - cancelled_at < 1


async def many_payments_at_once_all_arrive(subject: WalletsUnderTest) -> None:
    invoices = [await subject.invoice(10_000 + index) for index in range(8)]
    outcomes: dict[str, PaymentOutcome] = {}

    async def pay(invoice: Invoice) -> None:
        outcomes[invoice.payment_hash] = await subject.pay(invoice)

    async with anyio.create_task_group() as tasks:
        for invoice in invoices:
            tasks.start_soon(pay, invoice)
    for invoice in invoices:
        preimage = succeeded(outcomes[invoice.payment_hash]).preimage
        assert hashlib.sha256(preimage).hexdigest() == invoice.payment_hash
        state = await subject.payee.lookup_invoice(invoice.label)
        assert state == InvoiceState(InvoiceStatus.PAID, invoice.amount_msat)


async def an_outcome_that_was_not_awaited_is_found_later(subject: WalletsUnderTest) -> None:
    await subject.payer.info()
    invoice = await subject.invoice()
    outcome = await subject.pay(invoice, deadline_ms=25)
    found = await look_until_known(subject.payer, invoice.payment_hash)
    state = await subject.payee.lookup_invoice(invoice.label)
    if isinstance(found, PaymentSucceeded):
        assert not isinstance(outcome, PaymentFailed)
        assert state == InvoiceState(InvoiceStatus.PAID, invoice.amount_msat)
    else:
        assert not isinstance(outcome, PaymentSucceeded)
        assert state == InvoiceState(InvoiceStatus.OPEN, AmountMsat(0))


RULES: tuple[Rule, ...] = (
    a_wallet_says_who_it_is,
    an_invoice_says_what_was_asked_for,
    the_same_label_is_the_same_invoice,
    a_label_never_stands_for_two_invoices,
    a_label_may_have_128_bytes_and_no_more,
    a_chosen_preimage_is_what_the_payer_gets,
    a_preimage_serves_one_invoice,
    a_payment_arrives_once_and_whole,
    what_was_paid_stands_in_both_histories,
    paying_again_moves_nothing,
    paying_twice_at_the_same_time_pays_once,
    an_expired_invoice_is_waited_for_no_longer_and_not_paid,
    more_than_there_is_cannot_be_paid,
    an_invoice_with_another_hash_than_expected_is_not_paid,
    what_is_no_invoice_is_not_paid,
    a_wallet_does_not_pay_itself,
    a_payment_never_sent_is_absent,
    an_invoice_never_issued_is_absent,
    waiting_ends_with_the_payment,
    waits_end_at_once_when_cancelled_and_hold_nobody_up,
    many_payments_at_once_all_arrive,
    an_outcome_that_was_not_awaited_is_found_later,
)
