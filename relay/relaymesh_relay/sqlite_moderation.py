"""Administrators' decisions (NIP-86) in the SQLite file, and the events that they banned."""

import sqlite3
from typing import Final

from relaymesh_relay.moderation import Change, Listing
from relaymesh_relay.postings import author_key
from relaymesh_relay.sqlite_search import find_id

MODERATION_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS moderation (
    listing TEXT NOT NULL,
    value TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (listing, value)
) WITHOUT ROWID;
"""
# A decision that stands already dirties no page, so that carrying it out again at the start costs no commit.
_PUT: Final = """
INSERT INTO moderation VALUES (?, ?, ?)
ON CONFLICT (listing, value) DO UPDATE SET reason = excluded.reason WHERE reason <> excluded.reason
"""
_BY_AUTHOR: Final = """
SELECT sequence, document FROM posting JOIN event USING (sequence)
WHERE key = ? AND substr(document, 84, 64) = CAST(? AS BLOB) LIMIT ?
"""


def read_decisions(database: sqlite3.Connection) -> tuple[Change, ...]:
    """Everything that was decided and still holds."""
    rows = database.execute("SELECT listing, value, reason FROM moderation").fetchall()
    return tuple(Change(Listing(listing), value, reason) for listing, value, reason in rows)


def keep_decision(database: sqlite3.Connection, change: Change) -> None:
    """Put something on a list, or take it off again."""
    if change.reason is None:
        database.execute("DELETE FROM moderation WHERE listing = ? AND value = ?", (change.listing, change.value))
    else:
        database.execute(_PUT, (change.listing, change.value, change.reason))


def banned_by(database: sqlite3.Connection, change: Change, at_most: int) -> list[tuple[int, bytes]]:
    """Stored events that a decision bans, as (sequence, document), at most so many."""
    if change.reason is None:
        return []
    match change.listing:
        case Listing.BANNED_EVENT:
            row = find_id(database, change.value)
            return [] if row is None else [(row[0], row[2])]
        case Listing.BANNED_AUTHOR:
            return database.execute(_BY_AUTHOR, (author_key(change.value), change.value, at_most)).fetchall()
        case _:
            return []
