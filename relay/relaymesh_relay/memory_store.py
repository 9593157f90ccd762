"""Events in memory, for as long as the process lives: for tests, demonstrations and relays of what need not last."""

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from threading import Lock
from typing import Final, NamedTuple

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import Event, EventId, PublicKey
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.tags import Address, indexed_values, parse_address, read_expiration
from relaymesh.units import Timestamp
from relaymesh_relay.moderation import Change, Listing, Moderation
from relaymesh_relay.store import (
    DELETION_KIND,
    GIFT_WRAP_KIND,
    UNDELETABLE_KINDS,
    VANISH_KIND,
    Found,
    Piece,
    Record,
    Standing,
    is_vanished,
)

MEMORY_FILE: Final = ":memory:"
"""What stands in the settings for no file at all."""

_ENTRIES_AT_ONCE: Final = 128

ListKey = tuple[object, ...]
"""Names one list of events: an author's, a tag value's, a kind's, or that of all."""

_EVERYTHING: Final[ListKey] = ()


class Kept(NamedTuple):
    """A kept event; its first two fields, which no two events share, order it: last is what is asked for first."""

    created_at: Timestamp
    turned_id: int
    sequence: int
    event: Event
    document: bytes
    expires_at: Timestamp | None


class MemoryStore:
    """One set of events; ends with the process."""

    def __init__(self) -> None:
        self._events = _Events()

    def open_writer(self) -> "MemoryWriter":
        """The writer; at most one at a time."""
        return MemoryWriter(self._events)

    def open_reader(self) -> "MemoryReader":
        """One more reader."""
        return MemoryReader(self._events)


class _Events:
    """What the writer and the readers share; whoever looks or changes holds the lock."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.by_id: dict[str, Kept] = {}
        self.lists: dict[ListKey, list[Kept]] = {}
        self.latest: dict[Address, Kept] = {}
        self.deleted: set[tuple[str, PublicKey]] = set()
        self.deleted_addresses: dict[Address, Timestamp] = {}
        self.expiring: list[tuple[Timestamp, EventId]] = []
        self.vanished: dict[str, Timestamp] = {}
        self.vanishing: dict[str, None] = {}
        self.moderation = Moderation()
        self._sequence = 0

    def standing(self, event: Event) -> Standing:
        if self._has_vanished(event):
            return Standing.VANISHED
        if event.id in self.by_id:
            return Standing.KNOWN
        if event.kind not in UNDELETABLE_KINDS and (event.id, event.public_key) in self.deleted:
            return Standing.DELETED
        address = Address.from_event(event)
        if address is None:
            return Standing.FRESH
        if event.created_at <= self.deleted_addresses.get(address, -1):
            return Standing.DELETED
        rival = self.latest.get(address)
        if rival is not None and rival[:2] > (event.created_at, _turn(event.id)):
            return Standing.SUPERSEDED
        return Standing.FRESH

    def is_banned(self, event: Event) -> bool:
        entries = self.moderation.entries
        return event.public_key in entries(Listing.BANNED_AUTHOR) or event.id in entries(Listing.BANNED_EVENT)

    def _has_vanished(self, event: Event) -> bool:
        until = self.vanished.get(event.public_key)
        if until is not None and is_vanished(event.kind, event.created_at, until):
            return True
        recipients = event.tag_values("p") if event.kind == GIFT_WRAP_KIND else ()
        return any(event.created_at <= self.vanished.get(recipient, -1) for recipient in recipients)

    def vanish(self, request: Event) -> None:
        """Keep an author's events out from now on, and remember to remove those that are here (NIP-62)."""
        author = request.public_key
        self.vanished[author] = max(request.created_at, self.vanished.get(author, request.created_at))
        self.vanishing[author] = None

    def find_vanished(self, author: str, at_most: int) -> list[Kept]:
        """Some of the events that are to be removed for an author who vanished."""
        lists = (self.lists.get((author,), ()), self.lists.get(("p", author), ()))
        found = (kept for entries in lists for kept in entries if self._has_vanished(kept.event))
        return list(dict.fromkeys(islice(found, at_most)))

    def keep(self, record: Record) -> None:
        event = record.event
        address = Address.from_event(event)
        self._sequence += 1
        kept = Kept(event.created_at, _turn(event.id), self._sequence, event, record.document, read_expiration(event))
        if address is not None:
            if address in self.latest:
                self.remove(self.latest[address])
            self.latest[address] = kept
        self.by_id[event.id] = kept
        for key in _keys_of(event):
            insort(self.lists.setdefault(key, []), kept)
        if kept.expires_at is not None:
            heapq.heappush(self.expiring, (kept.expires_at, event.id))

    def remove(self, kept: Kept) -> None:
        del self.by_id[kept.event.id]
        for key in _keys_of(kept.event):
            entries = self.lists[key]
            del entries[bisect_left(entries, kept[:2])]
            if not entries:
                del self.lists[key]
        address = Address.from_event(kept.event)
        if address is not None:
            del self.latest[address]

    def delete_for(self, deletion: Event) -> None:
        """Carry out a deletion request, and remember it for what arrives later (NIP-09)."""
        author = deletion.public_key
        for event_id in deletion.tag_values("e"):
            self.deleted.add((event_id, author))
            kept = self.by_id.get(event_id)
            if kept is not None and kept.event.kind not in UNDELETABLE_KINDS and kept.event.public_key == author:
                self.remove(kept)
        for address in _addresses(deletion.tag_values("a")):
            if address.author == author:
                until = max(deletion.created_at, self.deleted_addresses.get(address, deletion.created_at))
                self.deleted_addresses[address] = until
                latest = self.latest.get(address)
                if latest is not None and latest.created_at <= until:
                    self.remove(latest)


