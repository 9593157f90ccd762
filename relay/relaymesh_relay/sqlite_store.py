"""Events in one SQLite file: opening it, and the one writer (WAL, a transaction per batch, durable on return)."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import Event, is_hex_32, parse_event
from relaymesh.nostr.tags import Address, parse_address, read_expiration
from relaymesh.units import Timestamp
from relaymesh_relay.moderation import Change, Listing, Moderation
from relaymesh_relay.postings import (
    PostingRow,
    address_digest,
    address_of,
    author_key,
    id_order,
    postings,
    tag_key,
)
from relaymesh_relay.settings import Storage
from relaymesh_relay.sqlite_moderation import banned_by, keep_decision, read_decisions
from relaymesh_relay.sqlite_schema import PAGE_BYTES, prepare
from relaymesh_relay.sqlite_search import SqliteReader, find_id, standing_of
from relaymesh_relay.store import (
    DELETION_KIND,
    GIFT_WRAP_KIND,
    UNDELETABLE_KINDS,
    VANISH_KIND,
    Record,
    Standing,
    StorageError,
    document_author,
)

_BUSY_SECONDS: Final = 5.0
_STATEMENTS_CACHED: Final = 512

_OF_AUTHOR: Final = """
SELECT sequence, document FROM posting CROSS JOIN event USING (sequence)
WHERE posting.key = :key AND posting.age >= -:until AND substr(document, 84, 64) = CAST(:author AS BLOB)
      AND (event.kind != :kind OR posting.age > -:until)
LIMIT :limit
"""
_WRAPPED_FOR: Final = """
SELECT sequence, document FROM posting CROSS JOIN event USING (sequence)
WHERE posting.key = :key AND posting.kind = :kind AND posting.age >= -:until
      AND instr(document, CAST('["p","' || :author || '"' AS BLOB))
