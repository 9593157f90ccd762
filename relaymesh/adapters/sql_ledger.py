"""The ledger in one SQLite file: what was acknowledged survives `kill -9`, what is sensitive is encrypted (RM-03).

Writes are grouped: while one transaction goes to the disk, whoever else wants to write queues up, and the next
transaction carries them all. So a flush to the disk, which is what a durable write costs, is shared by all who wait.
Blocking work is done in threads, one for writing and one for reading at a time.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

import anyio
import anyio.to_thread

from relaymesh.adapters.sql_ledger_file import LedgerFile, open_for_reading, open_for_writing
from relaymesh.adapters.sql_ledger_reader import PAGE_ROWS, LedgerReader
from relaymesh.adapters.sql_ledger_writer import Change, LedgerWriter, NextSequence
from relaymesh.errors import LedgerError
from relaymesh.machines.records import EvidenceRecord, LedgerRecord
from relaymesh.ports.ledger import JobQuery, LedgerJob
from relaymesh.units import Timestamp

MAXIMUM_GROUP: Final = 256
"""How many writes share a transaction at most, so that none of them waits for a very long one."""

ResultT = TypeVar("ResultT")


@dataclass(slots=True, eq=False)
class _Submitted:
    """A change that some task waits for; `outcome` is None until it is durable or refused."""

    change: Change
    outcome: int | LedgerError | None = None


class SqlLedger:
    """A ledger in an SQLite file (`relaymesh.ports.ledger.Ledger`); made by `SqlLedger.open`."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file
        self._reader = LedgerReader(file)
        self._writer = None if file.writer is None else LedgerWriter(file)
        self._writing = anyio.Lock()
        self._queue: list[_Submitted] = []
        # Limiters of their own: money must not wait for whatever else keeps the process's threads busy.
        self._write_limiter = anyio.CapacityLimiter(1)
        self._read_limiter = anyio.CapacityLimiter(1)
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
        jobs: list[LedgerJob] = []
        after: tuple[int, int] | None = None
        while (wanted := min(query.limit - len(jobs), PAGE_ROWS)) > 0:
            page = await self._read(partial(self._reader.read_jobs, query, wanted, after))
            jobs += page.jobs
            if (after := page.last) is None:
                break
        return tuple(jobs)

    async def find_evidence(self, job_id: str | None = None) -> tuple[EvidenceRecord, ...]:
        """The evidence of one job, the quote it cites included, or of all, each signature checked; first written first.

        Raises:
            LedgerError: The file cannot be read, or was altered.
        """
        evidence: list[EvidenceRecord] = []
        after: int | None = 0
        while after is not None:
            page = await self._read(partial(self._reader.read_evidence, job_id, after))
            evidence += page.evidence
            after = page.last
        return tuple(evidence)

    async def _submit(self, change: Change) -> int:
        """Queue a change; then whoever holds the lock first writes all that are queued, the others find it done."""
        submitted = _Submitted(change)
        self._queue.append(submitted)
        try:
            async with self._writing:
                if submitted.outcome is None:
                    await self._write_queued()
        finally:
            if submitted.outcome is None:  # cancelled, or failed before anything was begun: nobody waits for it
                self._queue.remove(submitted)
        assert submitted.outcome is not None
        if isinstance(submitted.outcome, LedgerError):
            raise submitted.outcome
        return submitted.outcome

    async def _write_queued(self) -> None:
        """One transaction for everything queued; the lock is held."""
        if self._is_closed or self._writer is None:
            raise LedgerError("the ledger is closed" if self._is_closed else "the ledger was opened only to be read")
        group = self._queue[:MAXIMUM_GROUP]
        changes = [submitted.change for submitted in group]
        outcomes = await anyio.to_thread.run_sync(self._writer.commit, changes, limiter=self._write_limiter)
        for submitted, outcome in zip(group, outcomes, strict=True):
            submitted.outcome = outcome
        self._queue = [submitted for submitted in self._queue if submitted.outcome is None]

    async def _read(self, read: Callable[[], ResultT]) -> ResultT:
        if self._is_closed:
            raise LedgerError("the ledger is closed")
        return await anyio.to_thread.run_sync(read, limiter=self._read_limiter)

    async def _close(self) -> None:
        async with self._writing:
            self._is_closed = True
            await anyio.to_thread.run_sync(self._close_file, limiter=self._write_limiter)

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._file.close()
