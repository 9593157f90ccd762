"""The one place through which a client's money leaves: limits hold here, before a wallet hears of a payment.

It is around the wallet of every client: for jobs, for what routers want, for what a person pays by hand. What was spent
before is taken from the ledger; what belongs to no job is written there before it is paid, since nobody else would.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256
from typing import TypeVar

import structlog

from relaymesh.errors import LedgerError, RemoteProtocolError
from relaymesh.machines.records import PaymentRecord, TrancheState
from relaymesh.market.spending import DAY_MS, Allowance, SpendingBook, SpendingLimits
from relaymesh.ports.ledger import JobQuery, Ledger
from relaymesh.ports.lightning import (
    BAD_INVOICE,
    NOT_SENT,
    OVER_LIMIT,
    DecodedInvoice,
    Payer,
    PaymentAbsent,
    PaymentFailed,
    PaymentLookup,
    PaymentOutcome,
    PaymentRequest,
    PaymentSucceeded,
    PaymentUnknown,
)
from relaymesh.roles.driver import Clock
from relaymesh.units import AmountMsat

_log = structlog.get_logger(__name__)
_IN_DOUBT = (TrancheState.PAYING, TrancheState.UNKNOWN)
MaximumFee = Callable[[AmountMsat], AmountMsat]
"""The most that routing an amount may cost."""
MOST_JOBS = 1_000_000


class LimitedPayer:
    """Implements `relaymesh.ports.lightning.Payer` with a wallet that it keeps within limits.

    Args:
        payer: The wallet.
        ledger: Where payments beside jobs are kept; `recall` it before anything is paid.
        limits: What is allowed.
        read_invoice: Decodes a BOLT 11 invoice; raises RemoteProtocolError where it is not valid.
        clock: Tells the hour and the day.
    """

    def __init__(
        self,
        payer: Payer,
        ledger: Ledger,
        limits: SpendingLimits,
        read_invoice: Callable[[str], Awaitable[DecodedInvoice]],
        clock: Clock,
    ) -> None:
        self._payer, self._ledger, self._read_invoice, self._clock = payer, ledger, read_invoice, clock
        self._book = SpendingBook(limits)
        self._asking: dict[str, int] = {}
        self._noted: dict[str, PaymentRecord] = {}

    async def recall(self, maximum_fee: MaximumFee) -> None:
        """Count what the ledger says was spent, and ask what became of payments beside jobs that are still open.

        Jobs are asked about by `relaymesh.roles.recovery.recover_client`, which comes first.
        """
        now_ms = self._clock().unix_ms
        for record in await self._ledger.find_payments():
            self._noted[record.payment_hash] = record
            if record.state in _IN_DOUBT:
                await self._note(resolve(record, await self._payer.lookup_payment(record.payment_hash)))
        minutes = await self._ledger.paid_by_minute(now_ms - DAY_MS)
        self._book.recall((each.begins_at_ms, each.paid_msat) for each in minutes)
        for record in self._noted.values():
            if record.state is TrancheState.PAID:
                self._book.recall_paid(record.payment_hash, record.opened_at_ms)
            elif record.state in _IN_DOUBT:
                self._recall_open(record.payment_hash, "", record.amount_msat, record.opened_at_ms, maximum_fee)
        for job in await self._ledger.find_jobs(JobQuery(side="client", only_unresolved=True, limit=MOST_JOBS)):
            for each in job.tranches:
                if each.state in _IN_DOUBT:
                    self._recall_open(each.payment_hash, each.job_id, each.amount_msat, each.opened_at_ms, maximum_fee)

    def allowances(self) -> tuple[Allowance, ...]:
        """The limits by the hour and by the day, and how much of each is used."""
        return self._book.allowances(self._clock().unix_ms)

    async def pay(self, request: PaymentRequest) -> PaymentOutcome:
        """Pay, if every limit allows the invoice's amount with the highest fee; `PaymentFailed` says which does not."""
        try:
            invoice = await self._read_invoice(request.bolt11)
        except RemoteProtocolError as error:
            return PaymentFailed(BAD_INVOICE, str(error))
        if invoice.payment_hash != request.payment_hash:
            return PaymentFailed(BAD_INVOICE, "the invoice has another payment hash than the one it is to be paid by")
        most_msat = AmountMsat(invoice.amount_msat + request.maximum_fee_msat)
        refusal = self._book.reserve(request.payment_hash, request.job_id, most_msat, self._clock().unix_ms)
        if refusal is not None:
            return await self._refuse(request.payment_hash, refusal)
        record = _describe(invoice, self._clock().unix_ms)
        if not request.job_id and not await self._note(record):
            self._book.release(request.payment_hash)
            return PaymentFailed(NOT_SENT, "the ledger could not be written, so nothing was sent")
        self._asking[request.payment_hash] = self._asking.get(request.payment_hash, 0) + 1
        outcome: PaymentOutcome = PaymentUnknown("nobody waited for the wallet's answer")
        try:
            outcome = _believe(request.payment_hash, await self._payer.pay(request))
        finally:
            self._asking[request.payment_hash] -= 1
            self._take(request.payment_hash, outcome)
        if not request.job_id:
            await self._note(resolve(record, outcome))
        return outcome

    async def lookup_payment(self, payment_hash: str) -> PaymentLookup:
        """What the wallet says; what was paid or was not is counted so."""
        outcome = _believe(payment_hash, await self._payer.lookup_payment(payment_hash))
        if self._book.is_under_way(payment_hash):
            self._take(payment_hash, outcome)
        return outcome

    async def _refuse(self, payment_hash: str, refusal: str) -> PaymentOutcome:
        """Not to pay again is no failure where it was paid before."""
        known = await self._payer.lookup_payment(payment_hash)
        if isinstance(known, PaymentSucceeded | PaymentUnknown):
            return known
        _log.warning("payment_refused", reason=refusal)
        return PaymentFailed(OVER_LIMIT, refusal)

    def _take(self, payment_hash: str, outcome: PaymentLookup) -> None:
        """Count what became of a payment; while a request to pay is out, only success ends its reservation."""
        match outcome:
            case PaymentSucceeded(_, amount_msat, fee_msat):
                self._book.settle(payment_hash, AmountMsat(amount_msat + fee_msat), self._clock().unix_ms)
            case PaymentFailed() | PaymentAbsent():
                if not self._asking.get(payment_hash):
                    self._book.release(payment_hash)
            case PaymentUnknown():
                pass
        if not self._asking.get(payment_hash):
            self._asking.pop(payment_hash, None)

    def _recall_open(
        self, payment_hash: str, job_id: str, amount_msat: AmountMsat, opened_at_ms: int, maximum_fee: MaximumFee
    ) -> None:
        most_msat = AmountMsat(amount_msat + maximum_fee(amount_msat))
        is_counted = opened_at_ms >= self._clock().unix_ms - DAY_MS
        counted_msat = amount_msat if is_counted else AmountMsat(0)
        self._book.recall_under_way(payment_hash, job_id, most_msat, opened_at_ms, counted_msat=counted_msat)

    async def _note(self, record: PaymentRecord) -> bool:
        """Write a payment beside jobs, unless it is written as paid already; whether it is written now."""
        stored = self._noted.get(record.payment_hash)
        if stored is not None and stored.state is TrancheState.PAID:
            return True
        try:
            await self._ledger.write((record,))
        except LedgerError as error:
            _log.warning("payment_not_noted", reason=str(error))
            return False
        self._noted[record.payment_hash] = record
        return True


