"""The receipt (kind 8771): the buyer's signed word, around the node's own (RM-03, "Receipt")."""

from typing import Annotated, Any

from pydantic import Field

from relaymesh.protocol.content import WireValue
from relaymesh.protocol.fields import Milliseconds, Msat, Version
from relaymesh.protocol.metering import JobStatus, MeteredUnits


class Receipt(WireValue):
    """What an 8771 says; valid only if its author is the embedded record's `p`.

    Args:
        metering: The node's complete signed 8770, as the JSON object of NIP-01.
        outcome: How the buyer saw it end.
        units: What the buyer counted; tokens are 0 where it has no tokenizer.
        first_output_in_ms: From JOB to first output, as the buyer measured it; None without output.
        total_in_ms: From JOB to the record.
        paid_msat: What the buyer's wallet paid to the node, fees not included.
    """

    v: Version = 1
    metering: dict[str, Any]
    outcome: JobStatus
    units: MeteredUnits
    first_output_in_ms: Milliseconds | None
    total_in_ms: Milliseconds
    paid_msat: Msat
    note: Annotated[str, Field(max_length=200)] | None = None
