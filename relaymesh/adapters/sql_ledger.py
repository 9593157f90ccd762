"""The ledger in one SQLite file: what was acknowledged survives `kill -9`, what is sensitive is encrypted (RM-03).

Writes are grouped: while one transaction goes to the disk, whoever else wants to write queues up, and the next
transaction carries them all. So a flush to the disk, which is what a durable write costs, is shared by all who wait.
Blocking work is done in threads: one writes, one at a time reads.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from relaymesh.adapters.ledger_changes import Change, NextSequence
from relaymesh.adapters.ledger_pages import (
    PAGE_ROWS,
    SEALED_PAGE_ROWS,
    RecordPage,
    gather_jobs,
    gather_records,
    in_tranche_order,
)
from relaymesh.adapters.sql_ledger_file import LedgerFile, open_for_reading, open_for_writing
from relaymesh.adapters.sql_ledger_queries import ask_for_sealed
from relaymesh.adapters.sql_ledger_reader import LedgerReader
from relaymesh.adapters.sql_ledger_thread import CommitThread
from relaymesh.adapters.sql_ledger_writer import LedgerWriter
from relaymesh.errors import LedgerError
from relaymesh.machines.records import EvidenceRecord, LedgerRecord, PaymentRecord, SealedRecord, Side
from relaymesh.nostr.event import PublicKey
from relaymesh.ports.ledger import JobQuery, LedgerJob, PaidMinute
from relaymesh.units import Timestamp

ResultT = TypeVar("ResultT")


class SqlLedger:
    """A ledger in an SQLite file (`relaymesh.ports.ledger.Ledger`); made by `SqlLedger.open`."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file
        self._reader = LedgerReader(file)
        self._writer = None if file.writer is None else LedgerWriter(file)
        self._thread = None if self._writer is None else CommitThread(self._writer.commit)
        self._limiter = anyio.CapacityLimiter(1)  # of its own: reading must not wait for the process's other threads
        self._is_closed = False

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, *, key: bytes, read_only: bool = False) -> AsyncIterator[Self]:
        """Open the ledger at `path`, or make it; on leaving, what was erased is gone from the disk.

        Args:
            path: The file; its folder is made (0700) where there is none, the file is private (0600).
            key: 32 bytes that its sensitive fields are encrypted under; `relaymesh.adapters.key_files` keeps them.
            read_only: Read an existing ledger, also while another process writes it.

        Raises:
            LedgerError: Another process writes this ledger, the key is another one's, the file is no ledger or a newer
                one, or the disk refuses.
        """
        opener: Callable[[Path, bytes], LedgerFile] = open_for_reading if read_only else open_for_writing
        ledger = cls(await anyio.to_thread.run_sync(opener, path, key))
        if ledger._thread is not None:
            ledger._thread.start()
        try:
            yield ledger
        finally:
            with anyio.CancelScope(shield=True):  # bounded: the transaction on its way, and one checkpoint
                await ledger._close()

    async def write(self, records: tuple[LedgerRecord, ...]) -> None:
        """Insert or replace these records in one transaction; returns only when they are durable.

        Raises:
            LedgerError: They break a rule, or the disk refuses, or the ledger is read-only or closed; none of them was
                written.
        """
        await self._submit(records)

    async def next_sequence(self, scope: str, now: Timestamp) -> int:
        """max(last + 1, `now`) for this scope, durable before it is returned (RM-01); LedgerError as for `write`."""
        return await self._submit(NextSequence(scope, now))

    async def find_jobs(self, query: JobQuery) -> tuple[LedgerJob, ...]:
        """The jobs that match, newest first; of two made in the same millisecond the one written later.

        Raises:
            LedgerError: The file cannot be read, or was altered.
        """
        return await gather_jobs(
            query.limit, lambda rows, after: self._read(partial(self._reader.read_jobs, query, rows, after))
        )

    async def find_evidence(self, job_id: str | None = None) -> tuple[EvidenceRecord, ...]:
        """The evidence of one job, the quote it cites included, or of all, each signature checked; first written first.

        Raises:
            LedgerError: The file cannot be read, or was altered.
        """
        return await gather_records(
            PAGE_ROWS, lambda rows, after: self._read(partial(self._reader.read_evidence, job_id, rows, after))
        )

    async def find_sealed(
        self, side: Side | None = None, client: PublicKey | None = None, job_id: str | None = None
    ) -> tuple[SealedRecord, ...]:
        """What was delivered sealed for one job, in the order of its tranches; or for all, as it was first written.

        Raises:
            LedgerError: The file cannot be read, or was altered.
        """

        def read(rows: int, after: int) -> Awaitable[RecordPage[SealedRecord]]:
            return self._read(
                partial(self._reader.read_sealed, ask_for_sealed(side, client, job_id, rows, after), rows)
            )

        return in_tranche_order(await gather_records(SEALED_PAGE_ROWS, read), job_id)

    async def paid_by_minute(self, since_ms: int) -> tuple[PaidMinute, ...]:
        """What the client's side has paid or may yet have paid, fees included, by the minute in which it was opened.

        Raises:
            LedgerError: The file cannot be read.
        """
        return await self._read(partial(self._reader.read_paid_minutes, since_ms))

    async def find_payments(self) -> tuple[PaymentRecord, ...]:
        """The payments that are no tranches of jobs, in the order in which they were first written.

        Raises:
            LedgerError: The file cannot be read, or was altered.
        """
        return await gather_records(
            PAGE_ROWS, lambda rows, after: self._read(partial(self._reader.read_payments, rows, after))
        )

    async def sequences(self) -> dict[str, int]:
        """The last sequence number of each scope, to be taken along to another ledger; LedgerError as for reading."""
        return await self._read(self._reader.read_sequences)

    async def _submit(self, change: Change) -> int:
        """Have a change written; whoever is cancelled meanwhile waits for the transaction, which may carry others'."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        if self._is_closed or self._thread is None:
            raise LedgerError("the ledger is closed" if self._is_closed else "the ledger was opened only to be read")
        with anyio.CancelScope(shield=True):  # bounded by the disk, as every transaction is
            outcome = await self._thread.submit(change)
        if isinstance(outcome, LedgerError):
            raise outcome
        return outcome

    async def _read(self, read: Callable[[], ResultT]) -> ResultT:
        if self._is_closed:
            raise LedgerError("the ledger is closed")
        return await anyio.to_thread.run_sync(read, limiter=self._limiter)

    async def _close(self) -> None:
        self._is_closed = True
        await anyio.to_thread.run_sync(self._close_file, limiter=self._limiter)

    def _close_file(self) -> None:
        if self._thread is not None:
            self._thread.close()
        if self._writer is not None:
            self._writer.close()
        self._file.close()
