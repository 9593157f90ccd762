"""Whatever a client pays goes through its limits: jobs, routers' fees, payments by hand; also several at once."""

from dataclasses import replace

import anyio
import pytest

from relaymesh.errors import LedgerError
from relaymesh.machines.records import JobState, LedgerRecord, TrancheState
from relaymesh.market.spending import SpendingLimits
from relaymesh.ports.ledger import JobQuery
from relaymesh.ports.lightning import (
    BAD_INVOICE,
    NOT_SENT,
    OVER_LIMIT,
    InvoiceRequest,
    PaymentFailed,
    PaymentOutcome,
    PaymentRequest,
    PaymentSucceeded,
    PaymentUnknown,
)
from relaymesh.ports.memory_ledger import MemoryLedger
from relaymesh.ports.memory_lightning import (
    FailPayment,
    HoldPayment,
    LoseAnswer,
    MemoryLightning,
    MemoryWallet,
    decode_memory_invoice,
)
from relaymesh.protocol.payment import DecodedInvoice
from relaymesh.protocol.refusal import RefusalCode
from relaymesh.roles.spending import LimitedPayer
from relaymesh.units import AmountMsat
from tests.conformance.ledger.records import make_job, make_payment, make_tranche
from tests.roles.market import Market, loop_clock, purchase

pytestmark = pytest.mark.anyio

FEE_MSAT = 10
RICH = 10**9


class Buyer:
    """A wallet within limits, a node to pay, a ledger that outlives both."""

    def __init__(self, limits: SpendingLimits) -> None:
        self.network = MemoryLightning(fee_msat=1)
        self.wallet: MemoryWallet = self.network.wallet("buyer", RICH)
        self.node: MemoryWallet = self.network.wallet("node")
        self.ledger = MemoryLedger()
        self.limits = limits
        self.payer = self.begin_anew()

    def begin_anew(self) -> LimitedPayer:
        """As a new process would."""
        self.payer = LimitedPayer(self.wallet, self.ledger, self.limits, read_memory_invoice, loop_clock)
        return self.payer

    async def ask(self, amount_msat: int, label: str) -> PaymentRequest:
        """An invoice of the node's, to be paid."""
        invoice = await self.node.create_invoice(InvoiceRequest(label, AmountMsat(amount_msat), "a ranking", 3_600))
        return PaymentRequest(invoice.bolt11, invoice.payment_hash, AmountMsat(FEE_MSAT), deadline_ms=1_000)

    async def pay(self, amount_msat: int, label: str, *, job_id: str = "") -> PaymentOutcome:
        return await self.payer.pay(replace(await self.ask(amount_msat, label), job_id=job_id))

    @property
    def spent_msat(self) -> int:
        """What left the wallet."""
        return RICH - self.wallet.balance_msat


async def read_memory_invoice(text: str) -> DecodedInvoice:
    await anyio.lowlevel.checkpoint()
    return decode_memory_invoice(text)


def fee(_: AmountMsat) -> AmountMsat:
    return AmountMsat(FEE_MSAT)


async def test_two_at_once_cannot_both_take_what_is_left_for_one() -> None:
    buyer = Buyer(SpendingLimits(hour_msat=1_500))
    outcomes: list[PaymentOutcome] = []

    async def pay(number: int) -> None:
        outcomes.append(await buyer.pay(1_000, f"{number}", job_id=f"job {number}"))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(pay, number)
    assert sum(isinstance(each, PaymentSucceeded) for each in outcomes) == 1
    assert {each.code for each in outcomes if isinstance(each, PaymentFailed)} == {OVER_LIMIT}
    assert buyer.spent_msat == 1_001


async def test_the_wallet_never_hears_of_a_payment_beyond_a_limit() -> None:
    buyer = Buyer(SpendingLimits(job_msat=1_000))
    outcome = await buyer.pay(991, "dear", job_id="job")
    assert isinstance(outcome, PaymentFailed)
    assert outcome.code == OVER_LIMIT and "wallet.maximum_job_msat allows 1,000 msat for a job" in outcome.reason
    assert not await buyer.wallet.transactions(10) and buyer.spent_msat == 0
    assert isinstance(await buyer.pay(990, "right", job_id="job"), PaymentSucceeded)


async def test_what_failed_is_given_back_and_the_fee_that_was_not_taken_too() -> None:
    buyer = Buyer(SpendingLimits(hour_msat=1_010))
    buyer.wallet.plan(FailPayment())
    assert isinstance(await buyer.pay(1_000, "one", job_id="job"), PaymentFailed)
    assert isinstance(await buyer.pay(500, "two", job_id="job"), PaymentSucceeded)
    assert isinstance(await buyer.pay(499, "three", job_id="job"), PaymentSucceeded)
    assert [each.spent_msat for each in buyer.payer.allowances()] == [1_001]


