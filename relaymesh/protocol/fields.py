"""The field types that wire values are made of: each with its range, so that no value can hold a wrong one."""

from typing import Annotated, Final, Literal

from pydantic import Field

from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat, Timestamp

MAXIMUM_RATE: Final = 10**9
MAXIMUM_QUANTITY: Final = 10**9
MAXIMUM_PER: Final = 10**6
MAXIMUM_LABEL_BYTES: Final = 29

_HEX_32 = Field(pattern=r"^[0-9a-f]{64}$")

Msat = Annotated[AmountMsat, Field(ge=0, le=MAXIMUM_INTEGER)]
"""An amount, 0 … 2^53 − 1 msat."""

Rate = Annotated[AmountMsat, Field(ge=0, le=MAXIMUM_RATE)]
"""A price per `per` units, at most 10^9 msat."""

Per = Annotated[int, Field(ge=1, le=MAXIMUM_PER)]
"""What a rate is per: 1 … 10^6 units."""

Quantity = Annotated[int, Field(ge=0, le=MAXIMUM_QUANTITY)]
"""A count of units, 0 … 10^9."""

UnixMilliseconds = Annotated[int, Field(ge=0, le=MAXIMUM_INTEGER)]
"""An absolute time in Unix milliseconds."""

Milliseconds = Annotated[int, Field(ge=0, le=MAXIMUM_INTEGER)]
"""A duration in milliseconds."""

UnixSeconds = Annotated[Timestamp, Field(ge=0, le=MAXIMUM_INTEGER)]
"""An absolute time in Unix seconds."""

Sequence = Annotated[int, Field(ge=0, le=MAXIMUM_INTEGER)]
"""`seq`: max(last + 1, Unix seconds), so that a reader can refuse a rollback."""

Hex32 = Annotated[str, _HEX_32]
"""32 bytes in lowercase hex."""

EventIdField = Annotated[EventId, _HEX_32]
PublicKeyField = Annotated[PublicKey, _HEX_32]

LightningNodeId = Annotated[str, Field(pattern=r"^0[23][0-9a-f]{64}$")]
"""A Lightning node's compressed public key (33 bytes, hex)."""

Label = Annotated[str, Field(pattern=r"^[a-z0-9./@-]{1,29}$")]
"""An offer's `d`: at most 29 bytes of `[a-z0-9./@-]`."""

OfferAddress = Annotated[str, Field(pattern=r"^38770:[0-9a-f]{64}:[a-z0-9./@-]{1,29}$")]
"""`38770:<node>:<label>`, as an `a` tag names an offer (NIP-01)."""

Score = Annotated[int, Field(ge=-MAXIMUM_INTEGER, le=MAXIMUM_INTEGER)]
"""A figure of a score in msat-equivalents; the lower, the better."""

PolicyName = Annotated[str, Field(pattern=r"^[a-z0-9_./-]{1,40}$")]
"""A policy, a formula or a term of one, by name."""

ModelName = Annotated[str, Field(min_length=1, max_length=100)]
ShortText = Annotated[str, Field(max_length=200)]
RelayUrl = Annotated[str, Field(pattern=r"^wss?://[^\s]{1,200}$")]
Endpoint = Annotated[str, Field(pattern=r"^wss?://[^\s]{1,200}$")]

JobType = Literal["chat", "completion", "embedding", "rerank", "classify", "moderate", "summarise"]
Unit = Literal["token", "byte", "second", "job"]
Order = Literal["prepay", "postpay", "sealed"]
Scope = Literal["job", "session"]
SettlementForm = Literal["prepay", "sealed", "postpay", "session"]
"""An order and a scope by one name: the order's where the scope is a job, `session` for what a session prepays."""
SETTLEMENT_FORMS: Final[tuple[SettlementForm, ...]] = ("prepay", "sealed", "postpay", "session")
DataCollection = Literal["allow", "deny"]
Version = Annotated[int, Field(ge=1, le=1)]


def form_of(order: Order, scope: Scope) -> SettlementForm | None:
    """The form of settlement of an order and a scope; None where there is none: a session's tranches are prepaid."""
    if scope == "job":
        return order
    return "session" if order == "prepay" else None


def forms_of(orders: tuple[Order, ...], scopes: tuple[Scope, ...]) -> tuple[SettlementForm, ...]:
    """The forms of settlement that orders and scopes make together, each once, by order and then by scope."""
    made = (form_of(order, scope) for order in orders for scope in scopes)
    return tuple(dict.fromkeys(form for form in made if form is not None))
