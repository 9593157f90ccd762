"""The router announcement (kind 38773): that somebody ranks nodes, by which rules and where (RM-04).

A router is asked for its opinion and is never on the way of a job or of its money. What it cites, it serves.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import PublicKey, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.codec import TOPIC, read_state_label
from relaymesh.protocol.content import WireValue, encode_content
from relaymesh.protocol.fields import LightningNodeId, Msat, PolicyName, RelayUrl, Sequence, UnixSeconds, Version
from relaymesh.units import AmountMsat, Timestamp

ROUTER_LABEL: Final = "router"
CITED_SECONDS: Final = 86_400
"""So long a router serves every event that one of its rankings cites."""
MAXIMUM_POLICIES: Final = 8


class RouterAnnouncement(WireValue):
    """What a router's 38773 says; its `d` is `router`, its author the router.

    Args:
        seq: Grows with every change; a reader refuses a lower one.
        valid_until: The announcement stands until then (Unix seconds).
        relays: Where the router listens, and where it serves the events that its rankings cite.
        policies: The policies it ranks by, the one it takes by default first.
        formula: The name of the formula that its scores are made by.
        pow_bits: Proof of work that requests must carry (NIP-13).
        fee_msat: What a ranking costs; 0 is nothing.
        ln_pubkey: The Lightning node that a routing fee must pay; None where there is no fee.
    """

    v: Version = 1
    seq: Sequence
    valid_until: UnixSeconds
    relays: Annotated[tuple[RelayUrl, ...], Field(min_length=1, max_length=8)]
    policies: Annotated[tuple[PolicyName, ...], Field(min_length=1, max_length=MAXIMUM_POLICIES)]
    formula: PolicyName
    pow_bits: Annotated[int, Field(ge=0, le=40)] = 0
    fee_msat: Msat = AmountMsat(0)
    ln_pubkey: LightningNodeId | None = None

    @model_validator(mode="after")
    def _a_fee_says_whom_it_pays(self) -> Self:
        if self.fee_msat and self.ln_pubkey is None:
            raise ValueError("a router that asks for a fee must say which Lightning node it pays")
        return self


@dataclass(frozen=True, slots=True)
class SignedRouterAnnouncement:
    """A router announcement and the verified event it came in."""

    event: VerifiedEvent
    announcement: RouterAnnouncement

    @property
    def router(self) -> PublicKey:
        """Whose announcement it is."""
        return self.event.public_key


def build_router_announcement(
    announcement: RouterAnnouncement, author: PublicKey, created_at: Timestamp
) -> UnsignedEvent:
    """The 38773 that publishes this announcement."""
    tags = (("t", TOPIC), ("d", ROUTER_LABEL), ("alt", "RelayMesh router announcement"))
    return UnsignedEvent(author, created_at, Kind.ROUTER_ANNOUNCEMENT, tags, encode_content(announcement.to_fields()))


def read_router_announcement(event: VerifiedEvent) -> SignedRouterAnnouncement:
    """Read a 38773; RemoteProtocolError if it is not a valid router announcement."""
    if read_state_label(event, Kind.ROUTER_ANNOUNCEMENT) != ROUTER_LABEL:
        raise RemoteProtocolError(f"a router announcement must carry d={ROUTER_LABEL}")
    return SignedRouterAnnouncement(event, RouterAnnouncement.from_text(event.content))
