"""What is written to a ledger in PostgreSQL: many changes in one durable transaction, each failing alone.

Writers take turns, whichever process they are in, so that nothing a write rests on changes while it is carried out.
What it touches is looked up first and the rules are kept where every ledger keeps them, so that a group of any size
costs the same few round trips.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from relaymesh.adapters.ledger_changes import Change, NextSequence, Outcome, next_value, unwritable
from relaymesh.adapters.ledger_encryption import LedgerCipher
from relaymesh.adapters.postgres_ledger_rows import OF_JOBS, as_row, as_text, as_values, key_columns, read_tranches
from relaymesh.adapters.postgres_ledger_server import Server
from relaymesh.adapters.sql_ledger_rows import (
    GET_JOBS,
    GET_PAYMENTS,
    GET_SEALED,
    PUT_EVIDENCE,
    PUT_JOB,
    PUT_PAYMENT,
    PUT_SEALED,
    PUT_TRANCHE,
    RecordRows,
    Row,
)
from relaymesh.adapters.sql_ledger_schema import in_postgresql
from relaymesh.errors import LedgerError
from relaymesh.machines.records import (
    EvidenceRecord,
    JobRecord,
    LedgerRecord,
    PaymentRecord,
    SealedRecord,
    TrancheRecord,
)
from relaymesh.ports.ledger import LedgerJob
from relaymesh.ports.ledger_tables import JobKey, LedgerTables

_TAKE_TURNS: Final = "LOCK TABLE seal IN EXCLUSIVE MODE"
_PAYERS: Final = """
SELECT side, client, job_id, tranche, payment_hash FROM tranche
WHERE side = 'client' AND payment_hash <> '' AND payment_hash = ANY($1::text[])
"""
# Only that a job is there matters; what is sensitive in it may be long.
_JOBS: Final = GET_JOBS.replace("body, keys", "NULL::bytea, NULL::bytea") + OF_JOBS
_SEALED: Final = GET_SEALED + " " + OF_JOBS
_PAYMENTS: Final = GET_PAYMENTS + " WHERE payment_hash = ANY($1::text[])"
_SEQUENCES: Final = "SELECT scope, value FROM sequence WHERE scope = ANY($1::text[])"
_PUT_SEQUENCE: Final = """
INSERT INTO sequence (scope, value) VALUES ($1, $2) ON CONFLICT (scope) DO UPDATE SET value = excluded.value
"""
_PUT: Final[dict[type[LedgerRecord], str]] = {
    JobRecord: in_postgresql(PUT_JOB),  # before its tranches, which refer to it
    TrancheRecord: in_postgresql(PUT_TRANCHE),
    SealedRecord: in_postgresql(PUT_SEALED),
    PaymentRecord: in_postgresql(PUT_PAYMENT),
    EvidenceRecord: in_postgresql(PUT_EVIDENCE),
}
_UNWRITABLE: Final = (UnicodeEncodeError, OverflowError, orjson.JSONEncodeError)

_Rows = list[tuple[type[LedgerRecord], Row]]


@dataclass(frozen=True, slots=True)
class _Group:
    """What a transaction finds, and what it puts."""

    tables: LedgerTables = field(default_factory=LedgerTables)
    sequences: dict[str, int] = field(default_factory=dict)
    rows: _Rows = field(default_factory=list)

    def apply(self, change: Change, rows: _Rows | LedgerError) -> Outcome:
        """Take a change into the group, or say why not."""
        if isinstance(rows, LedgerError):
            return rows
        if isinstance(change, NextSequence):
            value = next_value(self.sequences.get(change.scope), change)
            try:
                as_values((value,))
            except _UNWRITABLE:
                return unwritable()
            self.sequences[change.scope] = value
            return value
        try:
            self.tables.write(change)
        except LedgerError as error:
            return error
        self.rows.extend(rows)
        return 0


class PostgresWriter:
    """Writes over one connection, one group at a time.

    Args:
        connection: To the ledger, which is prepared.
        server: Explains what goes wrong.
        cipher: Seals what is sensitive.
    """

    def __init__(self, connection: Any, server: Server, cipher: LedgerCipher) -> None:
        self._connection = connection
        self._server = server
        self._rows = RecordRows(cipher)

    async def commit(self, changes: Sequence[Change]) -> list[Outcome]:
        """Carry out these changes in one transaction that is durable on return.

        Returns:
            For each change its sequence number (0 where it drew none), or why it was not carried out.

        Raises:
            LedgerError: The server refused all of them, or, if `retryable`, was lost: then it is not known whether they
                were carried out. To carry them out once more does no harm.
        """
        encoded = [self._encode(change) for change in changes]
        writable = [change for change, rows in zip(changes, encoded, strict=True) if not isinstance(rows, LedgerError)]
        with self._server.explained():
            async with self._connection.transaction():
                await self._connection.execute(_TAKE_TURNS)
                group = await self._look_up(writable)
                outcomes = [group.apply(change, rows) for change, rows in zip(changes, encoded, strict=True)]
                await self._put(group)
        return outcomes

    def _encode(self, change: Change) -> _Rows | LedgerError:
        try:
            if isinstance(change, NextSequence):
                as_values((change.scope, change.now))
                return []
            return [(type(record), as_values(self._values(record))) for record in change]
        except _UNWRITABLE:
            return unwritable()

    def _values(self, record: LedgerRecord) -> Row:
        match record:
            case JobRecord():
                return self._rows.of_job(record)
            case TrancheRecord():
                return self._rows.of_tranche(record)
            case SealedRecord():
                return self._rows.of_sealed(record)
            case PaymentRecord():
                return self._rows.of_payment(record)
            case EvidenceRecord():
                return self._rows.of_evidence(record)

    async def _look_up(self, changes: Sequence[Change]) -> _Group:
        """Everything that the rules ask about, as it stands while it is our turn."""
        group = _Group()
        records = [record for change in changes if not isinstance(change, NextSequence) for record in change]
        hashes = {as_text(record.payment_hash) for record in records if isinstance(record, TrancheRecord)}
        keys: set[JobKey] = {
            (record.side, record.client, record.job_id)
            for record in records
            if not isinstance(record, EvidenceRecord | PaymentRecord)
        }
        if hashes - {""}:
            for *key, tranche, payment_hash in map(as_row, await self._connection.fetch(_PAYERS, list(hashes))):
                side, client, job_id = key
                group.tables.payers[payment_hash] = ((side, client, job_id), tranche)
                keys.add((side, client, job_id))
        if keys:
            await self._look_up_jobs(group.tables, keys)
        if any(isinstance(record, SealedRecord) for record in records):
            await self._look_up_sealed(group.tables, keys)
        if payments := [as_text(record.payment_hash) for record in records if isinstance(record, PaymentRecord)]:
            for _, *row in await self._connection.fetch(_PAYMENTS, payments):
                payment = self._rows.read_payment(as_row(row))
                group.tables.payments[payment.payment_hash] = payment
        scopes = {as_text(change.scope) for change in changes if isinstance(change, NextSequence)}
        if scopes:
            group.sequences.update(map(as_row, await self._connection.fetch(_SEQUENCES, list(scopes))))
        return group

    async def _look_up_jobs(self, tables: LedgerTables, keys: set[JobKey]) -> None:
        tranches = await read_tranches(self._connection, self._rows, keys)
        for _, *row in await self._connection.fetch(_JOBS, *key_columns(keys)):
            job = self._rows.read_job(as_row(row))
            key = (job.side, job.client, job.job_id)
            tables.jobs[key] = LedgerJob(job, tranches.get(key, ()))

    async def _look_up_sealed(self, tables: LedgerTables, keys: set[JobKey]) -> None:
        for _, *row in await self._connection.fetch(_SEALED, *key_columns(keys)):
            sealed = self._rows.read_sealed(as_row(row))
            tables.sealed[(sealed.side, sealed.client, sealed.job_id), sealed.tranche] = sealed

    async def _put(self, group: _Group) -> None:
        for kind, statement in _PUT.items():
            if rows := [row for of_kind, row in group.rows if of_kind is kind]:
                await self._connection.executemany(statement, rows)
        if group.sequences:
            drawn = [(as_text(scope), value) for scope, value in group.sequences.items()]
            await self._connection.executemany(_PUT_SEQUENCE, drawn)
