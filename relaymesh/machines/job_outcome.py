"""What a job came to, as the client saw it: its own measurements, held against the node's record (RM-03)."""

from dataclasses import dataclass, field
from typing import Final

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.buyer_settlement import BuyerSettlement
from relaymesh.machines.records import EvidenceRecord, JobRecord, JobState, TrancheRecord, TrancheState
from relaymesh.market.pricing import cost_within
from relaymesh.nostr.event import Event, UnsignedEvent, VerifiedEvent
from relaymesh.protocol.contract import Commitments, JobOrder, SessionContract
from relaymesh.protocol.evidence import SignedMetering, Verifier, build_receipt, read_metering
from relaymesh.protocol.fields import MAXIMUM_QUANTITY
from relaymesh.protocol.metering import JobStatus, MeteredUnits, MeteringRecord, commit_to_payment
from relaymesh.protocol.receipt import Receipt
from relaymesh.protocol.refusal import Refusal
from relaymesh.protocol.session_messages import JobId
from relaymesh.units import MILLISECONDS_PER_SECOND, AmountMsat, Instant, Moment, elapsed_ms

MAXIMUM_NOTES: Final = 8
FUTURE_MS: Final = 60_000
"""How far ahead of our own a node's clock may be when it dates its record."""


@dataclass(slots=True)
class JobObservation:
    """What the client measured itself, growing while the job runs; `was_refused` if the node never began it."""

    input_bytes: int
    started: Instant = Instant(0)
    first_output: Instant | None = None
    finished: Instant = Instant(0)
    output_bytes: int = 0
    outputs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    was_refused: bool = False

    def add_output(self, data: str, now: Moment) -> int:
        """Count a piece of output; returns its size in bytes."""
        size = len(data.encode())
        if self.first_output is None:
            self.first_output = now.instant
        self.outputs.append(data)
        self.output_bytes += size
        return size

    def note(self, complaint: str) -> None:
        """Remember something that was not as it should be; the first few tell enough."""
        if len(self.notes) < MAXIMUM_NOTES:
            self.notes.append(complaint)

    @property
    def first_output_in_ms(self) -> int | None:
        """From JOB to first output; None without output."""
        return None if self.first_output is None else elapsed_ms(self.started, self.first_output)

    @property
    def total_in_ms(self) -> int:
        """From JOB to the end."""
        return elapsed_ms(self.started, self.finished)


@dataclass(frozen=True, slots=True)
class JobEnded:
    """Effect, the last one: how the job ended, for whoever asked for it.

    Args:
        refusal: Why it is not `DONE`; None when it is.
        paid_msat: What is known to have been paid to the node.
        committed_msat: That, and whatever may still turn out to have been paid.
        receipt: Ours, around the node's record; None without a record.
        complaints: What in the record does not agree with our own measurements; empty when all of it does.
    """

    job_id: JobId
    state: JobState
    refusal: Refusal | None
    paid_msat: AmountMsat
    committed_msat: AmountMsat
    fees_msat: AmountMsat
    observation: JobObservation
    metering: SignedMetering | None
    receipt: VerifiedEvent | None
    complaints: tuple[str, ...]

    @property
    def is_verified(self) -> bool:
        """Whether both sides signed and nothing disagrees."""
        return self.receipt is not None and not self.complaints


def read_record(
    event: Event, verify: Verifier, contract: SessionContract, job_id: JobId, now: Moment
) -> SignedMetering:
    """The node's record of this job, as it came over the session (RM-03, "Metering record").

    Raises:
        RemoteProtocolError: It is invalid, or not what this node owes for this job.
    """
    metering = read_metering(verify(event))
    if metering.event.public_key != contract.node or metering.record.job != job_id:
        raise RemoteProtocolError("the metering record is of another node or job")
    if metering.client != contract.client:
        raise RemoteProtocolError("the metering record is made out to another client")
    if metering.event.created_at * MILLISECONDS_PER_SECOND > now.unix_ms + FUTURE_MS:
        raise RemoteProtocolError("the metering record is dated in the future")
    return metering


