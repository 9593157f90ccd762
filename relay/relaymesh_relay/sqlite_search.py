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

from relaymesh.nostr.event import Event, is_hex_32
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.kinds import is_addressable
from relaymesh.units import Timestamp
from relaymesh_relay.comparison import Row, compare_with
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
from relaymesh_relay.store import (
    GIFT_WRAP_KIND,
    UNDELETABLE_KINDS,
    Found,
    Piece,
    Standing,
    StorageError,
    document_id,
    is_vanished,
)

_LISTS_AT_MOST: Final = 2_048
_ENTRIES_COUNTED: Final = 512
_DOCUMENTS_AT_FIRST: Final = 32
_DOCUMENTS_AT_ONCE: Final = 128
_ROWS_AT_FIRST: Final = 2
_BYTES_AT_ONCE: Final = 256 * 1024
_IDS_AT_ONCE: Final = 64
_ENTRIES_AT_ONCE: Final = 512
_LOWEST: Final = -(2**63)
_HIGHEST: Final = 2**63 - 1

Place = tuple[int, int, int]
"""(age, id order, sequence): where an event stands in every posting list it is in."""

_STANDING = """
SELECT EXISTS (SELECT 1 FROM event WHERE id_order = ? AND substr(document, 8, 64) = CAST(? AS BLOB)),
       EXISTS (SELECT 1 FROM deleted_event WHERE id = ? AND author = ?),
       (SELECT until FROM vanished WHERE author = ?)
"""
_VANISHED_UNTIL = "SELECT max(until) FROM vanished WHERE author IN ({})"
_LATEST = """
SELECT (SELECT until FROM deleted_address WHERE address = ?), created_at, id
FROM (SELECT 1) LEFT JOIN latest ON address = ?
"""
_ENTRIES = """
SELECT age, id_order, sequence FROM posting
WHERE key = ? AND kind = ? AND (age, id_order, sequence) > (?, ?, ?) AND age <= ?
ORDER BY age, id_order, sequence LIMIT ?
"""
_KINDS_OF_KEY = """
WITH RECURSIVE kinds (kind) AS (
    SELECT min(kind) FROM posting WHERE key = ?
    UNION ALL
    SELECT (SELECT min(kind) FROM posting WHERE key = ? AND kind > kinds.kind) FROM kinds WHERE kind IS NOT NULL
)
SELECT kind FROM kinds WHERE kind IS NOT NULL LIMIT ?
"""
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM posting WHERE key = ? LIMIT ?)"
_LIST = """
SELECT posting.age, posting.id_order, posting.sequence, event.kind, event.document
FROM posting CROSS JOIN event USING (sequence)
WHERE key = ? AND posting.kind = ? AND (age, posting.id_order, sequence) > (?, ?, ?) AND age <= ?
      AND (expires_at IS NULL OR expires_at > ?)
ORDER BY age, posting.id_order, sequence LIMIT ?
"""
_BY_SEQUENCES = """
SELECT sequence, kind, document FROM event WHERE sequence IN ({}) AND (expires_at IS NULL OR expires_at > ?)
"""
_PLACES_BY_IDS = "SELECT -created_at, id_order, sequence FROM event WHERE id_order IN ({})"
_BY_IDS = """
SELECT -created_at, id_order, sequence, kind, document FROM event
WHERE id_order IN ({}) AND (expires_at IS NULL OR expires_at > ?)
"""
_BY_ID = "SELECT sequence, kind, document FROM event WHERE id_order = ?"


def standing_of(database: sqlite3.Connection, event: Event, address: bytes | None) -> Standing:
    """How an event stands to what is kept; `address` is its `address_of`."""
    question = (id_order(event.id), event.id, event.id, event.public_key, event.public_key)
    known, deleted, vanished_until = database.execute(_STANDING, question).fetchone()
    if vanished_until is not None and is_vanished(event.kind, event.created_at, vanished_until):
        return Standing.VANISHED
    if event.kind == GIFT_WRAP_KIND and _is_for_vanished(database, event):
        return Standing.VANISHED
    if known:
        return Standing.KNOWN
    if deleted and event.kind not in UNDELETABLE_KINDS:
        return Standing.DELETED
    if address is None:
        return Standing.FRESH
    until, created_at, event_id = database.execute(_LATEST, (address, address)).fetchone()
    if until is not None and event.created_at <= until:
        return Standing.DELETED
    if created_at is not None and (-created_at, event_id) < (-event.created_at, event.id):
        return Standing.SUPERSEDED
    return Standing.FRESH


def _is_for_vanished(database: sqlite3.Connection, wrap: Event) -> bool:
    recipients = list(dict.fromkeys(filter(is_hex_32, wrap.tag_values("p"))))
    pieces = (recipients[start : start + _DOCUMENTS_AT_ONCE] for start in range(0, len(recipients), _DOCUMENTS_AT_ONCE))
    for piece in pieces:
        (until,) = database.execute(_VANISHED_UNTIL.format(",".join("?" * len(piece))), piece).fetchone()
        if until is not None and wrap.created_at <= until:
            return True
    return False


