"""Quote request (28770), quote (28771), refusal message (28774): price before commitment (RM-01, "Conversation").

A request describes the shape of a job, never the prompt. A quote is signed and binds the node to its price.
"""

from typing import Annotated, Final, Self

from pydantic import Field

from relaymesh.protocol.content import WireValue
from relaymesh.protocol.fields import (
    EventIdField,
    JobType,
    Milliseconds,
    ModelName,
    Msat,
    Order,
    Quantity,
    RelayUrl,
    Sequence,
    ShortText,
    Unit,
    UnixMilliseconds,
    Version,
)
from relaymesh.protocol.offer import MAXIMUM_TERMS, PriceRow, SettlementTerm
from relaymesh.protocol.refusal import Refusal

MAXIMUM_REPLY_RELAYS: Final = 3
MAXIMUM_QUOTE_EVENT_BYTES: Final = 5_000
"""A signed quote must fit into the session request that brings it back."""


class JobShape(WireValue):
    """How big a job is expected to be: all a node learns before it has the prompt.

    Args:
        input_tokens: An estimate; the buyer may not have the tokenizer.
        input_bytes: The UTF-8 length of the JOB's body.
        output_tokens: The most the buyer wants.
        output_bytes: The most the buyer wants, in bytes.
    """

    input_tokens: Quantity
    input_bytes: Quantity
    output_tokens: Quantity
    output_bytes: Quantity

    def units(self, unit: Unit) -> tuple[int, int]:
        """Input and output in `unit`; seconds cannot be foreseen and count as 0, a job is one output."""
        if unit == "token":
            return self.input_tokens, self.output_tokens
        if unit == "byte":
            return self.input_bytes, self.output_bytes
        return (0, 1) if unit == "job" else (0, 0)


class QuoteRequest(WireValue):
    """What a 28770 asks.

    Args:
        offer_id: The offer the buyer relies on; None in an open request.
        offer_seq: That offer's `seq`.
        capabilities: What the job will need of the row.
        budget_msat: The most the buyer will pay for this job.
        settlement: The orders the buyer accepts, best first.
        relays: Where the buyer also listens for the answer.
    """

    v: Version = 1
    offer_id: EventIdField | None
    offer_seq: Sequence | None
    model: ModelName
    job_type: JobType
    shape: JobShape
    capabilities: Annotated[tuple[ShortText, ...], Field(max_length=16)] = ()
    budget_msat: Msat
    settlement: Annotated[tuple[Order, ...], Field(min_length=1, max_length=3)]
    relays: Annotated[tuple[RelayUrl, ...], Field(max_length=MAXIMUM_REPLY_RELAYS)] = ()


class QuotedTerm(SettlementTerm):
    """A settlement term with what each side can lose under it at the most, for this very request."""

    exposure_buyer_msat: Msat
    exposure_node_msat: Msat


class Quote(WireValue):
    """What a 28771 promises: this row, this limit, these terms, until then.

    Args:
        request_id: The 28770 (or, at a posted price, the 28772) it answers.
        estimated_msat: What the shape would cost.
        max_msat: What a job of this shape costs at the most; None at a posted price, where the JOB's own limit holds.
        valid_until_ms: The price stands until then; capacity is promised only by a session accept.
        eta_in_ms: When the first output is expected, from the JOB on.
    """

    v: Version = 1
    request_id: EventIdField
    offer_id: EventIdField
    offer_seq: Sequence
    row: PriceRow
    estimated_msat: Msat
    max_msat: Msat | None
    settlement: Annotated[tuple[QuotedTerm, ...], Field(min_length=1, max_length=MAXIMUM_TERMS)]
    valid_until_ms: UnixMilliseconds
    eta_in_ms: Milliseconds
    manifest_id: EventIdField | None = None


class RefusalMessage(WireValue):
    """What a 28774 says.

    Args:
        refusal: `code: reason`.
        retryable: Whether asking again may help.
    """

    v: Version = 1
    refusal: Annotated[str, Field(min_length=1, max_length=240)]
    retryable: bool

    @classmethod
    def of(cls, refusal: Refusal) -> Self:
        """The message that carries this refusal."""
        return cls(refusal=refusal.to_wire(), retryable=refusal.is_retryable)

    def to_refusal(self) -> Refusal:
        """The refusal it carries; RemoteProtocolError if the code is unknown."""
        return Refusal.from_wire(self.refusal)
