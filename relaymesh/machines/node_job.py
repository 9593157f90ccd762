"""One job, as the node lives it: paid for, run, delivered, metered, each step stored before it has an effect (RM-02).

The counterpart of client_job.py. Invoices are `SellerSettlement`'s; what of the output may leave, and when, is said by
the order's `Delivery` (node_delivery.py). What the runner has produced beyond that is held, and the runner waits.
"""

from typing import assert_never

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.job_events import (
    JobClosed,
    Received,
    RunnerFinished,
    RunnerProduced,
    RunnerStopped,
    Send,
    SessionEnded,
    SessionLost,
    SessionRestored,
    StartRunner,
    StopRunner,
)
from relaymesh.machines.job_metering import JobMeter
from relaymesh.machines.job_settings import NodeJobSettings
from relaymesh.machines.machine import earliest
from relaymesh.machines.node_delivery import Ask, Delivery, Emit, Finish, Seal, Step, make_delivery
from relaymesh.machines.node_job_interface import NODE_JOB_TRANSITIONS, NodeJobEffect, NodeJobInput, NodeJobState
from relaymesh.machines.records import EvidenceRecord, JobRecord, JobState, LedgerRecord, Store, join_stores
from relaymesh.machines.sealed_sale import SealedSale
from relaymesh.machines.seller_settlement import SellerSettlement
from relaymesh.machines.session_funds import FundsAsked, FundsRefused, FundsReserved, JobSettled, SessionFunds
from relaymesh.machines.session_shares import SellerShare, make_seller_settlement
from relaymesh.machines.settlement import (
    CreateInvoice,
    InvoiceFailed,
    InvoiceIssued,
    InvoiceResolved,
    OfferInvoice,
    SettlementStopped,
    TrancheForgone,
    TrancheFunded,
    TrancheWanted,
    WatchInvoice,
    agree_settlement,
)
from relaymesh.market.pricing import TranchePlan
from relaymesh.nostr.event import Event, Signer, VerifiedEvent
from relaymesh.protocol.contract import Commitments, SessionContract
from relaymesh.protocol.evidence import Verifier, build_metering, read_receipt
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.protocol.session_messages import (
    CancelMessage,
    EndMessage,
    ErrorMessage,
    JobMessage,
    MeteringMessage,
    OutputMessage,
    ReceiptMessage,
    ResumeMessage,
    SessionMessage,
)
from relaymesh.units import AmountMsat, Instant, Moment

_S = NodeJobState


