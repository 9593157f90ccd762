"""Ledgers brought up to date, and copied from a file into PostgreSQL; a copy counts only once it was compared."""

from collections.abc import Sequence
from typing import Any, Final

from relaymesh.adapters.postgres_ledger import PostgresLedger
from relaymesh.adapters.postgres_ledger_server import Server, find_server
from relaymesh.adapters.sql_ledger import SqlLedger
from relaymesh.adapters.sql_ledger_schema import MIGRATIONS
from relaymesh.cli.ledgers import ALL_JOBS, check_url, is_made, ledger_file, load_key, open_ledger
from relaymesh.cli.options import Role
from relaymesh.errors import UsageError
from relaymesh.machines.records import LedgerRecord
from relaymesh.ports.ledger import Ledger
from relaymesh.ports.ledger_audit import digest, records_of
from relaymesh.settings import Settings
from relaymesh.units import Timestamp

RECORDS_AT_ONCE: Final = 500


async def migrate_ledger(settings: Settings, role: Role, to: str | None) -> dict[str, Any] | None:
    """Bring one role's ledger up to date, and copy it where that was asked for; None where there is no ledger.

    Raises:
        UsageError: `to` is no PostgreSQL database, or the one in use, or what it holds is not what was to be copied.
        LedgerError: One of the ledgers cannot be read or written, or somebody writes it.
    """
    if to is not None:
        check_url(to)
    if not await is_made(settings, role):
        return None
    url = settings.storage.ledger
    place = find_server(url, role).name if url else str(ledger_file(settings, role))
    report: dict[str, Any] = {"side": role, "version": len(MIGRATIONS), "place": place}
    async with open_ledger(settings, role) as source:  # for writing: it is migrated, and nobody else writes it
        if to is None:
            return report
        server = find_server(to, role)
        if url and _is_same(find_server(url, role), server):
            raise UsageError(f"{server.name} is the one in use; --to must name another database")
        async with PostgresLedger.open(to, key=load_key(settings), part=role) as target:
            assert isinstance(source, SqlLedger | PostgresLedger)
            return {**report, "copied_to": server.name, **await _copy(source, target)}


async def _copy(source: SqlLedger | PostgresLedger, target: PostgresLedger) -> dict[str, Any]:
    """Copy everything, in the order in which it was written, and compare what is there afterwards."""
    records = await _read_all(source)
    there = await _read_all(target)
    if not _is_part(there, records):
        raise UsageError("the database holds a ledger with other rows; name an empty one or another search_path")
    for start in range(0, len(records), RECORDS_AT_ONCE):
        await target.write(tuple(records[start : start + RECORDS_AT_ONCE]))
    sequences = await source.sequences()
    known = await target.sequences()
    for scope, value in sequences.items():
        if known.get(scope, -1) < value:
            await target.next_sequence(scope, Timestamp(value))
    copied = await _read_all(target)
    known = await target.sequences()
    if digest(copied) != digest(records) or any(known[scope] < value for scope, value in sequences.items()):
        raise UsageError("the copy is not what was copied; name an empty database or another search_path")
    kinds = [type(record).__name__ for record in copied]
    return {
        "jobs": kinds.count("JobRecord"),
        "tranches": kinds.count("TrancheRecord"),
        "sealed": kinds.count("SealedRecord"),
        "payments": kinds.count("PaymentRecord"),
        "evidence": kinds.count("EvidenceRecord"),
        "sequences": len(sequences),
        "sha256": digest(copied),
    }


async def _read_all(ledger: Ledger) -> list[LedgerRecord]:
    """Every record, jobs oldest first with their tranches, then what was sealed, paid beside them and signed."""
    jobs = await ledger.find_jobs(ALL_JOBS)
    sealed, payments = await ledger.find_sealed(), await ledger.find_payments()
    return [*records_of(reversed(jobs)), *sealed, *payments, *await ledger.find_evidence()]


def _is_same(server: Server, other: Server) -> bool:
    return (server.name, server.schema) == (other.name, other.schema)


def _is_part(there: Sequence[LedgerRecord], records: Sequence[LedgerRecord]) -> bool:
    """Whether a copy may go on: it holds nothing, or what an earlier one wrote before it was stopped."""
    known = {digest((record,)) for record in records}
    return all(digest((record,)) in known for record in there)
