"""What the relay needs from where events are kept, and the values it exchanges with it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol

import orjson

from relaymesh.errors import PortError
from relaymesh.nostr.event import Event
from relaymesh.nostr.filters import Filter
from relaymesh.units import Timestamp
from relaymesh_relay.moderation import Change

DELETION_KIND: Final = 5
"""Deletion requests (NIP-09)."""

VANISH_KIND: Final = 62
"""Requests to vanish (NIP-62)."""

GIFT_WRAP_KIND: Final = 1_059
"""Gift wraps (NIP-59), which vanish with whom they are for."""

_CREATED_AT: Final = 162
"""Where the created_at begins in every document."""
UNDELETABLE_KINDS: Final = frozenset({DELETION_KIND, VANISH_KIND})
"""Deletion requests against these have no effect (NIP-09, NIP-62)."""


class StorageError(PortError):
    """The store could not be opened, read or written; what was being written is not kept."""


class Standing(Enum):
    """How an event stands to what is kept already."""

    FRESH = auto()
    """Nothing speaks against keeping it."""
    KNOWN = auto()
    """This very event is kept."""
    SUPERSEDED = auto()
    """A newer version of this replaceable or addressable event is kept (NIP-01)."""
    DELETED = auto()
    """Its author asked for its deletion (NIP-09)."""
    BANNED = auto()
    """An administrator banned it, or its author (NIP-86)."""
    VANISHED = auto()
    """Its author, or whom this gift wrap is for, asked to vanish when it was there already (NIP-62)."""
    FORGED = auto()
    """Its signature is not its author's (BIP-340)."""


@dataclass(frozen=True, slots=True)
class Record:
    """A verified event and the JSON document that stands for it on disk and on the wire."""

    event: Event
    document: bytes


class Found(NamedTuple):
    """One stored event that answers a filter; a tuple, since a query makes thousands."""

    sequence: int
    document: bytes


Piece = list[Found]
"""What one step of a search found, in order; empty where nothing of what was looked at matched."""


class Writer(Protocol):
    """The one door through which the store changes; used from one thread."""

    def write(self, records: Sequence[Record]) -> list[Standing]:
        """Keep what is fresh, in one transaction that is durable on return; says how each stood before.

        Raises:
            StorageError: Nothing of it was kept.
        """
        ...

    @property
    def stored_events(self) -> int:
        """How many events are kept; any thread may ask."""
        ...

    def decisions(self) -> tuple[Change, ...]:
        """What administrators decided and still holds (NIP-86)."""
        ...

    def decide(self, change: Change) -> bool:
        """Keep a decision durably, and remove what it bans, a part at a time; returns whether to call again for more.

        Raises:
            StorageError: Nothing of this part was done.
        """
        ...

    def probe(self) -> bool:
        """Write something as large as an event, durably, that is no event; returns False, since that is all.

        Raises:
            StorageError: It could not be written.
        """
        ...

    def remove_expired(self, now: Timestamp, at_most: int) -> int:
        """Remove events that expired before `now` (NIP-40), at most so many; returns how many."""
        ...

    def remove_vanished(self, at_most: int) -> bool:
        """Remove what requests to vanish ask for (NIP-62), at most so many events; returns whether more is left."""
        ...

    def close(self) -> None:
        """Write everything into the main file and let go of it."""
        ...


class Reader(Protocol):
    """A view of what is committed; used from one thread at a time."""

    def standing(self, event: Event) -> Standing:
        """How `event` stands to what is kept."""
        ...

    def search(
        self, wanted: Filter, limit: int, now: Timestamp, readable: Callable[[bytes], bool] | None = None
    ) -> Iterator[Piece]:
        """The newest `limit` events that match and have not expired by `now`; newest first, then lowest id (NIP-01).

        They come in small pieces, between which the reader may pause. `readable`, where given, says which documents
        count at all.

        Raises:
            StorageError: The store cannot be read.
        """
        ...

    def probe(self) -> bool:
        """Read what `Writer.probe` wrote; returns False, since that is all.

        Raises:
            StorageError: It could not be read.
        """
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


class Store(Protocol):
    """Opens doors to one set of events."""

    def open_writer(self) -> Writer:
        """The writer; at most one at a time."""
        ...

    def open_reader(self) -> Reader:
        """One more reader."""
        ...


def to_document(event: Event) -> bytes:
    """The event as compact JSON with the fields of NIP-01 in their usual order and nothing else.

    Made anew rather than cut from what the client sent: unknown fields, double keys and spare blanks never travel on,
    and the id and the author stand at fixed places (`document_id`, `document_author`).
    """
    return orjson.dumps(
        {
            "id": event.id,
            "pubkey": event.public_key,
            "created_at": event.created_at,
            "kind": event.kind,
            "tags": event.tags,
            "content": event.content,
            "sig": event.signature,
        }
    )


def document_id(document: bytes) -> bytes:
    """The id, in hex, of the event in a document."""
    return document[7:71]


def document_created_at(document: bytes) -> int:
    """The created_at of the event in a document."""
    return int(document[_CREATED_AT : document.index(b",", _CREATED_AT)])


def document_kind(document: bytes) -> int:
    """The kind of the event in a document."""
    start = document.index(b",", _CREATED_AT) + len(b',"kind":')
    return int(document[start : document.index(b",", start)])


def document_author(document: bytes) -> bytes:
    """The author's public key, in hex, of the event in a document."""
    return document[83:147]


def is_vanished(kind: int, created_at: int, until: int) -> bool:
    """Whether an event goes, or stays out, when its author asked to vanish at `until`: all but that request itself."""
    return created_at < until or (created_at == until and kind != VANISH_KIND)
