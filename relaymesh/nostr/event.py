"""The event: the one envelope for everything that crosses a trust boundary (NIP-01)."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NewType, Protocol

import orjson

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.units import Timestamp

PublicKey = NewType("PublicKey", str)
"""A BIP-340 x-only public key, 64 lowercase hex characters."""

EventId = NewType("EventId", str)
"""The SHA-256 of an event's serialisation, 64 lowercase hex characters."""

Tag = tuple[str, ...]
Tags = tuple[Tag, ...]

MAXIMUM_KIND: Final = 65_535
MAXIMUM_CREATED_AT: Final = 2**53 - 1


@dataclass(frozen=True, slots=True)
class UnsignedEvent:
    """An event before it has an id and a signature (NIP-01, "Events and signatures")."""

    public_key: PublicKey
    created_at: Timestamp
    kind: int
    tags: Tags
    content: str

    def serialise(self) -> bytes:
        """The exact UTF-8 bytes that the id hashes.

        Raises:
            LocalProtocolError: A string holds a lone surrogate, which UTF-8 cannot carry, or a number exceeds 64 bits.
        """
        try:
            return orjson.dumps([0, self.public_key, self.created_at, self.kind, self.tags, self.content])
        except TypeError as error:  # what orjson's own error is too
            raise LocalProtocolError(
                "an event's strings must be valid UTF-8, without lone surrogates, and its numbers within 64 bits"
            ) from error

    def check_shape(self) -> None:
        """Make sure that others will take the event, before it is signed.

        Raises:
            LocalProtocolError: A field is of the wrong type or range.
        """
        if not is_hex_32(self.public_key):
            raise LocalProtocolError("an event's public_key must be 64 lowercase hex characters")
        if not _is_integer(self.created_at, MAXIMUM_CREATED_AT) or not _is_integer(self.kind, MAXIMUM_KIND):
            raise LocalProtocolError(f"an event's created_at must be Unix seconds and its kind 0 to {MAXIMUM_KIND}")
        if not _is_string(self.content):
            raise LocalProtocolError("an event's content must be a string")
        if not _is_tuple_of(self.tags, _is_tag):
            raise LocalProtocolError("an event's tags must be a tuple of tuples of at least one string each")

    def compute_id(self) -> EventId:
        """The id: the SHA-256 of the serialisation, in lowercase hex."""
        return EventId(hashlib.sha256(self.serialise()).hexdigest())


@dataclass(frozen=True, slots=True)
class Event(UnsignedEvent):
    """A whole event as it came off the wire: its shape is checked, its id and signature are **not**.

    Only `VerifiedEvent` may be believed.
    """

    id: EventId
    signature: str

    def to_json(self) -> dict[str, Any]:
        """The event as the JSON object of NIP-01, keys in the usual order."""
        return {
            "id": self.id,
            "pubkey": self.public_key,
            "created_at": self.created_at,
            "kind": self.kind,
            "tags": [list(tag) for tag in self.tags],
            "content": self.content,
            "sig": self.signature,
        }

    @property
    def size(self) -> int:
        """About how many bytes the event has as JSON: what is hashed, with id and signature."""
        return len(self.serialise()) + len(self.id) + len(self.signature)

    def tag_value(self, name: str) -> str | None:
        """The first value of the first tag called `name`, or None."""
        for tag in self.tags:
            if len(tag) > 1 and tag[0] == name:
                return tag[1]
        return None

    def tag_values(self, name: str) -> tuple[str, ...]:
        """The first value of every tag called `name`, in order."""
        return tuple(tag[1] for tag in self.tags if len(tag) > 1 and tag[0] == name)


@dataclass(frozen=True, slots=True)
class VerifiedEvent(Event):
    """An event whose id was computed and compared and whose signature was checked (BIP-340).

    Made only by `Signer.sign` and by `relaymesh.nostr.keys.verify`, never by hand.
    """


class Signer(Protocol):
    """One identity that can sign and that can read what is sealed to it.

    `relaymesh.nostr.keys.KeyPair` is the real one; the simulator brings token signatures through the same four doors.
    """

    @property
    def public_key(self) -> PublicKey:
        """Who signs."""
        ...

    def sign(self, event: UnsignedEvent) -> VerifiedEvent:
        """Give the event its id and signature; `event.public_key` must be this signer's."""
        ...

    def seal(self, plaintext: str, recipient: PublicKey, nonce: bytes) -> str:
        """Encrypt to `recipient` (NIP-44 version 2); `nonce` is 32 random bytes, used once."""
        ...

    def open(self, payload: str, author: PublicKey) -> str:
        """Decrypt what `author` sealed to this key; raises RemoteProtocolError if it does not open."""
        ...


def is_hex_32(value: object) -> bool:
    """Whether `value` is 32 bytes in lowercase hex: the form of ids and public keys."""
    return is_hex(value, 32)


def is_hex(value: object, size: int) -> bool:
    """Whether `value` is this many bytes in lowercase hex, which is how bytes print: a third of a pattern's time."""
    if not isinstance(value, str) or len(value) != 2 * size:
        return False
    try:
        return bytes.fromhex(value).hex() == value
    except ValueError:
        return False


def _is_integer(value: object, maximum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= maximum


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _is_tag(value: object) -> bool:
    return value != () and _is_tuple_of(value, _is_string)


def _is_tuple_of(value: object, is_item: Callable[[object], bool]) -> bool:
    return isinstance(value, tuple) and all(map(is_item, value))


def parse_event(value: object) -> Event:
    """Check the shape of an event that was parsed from JSON; id and signature stay unchecked.

    Raises:
        RemoteProtocolError: A field is missing or of the wrong type, length or range.
    """
    if not isinstance(value, dict):
        raise RemoteProtocolError("an event must be a JSON object")
    event_id, public_key, signature = value.get("id"), value.get("pubkey"), value.get("sig")
    if not is_hex_32(event_id):
        raise RemoteProtocolError("an event's id must be 64 lowercase hex characters")
    if not is_hex_32(public_key):
        raise RemoteProtocolError("an event's pubkey must be 64 lowercase hex characters")
    if not is_hex(signature, 64):
        raise RemoteProtocolError("an event's sig must be 128 lowercase hex characters")
    created_at, kind, content = value.get("created_at"), value.get("kind"), value.get("content")
    if type(created_at) is not int or not 0 <= created_at <= MAXIMUM_CREATED_AT:
        raise RemoteProtocolError("an event's created_at must be an integer of Unix seconds")
    if type(kind) is not int or not 0 <= kind <= MAXIMUM_KIND:
        raise RemoteProtocolError("an event's kind must be an integer from 0 to 65535")
    if not isinstance(content, str):
        raise RemoteProtocolError("an event's content must be a string")
    tags = _parse_tags(value.get("tags"))
    assert isinstance(event_id, str) and isinstance(public_key, str) and isinstance(signature, str)  # as checked above
    return Event(PublicKey(public_key), Timestamp(created_at), kind, tags, content, EventId(event_id), signature)


def _parse_tags(value: object) -> Tags:
    if not isinstance(value, list):
        raise RemoteProtocolError("an event's tags must be a list")
    tags: list[Tag] = []
    for tag in value:
        if not isinstance(tag, list) or not tag:
            raise RemoteProtocolError("each tag must be a list of at least one string")
        for item in tag:  # a plain loop: half the time of a generator, and relays run this for every tag there is
            if not isinstance(item, str):
                raise RemoteProtocolError("each tag must be a list of strings")
        tags.append(tuple(tag))
    return tuple(tags)
