"""The node's side of a session's account: asks for tranches as jobs need them (RM-03, "Session tranches")."""

from typing import assert_never

from relaymesh.machines.job_events import Received, Send, SessionEnded, SessionRestored
from relaymesh.machines.job_settings import NodeJobSettings
from relaymesh.machines.records import JobState, LedgerRecord, Store, join_stores
from relaymesh.machines.seller_settlement import SellerSettlement
from relaymesh.machines.session_account import SessionTerms, account_record, agree_account
from relaymesh.machines.session_funds import (
    AccountClosed,
    FundsAsked,
    FundsRefused,
    FundsReserved,
    JobAbandoned,
    JobSettled,
    SessionFunds,
)
from relaymesh.machines.settlement import (
    CreateInvoice,
    InvoiceFailed,
    InvoiceIssued,
    InvoiceResolved,
    OfferInvoice,
    SettlementStopped,
    TrancheFunded,
    TrancheWanted,
    WatchInvoice,
)
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.protocol.session_messages import ErrorMessage, JobId
from relaymesh.units import AmountMsat, Instant, Moment

SellerAccountInput = (
    FundsAsked
    | JobSettled
    | JobAbandoned
    | Received
    | InvoiceIssued
    | InvoiceFailed
    | InvoiceResolved
    | SessionRestored
    | SessionEnded
)
SellerAccountEffect = Store | Send | CreateInvoice | WatchInvoice | FundsReserved | FundsRefused | AccountClosed


