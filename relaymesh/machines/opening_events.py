"""What can happen while a session is being opened, and what the client's `Opening` can want done."""

from dataclasses import dataclass

from relaymesh.market.bids import Bid
from relaymesh.market.recomputation import SignedRanking
from relaymesh.market.selection import Choice
from relaymesh.market.settlement_choice import ChosenTerm
from relaymesh.nostr.event import EventId, PublicKey, UnsignedEvent, VerifiedEvent
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.handshake import SessionAccept
from relaymesh.protocol.quote import Quote
from relaymesh.protocol.refusal import Refusal


@dataclass(frozen=True, slots=True)
class OpeningSettings:
    """How long the client waits, in milliseconds (RM-02, "Timeouts").

    Args:
        quote_ms: For the first quote.
        patience_ms: For more quotes, once there is one.
        accept_ms: For a session accept.
        auction_ms: For more bids, once there is one.
        enough_bids: So many end an auction at once; so do those of all nodes that the market is known to have.
    """

    quote_ms: int = 8_000
    patience_ms: int = 250
    accept_ms: int = 8_000
    auction_ms: int = 1_000
    enough_bids: int = 8


@dataclass(frozen=True, slots=True)
class EventArrived:
    """A verified event that names us came from a relay."""

    event: VerifiedEvent


@dataclass(frozen=True, slots=True)
class RelayAnswered:
    """A relay said something to what we published."""

    relay_url: str
    event_id: EventId
    accepted: bool
    message: str


@dataclass(frozen=True, slots=True)
class Mined:
    """The proof of work is done; `draft` is the event before it."""

    draft: UnsignedEvent
    mined: UnsignedEvent


@dataclass(frozen=True, slots=True)
class Publish:
    """Effect: send this event to this relay."""

    event: VerifiedEvent
    relay_url: str


@dataclass(frozen=True, slots=True)
class Mine:
    """Effect: find proof of work for this event (NIP-13) and hand it back as `Mined`."""

    draft: UnsignedEvent
    bits: int


@dataclass(frozen=True, slots=True)
class QuoteArrived:
    """Effect: a node quoted (or refused); for whoever watches."""

    choice: Choice
    answer: Quote | Refusal


@dataclass(frozen=True, slots=True)
class SessionAgreed:
    """Effect, the last one: where to connect and under which contract, and why on this term."""

    choice: Choice
    contract: SessionContract
    accept: SessionAccept
    chosen_term: ChosenTerm


@dataclass(frozen=True, slots=True)
class OpeningFailed:
    """Effect, the last one: nobody would serve; every node that was asked, with what it said."""

    refusals: tuple[tuple[PublicKey, Refusal], ...]


@dataclass(frozen=True, slots=True)
class QuotesCollected:
    """Effect, the last one when only quotes were wanted: those that came, best first."""

    quotes: tuple[Bid, ...]
    refusals: tuple[tuple[PublicKey, Refusal], ...]


@dataclass(frozen=True, slots=True)
class RoutingRequest:
    """Which routers to ask, and for what.

    Args:
        routers: Their keys.
        policy: The policy to rank by; None takes each router's own default.
        asks: To how many nodes each passes the request on.
        pays_fees: Whether somebody pays what a router wants first, so that its ranking is waited for.
    """

    routers: tuple[PublicKey, ...]
    policy: str | None = None
    asks: int = 3
    pays_fees: bool = False


@dataclass(frozen=True, slots=True)
class RouterAnswered:
    """Effect: a router answered, with a ranking to compute again, or with a refusal.

    Args:
        router: Who.
        answer: What it said.
        bolt11: The invoice to pay first, with its refusal `payment-required`; None otherwise.
    """

    router: PublicKey
    answer: SignedRanking | Refusal
    bolt11: str | None = None


OpeningInput = EventArrived | RelayAnswered | Mined
OpeningEffect = Publish | Mine | QuoteArrived | RouterAnswered | SessionAgreed | OpeningFailed | QuotesCollected
