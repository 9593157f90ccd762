"""The metering record (kind 8770): the node's signed word on what one job was and cost (RM-03, "Metering record")."""

import hashlib
from typing import Annotated, Final, Literal

from pydantic import Field

from relaymesh.protocol.content import WireValue
from relaymesh.protocol.fields import (
    EventIdField,
    Hex32,
    JobType,
    ModelName,
    Msat,
    Quantity,
    ShortText,
    Unit,
    UnixMilliseconds,
    Version,
)

JobStatus = Literal["ok", "partial", "failed"]
_NO_PAYMENT_HASH: Final = "00" * 32


class MeteredUnits(WireValue):
    """Everything that was counted, whatever the price is made of."""

    input_tokens: Quantity
    output_tokens: Quantity
    input_bytes: Quantity
    output_bytes: Quantity
    seconds: Quantity
    jobs: Quantity

    def of(self, unit: Unit) -> tuple[int, int]:
        """Input and output in `unit`, as prices take them."""
        match unit:
            case "token":
                return self.input_tokens, self.output_tokens
            case "byte":
                return self.input_bytes, self.output_bytes
            case "second":
                return 0, self.seconds
            case "job":
                return 0, self.jobs


class MeteredTranche(WireValue):
    """One tranche as it was paid.

    Args:
        payment_commitment: SHA-256(salt ‖ payment hash); links to a payment only for those who know the salt.
        msat: What was paid.
        units_paid: Output units the tranche covered.
        units_used: Output units delivered under it.
    """

    payment_commitment: Hex32
    msat: Msat
    units_paid: Quantity
    units_used: Quantity


class MeteringRecord(WireValue):
    """What an 8770 says. There is exactly one per job; it is stored before it is sent and resent byte for byte.

    Args:
        job: The job id.
        session: The session id.
        error: `code: reason` when the status is not `ok`; the finish reason (`stop`, `length`) otherwise.
        first_output_at_ms: None when nothing was delivered.
        tokenizer: Who counted the tokens; they are a stated claim.
        prompt_commitment: HMAC of the JOB's body under a key of the session.
        output_commitment: HMAC of the whole output under a key of the session.
        max_msat: The JOB's own limit.
    """

    v: Version = 1
    job: Hex32
    session: Hex32
    quote_id: EventIdField
    model: ModelName
    job_type: JobType
    status: JobStatus
    error: Annotated[str, Field(max_length=240)] | None
    started_at_ms: UnixMilliseconds
    first_output_at_ms: UnixMilliseconds | None
    finished_at_ms: UnixMilliseconds
    units: MeteredUnits
    tokenizer: ShortText | None
    prompt_commitment: Hex32
    output_commitment: Hex32
    max_msat: Msat
    charged_msat: Msat
    tranches: Annotated[tuple[MeteredTranche, ...], Field(max_length=32)]

    def billable_units(self, unit: Unit) -> tuple[int, int]:
        """What the charge may be for: units delivered or, where more was prepaid, units paid for (RM-03, "Prepay")."""
        input_units, used = self.units.of(unit)
        return input_units, max(used, sum(tranche.units_paid for tranche in self.tranches))


def commit_to_payment(salt: bytes, payment_hash: str) -> str:
    """SHA-256(salt ‖ payment hash) in hex: what a record shows instead of the hash, which routing nodes also know.

    A tranche that cost nothing has no payment hash: an empty one stands for 32 zero bytes.
    """
    return hashlib.sha256(salt + bytes.fromhex(payment_hash or _NO_PAYMENT_HASH)).hexdigest()