LIMIT :limit
"""
_PROBE_BYTES: Final = 65_536
REMOVED_AT_ONCE: Final = 500


class SqliteStore:
    """One SQLite file of events; makes it when it is not there.

    Raises:
        StorageError: The file cannot be opened, or was written by something else or by another version.
    """

    def __init__(self, settings: Storage) -> None:
        self._settings = settings
        database = self._connect()
        try:
            prepare(database, Path(settings.file))
        finally:
            database.close()

    def open_writer(self) -> "SqliteWriter":
        """The writer; at most one at a time."""
        return SqliteWriter(self._connect())

    def open_reader(self) -> SqliteReader:
        """One more reader."""
        return SqliteReader(self._connect())

    def _connect(self) -> sqlite3.Connection:
        try:
            database = sqlite3.connect(
                self._settings.file,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=_STATEMENTS_CACHED,
            )
            database.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(f"PRAGMA synchronous = {self._settings.synchronous}")
            database.execute("PRAGMA secure_delete = ON")  # what an author asked to delete is overwritten
            database.execute(f"PRAGMA cache_size = -{self._settings.cache_megabytes * 1024}")
        except sqlite3.Error as error:
            raise StorageError(f"the relay's database {self._settings.file} cannot be opened: {error}") from error
        return database


class SqliteWriter:
    """The one door through which the file changes; used from one thread."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._next_sequence = 1
        self._new_postings: dict[int, list[PostingRow]] = {}
        self._stored_events: int = database.execute("SELECT count(*) FROM event").fetchone()[0]
        self._stored_before = self._stored_events
        self._bans = Moderation(read_decisions(database))
        self._banned_authors = self._bans.entries(Listing.BANNED_AUTHOR)
        self._banned_events = self._bans.entries(Listing.BANNED_EVENT)

    @property
    def stored_events(self) -> int:
        """How many events are kept; any thread may ask."""
        return self._stored_events

    def write(self, records: Sequence[Record]) -> list[Standing]:
        """Keep what is fresh, in one transaction that is durable on return; says how each stood before.

        Raises:
            StorageError: Nothing of it was kept.
        """
        try:
            self._begin()
            standings = [self._keep(record) for record in records]
            self._commit()
        except sqlite3.Error as error:
            self._roll_back()
            raise StorageError(f"events could not be stored: {error}", retryable=True) from error
        return standings

    def remove_expired(self, now: Timestamp, at_most: int) -> int:
        """Remove events that have expired by `now` (NIP-40), at most so many; returns how many.

        Raises:
            StorageError: None was removed.
        """
        try:
            self._begin()
            expired = self._database.execute(
                "SELECT sequence, document FROM event WHERE expires_at <= ? ORDER BY expires_at LIMIT ?", (now, at_most)
            ).fetchall()
            for sequence, document in expired:
                self._remove(sequence, document)
            self._commit()
        except sqlite3.Error as error:
            self._roll_back()
            raise StorageError(f"expired events could not be removed: {error}", retryable=True) from error
        return len(expired)

    def decisions(self) -> tuple[Change, ...]:
        """What administrators decided and still holds (NIP-86)."""
        return read_decisions(self._database)

    def decide(self, change: Change) -> bool:
        """Keep a decision durably, and remove what it bans, a part at a time; returns whether to call again for more.

        Raises:
            StorageError: Nothing of this part was done.
        """
        try:
            self._begin()
            keep_decision(self._database, change)
            banned = banned_by(self._database, change, REMOVED_AT_ONCE)
            for sequence, document in banned:
                self._remove(sequence, document)
            self._commit()
        except sqlite3.Error as error:
            self._roll_back()
            raise StorageError(f"the decision could not be kept: {error}", retryable=True) from error
        self._bans.decide(change)
        return len(banned) == REMOVED_AT_ONCE

    def probe(self) -> bool:
        """Write something as large as an event, durably, that is no event; returns False, since that is all.

        Raises:
            StorageError: It could not be written.
        """
        try:
            self._database.execute("INSERT OR REPLACE INTO probe VALUES (1, randomblob(?))", (_PROBE_BYTES,))
        except sqlite3.Error as error:  # one statement: SQLite has taken it back
            raise StorageError(str(error), retryable=True) from error
        return False

    def remove_vanished(self, at_most: int) -> bool:
        """Remove what requests to vanish ask for (NIP-62), at most so many events; returns whether more is left.

        Raises:
            StorageError: Nothing was removed.
        """
        try:
            self._begin()
            is_left = self._remove_some_vanished(at_most)
            self._commit()
        except sqlite3.Error as error:
            self._roll_back()
            raise StorageError(f"a request to vanish could not be followed: {error}", retryable=True) from error
        return is_left

    def close(self) -> None:
        """Write everything into the main file and let go of it."""
        try:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise StorageError(f"the relay's database could not be closed in order: {error}") from error
        finally:
            self._database.close()

    def _begin(self) -> None:
        self._new_postings.clear()
        self._stored_before = self._stored_events
        self._database.execute("BEGIN IMMEDIATE")
        (highest,) = self._database.execute("SELECT max(sequence) FROM event").fetchone()
        self._next_sequence = (highest or 0) + 1

    def _commit(self) -> None:
        # Sorted, so that entries of one list meet while its page is in hand.
        rows = sorted(row for rows in self._new_postings.values() for row in rows)
        self._database.executemany("INSERT INTO posting VALUES (?, ?, ?, ?, ?)", rows)
        self._database.execute("COMMIT")

    def _roll_back(self) -> None:
        self._stored_events = self._stored_before
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")

    def _keep(self, record: Record) -> Standing:
        event = record.event
        if event.public_key in self._banned_authors or event.id in self._banned_events:
            return Standing.BANNED
        address = address_of(event)
        standing = standing_of(self._database, event, address)
        if standing is not Standing.FRESH:
            return standing
        sequence = self._next_sequence
        self._next_sequence += 1
        self._database.execute(
            "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)",
            (sequence, id_order(event.id), event.kind, event.created_at, read_expiration(event), record.document),
        )
        self._new_postings[sequence] = postings(event, sequence)
        self._stored_events += 1
        if address is not None:
            self._remove_at(address)
            self._database.execute(
                "INSERT INTO latest VALUES (?, ?, ?, ?)", (address, event.created_at, event.id, sequence)
            )
        if event.kind == DELETION_KIND:
            self._delete_for(event)
        elif event.kind == VANISH_KIND:
            self._vanish(event)
        return standing

    def _vanish(self, request: Event) -> None:
        """Keep an author's events out from now on, and remember to remove those that are here (NIP-62)."""
        self._database.execute(
            "INSERT INTO vanished VALUES (?, ?) ON CONFLICT (author) DO UPDATE SET until = max(until, excluded.until)",
            (request.public_key, request.created_at),
        )
        self._database.execute("INSERT OR IGNORE INTO vanishing VALUES (?)", (request.public_key,))

    def _remove_some_vanished(self, at_most: int) -> bool:
        row = self._database.execute(
            "SELECT author, until FROM vanishing JOIN vanished USING (author) LIMIT 1"
        ).fetchone()
        if row is None:
            return False
        author, until = row
        wanted = {"author": author, "until": until, "key": author_key(author), "kind": VANISH_KIND, "limit": at_most}
        found = self._database.execute(_OF_AUTHOR, wanted).fetchall()
        wanted |= {"key": tag_key("p", author), "kind": GIFT_WRAP_KIND, "limit": at_most - len(found)}
        found += self._database.execute(_WRAPPED_FOR, wanted).fetchall()
        for sequence, document in dict(found).items():
            self._remove(sequence, document)
        if len(found) < at_most:
            self._database.execute("DELETE FROM vanishing WHERE author = ?", (author,))
        (is_left,) = self._database.execute("SELECT EXISTS (SELECT 1 FROM vanishing)").fetchone()
        return bool(is_left)

    def _delete_for(self, deletion: Event) -> None:
        """Carry out a deletion request, and remember it for what arrives later (NIP-09)."""
        author = deletion.public_key
        for event_id in filter(is_hex_32, deletion.tag_values("e")):
            self._database.execute("INSERT OR IGNORE INTO deleted_event VALUES (?, ?)", (event_id, author))
            self._remove_own(event_id, author)
        for address in map(_read_address, deletion.tag_values("a")):
            if address is not None and address.author == author:
                self._delete_address(address_digest(address), deletion.created_at)

    def _remove_own(self, event_id: str, author: str) -> None:
        """Remove this event if this author wrote it; a request to delete or to vanish itself stays."""
        row = find_id(self._database, event_id)
        if row is not None and row[1] not in UNDELETABLE_KINDS and document_author(row[2]) == author.encode():
            self._remove(row[0], row[2])

    def _delete_address(self, address: bytes, until: Timestamp) -> None:
        self._database.execute(
            "INSERT INTO deleted_address VALUES (?, ?) "
            "ON CONFLICT (address) DO UPDATE SET until = max(until, excluded.until)",
            (address, until),
        )
        row = self._database.execute("SELECT created_at FROM latest WHERE address = ?", (address,)).fetchone()
        if row is not None and row[0] <= until:
            self._remove_at(address)

    def _remove_at(self, address: bytes) -> None:
        row = self._database.execute(
            "SELECT sequence, document FROM latest JOIN event USING (sequence) WHERE address = ?", (address,)
        ).fetchone()
        if row is not None:
            self._remove(*row)

    def _remove(self, sequence: int, document: bytes) -> None:
        event = parse_event(orjson.loads(document))
        if self._new_postings.pop(sequence, None) is None:
            self._database.executemany(
                "DELETE FROM posting WHERE key = ? AND kind = ? AND age = ? AND id_order = ? AND sequence = ?",
                postings(event, sequence),
            )
        self._database.execute("DELETE FROM event WHERE sequence = ?", (sequence,))
        self._stored_events -= 1
        address = address_of(event)
        if address is not None:
            self._database.execute("DELETE FROM latest WHERE address = ? AND sequence = ?", (address, sequence))


def _read_address(text: str) -> Address | None:
    try:
        return parse_address(text)
    except RemoteProtocolError:  # a deletion request may name anything; what is no address deletes nothing
        return None