class SellerAccount:
    """The node's machine for the money of one session.

    Jobs ask `funds` themselves, so that one whose money is there need not wait for anything. The next tranche is asked
    for when a job comes or ends while no more than the stated reserve is left; with less room than a whole tranche has,
    so much as the exposure allows, and only for a job that it lets run.

    Args:
        contract: What the handshake agreed on.
        terms: What its term says about the session's money.
    """

    def __init__(
        self, contract: SessionContract, terms: SessionTerms, *, settings: NodeJobSettings | None = None
    ) -> None:
        self.funds = SessionFunds()
        self._contract, self._terms = contract, terms
        self._settlement = SellerSettlement(
            agree_account("node", contract, terms),
            invoice_expiry_seconds=(settings or NodeJobSettings()).invoice_expiry_seconds,
        )
        self._offer: OfferInvoice | None = None
        self._refusal: Refusal | None = None
        self._is_kept = self._is_over = self._is_abandoned = self._is_closed = False
        self._opened_at_ms = 0
        self._effects: list[SellerAccountEffect] = []

    # ── the five verbs ────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, now: Moment) -> None:
        """Wait for the first job."""
        self._opened_at_ms = now.unix_ms

    def receive(self, message: SellerAccountInput, now: Moment) -> None:
        """Take in what jobs need and what became of them, what the client said, or what the wallet said."""
        if self._is_closed:
            return
        match message:
            case FundsAsked():
                pass
            case JobSettled(job_id):
                self.funds.settle(job_id)
            case JobAbandoned(job_id):
                self._is_abandoned = self.funds.settle(job_id) or self._is_abandoned
            case Received(ErrorMessage(refusal=refusal)):
                self._stop(refuse(refusal.code, "the client pays no more in this session"))
            case Received():
                pass  # PAID is a hint
            case InvoiceIssued() | InvoiceFailed() | InvoiceResolved():
                self._settlement.receive(message, now)
                self._settle()
            case SessionRestored():
                if self._offer is not None and self._settlement.is_open(self._offer.tranche):
                    self._effects.append(Send(self._offer.message))
            case SessionEnded(reason):
                self._is_over = True
                self._stop(refuse(RefusalCode.CANCELLED, reason))
            case _:
                assert_never(message)
        self._review(now)

    def deadline(self) -> Instant | None:
        """None: an invoice lapses at the wallet."""
        return None

    def handle_deadline(self, now: Moment) -> None:
        """Nothing is ever due."""

    def effects(self) -> tuple[SellerAccountEffect, ...]:
        """What is to be done, once, in order."""
        effects, self._effects = join_stores(self._effects), []
        return effects

    # ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _review(self, now: Moment) -> None:
        """Promise what is there, ask for what is missing, turn away whom nothing will come for."""
        self._effects += [FundsReserved(job_id) for job_id in self.funds.grant()]
        amount_msat = self._amount_wanted(now)
        if amount_msat:
            self._settlement.receive(TrancheWanted(len(self._settlement.records), amount_msat, amount_msat), now)
            self._settle()
        refusal = self._why_no_more(now)
        while refusal is not None and self.funds.first_waiting is not None and not self.funds.promised_msat:
            self._turn_away(refusal)
            self._effects += [FundsReserved(job_id) for job_id in self.funds.grant()]
        self._close_if_done()

    def _amount_wanted(self, now: Moment) -> AmountMsat:
        """What to ask for now; 0 for nothing."""
        if self._settlement.has_open or self._why_no_more(now) is not None:
            return AmountMsat(0)
        room = min(self._terms.tranche_msat, self._terms.exposure_msat - self.funds.balance_msat)
        waiting = self.funds.first_waiting
        is_low = room == self._terms.tranche_msat and (waiting is not None or self.funds.promised_msat > 0)
        if is_low or (waiting is not None and waiting[1] - self.funds.available_msat <= room):
            return AmountMsat(room)
        return AmountMsat(0)

    def _why_no_more(self, now: Moment) -> Refusal | None:
        """Why no further tranche will be asked for; None while one may be, or may still be paid."""
        if self._refusal is not None or self._settlement.has_open:
            return self._refusal
        if len(self._settlement.records) >= self._terms.count:
            reason = f"the session has had its {self._terms.count} tranches; open another"
            return refuse(RefusalCode.PAYMENT_REQUIRED, reason)
        if now.unix_ms >= self._contract.quote.valid_until_ms:
            return refuse(RefusalCode.EXPIRED, "the session's quote is no longer valid; open another session")
        return None

    def _turn_away(self, refusal: Refusal) -> bool:
        job_id: JobId | None = self.funds.turn_away()
        if job_id is None:
            return False
        self._effects.append(FundsRefused(refusal, job_id))
        return True

    def _stop(self, refusal: Refusal) -> None:
        """No further tranche will be paid: what is left serves whom it suffices for."""
        self._refusal = self._refusal or refusal
        while self._turn_away(self._refusal):
            pass

    # ── money ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _settle(self) -> None:
        for effect in self._settlement.effects():
            match effect:
                case Store(records):
                    self._store(records)
                case CreateInvoice() | WatchInvoice():
                    self._effects.append(effect)
                case OfferInvoice() if not self._is_over:
                    self._offer = effect
                    self._effects.append(Send(effect.message))
                case OfferInvoice():
                    pass  # the session is over: nobody hears of this invoice
                case TrancheFunded(tranche):
                    self.funds.pay_in(self._settlement.records[tranche])
                case SettlementStopped(_, refusal):
                    self._stop(refusal)
                case FundsAsked():
                    pass  # a job's share says so, an account's settlement does not
                case _:
                    assert_never(effect)

    def _store(self, records: tuple[LedgerRecord, ...]) -> None:
        if not self._is_kept:
            self._is_kept = True
            records = (account_record("node", self._contract, JobState.OPEN, self._opened_at_ms), *records)
        self._effects.append(Store(records))

    def _close_if_done(self) -> None:
        """Book what is left, once no job can draw and nothing can be paid any more."""
        if not self._is_over or self._is_closed or self.funds.is_in_use or self._settlement.has_open:
            return
        self._is_closed = True
        if self._settlement.records and not self._is_abandoned:
            rest = self.funds.balance_msat
            account = account_record("node", self._contract, JobState.DONE, self._opened_at_ms, rest)
            self._effects.append(Store((account, *self._settlement.account())))
        self._effects.append(AccountClosed())
