"""The client's side of a session's account: pays tranches as far as the stated exposure goes (RM-03)."""

from collections.abc import Collection
from typing import assert_never

from relaymesh.machines.buyer_settlement import BuyerSettlement
from relaymesh.machines.job_events import InvoiceRead, ReadInvoice, Received, Send, SessionEnded
from relaymesh.machines.job_settings import ClientJobSettings
from relaymesh.machines.machine import earliest
from relaymesh.machines.offered_invoices import farewell
from relaymesh.machines.records import JobState, LedgerRecord, Store, join_stores
from relaymesh.machines.session_account import SessionTerms, account_record, agree_account
from relaymesh.machines.session_funds import (
    AccountClosed,
    FundsChanged,
    FundsRefused,
    JobAbandoned,
    JobBegun,
    JobSettled,
    SessionFunds,
)
from relaymesh.machines.settlement import (
    InvoiceOffered,
    JobAccounted,
    LookUpPayment,
    Pay,
    PaymentInDoubt,
    PaymentResolved,
    SettlementStopped,
    TrancheFunded,
)
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.fields import MAXIMUM_QUANTITY
from relaymesh.protocol.payment import InvoiceReading
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.protocol.session_messages import InvoiceMessage, JobId, PaidMessage
from relaymesh.units import AmountMsat, Instant, Moment

BuyerAccountInput = Received | InvoiceRead | PaymentResolved | JobBegun | JobSettled | JobAbandoned | SessionEnded
BuyerAccountEffect = Store | Send | ReadInvoice | Pay | LookUpPayment | FundsRefused | FundsChanged | AccountClosed


