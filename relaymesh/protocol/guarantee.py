"""The guarantee (kind 8775): a buyer's long-term key answers for what a session key owes a node (RM-03, "Postpay").

It travels sealed, in a quote request and a session request; who holds it can show who vouched for a debt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import Event, PublicKey, Tags, UnsignedEvent, VerifiedEvent, parse_event
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.codec import STATE_FUTURE_SECONDS, TOPIC
from relaymesh.protocol.content import WireValue, encode_content
from relaymesh.protocol.evidence import read_subject
from relaymesh.protocol.fields import PublicKeyField, UnixSeconds, Version
from relaymesh.units import Timestamp

MAXIMUM_GUARANTEE_SECONDS: Final = 86_400
MAXIMUM_GUARANTEE_BYTES: Final = 1_024
"""It must fit into a session request beside the quote."""


class Guarantee(WireValue):
    """What an 8775 says: its author pays what this session key leaves unpaid at the node that its `p` tag names.

    Args:
        client: The client session key that is vouched for.
        valid_until: No job begins on it from then on (Unix seconds); at most a day after `created_at`.
    """

    v: Version = 1
    client: PublicKeyField
    valid_until: UnixSeconds


@dataclass(frozen=True, slots=True)
class SignedGuarantee:
    """A guarantee and the verified event it came in; `node` is whom it was given to."""

    event: VerifiedEvent
    guarantee: Guarantee
    node: PublicKey

    @property
    def guarantor(self) -> PublicKey:
        """The long-term key that answers for the debt."""
        return self.event.public_key

    def find_objection(self, *, node: PublicKey, client: PublicKey, now: Timestamp) -> str | None:
        """Why this node may not rely on it for this session key now; None if it may."""
        created_at, valid_until = self.event.created_at, self.guarantee.valid_until
        if self.node != node:
            return "the guarantee was given to another node"
        if self.guarantee.client != client:
            return "the guarantee is for another session key"
        if created_at > now + STATE_FUTURE_SECONDS:
            return "the guarantee is of the future"
        if valid_until > created_at + MAXIMUM_GUARANTEE_SECONDS:
            return f"a guarantee is valid for at most {MAXIMUM_GUARANTEE_SECONDS} s"
        if valid_until <= now:
            return "the guarantee has expired; give a new one"
        return None


def build_guarantee(
    guarantee: Guarantee, *, author: PublicKey, node: PublicKey, created_at: Timestamp
) -> UnsignedEvent:
    """The 8775 that vouches for a session key to this node."""
    tags: Tags = (("t", TOPIC), ("p", node), ("alt", "RelayMesh guarantee"))
    return UnsignedEvent(author, created_at, Kind.GUARANTEE, tags, encode_content(guarantee.to_fields()))


def read_guarantee(event: VerifiedEvent) -> SignedGuarantee:
    """Read an 8775; RemoteProtocolError if it is not a valid guarantee."""
    node = read_subject(event, Kind.GUARANTEE)
    if event.size > MAXIMUM_GUARANTEE_BYTES:
        raise RemoteProtocolError(f"a guarantee must be at most {MAXIMUM_GUARANTEE_BYTES} bytes")
    return SignedGuarantee(event, Guarantee.from_text(event.content), node)


def parse_guarantee(fields: dict[str, Any], verify: Callable[[Event], VerifiedEvent]) -> SignedGuarantee:
    """Verify and read an 8775 that stands whole in a message; RemoteProtocolError if it does not hold."""
    return read_guarantee(verify(parse_event(fields)))
