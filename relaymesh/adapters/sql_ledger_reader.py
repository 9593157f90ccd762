"""What is read from the ledger: page by page, so that a long listing holds up nobody and ends with its caller."""

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from relaymesh.adapters.ledger_pages import JobPage, RecordPage
from relaymesh.adapters.sql_ledger_file import LedgerFile, explain
from relaymesh.adapters.sql_ledger_queries import (
    ALL_SEQUENCES,
    LARGEST,
    Question,
    ask_for_evidence,
    ask_for_jobs,
    ask_for_paid_minutes,
    ask_for_payments,
)
from relaymesh.adapters.sql_ledger_rows import GET_TRANCHES, RecordRows, read_paid_minute
from relaymesh.errors import LedgerError
from relaymesh.machines.records import EvidenceRecord, PaymentRecord, SealedRecord
from relaymesh.ports.ledger import JobQuery, LedgerJob, PaidMinute

ResultT = TypeVar("ResultT")


class LedgerReader:
    """Reads from an open ledger; its methods block, and may be called from any thread, one at a time."""

    def __init__(self, file: LedgerFile) -> None:
        self._path = file.path
        self._connection = file.reader
        self._rows = RecordRows(file.cipher)

    def read_jobs(self, query: JobQuery, rows: int, after: tuple[int, int] | None = None) -> JobPage:
        """At most so many jobs that match, newest first; the query's own limit is the caller's affair.

        Raises:
            LedgerError: The file cannot be read, or was altered.
        """
        question = ask_for_jobs(query, rows, after)
        found = self._read(lambda: self._fetch_jobs(*question))
        return JobPage.of(found, rows)

    def read_evidence(self, job_id: str | None, rows: int, after: int = 0) -> RecordPage[EvidenceRecord]:
        """At most so many pieces of evidence of one job (or of all), in the order they were first written.

        Raises:
            LedgerError: The file cannot be read, or was altered.
        """
        question = ask_for_evidence(job_id, rows, after)
        found = self._read(lambda: self._fetch_evidence(*question))
        return RecordPage.of(found, rows)

    def read_sealed(self, question: Question, rows: int) -> RecordPage[SealedRecord]:
        """The sealed tranches that a question of `ask_for_sealed` for so many rows finds.

        Raises:
            LedgerError: The file cannot be read, or was altered.
        """
        found = self._read(lambda: self._fetch_sealed(*question))
        return RecordPage.of(found, rows)

    def read_payments(self, rows: int, after: int = 0) -> RecordPage[PaymentRecord]:
        """At most so many payments that are no tranches, in the order they were first written.

        Raises:
            LedgerError: The file cannot be read, or was altered.
        """
        found = self._read(lambda: self._fetch_payments(*ask_for_payments(rows, after)))
        return RecordPage.of(found, rows)

    def read_paid_minutes(self, since_ms: int) -> tuple[PaidMinute, ...]:
        """What the client's side spent, or may have, since then, by the minute.

        Raises:
            LedgerError: The file cannot be read.
        """
        found = self._read(lambda: self._connection.execute(*ask_for_paid_minutes(since_ms)).fetchall())
        return tuple(map(read_paid_minute, found))

    def read_sequences(self) -> dict[str, int]:
        """The last sequence number of each scope.

        Raises:
            LedgerError: The file cannot be read.
        """
        return dict(self._read(lambda: self._connection.execute(ALL_SEQUENCES).fetchall()))

    def _fetch_jobs(self, question: str, values: tuple[object, ...]) -> list[tuple[int, LedgerJob]]:
        found = []
        for number, *row in self._connection.execute(question, values).fetchall():
            job = self._rows.read_job(tuple(row))
            tranches = self._connection.execute(GET_TRANCHES, (job.side, job.client, job.job_id, 0, LARGEST))
            found.append((number, LedgerJob(job, tuple(map(self._rows.read_tranche, tranches)))))
        return found

    def _fetch_evidence(self, question: str, values: tuple[object, ...]) -> list[tuple[int, EvidenceRecord]]:
        rows = self._connection.execute(question, values).fetchall()
        return [(number, self._rows.read_evidence(tuple(row))) for number, *row in rows]

    def _fetch_payments(self, question: str, values: tuple[object, ...]) -> list[tuple[int, PaymentRecord]]:
        rows = self._connection.execute(question, values).fetchall()
        return [(number, self._rows.read_payment(tuple(row))) for number, *row in rows]

    def _fetch_sealed(self, question: str, values: tuple[object, ...]) -> list[tuple[int, SealedRecord]]:
        rows = self._connection.execute(question, values).fetchall()
        return [(number, self._rows.read_sealed(tuple(row))) for number, *row in rows]

    def _read(self, fetch: Callable[[], list[ResultT]]) -> list[ResultT]:
        """Fetch within one read transaction, so that jobs and tranches are of the same moment."""
        try:
            self._connection.execute("BEGIN")
            try:
                return fetch()
            finally:
                self._connection.execute("COMMIT")
        except UnicodeEncodeError:  # what is not even Unicode was never written
            return []
        except sqlite3.Error as error:
            raise explain(error, self._path) from error
        except (ValueError, TypeError) as error:
            raise LedgerError(f"the ledger {self._path} holds a row that cannot be read: it was altered") from error
