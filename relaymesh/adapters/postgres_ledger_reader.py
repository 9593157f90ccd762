"""What is read from a ledger in PostgreSQL: page by page, each of one moment."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from relaymesh.adapters.ledger_encryption import LedgerCipher
from relaymesh.adapters.ledger_pages import JobPage, RecordPage
from relaymesh.adapters.postgres_ledger_rows import as_row, as_values, read_tranches
from relaymesh.adapters.postgres_ledger_server import Server
from relaymesh.adapters.sql_ledger_queries import (
    ALL_SEQUENCES,
    Question,
    ask_for_evidence,
    ask_for_jobs,
    ask_for_paid_minutes,
    ask_for_payments,
)
from relaymesh.adapters.sql_ledger_rows import RecordRows, read_paid_minute
from relaymesh.adapters.sql_ledger_schema import in_postgresql
from relaymesh.errors import LedgerError
from relaymesh.machines.records import EvidenceRecord, PaymentRecord, SealedRecord
from relaymesh.ports.ledger import JobQuery, LedgerJob, PaidMinute

ResultT = TypeVar("ResultT")


class PostgresReader:
    """Reads over one connection, one page at a time.

    Args:
        connection: To the ledger, which is prepared.
        server: Explains what goes wrong.
        cipher: Opens what is sensitive.
    """

    def __init__(self, connection: Any, server: Server, cipher: LedgerCipher) -> None:
        self._connection = connection
        self._server = server
        self._rows = RecordRows(cipher)

    async def read_jobs(self, query: JobQuery, rows: int, after: tuple[int, int] | None = None) -> JobPage:
        """At most so many jobs that match, newest first; the query's own limit is the caller's affair.

        Raises:
            LedgerError: The server was lost (`retryable`) or refuses, or a row was altered.
        """
        found = await self._read(ask_for_jobs(query, rows, after), self._read_jobs)
        return JobPage.of(found, rows)

    async def read_evidence(self, job_id: str | None, rows: int, after: int = 0) -> RecordPage[EvidenceRecord]:
        """At most so many pieces of evidence of one job (or of all), in the order they were first written.

        Raises:
            LedgerError: The server was lost (`retryable`) or refuses, or a row was altered.
        """
        found = await self._read(ask_for_evidence(job_id, rows, after), self._read_evidence)
        return RecordPage.of(found, rows)

    async def read_sealed(self, question: Question, rows: int) -> RecordPage[SealedRecord]:
        """The sealed tranches that a question of `ask_for_sealed` for so many rows finds.

        Raises:
            LedgerError: The server was lost (`retryable`) or refuses, or a row was altered.
        """
        found = await self._read(question, self._read_sealed)
        return RecordPage.of(found, rows)

    async def read_payments(self, rows: int, after: int = 0) -> RecordPage[PaymentRecord]:
        """At most so many payments that are no tranches, in the order they were first written.

        Raises:
            LedgerError: The server was lost (`retryable`) or refuses, or a row was altered.
        """
        return RecordPage.of(await self._read(ask_for_payments(rows, after), self._read_payments), rows)

    async def read_paid_minutes(self, since_ms: int) -> tuple[PaidMinute, ...]:
        """What the client's side spent, or may have, since then, by the minute.

        Raises:
            LedgerError: The server was lost (`retryable`) or refuses.
        """
        return tuple(map(read_paid_minute, await self._read(ask_for_paid_minutes(since_ms), _as_they_are)))

    async def read_sequences(self) -> dict[str, int]:
        """The last sequence number of each scope.

        Raises:
            LedgerError: The server was lost (`retryable`) or refuses.
        """
        return dict(await self._read((ALL_SEQUENCES, ()), _as_they_are))

    async def _read_jobs(self, rows: list[tuple[Any, ...]]) -> list[tuple[int, LedgerJob]]:
        jobs = [(number, self._rows.read_job(tuple(row))) for number, *row in rows]
        keys = [(job.side, job.client, job.job_id) for _, job in jobs]
        tranches = await read_tranches(self._connection, self._rows, keys)
        return [(number, LedgerJob(job, tranches.get(key, ()))) for (number, job), key in zip(jobs, keys, strict=True)]

    async def _read_evidence(self, rows: list[tuple[Any, ...]]) -> list[tuple[int, EvidenceRecord]]:
        return [(number, self._rows.read_evidence(tuple(row))) for number, *row in rows]

    async def _read_payments(self, rows: list[tuple[Any, ...]]) -> list[tuple[int, PaymentRecord]]:
        return [(number, self._rows.read_payment(tuple(row))) for number, *row in rows]

    async def _read_sealed(self, rows: list[tuple[Any, ...]]) -> list[tuple[int, SealedRecord]]:
        return [(number, self._rows.read_sealed(tuple(row))) for number, *row in rows]

    async def _read(
        self, question: Question, understand: Callable[[list[tuple[Any, ...]]], Awaitable[list[ResultT]]]
    ) -> list[ResultT]:
        statement, words = question
        try:
            values = as_values(words)
        except UnicodeEncodeError:  # what is not even Unicode was never written
            return []
        with self._server.explained():
            async with self._connection.transaction(isolation="repeatable_read", readonly=True):
                rows = await self._connection.fetch(in_postgresql(statement), *values)
                try:
                    return await understand([as_row(row) for row in rows])
                except (ValueError, TypeError) as error:
                    raise LedgerError(f"{self._server.name} holds a row that cannot be read: it was altered") from error


async def _as_they_are(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return rows