async def test_what_is_unknown_counts_until_a_look_up_says_what_became_of_it() -> None:
    buyer = Buyer(SpendingLimits(hour_msat=1_010))
    for paid, spent in ((False, 0), (True, 901)):
        buyer.wallet.plan(LoseAnswer(paid=paid))
        request = replace(await buyer.ask(900, f"{paid}"), job_id="job")
        assert isinstance(await buyer.payer.pay(request), PaymentUnknown)
        refused = await buyer.pay(900, f"after {paid}", job_id="job")
        assert isinstance(refused, PaymentFailed) and "910 are spent or on their way" in refused.reason
        await buyer.payer.lookup_payment(request.payment_hash)
        assert [each.spent_msat for each in buyer.payer.allowances()] == [spent]


async def test_a_look_up_gives_nothing_back_while_the_wallet_is_still_being_asked() -> None:
    buyer = Buyer(SpendingLimits(hour_msat=1_010))

    buyer.wallet.plan(HoldPayment())
    request = replace(await buyer.ask(900, "held"), job_id="job")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(buyer.payer.pay, request)
        await anyio.sleep(0.1)
        sent = buyer.wallet._payments.pop(request.payment_hash)
        await buyer.payer.lookup_payment(request.payment_hash)
        assert [each.spent_msat for each in buyer.payer.allowances()] == [910]
        buyer.wallet._payments[request.payment_hash] = sent
        buyer.wallet.release(request.payment_hash)
    assert [each.spent_msat for each in buyer.payer.allowances()] == [901]


async def test_what_was_paid_is_answered_again_and_never_refused() -> None:
    buyer = Buyer(SpendingLimits(hour_msat=1_010))
    request = await buyer.ask(1_000, "once")
    first = await buyer.payer.pay(request)
    assert isinstance(first, PaymentSucceeded)
    assert await buyer.payer.pay(request) == first
    buyer.begin_anew()
    await buyer.payer.recall(fee)
    assert await buyer.payer.pay(request) == first
    assert [each.spent_msat for each in buyer.payer.allowances()] == [1_001]
    buyer.ledger = MemoryLedger()  # of somebody who forgot
    buyer.begin_anew().allowances()
    assert isinstance(await buyer.pay(1_000, "another"), PaymentSucceeded)
    assert await buyer.payer.pay(request) == first


async def test_an_invoice_that_is_not_what_is_to_be_paid_goes_nowhere() -> None:
    buyer = Buyer(SpendingLimits())
    one, two = await buyer.ask(1_000, "one"), await buyer.ask(2_000, "two")
    for request in (replace(one, bolt11=two.bolt11), replace(one, bolt11="lnbc nonsense")):
        outcome = await buyer.payer.pay(request)
        assert isinstance(outcome, PaymentFailed) and outcome.code == BAD_INVOICE
    assert buyer.spent_msat == 0 and await buyer.ledger.find_payments() == ()


async def test_a_preimage_that_is_not_of_the_payment_hash_proves_nothing() -> None:
    class Liar(MemoryWallet):
        """Calls everything paid."""

        def __init__(self, honest: MemoryWallet) -> None:
            self.__dict__ = honest.__dict__

        async def pay(self, request: PaymentRequest) -> PaymentOutcome:
            return PaymentSucceeded(b"\x00" * 32, AmountMsat(1_000), AmountMsat(0))

        async def lookup_payment(self, payment_hash: str) -> PaymentOutcome:
            return PaymentSucceeded(b"\x00" * 32, AmountMsat(1_000), AmountMsat(0))

    buyer = Buyer(SpendingLimits(hour_msat=5_000))
    buyer.wallet = Liar(buyer.wallet)
    buyer.begin_anew()
    request = await buyer.ask(1_000, "one")
    for outcome in (await buyer.payer.pay(request), await buyer.payer.lookup_payment(request.payment_hash)):
        assert isinstance(outcome, PaymentUnknown) and "not of the payment hash" in outcome.reason
    assert [each.spent_msat for each in buyer.payer.allowances()] == [1_010]
    (kept,) = await buyer.ledger.find_payments()
    assert (kept.state, kept.preimage) == (TrancheState.UNKNOWN, None)


# ── across a restart ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_restart_resets_no_limit() -> None:
    buyer = Buyer(SpendingLimits(hour_msat=3_000))
    now_ms = loop_clock().unix_ms
    paid = make_tranche(state=TrancheState.RELEASED, opened_at_ms=now_ms, fee_msat=AmountMsat(5))
    await buyer.ledger.write((make_job(), paid, make_payment(opened_at_ms=now_ms, state=TrancheState.PAID)))
    await buyer.payer.recall(fee)
    assert [each.spent_msat for each in buyer.payer.allowances()] == [3_005]
    assert isinstance(await buyer.pay(1, "more"), PaymentFailed)
    await anyio.sleep(3_660)
    assert isinstance(await buyer.pay(2_990, "later"), PaymentSucceeded)


