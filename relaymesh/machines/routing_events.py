"""What a router's `Routing` is told, what it is set to, and what it can want done."""

from dataclasses import dataclass, field

from relaymesh.machines.reception_events import PublishAnswer
from relaymesh.market.policy import BALANCED, POLICIES, Policy
from relaymesh.nostr.event import EventId, PublicKey, VerifiedEvent
from relaymesh.protocol.open_request import OPEN_REQUEST_POW_BITS
from relaymesh.protocol.quote import MAXIMUM_ASKS
from relaymesh.units import AmountMsat


@dataclass(frozen=True, slots=True)
class RoutingSettings:
    """How a router ranks, and how much it lets strangers ask.

    Args:
        policies: What it ranks by, the default first.
        pow_bits: Proof of work that requests must carry.
        open_pow_bits: The least work of the open request inside, since no node would answer one with less.
        fee_msat: What a ranking costs; 0 is nothing.
        maximum_asks: To so many nodes a request is passed on at the most.
        requests_per_key: In two minutes; more are refused as `rate-limited`. A client makes a key for each session.
        requests_per_second: All strangers together; more are refused as `rate-limited`.
    """

    policies: tuple[Policy, ...] = field(
        default_factory=lambda: (BALANCED, *(each for each in POLICIES.values() if each is not BALANCED))
    )
    pow_bits: int = 0
    open_pow_bits: int = OPEN_REQUEST_POW_BITS
    fee_msat: AmountMsat = AmountMsat(0)
    maximum_asks: int = MAXIMUM_ASKS
    requests_per_key: int = 16
    requests_per_second: int = 1_000


@dataclass(frozen=True, slots=True)
class RankingAsked:
    """A verified event that names this router came from a relay."""

    event: VerifiedEvent
    relay_url: str


@dataclass(frozen=True, slots=True)
class FeeInvoiced:
    """The wallet made the invoice for a ranking; None: it could not."""

    request_id: EventId
    bolt11: str | None


@dataclass(frozen=True, slots=True)
class FeePaid:
    """The wallet was paid for a ranking."""

    request_id: EventId


@dataclass(frozen=True, slots=True)
class AskNode:
    """Effect: pass a request on to this node, on its relays as far as they are ours."""

    event: VerifiedEvent
    node: PublicKey
    relay_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cite:
    """Effect: serve these events to whoever asks for them by id, for a day."""

    events: tuple[VerifiedEvent, ...]


@dataclass(frozen=True, slots=True)
class InvoiceFee:
    """Effect: have the wallet make this invoice, answer with `FeeInvoiced`, and tell with `FeePaid` when it is paid."""

    request_id: EventId
    fee_msat: AmountMsat


RoutingInput = RankingAsked | FeeInvoiced | FeePaid
RoutingEffect = PublishAnswer | AskNode | Cite | InvoiceFee
