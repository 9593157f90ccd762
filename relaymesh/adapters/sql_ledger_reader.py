"""What is read from the ledger: page by page, so that a long listing holds up nobody and ends with its caller."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from relaymesh.adapters.sql_ledger_file import LedgerFile, explain
from relaymesh.adapters.sql_ledger_rows import GET_EVIDENCE, GET_JOBS, GET_TRANCHES, RecordRows
from relaymesh.errors import LedgerError
from relaymesh.machines.records import EvidenceRecord
from relaymesh.ports.ledger import JobQuery, LedgerJob

PAGE_ROWS: Final = 256

_LARGEST: Final = 2**63 - 1
_LAST_CHARACTER: Final = "\U0010ffff"
# Sub-queries, so that SQLite looks the few rows up in their own index instead of walking the one that is in order.
_HAS_ID: Final = "number IN (SELECT number FROM job WHERE job_id BETWEEN ? AND ?)"
_IS_UNRESOLVED: Final = """number IN (
    SELECT number FROM job WHERE state IN ('open', 'unknown')
    UNION
    SELECT job.number FROM tranche JOIN job USING (side, client, job_id)
    WHERE tranche.state NOT IN ('released', 'failed', 'expired')
)"""
_ALL_EVIDENCE: Final = GET_EVIDENCE + " WHERE number > ? ORDER BY number LIMIT ?"
_IS_OF_JOB: Final = """number IN (
    SELECT number FROM evidence WHERE job_id = ?
    UNION
    SELECT evidence.number FROM job JOIN evidence ON evidence.side = job.side AND evidence.event_id = job.quote_id
    WHERE job.job_id = ?
)"""
_EVIDENCE_OF_JOB: Final = GET_EVIDENCE + " WHERE " + _IS_OF_JOB + " AND number > ? ORDER BY number LIMIT ?"

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs; the next page begins after (`created_at_ms`, row number) `last`, which is None when there is none."""

    jobs: tuple[LedgerJob, ...]
    last: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class EvidencePage:
    """Some evidence; the next page begins after row number `last`, which is None when there is none."""

    evidence: tuple[EvidenceRecord, ...]
    last: int | None


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
        conditions, values = ["(created_at_ms, number) < (?, ?)"], [*(after or (_LARGEST, _LARGEST))]
        words: list[str] = []
        if query.side is not None:
            conditions.append("+side = ?")  # the plus: of no use to an index, or SQLite would sort half the table
            words.append(query.side)
        if query.job_id:
            conditions.append(_HAS_ID)
            words += [query.job_id, query.job_id + _LAST_CHARACTER]
        if query.only_unresolved:
            conditions.append(_IS_UNRESOLVED)
        order = "ORDER BY created_at_ms DESC, number DESC LIMIT ?"
        question = " ".join((GET_JOBS, "WHERE", " AND ".join(conditions), order))
        found = self._read(lambda: self._fetch_jobs(question, (*values, *words, rows)))
        last = (found[-1][1].job.created_at_ms, found[-1][0]) if len(found) == rows else None
        return JobPage(tuple(job for _, job in found), last)

    def read_evidence(self, job_id: str | None, after: int = 0) -> EvidencePage:
        """The next `PAGE_ROWS` pieces of evidence of one job (or of all), in the order they were first written.

        Raises:
            LedgerError: The file cannot be read, or was altered.
        """
        if job_id is None:
            found = self._read(lambda: self._fetch_evidence(_ALL_EVIDENCE, (after, PAGE_ROWS)))
        else:
            found = self._read(lambda: self._fetch_evidence(_EVIDENCE_OF_JOB, (job_id, job_id, after, PAGE_ROWS)))
        return EvidencePage(tuple(evidence for _, evidence in found), found[-1][0] if len(found) == PAGE_ROWS else None)

    def _fetch_jobs(self, question: str, values: tuple[object, ...]) -> list[tuple[int, LedgerJob]]:
        found = []
        for number, *row in self._connection.execute(question, values).fetchall():
            job = self._rows.read_job(tuple(row))
            tranches = self._connection.execute(GET_TRANCHES, (job.side, job.client, job.job_id, 0, _LARGEST))
            found.append((number, LedgerJob(job, tuple(map(self._rows.read_tranche, tranches)))))
        return found

    def _fetch_evidence(self, question: str, values: tuple[object, ...]) -> list[tuple[int, EvidenceRecord]]:
        rows = self._connection.execute(question, values).fetchall()
        return [(number, self._rows.read_evidence(tuple(row))) for number, *row in rows]

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