def find_complaints(
    contract: SessionContract,
    order: JobOrder,
    observation: JobObservation,
    metering: SignedMetering | None,
    settlement: BuyerSettlement,
    commitments: Commitments,
) -> tuple[str, ...]:
    """Everything in the node's record that our own measurements contradict (RM-03, "Metering record")."""
    if metering is None:
        owed = () if observation.was_refused else ("the node sent no metering record",)
        return (*observation.notes, *owed)
    record = metering.record
    checks = {
        "it is for another client, session or quote": metering.client == contract.client
        and record.session == contract.session_id
        and record.quote_id == contract.quote_event.id,
        "it names another model or job type": (record.model, record.job_type) == (order.model, order.job_type),
        "it states another limit than the job's": record.max_msat == order.maximum_msat,
        "it charges more than its units cost": _is_within_price(contract, order, record),
        "it charges more than the job's limit": record.charged_msat <= order.maximum_msat,
        "it charges another sum than was paid": record.charged_msat == settlement.paid_msat,
        "it counts other input bytes": record.units.input_bytes == observation.input_bytes,
        "it counts other output bytes": record.units.output_bytes == observation.output_bytes,
        "its prompt commitment is of another prompt": record.prompt_commitment == commitments.commit_prompt(order.body),
        "its output commitment is of another output": record.output_commitment
        == commitments.commit_output(observation.outputs),
        "its tranches are not the payments that were made": _are_payments_as_made(record, settlement, commitments),
    }
    return (*observation.notes, *(complaint for complaint, holds in checks.items() if not holds))


def is_fair(contract: SessionContract, order: JobOrder, observation: JobObservation, record: MeteringRecord) -> bool:
    """Whether a record may be booked: what it charges is within the limit, and within the price of what we measured."""
    counted = (record.units.input_bytes, record.units.output_bytes)
    return (
        record.charged_msat <= order.maximum_msat
        and counted == (observation.input_bytes, observation.output_bytes)
        and _is_within_price(contract, order, record)
    )


def _is_within_price(contract: SessionContract, order: JobOrder, record: MeteringRecord) -> bool:
    row = contract.quote.row
    input_units, output_units = record.billable_units(row.unit)
    allowed = cost_within(row, input_units, min(output_units, MAXIMUM_QUANTITY), order.maximum_msat)
    return not record.charged_msat or allowed is None or record.charged_msat <= allowed


def _are_payments_as_made(record: MeteringRecord, settlement: BuyerSettlement, commitments: Commitments) -> bool:
    paid: list[TrancheRecord] = [
        tranche
        for tranche in settlement.records
        if tranche.amount_msat and tranche.state in (TrancheState.PAID, TrancheState.RELEASED)
    ]
    expected = {
        commit_to_payment(commitments.payment_salt(tranche.tranche), tranche.payment_hash): tranche.amount_msat
        for tranche in paid
    }
    stated = {tranche.payment_commitment: tranche.msat for tranche in record.tranches if tranche.msat}
    return expected == stated


def make_receipt(
    metering: SignedMetering,
    observation: JobObservation,
    settlement: BuyerSettlement,
    complaints: tuple[str, ...],
    now: Moment,
) -> UnsignedEvent:
    """Our receipt around the node's record, ready to be signed by the client session key."""
    outcome: JobStatus = "ok"
    if metering.record.status != "ok" or complaints:
        outcome = "partial" if observation.outputs else "failed"
    receipt = Receipt(
        metering=metering.event.to_json(),
        outcome=outcome,
        units=MeteredUnits(
            input_tokens=0,
            output_tokens=0,
            input_bytes=observation.input_bytes,
            output_bytes=observation.output_bytes,
            seconds=0,
            jobs=1,
        ),
        first_output_in_ms=observation.first_output_in_ms,
        total_in_ms=observation.total_in_ms,
        paid_msat=settlement.paid_msat,
        note=complaints[0][:200] if complaints else None,
    )
    created_at = max(now.timestamp, metering.event.created_at)
    return build_receipt(receipt, metering, type(now.timestamp)(created_at))


def make_job_record(
    contract: SessionContract,
    order: JobOrder,
    state: JobState,
    created_at_ms: int,
    paid_msat: AmountMsat,
    failure: Refusal | None,
    keys: bytes,
) -> JobRecord:
    """The job as the client's ledger keeps it; body and keys stay only while it may have to be taken up again."""
    is_kept = state in (JobState.OPEN, JobState.UNKNOWN)
    return JobRecord(
        side="client",
        client=contract.client,
        job_id=order.job_id(contract.session_id),
        node=contract.node,
        session_id=contract.session_id,
        quote_id=contract.quote_event.id,
        model=order.model,
        job_type=order.job_type,
        client_nonce=order.client_nonce.hex(),
        maximum_msat=order.maximum_msat,
        state=state,
        created_at_ms=created_at_ms,
        charged_msat=paid_msat,
        reason="" if failure is None else failure.to_wire(),
        output_units=order.output_units,
        body=order.body if is_kept else "",
        keys=keys if is_kept else b"",
    )


def keep_quote(contract: SessionContract, job_id: JobId) -> EvidenceRecord:
    """The quote as evidence of the price: it was sealed to us, so it is kept with what it says."""
    return EvidenceRecord("client", job_id, contract.quote_event, contract.quote_plaintext)