OutcomeT = TypeVar("OutcomeT", bound=PaymentLookup)


def _believe(payment_hash: str, outcome: OutcomeT) -> OutcomeT | PaymentUnknown:
    """What a wallet says, unless it calls paid what it has no proof of: then nobody knows."""
    if not isinstance(outcome, PaymentSucceeded) or sha256(outcome.preimage).hexdigest() == payment_hash:
        return outcome
    return PaymentUnknown("the wallet says that it paid, and its preimage is not of the payment hash")


async def recall_payment_hashes(ledger: Ledger) -> set[str]:
    """Payment hashes that were used lately, which no invoice may repeat; the ledger itself takes none twice."""
    jobs = await ledger.find_jobs(JobQuery(side="client"))
    used = {tranche.payment_hash for job in jobs for tranche in job.tranches}
    return (used | {each.payment_hash for each in await ledger.find_payments()}) - {""}


def resolve(record: PaymentRecord, outcome: PaymentLookup) -> PaymentRecord:
    """A payment beside jobs, with what became of it."""
    match outcome:
        case PaymentSucceeded(preimage, _, fee_msat):
            return replace(record, state=TrancheState.PAID, preimage=preimage, fee_msat=fee_msat, reason="")
        case PaymentFailed(_, reason):
            return replace(record, state=TrancheState.FAILED, reason=reason)
        case PaymentAbsent():
            return replace(record, state=TrancheState.FAILED, reason="the wallet never sent the payment")
        case PaymentUnknown(reason):
            return replace(record, state=TrancheState.UNKNOWN, reason=reason)


def _describe(invoice: DecodedInvoice, now_ms: int) -> PaymentRecord:
    return PaymentRecord(
        payment_hash=invoice.payment_hash,
        state=TrancheState.PAYING,
        payee=invoice.payee,
        description=invoice.description,
        bolt11=invoice.bolt11,
        amount_msat=invoice.amount_msat,
        opened_at_ms=now_ms,
    )
