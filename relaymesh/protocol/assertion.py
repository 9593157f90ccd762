"""The reputation assertion (kind 38774): what its author observed of a key, and whose receipts it stands by (RM-05).

It is an opinion and never slashable. A reader takes no count in it for its own; to the readers who trust its author it
says which receipts are of a real buyer. `build_trusted_assertion` tells the same to other Nostr clients (NIP-85).
"""

from dataclasses import dataclass
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import EventId, PublicKey, UnsignedEvent, VerifiedEvent, is_hex_32
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.codec import TOPIC, read_state_identifier
from relaymesh.protocol.content import WireValue, encode_content
from relaymesh.protocol.fields import EventIdField, Milliseconds, Quantity, Sequence, UnixSeconds, Version
from relaymesh.units import Timestamp

MAXIMUM_CITED_RECEIPTS: Final = 64
MAXIMUM_CITED_PROOFS: Final = 16
MAXIMUM_RANK: Final = 100


class Observations(WireValue):
    """What the author of an assertion saw itself; nobody can check it, so nobody is punished for it.

    Args:
        done: Jobs that were served.
        partial: Jobs that ended after some output.
        failed: Jobs that failed, for which the subject is to blame.
        busy: Refusals for want of room, which are no failure.
        refused: Other refusals.
        missing_records: Jobs for which no metering record came.
        first_output_ms: The median time from JOB to first output; None where there was none.
        output_tokens_per_1000s: The median speed of output, 4 bytes counted as a token; None likewise.
    """

    done: Quantity = 0
    partial: Quantity = 0
    failed: Quantity = 0
    busy: Quantity = 0
    refused: Quantity = 0
    missing_records: Quantity = 0
    first_output_ms: Milliseconds | None = None
    output_tokens_per_1000s: Quantity | None = None


class Assertion(WireValue):
    """What a 38774 says; the event's `d` is the public key it is about.

    Args:
        seq: Grows with every change; a reader refuses a lower one.
        valid_until: The assertion stands until then (Unix seconds).
        rank: What the author makes of it all: 0 for no trust, 100 for the most.
        observed: What the author saw itself, counted.
        receipts: The 8771 that its author stands by: they are its own, or of buyers it knows.
        proofs: The 8772 that its author has verified.
    """

    v: Version = 1
    seq: Sequence
    valid_until: UnixSeconds
    rank: Annotated[int, Field(ge=0, le=MAXIMUM_RANK)]
    observed: Observations
    receipts: Annotated[tuple[EventIdField, ...], Field(max_length=MAXIMUM_CITED_RECEIPTS)] = ()
    proofs: Annotated[tuple[EventIdField, ...], Field(max_length=MAXIMUM_CITED_PROOFS)] = ()

    @model_validator(mode="after")
    def _nothing_is_cited_twice(self) -> Self:
        if len({*self.receipts, *self.proofs}) < len(self.receipts) + len(self.proofs):
            raise ValueError("an assertion must cite each event at most once")
        return self


@dataclass(frozen=True, slots=True)
class SignedAssertion:
    """An assertion, whom it is about, and the verified event it came in."""

    event: VerifiedEvent
    subject: PublicKey
    assertion: Assertion

    @property
    def author(self) -> PublicKey:
        """Whose opinion it is."""
        return self.event.public_key


def build_assertion_event(
    assertion: Assertion, subject: PublicKey, author: PublicKey, created_at: Timestamp
) -> UnsignedEvent:
    """The 38774 that publishes this assertion about `subject`; it expires when it ends."""
    tags = (
        ("t", TOPIC),
        ("d", subject),
        ("p", subject),
        ("expiration", str(assertion.valid_until)),
        ("alt", "RelayMesh reputation assertion"),
    )
    return UnsignedEvent(author, created_at, Kind.REPUTATION_ASSERTION, tags, encode_content(assertion.to_fields()))


def read_assertion(event: VerifiedEvent) -> SignedAssertion:
    """Read a 38774; RemoteProtocolError if it is not a valid assertion."""
    subject = read_state_identifier(event, Kind.REPUTATION_ASSERTION)
    if not is_hex_32(subject) or event.tag_values("p") != (subject,):
        raise RemoteProtocolError("an assertion's d and p tags must be the public key it is about, in hex")
    if subject == event.public_key:
        raise RemoteProtocolError("an assertion must be about another key than its author's")
    return SignedAssertion(event, PublicKey(subject), Assertion.from_text(event.content))


def build_trusted_assertion(
    assertion: Assertion, subject: PublicKey, author: PublicKey, created_at: Timestamp, assertion_id: EventId
) -> UnsignedEvent:
    """The 30382 that tells `rank` to Nostr clients which know nothing of RelayMesh (NIP-85).

    Args:
        assertion_id: The 38774 that it mirrors, named in a tag that no relay indexes.
    """
    tags = (
        ("d", subject),
        ("rank", str(assertion.rank)),
        ("expiration", str(assertion.valid_until)),
        ("assertion", assertion_id),
        ("alt", "Trusted assertion: the rank of a key on the RelayMesh market"),
    )
    return UnsignedEvent(author, created_at, Kind.TRUSTED_ASSERTION, tags, "")
