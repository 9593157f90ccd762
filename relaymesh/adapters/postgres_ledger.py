"""The ledger in a PostgreSQL database: the same rules, tables and encryption as in a file (RM-03).

Writes are grouped as they are in a file: whoever comes while a transaction is under way is in the next one. A
connection that breaks is made anew and what was under way is carried out again, which changes nothing where it had
been already.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Self, TypeVar

import anyio
import anyio.lowlevel

from relaymesh.adapters.ledger_changes import MAXIMUM_GROUP, Change, NextSequence, Outcome
from relaymesh.adapters.ledger_pages import (
    PAGE_ROWS,
    SEALED_PAGE_ROWS,
    RecordPage,
    gather_jobs,
    gather_records,
    in_tranche_order,
)
from relaymesh.adapters.postgres_ledger_reader import PostgresReader
from relaymesh.adapters.postgres_ledger_schema import open_prepared, prepare
from relaymesh.adapters.postgres_ledger_server import Server, find_server
from relaymesh.adapters.postgres_ledger_writer import PostgresWriter
from relaymesh.adapters.sql_ledger_queries import ask_for_sealed
from relaymesh.errors import LedgerError
from relaymesh.machines.records import EvidenceRecord, LedgerRecord, PaymentRecord, SealedRecord, Side
from relaymesh.nostr.event import PublicKey
from relaymesh.ports.ledger import JobQuery, LedgerJob, PaidMinute
from relaymesh.units import Timestamp

RECONNECT_SECONDS: Final = 15.0
_PAUSE_SECONDS: Final = 0.2
_TAKEN_SECONDS: Final = 2.0
_TAKE: Final = "SELECT pg_try_advisory_lock(hashtextextended('relaymesh writer ' || $1, 0))"

ResultT = TypeVar("ResultT")
UserT = TypeVar("UserT")


@dataclass(slots=True, eq=False)
class _Waiting:
    """A change that some task waits for."""

    change: Change
    outcome: Outcome | None = None


class _Line(Generic[UserT]):
    """One connection, made when it is needed and made anew when it is lost; used by one at a time."""

    def __init__(self, connect: Callable[[], Awaitable[tuple[Any, UserT]]]) -> None:
        self._connect = connect
        self._connection: Any = None
        self._user: UserT | None = None
        self.turn = anyio.Lock()

    async def use(self, call: Callable[[UserT], Awaitable[ResultT]]) -> ResultT:
        """Call with who uses the connection, again over a new one where it is lost; the caller has the turn.

        Raises:
            LedgerError: The call raised it, or no connection could be made within `RECONNECT_SECONDS`.
        """
        deadline: float | None = None
        while True:
            try:
                return await call(self._user or await self.open())
            except LedgerError as error:
                if not error.retryable:
                    raise
                self.close()
                deadline = deadline or anyio.current_time() + RECONNECT_SECONDS
                if anyio.current_time() >= deadline:
                    raise
                await anyio.sleep(_PAUSE_SECONDS)
            except BaseException:  # cancelled, perhaps in the middle of an answer
                self.close()
                raise

    async def open(self) -> UserT:
        """Make the connection; LedgerError if that cannot be done now."""
        self._connection, self._user = await self._connect()
        return self._user

    def close(self) -> None:
        """Let go of the connection at once; the server undoes what was not committed."""
        connection, self._connection, self._user = self._connection, None, None
        if connection is not None:
            connection.terminate()


class PostgresLedger:
    """A ledger in a PostgreSQL database (`relaymesh.ports.ledger.Ledger`); made by `PostgresLedger.open`."""

    def __init__(self, server: Server, key: bytes, *, read_only: bool, shared: bool) -> None:
        self._server = server
        self._key = key
        self._is_shared = shared
        self._is_read_only = read_only
        self._is_closed = False
        self._writing: _Line[PostgresWriter] = _Line(self._connect_writer)
        self._reading: _Line[PostgresReader] = _Line(self._connect_reader)
        self._waiting: deque[_Waiting] = deque()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, *, key: bytes, part: str = "", read_only: bool = False, shared: bool = False
    ) -> AsyncIterator[Self]:
        """Open the ledger in this database, or make it.

        Args:
            url: `postgresql://user@host:5432/database`; `?search_path=` names another schema than `relaymesh`.
            key: 32 bytes that its sensitive fields are encrypted under; `relaymesh.adapters.key_files` keeps them.
            part: Where several ledgers share a database, what the schema of this one ends in.
            read_only: Read an existing ledger, also while another process writes it.
            shared: Write also while another process does. Every rule holds between them, but whoever resolves what a
                crash left behind would take the other's jobs for that; so roles write alone.

        Raises:
            LedgerError: Another process writes this ledger, the key is another one's, the tables are another program's
                or a newer RelayMesh's, or the server cannot be reached or refuses.
        """
        ledger = cls(find_server(url, part), key, read_only=read_only, shared=shared)
        try:
            await (ledger._reading if read_only else ledger._writing).open()
            yield ledger
        finally:
            ledger._is_closed = True
            ledger._writing.close()
            ledger._reading.close()

    async def write(self, records: tuple[LedgerRecord, ...]) -> None:
        """Insert or replace these records in one transaction; returns only when they are durable.

        Raises:
            LedgerError: They break a rule, or the server refuses, or the ledger is read-only or closed, and none of
                them was written; or the server was lost while they were, and it may have them, as after a crash.
        """
        await self._submit(records)

    async def next_sequence(self, scope: str, now: Timestamp) -> int:
        """max(last + 1, `now`) for this scope, durable before it is returned (RM-01); LedgerError as for `write`."""
        return await self._submit(NextSequence(scope, now))

    async def find_jobs(self, query: JobQuery) -> tuple[LedgerJob, ...]:
        """The jobs that match, newest first; of two made in the same millisecond the one written later.

        Raises:
            LedgerError: The server cannot be reached or refuses, or a row was altered.
        """
        return await gather_jobs(
            query.limit,
            lambda rows, after: self._read(partial(PostgresReader.read_jobs, query=query, rows=rows, after=after)),
        )

    async def find_evidence(self, job_id: str | None = None) -> tuple[EvidenceRecord, ...]:
        """The evidence of one job, the quote it cites included, or of all, each signature checked; first written first.

        Raises:
            LedgerError: The server cannot be reached or refuses, or a row was altered.
        """
        return await gather_records(
            PAGE_ROWS,
            lambda rows, after: self._read(
                partial(PostgresReader.read_evidence, job_id=job_id, rows=rows, after=after)
            ),
        )

    async def find_sealed(
        self, side: Side | None = None, client: PublicKey | None = None, job_id: str | None = None
    ) -> tuple[SealedRecord, ...]:
        """What was delivered sealed for one job, in the order of its tranches; or for all, as it was first written.

        Raises:
            LedgerError: The server cannot be reached or refuses, or a row was altered.
        """

        def read(rows: int, after: int) -> Awaitable[RecordPage[SealedRecord]]:
            question = ask_for_sealed(side, client, job_id, rows, after)
            return self._read(partial(PostgresReader.read_sealed, question=question, rows=rows))

        return in_tranche_order(await gather_records(SEALED_PAGE_ROWS, read), job_id)

    async def paid_by_minute(self, since_ms: int) -> tuple[PaidMinute, ...]:
        """What the client's side has paid or may yet have paid, fees included, by the minute in which it was opened.

        Raises:
            LedgerError: The server cannot be reached or refuses.
        """
        return await self._read(partial(PostgresReader.read_paid_minutes, since_ms=since_ms))

    async def find_payments(self) -> tuple[PaymentRecord, ...]:
        """The payments that are no tranches of jobs, in the order in which they were first written.

        Raises:
            LedgerError: The server cannot be reached or refuses, or a row was altered.
        """
        return await gather_records(
            PAGE_ROWS,
            lambda rows, after: self._read(partial(PostgresReader.read_payments, rows=rows, after=after)),
        )

    async def sequences(self) -> dict[str, int]:
        """The last sequence number of each scope, to be taken along to another ledger; LedgerError as for reading."""
        return await self._read(PostgresReader.read_sequences)

    async def _read(self, read: Callable[[PostgresReader], Awaitable[ResultT]]) -> ResultT:
        self._check_is_open()
        async with self._reading.turn:
            return await self._reading.use(read)

    async def _submit(self, change: Change) -> int:
        """Have a change written; whoever is cancelled meanwhile waits for the transaction, which may carry others'."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._check_is_open()
        if self._is_read_only:
            raise LedgerError("the ledger was opened only to be read")
        waiting = _Waiting(change)
        self._waiting.append(waiting)
        with anyio.CancelScope(shield=True):  # bounded: every command and every reconnection is
            async with self._writing.turn:
                while waiting.outcome is None:
                    await self._commit_group()
        if isinstance(waiting.outcome, LedgerError):
            raise waiting.outcome
        assert waiting.outcome is not None
        return waiting.outcome

    async def _commit_group(self) -> None:
        """Carry out what waits, for all who wait."""
        group = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAXIMUM_GROUP))]
        try:
            outcomes = await self._commit([waiting.change for waiting in group])
        except LedgerError as error:
            outcomes = [_again(error) for _ in group]
        except BaseException:
            for waiting in group:
                waiting.outcome = LedgerError(f"{self._server.name} could not be written: RelayMesh failed")
            raise
        for waiting, outcome in zip(group, outcomes, strict=True):
            waiting.outcome = outcome

    async def _commit(self, changes: Sequence[Change]) -> list[Outcome]:
        """In one transaction; where what one of them meets fails it, each in its own."""
        try:
            return await self._writing.use(partial(PostgresWriter.commit, changes=changes))
        except LedgerError as error:
            if error.retryable or len(changes) == 1:
                raise
        outcomes: list[Outcome] = []
        for change in changes:
            try:
                outcomes += await self._writing.use(partial(PostgresWriter.commit, changes=(change,)))
            except LedgerError as error:
                outcomes.append(error)
        return outcomes

    async def _connect_writer(self) -> tuple[Any, PostgresWriter]:
        connection = await self._server.connect()
        try:
            if not self._is_shared:
                await self._take(connection)
            cipher = await prepare(connection, self._server, self._key)
        except BaseException:
            connection.terminate()
            raise
        return connection, PostgresWriter(connection, self._server, cipher)

    async def _connect_reader(self) -> tuple[Any, PostgresReader]:
        connection = await self._server.connect(read_only=True)
        try:
            cipher = await open_prepared(connection, self._server, self._key)
        except BaseException:
            connection.terminate()
            raise
        return connection, PostgresReader(connection, self._server, cipher)

    async def _take(self, connection: Any) -> None:
        """Keep other writers out until the connection ends; one that ended a moment ago may still be seen."""
        deadline = anyio.current_time() + _TAKEN_SECONDS
        with self._server.explained():
            while not await connection.fetchval(_TAKE, self._server.schema):
                if anyio.current_time() >= deadline:
                    raise LedgerError(
                        f"{self._server.name} is in use by another RelayMesh process; stop that one or name another"
                    )
                await anyio.sleep(_PAUSE_SECONDS)

    def _check_is_open(self) -> None:
        if self._is_closed:
            raise LedgerError("the ledger is closed")


def _again(error: LedgerError) -> LedgerError:
    """The same error for one more who waits: each is raised with a traceback of its own."""
    copy = LedgerError(str(error), retryable=error.retryable)
    copy.__cause__ = error.__cause__
    return copy
