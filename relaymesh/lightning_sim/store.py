"""The simulated network's file: every change is in it before anybody is told.

SQLite in WAL mode. A commit survives the end of the process at any instant (kill −9); against a power cut it is not
synced, since the money is not real. It is written from the event loop: nothing may be answered before the commit
anyway, and a commit takes some 50 µs.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Self

from pydantic import TypeAdapter, ValidationError

from relaymesh.errors import LedgerError
from relaymesh.lightning_sim.ledger import Change, Ledger
from relaymesh.lightning_sim.records import RECORD_KINDS, Record

_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS records (kind TEXT, key TEXT, body TEXT NOT NULL, PRIMARY KEY (kind, key))"
_FORMAT: Final = 1


class Store:
    """The open file; `close` it.

    Args:
        path: Made, readable by its owner alone, where there is none.

    Raises:
        LedgerError: The file cannot be opened, or was written by another version.
    """

    def __init__(self, path: Path) -> None:
        self._adapters: dict[str, TypeAdapter[Any]] = {kind.__name__: TypeAdapter(kind) for kind in RECORD_KINDS}
        self._path = path
        try:
            path.touch(mode=0o600)
            self._database = sqlite3.connect(path, isolation_level=None)
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise LedgerError(f"the simulated network's file {path} cannot be opened: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; all of it is there already."""
        self._database.close()

    def load(self) -> Ledger:
        """All records."""
        ledger = Ledger()
        try:
            with closing(self._database.execute("SELECT kind, body FROM records ORDER BY rowid")) as rows:
                for kind, body in rows:
                    ledger.put(self._adapters[kind].validate_json(body))
        except (sqlite3.Error, ValidationError, KeyError) as error:
            raise LedgerError(
                f"the simulated network's file {self._path} is damaged: {type(error).__name__}"
            ) from error
        ledger.take_changes()
        return ledger

    def save(self, changes: Iterable[Change]) -> None:
        """Write all changes or none."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            for change in changes:
                self._write(change.record, is_removed=change.is_removed)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise LedgerError(f"the simulated network's file {self._path} cannot be written: {error}") from error

    def _write(self, record: Record, *, is_removed: bool) -> None:
        kind = type(record).__name__
        if is_removed:
            self._database.execute("DELETE FROM records WHERE kind = ? AND key = ?", (kind, record.key))
            return
        body = self._adapters[kind].dump_json(record).decode()
        self._database.execute(
            "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body",
            (kind, record.key, body),
        )

    def _prepare(self) -> None:
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        (written_format,) = self._database.execute("PRAGMA user_version").fetchone()
        if written_format not in (0, _FORMAT):
            raise LedgerError(f"the simulated network's file {self._path} was written by another version")
        self._database.execute(_SCHEMA)
        self._database.execute(f"PRAGMA user_version = {_FORMAT}")
