"""Quote request (28770), quote (28771), refusal message (28774): price before commitment (RM-01, "Conversation").

A request describes the shape of a job, never the prompt: to one node about one of its offers, to everybody, or through
a router that passes it on. A quote is signed and binds the node to its price.
"""

from typing import Annotated, Any, Final, Self

from pydantic import Field

from relaymesh.protocol.content import WireValue
from relaymesh.protocol.fields import (
    EventIdField,
    JobType,
    Milliseconds,
    ModelName,
    Msat,
    Order,
    PolicyName,
    Quantity,
    RelayUrl,
    Scope,
    Sequence,
    SettlementForm,
    ShortText,
    Unit,
    UnixMilliseconds,
    Version,
    forms_of,
)
from relaymesh.protocol.offer import MAXIMUM_TERMS, PriceRow, SettlementTerm
from relaymesh.protocol.refusal import Refusal

MAXIMUM_REPLY_RELAYS: Final = 3
MAXIMUM_ASKS: Final = 8
"""To so many nodes a router passes one request on at the most."""
MAXIMUM_FEE_INVOICE_CHARACTERS: Final = 2_000
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


class RequestedJob(WireValue):
    """What a buyer tells of a job before it is bought, whomever he asks.

    Args:
        model: The model's name, as offers have it.
        job_type: The kind of job.
        shape: How big the job is at the most.
        capabilities: What the job will need of the row.
        budget_msat: The most the buyer will pay for this job.
        settlement: The orders the buyer accepts, best first.
        scopes: What a tranche may belong to, best first.
        relays: Where the buyer also listens for the answer.
    """

    v: Version = 1
    model: ModelName
    job_type: JobType
    shape: JobShape
    capabilities: Annotated[tuple[ShortText, ...], Field(max_length=16)] = ()
    budget_msat: Msat
    settlement: Annotated[tuple[Order, ...], Field(min_length=1, max_length=3)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=2)] = ("job",)
    relays: Annotated[tuple[RelayUrl, ...], Field(max_length=MAXIMUM_REPLY_RELAYS)] = ()

    @property
    def forms(self) -> tuple[SettlementForm, ...]:
        """The forms of settlement the buyer accepts."""
        return forms_of(self.settlement, self.scopes)


class OpenRequest(RequestedJob):
    """What a 28770 without a recipient asks of whoever sells: a reverse auction, readable by everybody."""


class QuoteRequest(RequestedJob):
    """What a 28770 asks of one node.

    Args:
        offer_id: The offer the buyer relies on.
        offer_seq: That offer's `seq`.
        guarantee: Who asks for `postpay` brings the complete signed 8775 of the key that vouches for it.
    """

    offer_id: EventIdField
    offer_seq: Sequence
    guarantee: dict[str, Any] | None = None


class ForwardedRequest(WireValue):
    """What a 28770 to a router, or from a router to a node, carries: an open request, as its buyer signed it.

    Args:
        request: The buyer's complete signed 28770, as the JSON object of NIP-01.
        policy: To a router: the policy to rank by; None takes its own default.
        asks: To a router: how many nodes it is to pass the request on to.
    """

    v: Version = 1
    request: dict[str, Any]
    policy: PolicyName | None = None
    asks: Annotated[int, Field(ge=0, le=MAXIMUM_ASKS)] = 3


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
        retry_in_ms: When asking here again is worth while; None where the node does not say.
        bolt11: The invoice to pay, where a router wants its fee first; None otherwise.
    """

    v: Version = 1
    refusal: Annotated[str, Field(min_length=1, max_length=240)]
    retryable: bool
    retry_in_ms: Milliseconds | None = None
    bolt11: Annotated[str, Field(max_length=MAXIMUM_FEE_INVOICE_CHARACTERS)] | None = None

    @classmethod
    def of(cls, refusal: Refusal) -> Self:
        """The message that carries this refusal."""
        return cls(refusal=refusal.to_wire(), retryable=refusal.is_retryable, retry_in_ms=refusal.retry_in_ms)

    def to_refusal(self) -> Refusal:
        """The refusal it carries; RemoteProtocolError if the code is unknown."""
        return Refusal.from_wire(self.refusal, self.retry_in_ms)
