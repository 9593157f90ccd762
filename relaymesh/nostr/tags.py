"""Tags with a meaning beyond their text: addresses (`a`, `d`), expiration, and what relays index (NIP-01, NIP-40)."""

import re
from dataclasses import dataclass
from typing import Final, Self

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import MAXIMUM_KIND, PublicKey, UnsignedEvent, is_hex_32
from relaymesh.nostr.kinds import is_addressable, is_replaceable
from relaymesh.units import MAXIMUM_INTEGER, Timestamp

_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,15})\Z")

_LONG_PAST: Final = Timestamp(0)


@dataclass(frozen=True, slots=True)
class Address:
    """Where an addressable or replaceable event lives, whichever version is current (NIP-01, "Tags", `a`).

    Args:
        kind: Its kind.
        author: Who signs it.
        identifier: Its `d` tag; empty for a replaceable event.
    """

    kind: int
    author: PublicKey
    identifier: str

    @classmethod
    def from_event(cls, event: UnsignedEvent) -> Self | None:
        """The address of this event, or None if its kind has none."""
        if is_addressable(event.kind):
            return cls(event.kind, event.public_key, read_identifier(event))
        if is_replaceable(event.kind):
            return cls(event.kind, event.public_key, "")
        return None

    def to_text(self) -> str:
        """`<kind>:<author>:<identifier>`, as an `a` tag names it."""
        return f"{int(self.kind)}:{self.author}:{self.identifier}"


def parse_address(text: str) -> Address:
    """Read the value of an `a` tag.

    Raises:
        RemoteProtocolError: It is not `<kind>:<author in hex>:<identifier>` of an addressable or replaceable kind.
    """
    kind_text, author, identifier = (*text.split(":", 2), "", "")[:3]
    kind = int(kind_text) if _NUMBER.match(kind_text) is not None else MAXIMUM_KIND + 1
    if kind > MAXIMUM_KIND or not is_hex_32(author) or text.count(":") < 2:
        raise RemoteProtocolError("an address must be a kind, an author's public key in hex and an identifier")
    if not (is_addressable(kind) or (is_replaceable(kind) and not identifier)):
        raise RemoteProtocolError("an address must name an addressable kind, or a replaceable one and no identifier")
    return Address(kind, PublicKey(author), identifier)


def read_identifier(event: UnsignedEvent) -> str:
    """The first `d` tag's value; empty without one, as NIP-01 counts it."""
    for tag in event.tags:
        if tag[0] == "d":
            return tag[1] if len(tag) > 1 else ""
    return ""


def read_expiration(event: UnsignedEvent) -> Timestamp | None:
    """When the event expires (NIP-40); None if never. A malformed time counts as long past."""
    for tag in event.tags:
        if tag[0] == "expiration":
            if len(tag) < 2 or _NUMBER.match(tag[1]) is None or int(tag[1]) > MAXIMUM_INTEGER:
                return _LONG_PAST
            return Timestamp(int(tag[1]))
    return None


def indexed_values(event: UnsignedEvent) -> tuple[tuple[str, str], ...]:
    """Every (letter, first value) by which a filter can find the event: single-letter tags only (NIP-01, "Tags")."""
    return tuple(
        (tag[0], tag[1])
        for tag in event.tags
        if len(tag) > 1 and len(tag[0]) == 1 and tag[0].isascii() and tag[0].isalpha()
    )
