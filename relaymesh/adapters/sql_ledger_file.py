"""The ledger's file: made, locked, brought up to date, proved to belong to the key, and closed.

One process writes, which a lock beside the file sees to; any number may read meanwhile (SQLite's write-ahead log). The
lock is a SQLite lock too: it ends with the process that holds it, however that ends, and no child process inherits it.
"""

import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relaymesh.adapters.ledger_encryption import LedgerCipher, bind_to_key, unlock
from relaymesh.adapters.sql_ledger_schema import APPLICATION_ID, MIGRATIONS
from relaymesh.errors import LedgerError

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
_BUSY_SECONDS: Final = 5.0

# Durable on return (fullfsync: on macOS too); what is erased is zeroed, and nothing spills into temporary files.
_WRITER_SETTINGS: Final = (
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",
    "PRAGMA secure_delete = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA foreign_keys = ON",
)

_FIRST_WORDS: Final = f"""
BEGIN IMMEDIATE;
PRAGMA application_id = {APPLICATION_ID:d};
CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY);
COMMIT;
"""

_MEANINGS: Final = {
    sqlite3.SQLITE_FULL: "cannot be written: the disk is full; free some space",
    sqlite3.SQLITE_READONLY: "cannot be written: the file or its folder is read-only; make both writable for this user",
    sqlite3.SQLITE_PERM: "cannot be used: this user may not; make the file and its folder writable for this user",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: check that it is a file and that its folder is writable for this user",
    sqlite3.SQLITE_NOTADB: "is no ledger, or is damaged; name another file or restore it from a backup",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore it from a backup",
    sqlite3.SQLITE_IOERR: "cannot be used: the disk failed to read or write; check the disk and its free space",
    sqlite3.SQLITE_BUSY: "is locked by another program; close that program",
    sqlite3.SQLITE_LOCKED: "is locked by another program; close that program",
}


@dataclass(frozen=True, slots=True)
class LedgerFile:
    """An open ledger: its connections and the cipher of its sensitive fields.

    Args:
        path: Where it is.
        cipher: Opens and seals its sensitive fields.
        reader: The connection that reads.
        writer: The connection that writes; None where the ledger was opened for reading only.
        lock: The connection that keeps other writers out.
    """

    path: Path
    cipher: LedgerCipher
    reader: sqlite3.Connection
    writer: sqlite3.Connection | None = None
    lock: sqlite3.Connection | None = None

    def close(self) -> None:
        """Let go of everything, the lock last."""
        for connection in (self.reader, self.writer, self.lock):
            if connection is not None:
                with suppress(sqlite3.Error):  # nothing is written by closing that was not durable before
                    connection.close()


def explain(error: sqlite3.Error, path: Path) -> LedgerError:
    """What an SQLite error means for whoever runs this, in one sentence (SQLite's own result codes)."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    meaning = _MEANINGS.get(code, f"could not be read or written ({name})")
    return LedgerError(f"the ledger {path} {meaning}", retryable=code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED))


def open_for_writing(path: Path, key: bytes) -> LedgerFile:
    """Open the ledger as its one writer; make it where there is none.

    Raises:
        LedgerError: Another process writes it, it is no ledger or a newer one, the key is another, or the disk refuses.
    """
    opened: list[sqlite3.Connection] = []
    try:
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        opened.append(lock := _take_lock(path))
        opened.append(writer := _connect(path))
        _check_application(writer, path)
        path.chmod(FILE_MODE)
        _prepare(writer, path)
        _seal(writer, key)
        cipher = _unlock(writer, key, path)
        opened.append(reader := _connect_read_only(path))
    except BaseException as error:
        for connection in reversed(opened):
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise explain(error, path) from error
        if isinstance(error, OSError):
            raise LedgerError(f"the ledger {path} cannot be opened: {error.strerror}") from error
        raise
    return LedgerFile(path, cipher, reader, writer, lock)


def open_for_reading(path: Path, key: bytes) -> LedgerFile:
    """Open the ledger to read it only, also while another process writes it.

    Raises:
        LedgerError: There is none, its version is another, the key is another, or the disk refuses.
    """
    if not path.is_file():
        raise LedgerError(f"there is no ledger at {path}; one is made when a job is first bought or sold")
    try:
        reader = _connect_read_only(path)
        try:
            _check_application(reader, path)
            if (version := _version(reader)) != len(MIGRATIONS):
                raise _wrong_version(path, version)
            return LedgerFile(path, _unlock(reader, key, path), reader)
        except BaseException:
            reader.close()
            raise
    except sqlite3.Error as error:
        raise explain(error, path) from error


def migrate(connection: sqlite3.Connection, migrations: tuple[str, ...]) -> None:
    """Carry out, in order, every migration that this file has not seen; each with its version in one transaction."""
    for version in range(_version(connection) + 1, len(migrations) + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {migrations[version - 1]}")
            connection.execute("INSERT INTO schema_version (version) VALUES (?)", (version,))
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _take_lock(path: Path) -> sqlite3.Connection:
    lock_path = path.with_name(path.name + ".lock")
    lock = sqlite3.connect(_created(lock_path), timeout=0, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        raise LedgerError(
            f"the ledger {path} is in use by another RelayMesh process; stop that one or name another ledger"
        ) from error
    return lock


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(_created(path), timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _connect_read_only(path: Path) -> sqlite3.Connection:
    location = path.absolute().as_uri() + "?mode=ro"
    return sqlite3.connect(location, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _created(path: Path) -> Path:
    """The path, its file made private before anything is in it; SQLite gives the files beside it the same mode."""
    with suppress(FileExistsError):
        path.touch(mode=FILE_MODE, exist_ok=False)
    return path


def _check_application(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or tables):
        raise LedgerError(f"{path} is the database of another program; name another file for the ledger")


def _prepare(writer: sqlite3.Connection, path: Path) -> None:
    for setting in _WRITER_SETTINGS:
        writer.execute(setting)
    (mode,) = writer.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise LedgerError(f"the ledger {path} lies on a file system without shared memory; put it on a local disk")
    version = _version(writer)
    if version > len(MIGRATIONS):
        raise _wrong_version(path, version)
    if version == 0:
        writer.executescript(_FIRST_WORDS)
    migrate(writer, MIGRATIONS)


def _version(connection: sqlite3.Connection) -> int:
    with closing(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'")) as found:
        if found.fetchone() is None:
            return 0
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
    return int(version)


def _wrong_version(path: Path, version: int) -> LedgerError:
    if version > len(MIGRATIONS):
        return LedgerError(f"the ledger {path} was written by a newer RelayMesh; use that one")
    return LedgerError(f"the ledger {path} is of an older RelayMesh or unfinished; run `relaymesh ledger migrate`")


def _seal(writer: sqlite3.Connection, key: bytes) -> None:
    """Bind a new ledger to the key; one that is bound stays as it is."""
    if writer.execute("SELECT 1 FROM seal").fetchone() is None:
        writer.execute("INSERT INTO seal (only_row, salt, proof) VALUES (1, ?, ?)", bind_to_key(key))


def _unlock(connection: sqlite3.Connection, key: bytes, path: Path) -> LedgerCipher:
    """The cipher of this ledger, once the key is proved to be the one it was made with."""
    row = connection.execute("SELECT salt, proof FROM seal").fetchone()
    if row is None:
        raise _wrong_version(path, 0)
    salt, proof = row
    return unlock(key, salt, proof, f"the ledger {path}")