def find_id(database: sqlite3.Connection, event_id: str) -> tuple[int, int, bytes] | None:
    """The (sequence, kind, document) of the stored event with this id."""
    wanted = event_id.encode()
    rows: Iterable[tuple[int, int, bytes]] = database.execute(_BY_ID, (id_order(event_id),))
    return next((row for row in rows if document_id(row[2]) == wanted), None)


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
    ) -> Iterator[Piece]:
        """The newest `limit` events that match and have not expired by `now`; newest first, then lowest id (NIP-01).

        They come in small pieces, between which the reader may pause. `readable`, where given, says which documents
        count at all.

        Raises:
            StorageError: The file cannot be read.
        """
        try:
            yield from self._search(wanted, limit, now, readable)
        except sqlite3.Error as error:
            raise StorageError(f"stored events could not be read: {error}", retryable=True) from error

    def _search(
        self, wanted: Filter, limit: int, now: Timestamp, readable: Callable[[bytes], bool] | None
    ) -> Iterator[Piece]:
        if limit <= 0:
            return
        leave_matching = compare_with(wanted)
        left = limit
        for rows in self._rows(wanted, limit, now):
            matching = leave_matching(rows)
            if readable is not None:
                matching = [row for row in matching if readable(row[4])]
            found = [Found(row[2], row[4]) for row in matching[:left]]
            yield from _split(found)
            left -= len(found)
            if not left:
                return

    def probe(self) -> bool:
        """Read what the writer's `probe` wrote; returns False, since that is all.

        Raises:
            StorageError: It could not be read.
        """
        try:
            self._database.execute("SELECT filler FROM probe").fetchall()
            self._database.execute("SELECT document FROM event ORDER BY sequence DESC LIMIT 1").fetchall()
        except sqlite3.Error as error:
            raise StorageError(str(error), retryable=True) from error
        return False

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _rows(self, wanted: Filter, limit: int, now: Timestamp) -> Iterator[list[Row]]:
        """All events that may match, in order, each once, in pieces."""
        if wanted.ids is not None:
            return self._read_ids(wanted.ids, limit, now)
        lists = self._choose_lists(wanted)
        newest = -wanted.until if wanted.until is not None else _LOWEST
        oldest = -wanted.since if wanted.since is not None else _HIGHEST
        if len(lists) == 1:
            return self._read_list(lists[0], newest, oldest, min(limit, _DOCUMENTS_AT_ONCE), now)
        at_once = min(_ENTRIES_AT_ONCE, 2 * limit // max(1, len(lists)) + 8)
        merged = heapq.merge(*(self._entries(each, newest, oldest, at_once) for each in lists))
        return self._fetch_in_order(_without_repeats(merged), limit, now)

    def _read_list(self, of: ListKey, newest: int, oldest: int, at_once: int, now: Timestamp) -> Iterator[list[Row]]:
        """One posting list and its documents; each piece is a query of its own, so none holds the log's file back."""
        place: Place = (newest, _LOWEST, -1)
        while True:
            cursor = self._database.execute(_LIST, (*of, *place, oldest, now, at_once))
            rows: list[Row] = []
            size = 0
            fit = _ROWS_AT_FIRST
            while size < _BYTES_AT_ONCE and (fetched := cursor.fetchmany(fit)):
                rows += fetched
                size += sum(len(row[4]) for row in fetched)
                fit = max(1, (_BYTES_AT_ONCE - size) * len(rows) // size)
            cursor.close()
            yield rows
            if len(rows) < at_once and size < _BYTES_AT_ONCE:
                return
            place = rows[-1][:3]

    def _fetch_in_order(self, places: Iterator[Place], limit: int, now: Timestamp) -> Iterator[list[Row]]:
        """The documents at these places; what was removed meanwhile is left out."""
        at_once, left = _DOCUMENTS_AT_FIRST, limit
        while piece := list(islice(places, min(at_once, max(left, _DOCUMENTS_AT_FIRST)))):
            statement = _BY_SEQUENCES.format(",".join("?" * len(piece)))
            found = self._database.execute(statement, (*(place[2] for place in piece), now)).fetchall()
            rows = {sequence: (kind, document) for sequence, kind, document in found}
            yield [(*place, *rows[place[2]]) for place in piece if place[2] in rows]
            left -= len(piece)
            size = sum(len(document) for _, _, document in found) // len(piece)
            at_once = max(1, min(_DOCUMENTS_AT_ONCE, _BYTES_AT_ONCE // (size + 1)))

    def _read_ids(self, ids: Iterable[str], limit: int, now: Timestamp) -> Iterator[list[Row]]:
        """The documents with these ids; their places first where they may be too many to hold."""
        orders = list({id_order(event_id) for event_id in ids})
        if len(orders) <= _IDS_AT_ONCE:
            rows = self._database.execute(_BY_IDS.format(",".join("?" * len(orders))), (*orders, now)).fetchall()
            return iter([sorted(rows)])
        places: list[Place] = []
        while orders:
            piece, orders = orders[:_DOCUMENTS_AT_ONCE], orders[_DOCUMENTS_AT_ONCE:]
            places += self._database.execute(_PLACES_BY_IDS.format(",".join("?" * len(piece))), piece)
        return self._fetch_in_order(iter(sorted(places)), limit, now)

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
                of_key = [kind for (kind,) in self._database.execute(_KINDS_OF_KEY, (key, key, _LISTS_AT_MOST))]
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


def _split(found: Piece) -> Iterator[Piece]:
    """What was found at once in pieces that can be sent at once."""
    if sum(len(each.document) for each in found) <= _BYTES_AT_ONCE:
        yield found
        return
    piece: Piece = []
    size = 0
    for each in found:
        piece.append(each)
        size += len(each.document)
        if size >= _BYTES_AT_ONCE:
            yield piece
            piece, size = [], 0
    yield piece
