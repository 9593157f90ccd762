"""The node's own count of a job, and the record it signs about it (RM-03, "Metering record")."""

from typing import Final

from relaymesh.machines.records import EvidenceRecord, JobRecord, JobState, TrancheRecord, TrancheState
from relaymesh.machines.seller_settlement import SellerSettlement
from relaymesh.machines.session_account import admit_session_job
from relaymesh.market.pricing import TranchePlan, cost
from relaymesh.protocol.contract import Commitments, SessionContract
from relaymesh.protocol.fields import MAXIMUM_QUANTITY
from relaymesh.protocol.metering import (
    JobStatus,
    MeteredTranche,
    MeteredUnits,
    MeteringRecord,
    commit_to_payment,
)
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.protocol.session_messages import JobMessage
from relaymesh.units import MILLISECONDS_PER_SECOND, AmountMsat, Moment

MAXIMUM_JOB_OUTPUT_BYTES: Final = 2 * 1024 * 1024
"""What a session can hold of one job, so that all of it can be sent again after a reconnect."""


class JobMeter:
    """Counts everything about one job in every unit, whatever its price is made of.

    Args:
        input_tokens: What the runner counted before it ran; its final count replaces it.
        recovery_keys: What the ledger keeps so that the job can be ended after a crash.
    """

    def __init__(self, contract: SessionContract, message: JobMessage, input_tokens: int, recovery_keys: bytes) -> None:
        self.outputs: list[str] = []
        self.started_at_ms = 0
        self.finished_at_ms = 0
        self._contract, self._message, self._recovery_keys = contract, message, recovery_keys
        self._input_tokens, self._output_tokens, self._output_bytes = input_tokens, 0, 0
        self._input_bytes = len(message.body.encode())
        self._first_output_at_ms: int | None = None

    @property
    def input_units(self) -> int:
        """The input in the row's unit: what the first tranche includes."""
        unit = self._contract.quote.row.unit
        return {"token": self._input_tokens, "byte": self._input_bytes}.get(unit, 0)

    def grant(self, prepaid_msat: AmountMsat = AmountMsat(0)) -> int | Refusal:
        """How much output the job is granted, or why it is refused before anything is invoiced or run.

        Args:
            prepaid_msat: What is left of a prepaid session's money: it buys at the quoted price also when the quote is
                no longer valid.
        """
        contract, message, row = self._contract, self._message, self._contract.quote.row
        if message.model != row.model or message.job_type not in row.job_types:
            return refuse(RefusalCode.MODEL_NOT_OFFERED, "the session's quote is for another model or job type")
        if message.quote_id != contract.quote_event.id:
            return refuse(RefusalCode.OFFER_CHANGED, "the job names another quote than the session's")
        is_expired = self.started_at_ms >= contract.quote.valid_until_ms
        if is_expired and not prepaid_msat:
            return refuse(RefusalCode.EXPIRED, "the quote is no longer valid; ask for a new one")
        if row.output_msat > 0 and row.output_limit > 0 and message.output_units == 0:
            return refuse(RefusalCode.OVER_LIMIT, "the job asks for no output, which this price row cannot deliver")
        if self.input_units > MAXIMUM_QUANTITY:
            return refuse(RefusalCode.OVER_LIMIT, "the input is larger than the protocol allows")
        granted = admit_session_job(
            contract,
            input_units=self.input_units,
            maximum_output_units=message.output_units,
            maximum_msat=message.max_msat,
        )
        return granted if isinstance(granted, Refusal) else self._check_exposure(granted)

    def _check_exposure(self, granted: int) -> int | Refusal:
        """Work that is paid afterwards must not cost the node more than it said when it quoted."""
        term = self._contract.term
        if term.order == "prepay":
            return granted
        plan = TranchePlan(self._contract.quote.row, self.input_units, granted, term.tranche_units)
        if plan.arrears_msat <= term.exposure_node_msat:
            return granted
        said = f"a tranche of this job comes to {plan.arrears_msat} msat, above the {term.exposure_node_msat} quoted"
        return refuse(RefusalCode.OVER_LIMIT, said)

    def guarantee(self) -> tuple[EvidenceRecord, ...]:
        """What the ledger keeps of who vouched for the client, beside the job."""
        signed = self._contract.guarantee
        return () if signed is None else (EvidenceRecord("node", self._message.job_id, signed.event),)

    def has_room_for(self, size: int) -> bool:
        """Whether a job's output may grow by so many bytes (RM-02, "Jobs")."""
        return self._output_bytes + size <= MAXIMUM_JOB_OUTPUT_BYTES

    @property
    def is_empty(self) -> bool:
        """Whether nothing was delivered yet."""
        return not self.outputs

    @property
    def output_units(self) -> int:
        """Output delivered, in the row's unit."""
        return self.output_units_with(0, 0)

    def output_units_with(self, size: int, tokens: int) -> int:
        """Output in the row's unit, if so many bytes and tokens were delivered as well."""
        match self._contract.quote.row.unit:
            case "token":
                return self._output_tokens + tokens
            case "byte":
                return self._output_bytes + size
            case "job":
                return 1
            case "second":
                return 0

    def add_output(self, data: str, tokens: int, now: Moment) -> None:
        """Count a piece that is delivered now."""
        if self._first_output_at_ms is None:
            self._first_output_at_ms = now.unix_ms
        self.outputs.append(data)
        self._output_tokens += tokens
        self._output_bytes += len(data.encode())

    def take_counts(self, input_tokens: int, output_tokens: int) -> None:
        """The engine's own counts, once it is done; input that was invoiced by the token stays as it was invoiced."""
        if self._contract.quote.row.unit != "token":
            self._input_tokens = input_tokens
        self._output_tokens = output_tokens

    def due(self, failure: Refusal | None) -> tuple[int, AmountMsat]:
        """Output delivered in the row's unit, and what it costs with its input: what a session's job draws.

        A job that failed before its first output costs nothing (RM-02, "Jobs").
        """
        row = self._contract.quote.row
        _, output_units = self._units().of(row.unit)
        if failure is not None and not self.outputs:
            return output_units, AmountMsat(0)
        return output_units, cost(row, self.input_units, output_units)

    def record(
        self, settlement: SellerSettlement, commitments: Commitments, failure: Refusal | None, finish_reason: str
    ) -> MeteringRecord:
        """The record of the job as it stands."""
        contract, message = self._contract, self._message
        status: JobStatus = "ok" if failure is None else "partial" if self.outputs else "failed"
        return MeteringRecord(
            job=message.job_id,
            session=contract.session_id,
            quote_id=contract.quote_event.id,
            model=contract.quote.row.model,
            job_type=message.job_type,
            status=status,
            error=finish_reason if failure is None else failure.to_wire(),
            started_at_ms=self.started_at_ms,
            first_output_at_ms=self._first_output_at_ms,
            finished_at_ms=self.finished_at_ms,
            units=self._units(),
            tokenizer=contract.quote.row.identity.engine,
            prompt_commitment=commitments.commit_prompt(message.body),
            output_commitment=commitments.commit_output(self.outputs),
            max_msat=message.max_msat,
            charged_msat=settlement.paid_msat,
            tranches=self._tranches(settlement, commitments),
        )

    def job_record(self, state: JobState, charged_msat: AmountMsat, failure: Refusal | None) -> JobRecord:
        """The job as the ledger keeps it; the body goes as soon as the job is terminal."""
        contract, message = self._contract, self._message
        return JobRecord(
            side="node",
            client=contract.client,
            job_id=message.job_id,
            node=contract.node,
            session_id=contract.session_id,
            quote_id=contract.quote_event.id,
            model=message.model,
            job_type=message.job_type,
            client_nonce=message.client_nonce,
            maximum_msat=message.max_msat,
            state=state,
            created_at_ms=self.started_at_ms,
            charged_msat=charged_msat,
            reason="" if failure is None else failure.to_wire(),
            output_units=message.output_units,
            body=message.body if state is JobState.OPEN else "",
            keys=self._recovery_keys if state is JobState.OPEN else b"",
        )

    def _units(self) -> MeteredUnits:
        seconds = -(-(self.finished_at_ms - self.started_at_ms) // MILLISECONDS_PER_SECOND)
        return MeteredUnits(
            input_tokens=self._input_tokens,
            output_tokens=self._output_tokens,
            input_bytes=self._input_bytes,
            output_bytes=self._output_bytes,
            seconds=max(seconds, 0),
            jobs=1 if self.outputs else 0,
        )

    def _tranches(self, settlement: SellerSettlement, commitments: Commitments) -> tuple[MeteredTranche, ...]:
        paid = [tranche for tranche in settlement.records if _is_paid(tranche)]
        used = self._units().of(self._contract.quote.row.unit)[1]
        metered: list[MeteredTranche] = []
        for tranche in paid:
            units_used = min(used, tranche.units)
            used -= units_used
            salt = commitments.payment_salt(tranche.tranche)
            metered.append(
                MeteredTranche(
                    payment_commitment=commit_to_payment(salt, tranche.payment_hash),
                    msat=tranche.amount_msat,
                    units_paid=tranche.units,
                    units_used=units_used,
                )
            )
        return tuple(metered)


def _is_paid(tranche: TrancheRecord) -> bool:
    return tranche.state in (TrancheState.PAID, TrancheState.RELEASED)