class BuyerAccount:
    """The client's machine for the money of one session.

    A tranche is paid when a job needs it or one has begun since the last payment, and only while what would then be at
    stake is within the exposure; until then its invoice waits. Jobs book in `funds` what their records say they drew.

    Args:
        contract: What the handshake agreed on.
        terms: What its term says about the session's money.
        known_payment_hashes: Hashes of other tranches, which no invoice may repeat.
    """

    def __init__(
        self,
        contract: SessionContract,
        terms: SessionTerms,
        *,
        known_payment_hashes: Collection[str] = (),
        settings: ClientJobSettings | None = None,
    ) -> None:
        self.funds = SessionFunds()
        self._contract, self._terms = contract, terms
        self._settings = settings or ClientJobSettings()
        self._settlement = BuyerSettlement(
            agree_account("client", contract, terms), known_payment_hashes=known_payment_hashes
        )
        self._invoices: dict[int, InvoiceMessage] = {}
        self._decoded: dict[int, InvoiceReading] = {}
        self._under_way: set[JobId] = set()
        self._has_begun_since = False
        self._refusal: Refusal | None = None
        self._doubt_until: Instant | None = None
        self._is_kept = self._is_over = self._is_abandoned = self._is_closed = False
        self._opened_at_ms = 0
        self._effects: list[BuyerAccountEffect] = []

    @property
    def refusal(self) -> Refusal | None:
        """Why nothing more is paid in this session; None while it may be."""
        return self._refusal

    @property
    def is_in_doubt(self) -> bool:
        """Whether a payment is out, or its outcome is unknown."""
        return self._settlement.is_in_doubt

    @property
    def is_unknown(self) -> bool:
        """Whether the wallet could not say what became of a payment."""
        return self._settlement.is_unknown

    @property
    def committed_msat(self) -> AmountMsat:
        """What was paid in this session, for whatever job, or may have been."""
        return self._settlement.committed_msat

    @property
    def doubtful_msat(self) -> AmountMsat:
        """What may yet turn out to have been paid."""
        return AmountMsat(self._settlement.committed_msat - self._settlement.paid_msat)

    # ── the five verbs ────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, now: Moment) -> None:
        """Wait for the first job and for what the node asks for it."""
        self._opened_at_ms = now.unix_ms

    def receive(self, message: BuyerAccountInput, now: Moment) -> None:
        """Take in what the node asks for, what the wallet said, what jobs began and what became of them."""
        if self._is_closed:
            return
        match message:
            case Received(InvoiceMessage() as invoice):
                self._take_invoice(invoice)
            case Received():
                pass  # a session's account hears of nothing else
            case InvoiceRead(tranche, decoded):
                self._decoded[tranche] = decoded
            case PaymentResolved():
                self._settlement.receive(message, now)
                self._settle()
                if not self.is_in_doubt:
                    self._effects.append(FundsChanged())
            case JobBegun(job_id):
                self._under_way.add(job_id)
                self._has_begun_since = True
            case JobSettled(job_id):
                self._under_way.discard(job_id)
            case JobAbandoned(job_id):
                self._under_way.discard(job_id)
                self._is_abandoned = True
            case SessionEnded():
                self._is_over = True
                self._doubt_until = now.after_ms(self._settings.doubt_ms)
            case _:
                assert_never(message)
        self._consider(now)
        self._close_if_done(now)

    def deadline(self) -> Instant | None:
        """The next look-up, or the end of waiting for the wallet's word."""
        return None if self._is_closed else earliest(self._settlement.deadline(), self._doubt_until)

    def handle_deadline(self, now: Moment) -> None:
        """Look up what is in doubt; once the session is over, leave to the next start what stays so."""
        self._settlement.handle_deadline(now)
        self._settle()
        if self._doubt_until is not None and now.instant >= self._doubt_until:
            self._doubt_until = None
        self._close_if_done(now)

    def effects(self) -> tuple[BuyerAccountEffect, ...]:
        """What is to be done, once, in order."""
        effects, self._effects = join_stores(self._effects), []
        return effects

    # ── invoices ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_invoice(self, message: InvoiceMessage) -> None:
        if message.tranche >= self._terms.count:
            self._refuse(f"tranche {message.tranche} was invoiced where a session has {self._terms.count}")
            return
        known = self._invoices.get(message.tranche)
        if known is None:
            self._invoices[message.tranche] = message
            self._effects.append(ReadInvoice(message.tranche, message.bolt11))
        elif known != message:  # an equal one was sent again after a reconnect
            self._refuse("a tranche is invoiced once")

    def _consider(self, now: Moment) -> None:
        """Pay what is asked for next, if it is needed and nothing speaks against it."""
        tranche = len(self._settlement.records)
        message = self._invoices.get(tranche)
        if message is None or tranche not in self._decoded or self.is_in_doubt:
            return  # while our wallet owes its word about one payment there is no other
        if self._is_over or self._refusal is not None or not (self._under_way or self._has_begun_since):
            return
        at_stake = self.funds.balance_msat + message.msat
        if message.msat < 1 or message.msat > self._terms.tranche_msat:
            self._refuse(f"a session's tranche is of 1 to {self._terms.tranche_msat} msat, not of {message.msat}")
        elif at_stake <= self._terms.exposure_msat:
            asked, decoded = (message.order, message.msat, message.units), self._decoded[tranche]
            self._settlement.receive(InvoiceOffered(tranche, *asked, message.bolt11, decoded, MAXIMUM_QUANTITY), now)
            self._settle()
        elif not self._under_way:  # no job can make room for it any more
            limit = self._terms.exposure_msat
            self._refuse(f"the invoice would put {at_stake} msat at stake, where the quote states {limit} at the most")

    def _refuse(self, complaint: str) -> None:
        self._stop(refuse(RefusalCode.PAYMENT_MISMATCH, complaint))

    def _stop(self, refusal: Refusal) -> None:
        """Nothing more is paid: the node hears of it and, where nothing is left to run on, the jobs that wait.

        Where something is left, only the node knows whom it suffices for, and it tells the others.
        """
        if self._refusal is None:
            self._refusal = refusal
            self._effects.append(Send(farewell(JobId(self._contract.session_id), refusal)))
            if not self.funds.balance_msat:
                self._effects.append(FundsRefused(refusal))

    # ── money ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _settle(self) -> None:
        for effect in self._settlement.effects():
            match effect:
                case Store(records):
                    self._store(records)
                case Pay():
                    self._has_begun_since = False
                    self._effects.append(effect)
                case LookUpPayment():
                    self._effects.append(effect)
                case TrancheFunded(tranche):
                    self.funds.pay_in(self._settlement.records[tranche])
                    self._effects.append(Send(PaidMessage(JobId(self._contract.session_id), tranche)))
                case SettlementStopped(_, refusal):
                    self._stop(refusal)
                case PaymentInDoubt():
                    pass  # it is looked up; jobs that wait have deadlines of their own
                case _:
                    assert_never(effect)

    def _store(self, records: tuple[LedgerRecord, ...]) -> None:
        if not self._is_kept:
            self._is_kept = True
            records = (account_record("client", self._contract, JobState.OPEN, self._opened_at_ms), *records)
        self._effects.append(Store(records))

    def _close_if_done(self, now: Moment) -> None:
        """Book what is left, once no job can draw any more and the wallet has said what became of every payment."""
        if not self._is_over or self._is_closed or self._under_way:
            return
        is_in_doubt = self.is_in_doubt
        if is_in_doubt and self._doubt_until is not None:
            return
        self._is_closed = True
        if self._is_kept and not self._is_abandoned:
            if not is_in_doubt:
                self._settlement.receive(JobAccounted(), now)
                self._settle()
            state = JobState.UNKNOWN if is_in_doubt else JobState.DONE
            rest = self.funds.balance_msat
            self._effects.append(Store((account_record("client", self._contract, state, self._opened_at_ms, rest),)))
        self._effects.append(AccountClosed())