async def test_what_was_open_at_a_restart_counts_with_the_highest_fee_until_it_is_known() -> None:
    buyer = Buyer(SpendingLimits(hour_msat=10_000))
    now_ms = loop_clock().unix_ms
    tranche = make_tranche(state=TrancheState.UNKNOWN, opened_at_ms=now_ms)
    await buyer.ledger.write((make_job(), tranche))
    await buyer.payer.recall(fee)
    assert [each.spent_msat for each in buyer.payer.allowances()] == [1_010]
    await buyer.payer.lookup_payment(tranche.payment_hash)  # the wallet never heard of it
    assert [each.spent_msat for each in buyer.payer.allowances()] == [0]


async def test_a_payment_beside_jobs_is_written_before_it_is_made_and_resolved_after_a_crash() -> None:
    buyer = Buyer(SpendingLimits(hour_msat=10_000))
    buyer.wallet.plan(HoldPayment())
    request = await buyer.ask(900, "held")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(buyer.payer.pay, request)
        await anyio.sleep(0.1)
        (written,) = await buyer.ledger.find_payments()
        assert (written.state, written.amount_msat, written.description) == (TrancheState.PAYING, 900, "a ranking")
        tasks.cancel_scope.cancel()
    buyer.begin_anew()
    await buyer.payer.recall(fee)
    (written,) = await buyer.ledger.find_payments()
    assert written.state is TrancheState.UNKNOWN
    assert [each.spent_msat for each in buyer.payer.allowances()] == [910]
    buyer.wallet.release(request.payment_hash)
    buyer.begin_anew()
    await buyer.payer.recall(fee)
    (written,) = await buyer.ledger.find_payments()
    assert (written.state, written.fee_msat) == (TrancheState.PAID, 1) and written.preimage is not None
    assert [each.spent_msat for each in buyer.payer.allowances()] == [901]


async def test_payments_of_jobs_are_the_jobs_to_write_down() -> None:
    buyer = Buyer(SpendingLimits())
    await buyer.pay(1_000, "of a job", job_id="job")
    assert await buyer.ledger.find_payments() == ()
    await buyer.pay(1_000, "by hand")
    assert [each.state for each in await buyer.ledger.find_payments()] == [TrancheState.PAID]


async def test_nothing_is_paid_that_could_not_be_written_down() -> None:
    class Full(MemoryLedger):
        """A ledger on a disk that is full."""

        async def write(self, records: tuple[LedgerRecord, ...]) -> None:
            raise LedgerError("the disk is full")

    buyer = Buyer(SpendingLimits(hour_msat=1_010))
    buyer.ledger = Full()
    buyer.begin_anew()
    outcome = await buyer.pay(1_000, "by hand")
    assert isinstance(outcome, PaymentFailed) and outcome.code == NOT_SENT and buyer.spent_msat == 0
    assert [each.spent_msat for each in buyer.payer.allowances()] == [0]


# ── in a market ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_job_beyond_a_limit_ends_with_its_sentence_and_no_node_hears_what_was_spent() -> None:
    async with Market().open() as market:
        nodes = [await market.add_node(), await market.add_node()]
        async with market.client() as client:
            limits = SpendingLimits(hour_msat=10)
            client.tools.wallet = LimitedPayer(
                market.buyer, market.client_ledger, limits, read_memory_invoice, loop_clock
            )
            bought = await purchase(client)
        outcome = bought.bought.outcome
        assert outcome is not None and outcome.state is JobState.FAILED and outcome.refusal is not None
        assert outcome.refusal.code is RefusalCode.OVER_BUDGET
        assert "wallet.maximum_hour_msat allows 10 msat in an hour" in outcome.refusal.reason
        assert market.buyer.balance_msat == 1_000_000
        served = [job for node in nodes for job in await node.ledger.find_jobs(JobQuery())]
        assert len(served) == 1, "no second node is asked, since the limit holds there too"
        assert "maximum" not in served[0].job.reason and "10" not in served[0].job.reason


async def test_jobs_within_a_limit_are_served_and_counted_by_what_they_cost() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with market.client() as client:
            limits = SpendingLimits(job_msat=100_000, hour_msat=200_000, day_msat=300_000)
            limited = LimitedPayer(market.buyer, market.client_ledger, limits, read_memory_invoice, loop_clock)
            client.tools.wallet = limited
            bought = await purchase(client)
        assert bought.bought.outcome is not None and bought.bought.outcome.state is JobState.DONE
        spent_msat = 1_000_000 - market.buyer.balance_msat
        assert spent_msat > 0
        assert [each.spent_msat for each in limited.allowances()] == [spent_msat, spent_msat]
        again = LimitedPayer(market.buyer, market.client_ledger, limits, read_memory_invoice, loop_clock)
        await again.recall(fee)
        assert [each.spent_msat for each in again.allowances()] == [spent_msat, spent_msat]