class NodeJob:
    """The node's machine for one job.

    Args:
        contract: What the handshake agreed on.
        message: The JOB.
        input_tokens: What the runner counted in it; 0 where it cannot count (the row is then not priced by tokens).
        signer: The node's key.
        verify: Checks the client's receipt.
        commitments: What the session's secret lets us compute about prompt and output.
        recovery_keys: What the ledger keeps, encrypted, so that the job can be ended after a crash.
        sealing_secret: 32 random bytes of this job alone, from which its sealed tranches have their keys.
        funds: The session's prepaid money; None where the job is paid by itself.
    """

    def __init__(
        self,
        contract: SessionContract,
        message: JobMessage,
        *,
        input_tokens: int,
        signer: Signer,
        verify: Verifier,
        commitments: Commitments,
        recovery_keys: bytes = b"",
        sealing_secret: bytes = b"",
        settings: NodeJobSettings | None = None,
        funds: SessionFunds | None = None,
    ) -> None:
        self.contract, self.message = contract, message
        self.state = NODE_JOB_TRANSITIONS.initial
        self._signer, self._verify, self._commitments = signer, verify, commitments
        self._settings = settings or NodeJobSettings()
        self._meter = JobMeter(contract, message, input_tokens, recovery_keys)
        self._sealed = SealedSale(contract, message.job_id, sealing_secret, signer, self._meter)
        self._settlement: SellerSettlement | None = None
        self._funds = funds
        self._delivery: Delivery | None = None
        self._offers: list[OfferInvoice] = []
        self._failure: Refusal | None = None
        self._finish_reason = ""
        self._metering: VerifiedEvent | None = None
        self._timer: Instant | None = None
        self._disconnected_until: Instant | None = None
        self._may_resend = self._is_session_over = False
        self._effects: list[NodeJobEffect] = []

    @property
    def is_hungry(self) -> bool:
        """Whether the runner should go on; False while what it produced waits for a payment."""
        return self.state is _S.RUNNING and self._delivery is not None and self._delivery.is_hungry

    # ── the five verbs ────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, now: Moment) -> None:
        """Admit the job or refuse it, before anything is invoiced or run."""
        self._meter.started_at_ms = now.unix_ms
        row, message = self.contract.quote.row, self.message
        granted = self._meter.grant(AmountMsat(0) if self._funds is None else self._funds.available_msat)
        if isinstance(granted, Refusal):
            self._move("refuse", _S.ENDED)
            self._effects += [self._error(granted), JobClosed(JobState.FAILED)]
            return
        tranche_units = self.contract.term.tranche_units if self._funds is None else None
        self._plan = plan = TranchePlan(row, self._meter.input_units, granted, tranche_units)
        agreed = agree_settlement("node", self.contract, message.job_id, plan, message.max_msat)
        self._settlement = make_seller_settlement(agreed, self._funds, self._settings.invoice_expiry_seconds)
        self._delivery = make_delivery(self.contract.term.order, plan, self._meter, self._settlement)
        kept: tuple[LedgerRecord, ...] = (self._job_record(JobState.OPEN), *self._meter.guarantee())
        self._effects.append(Store(kept, is_awaited=self._funds is None))
        first = self._delivery.begin()
        if first is None:
            self._move("begin", _S.RUNNING)
            self._effects.append(StartRunner(self._output_tokens()))
        else:
            self._move("admit", _S.FUNDING)
            self._take_step(first, now)

    def receive(self, message: NodeJobInput, now: Moment) -> None:
        """Take in what the client sent, what the wallet said, or what the runner did."""
        match message:
            case Received(session_message):
                self._receive_message(session_message, now)
            case InvoiceIssued() | InvoiceFailed() | InvoiceResolved() | FundsReserved() | FundsRefused():
                assert self._settlement is not None
                self._settlement.receive(message, now)
                self._settle(now)
            case RunnerProduced():
                if self.state is _S.RUNNING and self._delivery is not None:
                    self._delivery.produced(message)
                    self._deliver(now)
            case RunnerFinished():
                if self.state is _S.RUNNING and self._delivery is not None:
                    self._delivery.finished(message)
                    self._deliver(now)
            case RunnerStopped(refusal):
                self._stop(refusal, now)
            case SessionLost():
                self._disconnected_until = now.after_ms(self._settings.disconnect_ms)
            case SessionRestored():
                self._disconnected_until, self._may_resend = None, True
            case SessionEnded(reason):
                self._disconnected_until, self._is_session_over = None, True
                self._stop(refuse(RefusalCode.CANCELLED, reason), now)
                self._close()
            case _:
                assert_never(message)

    def deadline(self) -> Instant | None:
        """The next time-out."""
        return earliest(self._timer, self._disconnected_until)

    def handle_deadline(self, now: Moment) -> None:
        """Stop waiting for a client that is gone, or for a receipt that does not come."""
        if self._disconnected_until is not None and now.instant >= self._disconnected_until:
            self._disconnected_until = None
            self._stop(refuse(RefusalCode.CANCELLED, "the client was gone for too long"), now)
        if self._timer is not None and now.instant >= self._timer:
            self._timer = None
            self._close()

    def effects(self) -> tuple[NodeJobEffect, ...]:
        """What is to be done, once, in order."""
        effects, self._effects = join_stores(self._effects), []
        return effects

    # ── admission and messages ────────────────────────────────────────────────────────────────────────────────────

    def _receive_message(self, message: SessionMessage, now: Moment) -> None:
        match message:
            case CancelMessage():
                self._stop(refuse(RefusalCode.CANCELLED, "the client cancelled the job"), now)
            case ErrorMessage(refusal=refusal):
                self._stop(refuse(refusal.code, "the client ended the job"), now, is_paid_no_more=True)
            case ReceiptMessage(event):
                self._take_receipt(event)
            case ResumeMessage(next_output=next_output) if self._may_resend:
                self._may_resend = False  # on one connection nothing is lost: each new one is worth one resending
                self._resend(next_output)
            case _:
                pass  # PAID is a hint, and the same JOB again is never begun twice

    def _resend(self, next_output: int) -> None:
        for number, data in enumerate(self._meter.outputs[next_output:], next_output):
            if not self._sealed.holds(number):  # who paid for a sealed tranche has all of it
                self._effects.append(Send(OutputMessage(self.message.job_id, number, data)))
        self._effects += [Send(message) for message in self._sealed.messages()]
        if self._settlement is not None and self._metering is None:
            self._effects += [Send(offer.message) for offer in self._offers if self._settlement.is_open(offer.tranche)]
        if self._metering is not None:
            self._effects += [Send(EndMessage(self.message.job_id)), Send(MeteringMessage(self._metering))]

    def _take_receipt(self, event: Event) -> None:
        if self.state is not _S.CLOSING or self._metering is None:
            return
        try:
            receipt = read_receipt(self._verify(event), self._verify)
        except RemoteProtocolError:
            return  # no evidence: as if it had not come
        if receipt.metering.event.id == self._metering.id:
            self._effects.append(Store((EvidenceRecord("node", self.message.job_id, receipt.event),)))
            self._timer = None
            self._close()

    # ── money and output ──────────────────────────────────────────────────────────────────────────────────────────

    def _deliver(self, now: Moment) -> None:
        """Take every step that can be taken now: send what may leave, ask for what must be paid, finish."""
        while self.state is _S.RUNNING and self._delivery is not None:
            step = self._delivery.next_step()
            if step is None:
                return
            self._take_step(step, now)

    def _take_step(self, step: Step, now: Moment) -> None:
        match step:
            case Emit(piece):
                number = len(self._meter.outputs)
                self._meter.add_output(piece.data, piece.tokens, now)
                self._effects.append(Send(OutputMessage(self.message.job_id, number, piece.data)))
            case Ask(wanted):
                self._want(wanted, now)
            case Seal():
                self._seal(step, now)
            case Finish(reason):
                self._finish(reason, now)
            case _:
                assert_never(step)

    def _want(self, wanted: TrancheWanted | TrancheForgone, now: Moment) -> None:
        assert self._settlement is not None
        self._settlement.receive(wanted, now)
        self._settle(now)

    def _seal(self, step: Seal, now: Moment) -> None:
        """Seal a tranche: key, ciphertext and commitment are durable before the first of it leaves."""
        assert self._settlement is not None
        tranche = len(self._settlement.records)
        sealed = self._sealed.seal(step, tranche, now)
        self._want(TrancheWanted(tranche, step.units, step.amount_msat, sealed.secret, sealed.records()), now)

    def _settle(self, now: Moment) -> None:
        assert self._settlement is not None
        for effect in self._settlement.effects():
            match effect:
                case Store() | WatchInvoice() | FundsAsked():
                    self._effects.append(effect)
                case CreateInvoice(preimage=preimage):
                    sealed = self._sealed.messages() if preimage is not None else ()
                    self._effects += [*(Send(message) for message in sealed), effect]  # the goods, then the invoice
                case OfferInvoice() if self.state in (_S.FUNDING, _S.RUNNING) or self._is_billing:
                    self._offers.append(effect)
                    if not self._may_resend:  # else what it is for has still to be sent again, and then this
                        self._effects.append(Send(effect.message))
                case OfferInvoice():
                    pass  # the job was stopped meanwhile: nobody hears of this invoice
                case TrancheFunded():
                    self._funded(now)
                case SettlementStopped(_, refusal):
                    self._stop(refusal, now)
                case _:
                    assert_never(effect)
        if self.state is _S.CLOSING and self._metering is None and not self._is_payable:
            self._account(now)
        if self.state is _S.CLOSING and self._timer is None:
            self._close()

    @property
    def _is_payable(self) -> bool:
        """Whether the client has an invoice that may still be paid, or is on its way to be."""
        settlement = self._settlement
        if settlement is None:
            return False
        return self._is_billing or any(settlement.is_open(offer.tranche) for offer in self._offers)

    @property
    def _is_billing(self) -> bool:
        """Whether the job is stopped, and what was delivered on credit is still to be paid."""
        is_stopped = self.state is _S.CLOSING and self._metering is None and self.contract.term.order == "postpay"
        return is_stopped and self._settlement is not None and self._settlement.has_open

    def _funded(self, now: Moment) -> None:
        if self._metering is None:
            self._sealed.count()
        if self.state is _S.FUNDING:
            self._move("funded", _S.RUNNING)
            self._effects.append(StartRunner(self._output_tokens()))
        elif self.state is _S.RUNNING:
            self._deliver(now)
        elif self._metering is not None and self._settlement is not None:
            # Paid after the client had said that it would not: no record tells of it, the ledger does.
            job = self._job_record(self._final_state(), self._settlement.paid_msat)
            self._effects.append(Store((job, *self._settlement.account())))

    def _output_tokens(self) -> int:
        row = self.contract.quote.row
        is_bounded = row.unit == "token" and row.output_msat > 0
        return min(self._plan.output_units, row.output_limit) if is_bounded else row.output_limit

    # ── endings ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _finish(self, finish_reason: str, now: Moment) -> None:
        self._finish_reason = finish_reason
        self._move("finish", _S.CLOSING)
        self._effects += [StopRunner(), Send(EndMessage(self.message.job_id))]
        if not self._is_payable:
            self._account(now)  # else the tranche asked for ahead is on its way to be paid, and belongs into the record

    def _stop(self, refusal: Refusal, now: Moment, *, is_paid_no_more: bool = False) -> None:
        """End a job that will not be finished; what was delivered and paid is still put on record.

        The one record there is waits for a payment that may be on its way, unless the client says that none is.
        """
        if self.state is _S.CLOSING and self._metering is None and is_paid_no_more:
            self._account(now)
        if self.state not in (_S.FUNDING, _S.RUNNING) or self._delivery is None or self._settlement is None:
            return
        self._failure = refusal
        units, amount_msat = self._delivery.unpaid()
        self._delivery.drop()
        self._move("stop", _S.CLOSING)
        self._effects += [StopRunner(), self._error(refusal)]
        if amount_msat and (is_paid_no_more or self._is_session_over):
            self._want(TrancheForgone(units, amount_msat, "delivered on credit and not paid"), now)
        elif amount_msat:
            self._want(TrancheWanted(len(self._settlement.records), units, amount_msat), now)
        if self._metering is None and (is_paid_no_more or not self._is_payable):
            self._account(now)

    def _account(self, now: Moment) -> None:
        assert self._settlement is not None
        self._timer = None if self._is_session_over else now.after_ms(self._settings.receipt_ms)
        self._meter.finished_at_ms = now.unix_ms
        if isinstance(self._settlement, SellerShare):
            self._settlement.draw(*self._meter.due(self._failure))
        record = self._meter.record(self._settlement, self._commitments, self._failure, self._finish_reason)
        unsigned = build_metering(
            record, author=self.contract.node, client=self.contract.client, created_at=now.timestamp
        )
        self._metering = self._signer.sign(unsigned)
        state = self._final_state()
        evidence = EvidenceRecord("node", self.message.job_id, self._metering)
        self._effects += [
            Store((self._job_record(state, record.charged_msat), evidence, *self._settlement.account())),
            *([Store(erased)] if (erased := self._sealed.erasure()) else ()),
            Send(MeteringMessage(self._metering)),
        ]
        if self._funds is not None:
            self._effects.append(JobSettled(self.message.job_id))

    def _close(self) -> None:
        """Let go of the job, unless an invoice could still be paid: that must be seen."""
        if self.state is not _S.CLOSING or self._settlement is None:
            return
        if self._settlement.has_open:
            return
        self._move("close", _S.ENDED)
        self._effects.append(JobClosed(self._final_state()))

    def _final_state(self) -> JobState:
        return JobState.DONE if self._failure is None else JobState.FAILED

    def _error(self, refusal: Refusal) -> Send:
        return Send(ErrorMessage(self.message.job_id, refusal, refusal.is_retryable))

    def _job_record(self, state: JobState, charged_msat: AmountMsat = AmountMsat(0)) -> JobRecord:
        return self._meter.job_record(state, charged_msat, self._failure)

    def _move(self, trigger: str, target: NodeJobState) -> None:
        self.state = NODE_JOB_TRANSITIONS.move(self.state, trigger, target)