class MemoryWriter:
    """The one door through which the events change; used from one thread."""

    def __init__(self, events: _Events) -> None:
        self._events = events

    def write(self, records: Sequence[Record]) -> list[Standing]:
        """Keep what is fresh; says how each stood before."""
        events = self._events
        standings = []
        with events.lock:
            for record in records:
                banned = events.is_banned(record.event)
                standings.append(Standing.BANNED if banned else events.standing(record.event))
                if standings[-1] is Standing.FRESH:
                    events.keep(record)
                    if record.event.kind == DELETION_KIND:
                        events.delete_for(record.event)
                    elif record.event.kind == VANISH_KIND:
                        events.vanish(record.event)
        return standings

    @property
    def stored_events(self) -> int:
        """How many events are kept; any thread may ask."""
        return len(self._events.by_id)

    def decisions(self) -> tuple[Change, ...]:
        """What administrators decided (NIP-86): nothing, when the process has only begun."""
        return ()

    def decide(self, change: Change) -> bool:
        """Take in a decision, and remove all that it bans; returns False, since nothing is left."""
        events = self._events
        with events.lock:
            events.moderation.decide(change)
            for kept in [kept for kept in events.by_id.values() if events.is_banned(kept.event)]:
                events.remove(kept)
        return False

    def probe(self) -> bool:
        """Memory takes what there is room for; returns False, since that is all."""
        return False

    def remove_vanished(self, at_most: int) -> bool:
        """Remove what requests to vanish ask for (NIP-62), at most so many events; returns whether more is left."""
        events = self._events
        with events.lock:
            author = next(iter(events.vanishing), None)
            if author is None:
                return False
            found = events.find_vanished(author, at_most)
            for kept in found:
                events.remove(kept)
            if len(found) < at_most:
                del events.vanishing[author]
            return bool(events.vanishing)

    def remove_expired(self, now: Timestamp, at_most: int) -> int:
        """Remove events that have expired by `now` (NIP-40), at most so many; returns how many."""
        events = self._events
        removed = 0
        with events.lock:
            while events.expiring and events.expiring[0][0] <= now and removed < at_most:
                _, event_id = heapq.heappop(events.expiring)
                kept = events.by_id.get(event_id)
                if kept is not None:  # it was neither deleted nor replaced before
                    events.remove(kept)
                    removed += 1
        return removed

    def close(self) -> None:
        """Nothing is to be let go of."""


class MemoryReader:
    """A view of the events; used from one thread at a time."""

    def __init__(self, events: _Events) -> None:
        self._events = events

    def standing(self, event: Event) -> Standing:
        """How `event` stands to what is kept."""
        with self._events.lock:
            return self._events.standing(event)

    def search(
        self, wanted: Filter, limit: int, now: Timestamp, readable: Callable[[bytes], bool] | None = None
    ) -> Iterator[Piece]:
        """The newest `limit` events that match and have not expired by `now`; newest first, then lowest id (NIP-01).

        `readable`, where given, says which documents count at all.
        """
        left = limit
        candidates = (kept for kept, _ in groupby(self._candidates(wanted)))
        while left > 0 and (looked_at := list(islice(candidates, _ENTRIES_AT_ONCE))):
            found = [
                Found(kept.sequence, kept.document)
                for kept in looked_at
                if (kept.expires_at is None or kept.expires_at > now)
                and wanted.matches(kept.event)
                and (readable is None or readable(kept.document))
            ]
            yield found[:left]
            left -= len(found)

    def probe(self) -> bool:
        """What is in memory can be read; returns False, since that is all."""
        return False

    def close(self) -> None:
        """Nothing is to be let go of."""

    def _candidates(self, wanted: Filter) -> Iterable[Kept]:
        """All events that may match, in order; one that stands in several lists comes from each."""
        events = self._events
        with events.lock:
            if wanted.ids is not None:
                found = (events.by_id.get(event_id) for event_id in wanted.ids)
                return sorted((kept for kept in found if kept is not None), reverse=True)
            keys = min(_choices(wanted), key=lambda keys: sum(len(events.lists.get(key, ())) for key in keys))
        return heapq.merge(*(self._walk(key, wanted) for key in dict.fromkeys(keys)), reverse=True)

    def _walk(self, key: ListKey, wanted: Filter) -> Iterator[Kept]:
        """One list from its end, in pieces, since it changes between them."""
        before: tuple[float, ...] = (float("inf") if wanted.until is None else wanted.until + 1,)
        while True:
            with self._events.lock:
                entries = self._events.lists.get(key, [])
                end = bisect_left(entries, before)
                piece = entries[max(0, end - _ENTRIES_AT_ONCE) : end]
            for kept in reversed(piece):
                if wanted.since is not None and kept.created_at < wanted.since:
                    return
                yield kept
            if not piece:
                return
            before = piece[0][:2]


def _turn(event_id: str) -> int:
    """An id as a number that is the higher the lower the id."""
    return -int(event_id, 16)


def _keys_of(event: Event) -> set[ListKey]:
    return {_EVERYTHING, (event.kind,), (event.public_key,), *indexed_values(event)}


def _choices(wanted: Filter) -> list[list[ListKey]]:
    """For each condition of the filter, the lists that hold everything that fulfils it."""
    choices: list[list[ListKey]] = [[(letter, value) for value in values] for letter, values in wanted.tags]
    if wanted.authors is not None:
        choices.append([(author,) for author in wanted.authors])
    if wanted.kinds is not None:
        choices.append([(kind,) for kind in wanted.kinds])
    return choices or [[_EVERYTHING]]


def _addresses(texts: Iterable[str]) -> Iterator[Address]:
    for text in texts:
        try:
            yield parse_address(text)
        except RemoteProtocolError:  # a deletion request may name anything; what is no address deletes nothing
            continue
