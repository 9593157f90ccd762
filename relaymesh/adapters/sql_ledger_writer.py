"""The ledger's one writer: many changes in one durable transaction, each failing alone where it breaks a rule."""

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import orjson

from relaymesh.adapters.ledger_changes import Change, NextSequence, Outcome, next_value, unwritable
from relaymesh.adapters.sql_ledger_file import LedgerFile, explain
from relaymesh.adapters.sql_ledger_rows import (
    GET_PAYMENTS,
    GET_SEALED,
    GET_TRANCHES,
    PUT_EVIDENCE,
    PUT_JOB,
    PUT_PAYMENT,
    PUT_SEALED,
    PUT_TRANCHE,
    RecordRows,
)
from relaymesh.errors import LedgerError
from relaymesh.machines.records import (
    EvidenceRecord,
    JobRecord,
    LedgerRecord,
    PaymentRecord,
    SealedRecord,
    TrancheRecord,
)
from relaymesh.ports.ledger_rules import (
    check_stays_paid,
    check_stays_sealed,
    check_stays_terminal,
    missing_job,
    missing_tranche,
    repeated_payment_hash,
)

ERASE_AFTER_SECONDS: Final = 1.0
_BUSY_MILLISECONDS: Final = 5_000
_GET_ONE_SEALED: Final = GET_SEALED + " WHERE side = ? AND client = ? AND job_id = ? AND tranche = ?"
_GET_ONE_PAYMENT: Final = GET_PAYMENTS + " WHERE payment_hash = ?"
_UNWRITABLE: Final = (
    UnicodeEncodeError,
    orjson.JSONEncodeError,
    OverflowError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
)
"""What a record raises that no ledger could hold; it fails alone."""


class LedgerWriter:
    """Writes to an open ledger; its methods block, and may be called from any thread, one at a time.

    Args:
        file: The ledger, open for writing.
        erase_after_seconds: How long what a record erased may stay in the write-ahead log.
    """

    def __init__(self, file: LedgerFile, *, erase_after_seconds: float = ERASE_AFTER_SECONDS) -> None:
        assert file.writer is not None
        self._file = file
        self._connection = file.writer
        self._rows = RecordRows(file.cipher)
        self._erase_after_seconds = erase_after_seconds
        self._lock = threading.Lock()  # between whoever commits and the timer that erases
        self._timer: threading.Timer | None = None
        self._has_erased = False
        self._is_closed = False

    def commit(self, changes: Sequence[Change]) -> list[Outcome]:
        """Carry out these changes in one transaction that is durable on return.

        Returns:
            For each change its sequence number (0 where it drew none), or why it was not carried out. A change that
            breaks a rule fails alone; what the disk refuses fails all.
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                outcomes = [self._apply_alone(change) for change in changes]
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                return [_caused(explain(error, self._file.path), error) for _ in changes]
            except BaseException:
                self._roll_back()
                raise
            if self._has_erased and self._timer is None:
                self._start_timer()
            return outcomes

    def close(self) -> None:
        """Erase what is left to erase; the file stays open."""
        with self._lock:
            self._is_closed = True
            timer = self._timer
            self._empty_log()
        if timer is not None:
            timer.cancel()
            timer.join()

    def _apply_alone(self, change: Change) -> Outcome:
        self._connection.execute("SAVEPOINT change")
        try:
            outcome = self._apply(change)
        except LedgerError as error:
            self._connection.execute("ROLLBACK TO change")
            self._connection.execute("RELEASE change")
            return error
        self._connection.execute("RELEASE change")
        return outcome

    def _apply(self, change: Change) -> int:
        try:
            if isinstance(change, NextSequence):
                return self._draw(change)
            for record in change:
                self._put(record)
        except _UNWRITABLE:
            raise unwritable() from None  # without its cause, which may hold a prompt
        return 0

    def _draw(self, change: NextSequence) -> int:
        row = self._connection.execute("SELECT value FROM sequence WHERE scope = ?", (change.scope,)).fetchone()
        value = next_value(None if row is None else row[0], change)
        self._connection.execute("INSERT OR REPLACE INTO sequence (scope, value) VALUES (?, ?)", (change.scope, value))
        return value

    def _put(self, record: LedgerRecord) -> None:
        match record:
            case JobRecord(side=side, client=client, job_id=job_id, body=body):
                if not body:
                    self._note_erasure(
                        "SELECT body FROM job WHERE side = ? AND client = ? AND job_id = ?", side, client, job_id
                    )
                self._connection.execute(PUT_JOB, self._rows.of_job(record))
            case TrancheRecord():
                self._put_tranche(record)
            case SealedRecord():
                self._put_sealed(record)
            case PaymentRecord():
                row = self._connection.execute(_GET_ONE_PAYMENT, (record.payment_hash,)).fetchone()
                check_stays_paid(None if row is None else self._rows.read_payment(row[1:]), record)
                self._connection.execute(PUT_PAYMENT, self._rows.of_payment(record))
            case EvidenceRecord(side=side, event=event, plaintext=plaintext):
                if not plaintext:
                    self._note_erasure("SELECT plaintext FROM evidence WHERE side = ? AND event_id = ?", side, event.id)
                self._connection.execute(PUT_EVIDENCE, self._rows.of_evidence(record))

    def _put_tranche(self, record: TrancheRecord) -> None:
        key = (record.side, record.client, record.job_id, record.tranche, record.tranche)
        row = self._connection.execute(GET_TRANCHES, key).fetchone()
        stored = None if row is None else self._rows.read_tranche(row)
        check_stays_terminal(stored, record)
        if stored == record:
            return
        try:
            self._connection.execute(PUT_TRANCHE, self._rows.of_tranche(record))
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
                raise missing_job(record) from error
            if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_UNIQUE:
                raise repeated_payment_hash(record) from error
            raise
        if stored is not None and stored.preimage and not record.preimage:
            self._has_erased = True

    def _put_sealed(self, record: SealedRecord) -> None:
        key = (record.side, record.client, record.job_id, record.tranche)
        row = self._connection.execute(_GET_ONE_SEALED, key).fetchone()
        stored = None if row is None else self._rows.read_sealed(row[1:])
        check_stays_sealed(stored, record)
        try:
            self._connection.execute(PUT_SEALED, self._rows.of_sealed(record))
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
                raise missing_tranche(record) from error
            raise
        if stored is not None and stored.leaves and not record.leaves:
            self._has_erased = True

    def _note_erasure(self, question: str, *key: str) -> None:
        row = self._connection.execute(question, key).fetchone()
        if row is not None and row[0] is not None:
            self._has_erased = True

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # a full disk has ended the transaction already
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _start_timer(self) -> None:
        self._timer = threading.Timer(self._erase_after_seconds, self._erase)
        self._timer.daemon = True
        self._timer.start()

    def _erase(self) -> None:
        """In a thread of the timer's: what a record erased must not live on in the write-ahead log."""
        with self._lock:
            self._timer = None
            if self._is_closed:
                return
            self._empty_log()
            if self._has_erased:
                self._start_timer()

    def _empty_log(self) -> None:
        if not self._has_erased:
            return
        with suppress(sqlite3.Error):  # a disk that fails is told to whoever writes next
            self._connection.execute("PRAGMA busy_timeout = 0")
            (busy, _, _) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._has_erased = bool(busy)
        self._connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")


def _caused(error: LedgerError, cause: sqlite3.Error) -> LedgerError:
    error.__cause__ = cause
    return error
