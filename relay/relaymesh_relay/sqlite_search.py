"""Finding events in the SQLite file: the shortest posting lists that answer a filter, merged, then compared.

Stages: choose the condition with the fewest entries → merge its posting lists, newest first → fetch documents → compare
every condition with the document itself → stop at the limit. Keys are merged, not documents, so that memory follows the
limit; and each stage works in small pieces with a pause between them (a step that is None), so that a long search never
holds up a short one.
"""

import heapq
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, product
from typing import Final

import orjson

from relaymesh.nostr.event import Event
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.kinds import is_addressable
from relaymesh.units import Timestamp
from relaymesh_relay.postings import (
    EVERYTHING,
    KIND_KEY,
    ListKey,
    address_of,
    author_key,
    coordinates_key,
    id_order,
    tag_key,
)
from relaymesh_relay.store import DELETION_KIND, Found, Standing, Step, StorageError, document_author, document_id

_LISTS_AT_MOST: Final = 2_048
_ENTRIES_COUNTED: Final = 512
_DOCUMENTS_AT_ONCE: Final = 64
_ENTRIES_AT_ONCE: Final = 512
_NEEDLES_AT_MOST: Final = 8
_LOWEST: Final = -(2**63)
_HIGHEST: Final = 2**63 - 1

Place = tuple[int, int, int]
"""(age, id order, sequence): where an event stands in every posting list it is in."""

_STANDING = """
SELECT EXISTS (SELECT 1 FROM event WHERE id_order = ?1 AND substr(document, 8, 64) = CAST(?2 AS BLOB)),
       EXISTS (SELECT 1 FROM deleted_event WHERE id = ?2 AND author = ?3)
"""
_LATEST = """
SELECT (SELECT until FROM deleted_address WHERE address = ?1), created_at, id
FROM (SELECT 1) LEFT JOIN latest ON address = ?1
"""
_ENTRIES = """
SELECT age, id_order, sequence FROM posting
WHERE key = ? AND kind = ? AND (age, id_order, sequence) > (?, ?, ?) AND age <= ?
ORDER BY age, id_order, sequence LIMIT ?
"""
_KINDS_OF_KEY = """
WITH RECURSIVE kinds (kind) AS (
    SELECT min(kind) FROM posting WHERE key = ?1
    UNION ALL
    SELECT (SELECT min(kind) FROM posting WHERE key = ?1 AND kind > kinds.kind) FROM kinds WHERE kind IS NOT NULL
)
SELECT kind FROM kinds WHERE kind IS NOT NULL LIMIT ?2
"""
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM posting WHERE key = ? LIMIT ?)"
_COLUMNS = "sequence, kind, created_at, expires_at, document"
_BY_SEQUENCE = f"SELECT {_COLUMNS} FROM event WHERE sequence IN (SELECT value FROM json_each(?))"  # noqa: S608
_BY_ID = f"SELECT {_COLUMNS} FROM event WHERE id_order = ?"  # noqa: S608

Row = tuple[int, int, int, Timestamp | None, bytes]
"""(sequence, kind, created_at, expires_at, document)."""


def standing_of(database: sqlite3.Connection, event: Event, address: bytes | None) -> Standing:
    """How an event stands to what is kept; `address` is its `address_of`."""
    known, deleted = database.execute(_STANDING, (id_order(event.id), event.id, event.public_key)).fetchone()
    if known:
        return Standing.KNOWN
    if deleted and event.kind != DELETION_KIND:  # deleting a deletion request has no effect (NIP-09)
        return Standing.DELETED
    if address is None:
        return Standing.FRESH
    until, created_at, event_id = database.execute(_LATEST, (address,)).fetchone()
    if until is not None and event.created_at <= until:
        return Standing.DELETED
    if created_at is not None and (-created_at, event_id) < (-event.created_at, event.id):
        return Standing.SUPERSEDED
    return Standing.FRESH


def find_id(database: sqlite3.Connection, event_id: str) -> Row | None:
    """The stored event with this id."""
    wanted = event_id.encode()
    rows: Iterable[Row] = database.execute(_BY_ID, (id_order(event_id),))
    return next((row for row in rows if document_id(row[4]) == wanted), None)


