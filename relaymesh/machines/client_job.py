"""One job, as the client lives it: JOB out, output in, every tranche paid once, a receipt at the end (RM-02, "Jobs").

Read this file first. The session is open and its contract is known (opening.py tells how that came about); payments
are `BuyerSettlement`'s. The machine is told what came in over the session and what the wallet said, and answers with
effects, in the order in which they must happen: nothing is sent or paid before the ledger has it.
"""

from collections.abc import Collection, Sequence
from typing import assert_never

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.buyer_account import BuyerAccount
from relaymesh.machines.client_job_interface import (
    CLIENT_JOB_TRANSITIONS,
    ClientJobEffect,
    ClientJobInput,
    ClientJobState,
)
from relaymesh.machines.client_output import CREDIT_BYTES, ClientOutput
from relaymesh.machines.job_events import (
    CancelRequested,
    Deliver,
    InvoiceRead,
    Received,
    Send,
    SessionEnded,
    SessionRestored,
)
from relaymesh.machines.job_metering import MAXIMUM_JOB_OUTPUT_BYTES
from relaymesh.machines.job_outcome import (
    JobEnded,
    JobObservation,
    find_complaints,
    is_fair,
    keep_quote,
    make_job_record,
    make_receipt,
    read_record,
)
from relaymesh.machines.job_settings import ClientJobSettings
from relaymesh.machines.machine import earliest
from relaymesh.machines.offered_invoices import OfferedInvoices, farewell
from relaymesh.machines.records import EvidenceRecord, JobRecord, JobState, Store, join_stores
from relaymesh.machines.sealed_deliveries import SealedDeliveries
from relaymesh.machines.session_funds import FundsChanged, FundsRefused
from relaymesh.machines.session_shares import make_buyer_settlement
from relaymesh.machines.settlement import (
    JobAccounted,
    LookUpPayment,
    Pay,
    PaymentInDoubt,
    PaymentResolved,
    SettlementStopped,
    TrancheFunded,
    agree_settlement,
)
from relaymesh.market.pricing import MAXIMUM_TRANCHES, TranchePlan
from relaymesh.nostr.event import Event, Signer, VerifiedEvent
from relaymesh.protocol.contract import Commitments, JobOrder, SessionContract
from relaymesh.protocol.evidence import SignedMetering, Verifier
from relaymesh.protocol.payment import InvoiceReading
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.protocol.session_messages import (
    CancelMessage,
    CommitmentMessage,
    CreditMessage,
    EndMessage,
    ErrorMessage,
    InvoiceMessage,
    JobMessage,
    MeteringMessage,
    OutputMessage,
    PaidMessage,
    ReceiptMessage,
    ResumeMessage,
    SealedMessage,
    SessionMessage,
)
from relaymesh.units import Instant, Moment

_S = ClientJobState


