"""Under which keys an event can be found: posting lists, each ordered newest first, then by lowest id.

One list per (key, kind). A key is a 64-bit hash of an author or of a tag and its value: small rows make small pages.
A hash may meet another one's list, so whoever reads a list compares the event itself.
"""

from functools import lru_cache
from hashlib import blake2b
from typing import Final

from relaymesh.nostr.event import Event, is_hex_32
from relaymesh.nostr.kinds import is_addressable
from relaymesh.nostr.tags import Address, indexed_values

ListKey = tuple[int, int]
"""(key, kind): names one posting list."""

PostingRow = tuple[int, int, int, int, int]
"""(key, kind, age, id order, sequence): one entry; all but the first two give its place in the list."""

EVERYTHING: Final[ListKey] = (0, 0)
"""The list of all events, whatever their kind."""

KIND_KEY: Final = 1
"""The key of the lists of all events of one kind."""

_HEX_TAGS: Final = frozenset("epqEP")
_HASHES_CACHED: Final = 16_384


def author_key(public_key: str) -> int:
    """The key of an author's lists."""
    return id_order(public_key)


def tag_key(letter: str, value: str) -> int:
    """The key of the lists of one tag with one value."""
    if letter in _HEX_TAGS and is_hex_32(value):  # a hash already: its first bits will do, turned by the letter
        return id_order(value) ^ ord(letter)
    return _hash(f"{letter}:{value}")


def coordinates_key(author: str, identifier: str) -> int:
    """The key of the lists of an author's addressable events with one `d`: one entry for each kind."""
    return _hash(f"{author}:{identifier}")


def id_order(event_id: str) -> int:
    """The first 64 bits of an id as a signed integer that sorts as the ids themselves do."""
    return int(event_id[:16], 16) - (1 << 63)


def address_of(event: Event) -> bytes | None:
    """The digest of a replaceable or addressable event's one place (NIP-01); None for other kinds."""
    address = Address.from_event(event)
    return None if address is None else address_digest(address)


def address_digest(address: Address) -> bytes:
    """16 bytes for an address: short, and long enough that nobody finds two with the same digest."""
    return blake2b(address.to_text().encode(), digest_size=16).digest()


def postings(event: Event, sequence: int) -> list[PostingRow]:
    """All list entries of an event that is stored under `sequence`."""
    kind, age, order = event.kind, -event.created_at, id_order(event.id)
    keys = {tag_key(letter, value) for letter, value in indexed_values(event)}
    keys.add(author_key(event.public_key))
    if is_addressable(kind):
        keys.update(coordinates_key(event.public_key, identifier) for identifier in event.tag_values("d"))
    rows = [(key, kind, age, order, sequence) for key in keys]
    rows += ((*EVERYTHING, age, order, sequence), (KIND_KEY, kind, age, order, sequence))
    return rows


@lru_cache(maxsize=_HASHES_CACHED)
def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