class SqliteReader:
    """A view of what is committed; used from one thread at a time."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def standing(self, event: Event) -> Standing:
        """How `event` stands to what is kept.

        Raises:
            StorageError: The file cannot be read.
        """
        try:
            return standing_of(self._database, event, address_of(event))
        except sqlite3.Error as error:
            raise StorageError(f"stored events could not be read: {error}", retryable=True) from error

    def search(
        self, wanted: Filter, limit: int, now: Timestamp, readable: Callable[[bytes], bool] | None = None
    ) -> Iterator[Step]:
        """The newest `limit` events that match and have not expired by `now`; newest first, then lowest id (NIP-01).

        `readable`, where given, says which documents count at all.

        Raises:
            StorageError: The file cannot be read.
        """
        try:
            yield from self._search(wanted, limit, now, readable)
        except sqlite3.Error as error:
            raise StorageError(f"stored events could not be read: {error}", retryable=True) from error

    def _search(
        self, wanted: Filter, limit: int, now: Timestamp, readable: Callable[[bytes], bool] | None
    ) -> Iterator[Step]:
        if limit <= 0:
            return
        accept = _comparison(wanted)
        places = self._places(wanted, limit)
        left = limit
        while chunk := list(islice(places, _DOCUMENTS_AT_ONCE)):
            rows = self._fetch(chunk)
            for _, _, sequence in chunk:
                row = rows.get(sequence)  # None when it was removed since its place was read
                if row is None or not accept(row) or (row[3] is not None and row[3] <= now):
                    continue
                if readable is None or readable(row[4]):
                    yield Found(sequence, row[4])
                    left -= 1
                    if not left:
                        return
            yield None

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _fetch(self, places: list[Place]) -> dict[int, Row]:
        sequences = orjson.dumps([sequence for _, _, sequence in places])
        return {row[0]: row for row in self._database.execute(_BY_SEQUENCE, (sequences.decode(),))}

    def _places(self, wanted: Filter, limit: int) -> Iterator[Place]:
        """The places of all events that may match, in order, each once."""
        if wanted.ids is not None:
            return iter(self._places_of_ids(wanted.ids))
        lists = self._choose_lists(wanted)
        newest = -wanted.until if wanted.until is not None else _LOWEST
        oldest = -wanted.since if wanted.since is not None else _HIGHEST
        at_once = min(_ENTRIES_AT_ONCE, 2 * limit // max(1, len(lists)) + 8)
        merged = heapq.merge(*(self._entries(each, newest, oldest, at_once) for each in lists))
        return _without_repeats(merged) if len(lists) > 1 else merged

    def _places_of_ids(self, ids: Iterable[str]) -> list[Place]:
        rows = ((event_id, find_id(self._database, event_id)) for event_id in set(ids))
        return sorted((-row[2], id_order(event_id), row[0]) for event_id, row in rows if row is not None)

    def _choose_lists(self, wanted: Filter) -> list[ListKey]:
        """The posting lists of the condition with the fewest entries, if they are not too many to merge."""
        options = [[tag_key(letter, value) for value in dict.fromkeys(values)] for letter, values in wanted.tags]
        if wanted.authors is not None:
            options.append([author_key(author) for author in dict.fromkeys(wanted.authors)])
            identifiers = dict(wanted.tags).get("d")
            if identifiers is not None and wanted.kinds is not None and all(map(is_addressable, wanted.kinds)):
                options.append([coordinates_key(*each) for each in set(product(wanted.authors, identifiers))])
        if len(options) > 1:
            options.sort(key=self._count_entries)
        for keys in options:
            lists = self._lists_of(keys, wanted.kinds)
            if len(lists) <= _LISTS_AT_MOST:
                return lists
        if wanted.kinds is not None and len(wanted.kinds) <= _LISTS_AT_MOST:
            return [(KIND_KEY, kind) for kind in dict.fromkeys(wanted.kinds)]
        return [EVERYTHING]

    def _lists_of(self, keys: list[int], kinds: tuple[int, ...] | None) -> list[ListKey]:
        lists: list[ListKey] = []
        for key in keys:
            of_key: Iterable[int]
            if kinds is None:
                of_key = [kind for (kind,) in self._database.execute(_KINDS_OF_KEY, (key, _LISTS_AT_MOST))]
            else:
                of_key = dict.fromkeys(kinds)
            lists.extend((key, kind) for kind in of_key)
            if len(lists) > _LISTS_AT_MOST:
                break
        return lists

    def _count_entries(self, keys: list[int]) -> int:
        """About how many entries the lists of these keys have; what is beyond counting counts by its keys."""
        total = 0
        for key in keys:
            total += self._database.execute(_COUNT, (key, _ENTRIES_COUNTED)).fetchone()[0]
            if total >= _ENTRIES_COUNTED:
                return _ENTRIES_COUNTED + len(keys)
        return total

    def _entries(self, of: ListKey, newest: int, oldest: int, at_once: int) -> Iterator[Place]:
        """One posting list, read in pieces: each is a query of its own, so no read holds the log's file back."""
        place: Place = (newest, _LOWEST, -1)
        while True:
            rows = self._database.execute(_ENTRIES, (*of, *place, oldest, at_once)).fetchall()
            yield from rows
            if len(rows) < at_once:
                return
            place = rows[-1]
            at_once = min(_ENTRIES_AT_ONCE, at_once * 2)


def _without_repeats(places: Iterator[Place]) -> Iterator[Place]:
    before = None
    for place in places:
        if place != before:
            yield place
        before = place


def _comparison(wanted: Filter) -> Callable[[Row], bool]:
    """What compares a stored event with every condition of a filter."""
    kinds = None if wanted.kinds is None else frozenset(wanted.kinds)
    authors = None if wanted.authors is None else frozenset(author.encode() for author in wanted.authors)
    ids = None if wanted.ids is None else frozenset(event_id.encode() for event_id in wanted.ids)
    since = wanted.since if wanted.since is not None else 0
    until = wanted.until if wanted.until is not None else _HIGHEST
    tags = [_tag_comparison(letter, values) for letter, values in wanted.tags]

    def accept(row: Row) -> bool:
        _, kind, created_at, _, document = row
        return (
            since <= created_at <= until
            and (kinds is None or kind in kinds)
            and (authors is None or document_author(document) in authors)
            and (ids is None or document_id(document) in ids)
            and all(has_tag(document) for has_tag in tags)
        )

    return accept


def _tag_comparison(letter: str, values: tuple[str, ...]) -> Callable[[bytes], bool]:
    """What finds one of these values in a document's tags of this name.

    A few values are searched as bytes: in our own compact JSON `["t","value"` begins a tag and cannot stand inside a
    string, where its quotes would be escaped.
    """
    if len(values) <= _NEEDLES_AT_MOST:
        needles = [orjson.dumps([letter, value])[:-1] for value in values]
        return lambda document: any(needle in document for needle in needles)
    wanted = frozenset(values)

    def has_tag(document: bytes) -> bool:
        tags = orjson.loads(document)["tags"]
        return any(len(tag) > 1 and tag[0] == letter and tag[1] in wanted for tag in tags)

    return has_tag