class ClientJob:
    """The client's machine for one job.

    Args:
        contract: What the handshake agreed on.
        order: The job.
        plan: The tranches as this side prices them.
        signer: The client session key.
        verify: Checks the node's events.
        commitments: What the session's secret lets us compute about prompt and output.
        known_payment_hashes: Hashes of other tranches, which no invoice may repeat.
        recovery_keys: What the ledger keeps, encrypted, so that the job can be taken up after a crash.
        account: The session's prepaid money; None where the job is paid by itself.
    """

    def __init__(
        self,
        contract: SessionContract,
        order: JobOrder,
        plan: TranchePlan,
        *,
        signer: Signer,
        verify: Verifier,
        commitments: Commitments,
        known_payment_hashes: Collection[str] = (),
        recovery_keys: bytes = b"",
        settings: ClientJobSettings | None = None,
        account: BuyerAccount | None = None,
    ) -> None:
        self.contract, self.order = contract, order
        self.job_id = order.job_id(contract.session_id)
        self.state = CLIENT_JOB_TRANSITIONS.initial
        self._signer, self._verify, self._commitments = signer, verify, commitments
        self._recovery_keys = recovery_keys
        self._settings = settings or ClientJobSettings()
        agreed = agree_settlement("client", contract, self.job_id, plan, order.maximum_msat)
        self._settlement = make_buyer_settlement(agreed, account, commitments, known_payment_hashes)
        self._observation = JobObservation(input_bytes=len(order.body.encode()))
        sealed = SealedDeliveries(contract, self.job_id, verify) if contract.term.order == "sealed" else None
        self.output = ClientOutput(self._observation, sealed)
        self._invoices = OfferedInvoices()
        self._metering: SignedMetering | None = None
        self._failure: Refusal | None = None
        self._is_cancelled, self._created_at_ms = False, 0
        self._patience_ms = self._settings.patience_ms(contract.quote.eta_in_ms, is_sealed=sealed is not None)
        self._timer: Instant | None = None
        self._doubt_until: Instant | None = None
        self._effects: list[ClientJobEffect] = []

    # ── the five verbs ────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, now: Moment) -> None:
        """Store the job, then send it."""
        self._move("start", _S.WAITING)
        self._created_at_ms, self._observation.started = now.unix_ms, now.instant
        self._effects += [
            Store((self._job_record(JobState.OPEN), keep_quote(self.contract, self.job_id)), self._settlement.is_own),
            Send(self.job_message()),
            Send(CreditMessage(self.job_id, CREDIT_BYTES)),
        ]
        self._timer = now.after_ms(self._patience_ms)

    def receive(self, message: ClientJobInput, now: Moment) -> None:
        """Take in what came over the session, what the wallet said, or what the buyer wants."""
        if self.state in (_S.READY, _S.ENDED) or (isinstance(message, FundsRefused) and self.state is not _S.WAITING):
            return
        match message:
            case Received(session_message):
                self._receive_message(session_message, now)
            case InvoiceRead(tranche, decoded):
                self._offer_to_settlement(tranche, decoded, now)
            case PaymentResolved() | FundsChanged() | FundsRefused():
                self._settlement.receive(message, now)
                if isinstance(message, FundsChanged) and self.state is _S.WAITING:
                    self._timer = now.after_ms(self._patience_ms)
                self._settle(now)
            case CancelRequested():
                self._is_cancelled = True
                cancelled = refuse(RefusalCode.CANCELLED, "the buyer cancelled the job")
                self._stop(cancelled, now, CancelMessage(self.job_id))
            case SessionRestored():
                if self._invoices.is_empty and not self._observation.outputs:
                    self._effects.append(Send(self.job_message()))  # it may have been lost with the connection
                resume = ResumeMessage(self.job_id, len(self._observation.outputs))
                self._effects += [Send(resume), Send(CreditMessage(self.job_id, CREDIT_BYTES))]
            case SessionEnded(reason):
                self._failure = self._failure or refuse(RefusalCode.RUNNER_UNAVAILABLE, reason)
                self._leave_streaming("stop", now)
                self._account(now)
            case _:
                assert_never(message)

    def deadline(self) -> Instant | None:
        """The next time-out or look-up."""
        return earliest(self._timer, self._settlement.deadline())

    def handle_deadline(self, now: Moment) -> None:
        """Give up waiting where waiting is over; look up payments that are in doubt."""
        self._settlement.handle_deadline(now)
        self._settle(now)
        if self._timer is None or now.instant < self._timer:
            return
        self._timer = None
        match self.state:
            case ClientJobState.WAITING | ClientJobState.STREAMING if self._settlement.is_unknown:
                doubt = refuse(RefusalCode.PAYMENT_TIMEOUT, "the wallet cannot say whether the invoice was paid")
                self._stop(doubt, now, CancelMessage(self.job_id))
            case ClientJobState.WAITING | ClientJobState.STREAMING if self._settlement.is_in_doubt:
                self._timer = now.after_ms(self._settings.idle_ms)
            case ClientJobState.WAITING | ClientJobState.STREAMING:
                late = "no output came in time" if self.state is _S.WAITING else "the output stalled"
                self._stop(refuse(RefusalCode.RUNNER_TIMEOUT, late), now, CancelMessage(self.job_id))
            case ClientJobState.ENDING if self._settlement.is_in_doubt and not self._settlement.is_unknown:
                self._timer = now.after_ms(self._settings.metering_ms)  # the wallet is still paying: the record waits
            case ClientJobState.ENDING:
                self._account(now)
            case ClientJobState.DOUBTING:
                self._end(now)

    def effects(self) -> tuple[ClientJobEffect, ...]:
        """What is to be done, once, in order."""
        effects, self._effects = join_stores(self._effects), []
        return effects

    def break_off(self, refusal: Refusal) -> JobEnded:
        """How the job stands if it must end here, by an error of our own; the ledger's rows stay open for a restart."""
        self._failure = self._failure or refusal
        state = JobState.UNKNOWN if self._settlement.is_in_doubt else JobState.FAILED
        return self._job_ended(state, None, ())

    # ── messages of the session ───────────────────────────────────────────────────────────────────────────────────

    def job_message(self) -> JobMessage:
        """The JOB: the same bytes each time it is sent."""
        return self.order.to_message(self.contract)

    def _receive_message(self, message: SessionMessage, now: Moment) -> None:
        match message:
            case OutputMessage() | SealedMessage() | CommitmentMessage():
                self._take_output(message, now)
            case InvoiceMessage() if message.tranche < MAXIMUM_TRANCHES:
                self._take_invoice(message, now)
            case EndMessage():
                self._leave_streaming("end of output", now)
            case MeteringMessage(event):
                self._take_metering(event, now)
            case ErrorMessage(refusal=refusal):
                self._failure = self._failure or refusal
                self._leave_streaming("stop", now)
                if not self._settlement.records and not self._observation.outputs:
                    self._observation.was_refused = True  # it never began, so no record is owed
                    self._account(now)
            case _:
                pass  # nothing else is for a job; the session has already checked its shape

    def _take_output(self, message: OutputMessage | SealedMessage | CommitmentMessage, now: Moment) -> None:
        try:
            pieces = self.output.take(message, len(self._settlement.records), now)
        except RemoteProtocolError as error:
            self._stop_for(refuse(RefusalCode.PAYMENT_MISMATCH, str(error)), now)
            return
        # What was on its way when the job was given up is counted, since the node counts it too, but it is not wanted.
        if self.state in (_S.WAITING, _S.STREAMING):
            self._deliver(pieces, now)
            if (granted := self.output.take_credit()) is not None:
                self._effects.append(Send(CreditMessage(self.job_id, granted)))

    def _open_sealed(self, tranche: int, now: Moment) -> None:
        """What was paid opens with the preimage of its payment, and is output."""
        preimage = self._settlement.records[tranche].preimage
        if self.output.sealed is None or preimage is None:
            return
        try:
            pieces = self.output.open(tranche, preimage, now)
        except RemoteProtocolError as error:
            self._observation.note(str(error))
            self._stop_for(refuse(RefusalCode.RUNNER_FAILED, "what was sold sealed is not what was committed to"), now)
            return
        if not self._is_cancelled:
            self._deliver(pieces, now)

    def _deliver(self, pieces: Sequence[str], now: Moment) -> None:
        if self._observation.output_bytes > MAXIMUM_JOB_OUTPUT_BYTES:
            self._stop(refuse(RefusalCode.OVER_LIMIT, "the output does not end"), now, CancelMessage(self.job_id))
            return
        if pieces and self.state is _S.WAITING:
            self._move("output", _S.STREAMING)
        self._effects += [Deliver(data) for data in pieces]
        if self.state is _S.STREAMING:
            self._timer = now.after_ms(self._settings.idle_ms if self.output.sealed is None else self._patience_ms)

    def _take_metering(self, event: Event, now: Moment) -> None:
        if self._metering is not None:
            return
        try:
            self._metering = read_record(event, self._verify, self.contract, self.job_id, now)
        except RemoteProtocolError as error:
            self._observation.note(f"a metering record that is no evidence came: {error}")
            return
        fair = is_fair(self.contract, self.order, self._observation, self._metering.record)
        self._settlement.take_record(self._metering.record, is_fair=fair)
        self._leave_streaming("end of output", now)
        self._account(now)

    # ── money ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_invoice(self, message: InvoiceMessage, now: Moment) -> None:
        taken = self._invoices.take(message)
        if isinstance(taken, Refusal):
            self._stop_for(taken, now)
        elif taken is not None:
            self._effects.append(taken)

    def _offer_to_settlement(self, tranche: int, decoded: InvoiceReading, now: Moment) -> None:
        is_billed = self.contract.term.order == "postpay" and self.state is _S.ENDING  # stopped, and paid for what came
        if not (is_billed or self.state in (_S.WAITING, _S.STREAMING)):
            return
        offered = self._invoices.offer(tranche, decoded, self.output)
        if isinstance(offered, Refusal):
            self._stop_for(offered, now)
        elif offered is not None:
            self._settlement.receive(offered, now)
            self._settle(now)

    def _settle(self, now: Moment) -> None:
        """Carry the settlement's wishes over into this machine's effects."""
        for effect in self._settlement.effects():
            match effect:
                case Store() | Pay() | LookUpPayment():
                    self._effects.append(effect)
                case TrancheFunded(tranche):
                    self._effects.append(Send(PaidMessage(self.job_id, tranche)))
                    if self.state in (_S.WAITING, _S.STREAMING):
                        self._timer = now.after_ms(self._patience_ms)
                    self._open_sealed(tranche, now)
                case SettlementStopped(_, refusal):
                    if self.state is _S.ENDING:  # the node may wait for this payment before it signs its record
                        self._effects.append(Send(farewell(self.job_id, refusal)))
                    self._stop_for(refusal, now)
                case PaymentInDoubt():
                    self._doubt_until = now.after_ms(self._settings.doubt_ms)
                    if self.state in (_S.WAITING, _S.STREAMING):
                        self._timer = self._doubt_until
                case _:
                    assert_never(effect)
        if self.state is _S.DOUBTING and not self._settlement.is_in_doubt:
            self._end(now)

    # ── endings ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _stop(self, refusal: Refusal, now: Moment, last_word: SessionMessage) -> None:
        """Give the job up from this side, and wait a little for the node's record of what was delivered."""
        if self.state not in (_S.WAITING, _S.STREAMING):
            return
        self._failure = self._failure or refusal
        self._effects.append(Send(last_word))
        self._leave_streaming("stop", now)

    def _stop_for(self, refusal: Refusal, now: Moment) -> None:
        self._stop(refusal, now, farewell(self.job_id, refusal))

    def _leave_streaming(self, trigger: str, now: Moment) -> None:
        if self.state in (_S.WAITING, _S.STREAMING):
            self._move(trigger, _S.ENDING)
            self._timer = now.after_ms(self._settings.metering_ms)

    def _account(self, now: Moment) -> None:
        """The record is here, or will not come: end, unless the wallet still owes its word about a payment."""
        if self.state is not _S.ENDING:
            return
        if self._settlement.is_in_doubt:
            self._move("payment in doubt", _S.DOUBTING)
            self._timer = self._doubt_until or now.after_ms(self._settings.doubt_ms)
        else:
            self._end(now)

    def _end(self, now: Moment) -> None:
        self._move("account", _S.ENDED)
        self._timer = None
        self._settlement.receive(JobAccounted(), now)
        self._settle(now)
        state = self._final_state()
        self._observation.finished = now.instant
        facts = (self.contract, self.order, self._observation, self._metering)
        complaints = find_complaints(*facts, self._settlement, self._commitments)
        receipt, evidence = None, self.output.evidence()
        if self._metering is not None:
            unsigned = make_receipt(self._metering, self._observation, self._settlement, complaints, now)
            receipt = self._signer.sign(unsigned)
            evidence += [EvidenceRecord("client", self.job_id, event) for event in (self._metering.event, receipt)]
        self._effects.append(Store((self._job_record(state), *evidence)))
        if receipt is not None:
            self._effects.append(Send(ReceiptMessage(receipt)))
        self._effects.append(self._job_ended(state, receipt, complaints))

    def _job_ended(self, state: JobState, receipt: VerifiedEvent | None, complaints: tuple[str, ...]) -> JobEnded:
        money = (self._settlement.paid_msat, self._settlement.committed_msat, self._settlement.fees_msat)
        return JobEnded(
            self.job_id, state, self._failure, *money, self._observation, self._metering, receipt, complaints
        )

    def _final_state(self) -> JobState:
        if self._settlement.is_in_doubt:
            return JobState.UNKNOWN
        if self._is_cancelled:
            return JobState.CANCELLED
        recorded_failure = self._metering is not None and self._metering.record.status == "failed"
        return JobState.FAILED if self._failure is not None or recorded_failure else JobState.DONE

    def _job_record(self, state: JobState) -> JobRecord:
        paid, keys = self._settlement.paid_msat, self._recovery_keys
        return make_job_record(self.contract, self.order, state, self._created_at_ms, paid, self._failure, keys)

    def _move(self, trigger: str, target: ClientJobState) -> None:
        self.state = CLIENT_JOB_TRANSITIONS.move(self.state, trigger, target)
