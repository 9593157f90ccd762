"""The tables of the relay's SQLite file, and how a file of an earlier version is brought to ours."""

import sqlite3
from pathlib import Path
from typing import Final

from relaymesh_relay.sqlite_moderation import MODERATION_SCHEMA
from relaymesh_relay.store import StorageError

SCHEMA_VERSION: Final = 2
PAGE_BYTES: Final = 8_192

# `age` is the negated created_at, so that a posting list in ascending order is newest first, then lowest id.
_SCHEMA: Final = """
CREATE TABLE event (
    sequence INTEGER PRIMARY KEY,
    id_order INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    document BLOB NOT NULL
);
CREATE INDEX event_by_id ON event (id_order);
CREATE INDEX event_by_expiry ON event (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE posting (
    key INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    age INTEGER NOT NULL,
    id_order INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (key, kind, age, id_order, sequence)
) WITHOUT ROWID;
CREATE TABLE latest (
    address BLOB PRIMARY KEY,
    created_at INTEGER NOT NULL,
    id TEXT NOT NULL,
    sequence INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE deleted_event (id TEXT NOT NULL, author TEXT NOT NULL, PRIMARY KEY (id, author)) WITHOUT ROWID;
CREATE TABLE deleted_address (address BLOB PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
"""

# Since version 2. `vanishing` holds whose events are still to be removed.
_VANISHED: Final = """
CREATE TABLE vanished (author TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE vanishing (author TEXT PRIMARY KEY) WITHOUT ROWID;
"""

# Version 1 stored requests to vanish (kind 62) and did not follow them. Which of them named this relay cannot be known
# here; those to all relays are made up for.
_MAKE_UP_FOR_VERSION_1: Final = """
INSERT INTO vanished
SELECT CAST(substr(document, 84, 64) AS TEXT) AS author, max(event.created_at)
FROM posting JOIN event USING (sequence)
WHERE posting.key = 1 AND posting.kind = 62
      AND instr(document, CAST('["relay","ALL_RELAYS"' AS BLOB))
GROUP BY author;
INSERT INTO vanishing SELECT author FROM vanished;
"""

# Beside the events, and missing in files of earlier days.
_ADDED: Final = f"""
{MODERATION_SCHEMA}
CREATE TABLE IF NOT EXISTS probe (one INTEGER PRIMARY KEY CHECK (one = 1), filler BLOB NOT NULL);
"""


def prepare(database: sqlite3.Connection, file: Path) -> None:
    """Make the tables, or bring them to our version.

    Raises:
        StorageError: The file was written by something else or by a later version.
    """
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if version == 0 and tables == 0:
            _run(database, _SCHEMA + _VANISHED)
        elif version == 1:
            _run(database, _VANISHED + _MAKE_UP_FOR_VERSION_1)
        elif version != SCHEMA_VERSION:
            raise StorageError(
                f"{file} holds version {version} of something, not version {SCHEMA_VERSION} of a relay's events; "
                "name another database file"
            )
        database.executescript(_ADDED)
    except sqlite3.Error as error:
        raise StorageError(f"the relay's database {file} cannot be used: {error}") from error


def _run(database: sqlite3.Connection, statements: str) -> None:
    """Bring the file to our version, all at once or not at all."""
    database.executescript(f"BEGIN IMMEDIATE; {statements} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
