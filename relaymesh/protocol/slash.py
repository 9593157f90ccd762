"""The slash (kind 8773): the logged consequence of a fraud proof, which anyone can compute again (RM-05, "Slash")."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final

from pydantic import Field

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import EventId, PublicKey, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.codec import TOPIC, check_size
from relaymesh.protocol.content import WireValue, encode_content
from relaymesh.protocol.fields import EventIdField, Hex32, PublicKeyField, Version
from relaymesh.protocol.fraud_proof import MAXIMUM_EVIDENCE, FraudClaim
from relaymesh.units import Timestamp

SLASH_MILLI: Final[Mapping[FraudClaim, int]] = MappingProxyType(
    {"price-over-quote": 250, "quote-over-offer": 250, "equivocation": 500, "bad-ciphertext": 500}
)
"""What one proven fraud takes of the stake that is left, in thousandths."""


def slash_key(claim: FraudClaim, accused: PublicKey, evidence: Iterable[EventId]) -> str:
    """SHA-256(claim ‖ accused ‖ sorted ids of the evidence), in hex: the same evidence never slashes twice."""
    raw = bytes.fromhex("".join((accused, *sorted(evidence))))
    return hashlib.sha256(claim.encode() + raw).hexdigest()


class Slash(WireValue):
    """What an 8773 says.

    Args:
        claim: The claim that was proven.
        accused: Whose stake is slashed.
        proof: The 8772 that proves it.
        evidence: The ids of the proof's evidence, sorted.
        key: What makes the slash unique, whoever publishes it and however often.
        share_milli: How much of the stake that is left it takes, in thousandths; the claim decides.
    """

    v: Version = 1
    claim: FraudClaim
    accused: PublicKeyField
    proof: EventIdField
    evidence: Annotated[tuple[EventIdField, ...], Field(min_length=1, max_length=MAXIMUM_EVIDENCE)]
    key: Hex32
    share_milli: Annotated[int, Field(ge=1, le=1_000)]


@dataclass(frozen=True, slots=True)
class SignedSlash:
    """A slash and the verified event it came in. It says where to find a proof, and proves nothing itself."""

    event: VerifiedEvent
    slash: Slash


def make_slash(claim: FraudClaim, accused: PublicKey, evidence: Iterable[EventId], proof: EventId) -> Slash:
    """The one slash that follows from a proof; `evidence` are the ids of the events in it."""
    ids = tuple(sorted(evidence))
    return Slash(
        claim=claim,
        accused=accused,
        proof=proof,
        evidence=ids,
        key=slash_key(claim, accused, ids),
        share_milli=SLASH_MILLI[claim],
    )


def build_slash(slash: Slash, author: PublicKey, created_at: Timestamp) -> UnsignedEvent:
    """The 8773 that logs this slash."""
    tags = (
        ("t", TOPIC),
        ("p", slash.accused),
        ("e", slash.proof),
        ("alt", f"RelayMesh slash: {slash.claim}"),
    )
    return UnsignedEvent(author, created_at, Kind.SLASH, tags, encode_content(slash.to_fields()))


def read_slash(event: VerifiedEvent) -> SignedSlash:
    """Read an 8773; RemoteProtocolError if it is not a valid slash. Only the proof it cites can be believed."""
    if event.kind != Kind.SLASH:
        raise RemoteProtocolError(f"expected an event of kind {int(Kind.SLASH)}, not {event.kind}")
    check_size(event)
    slash = Slash.from_text(event.content)
    if list(slash.evidence) != sorted(set(slash.evidence)):
        raise RemoteProtocolError("a slash must name its evidence sorted, each once")
    if slash.key != slash_key(slash.claim, slash.accused, slash.evidence):
        raise RemoteProtocolError("a slash's key must be the SHA-256 of claim, accused and sorted evidence")
    if slash.share_milli != SLASH_MILLI[slash.claim]:
        raise RemoteProtocolError("a slash must take the share that its claim takes")
    if event.tag_values("p") != (slash.accused,) or event.tag_values("e") != (slash.proof,):
        raise RemoteProtocolError("a slash's p and e tags must be the accused and the proof")
    return SignedSlash(event, slash)
