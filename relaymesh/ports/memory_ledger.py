"""A ledger in memory that keeps every rule of the port: for tests, for the simulator, for whoever builds on the port.

It forgets with its process; whatever opens it again is given the same object.
"""

from collections import Counter

import anyio.lowlevel

from relaymesh.machines.records import (
    EvidenceRecord,
    LedgerRecord,
    PaymentRecord,
    SealedRecord,
    Side,
    TrancheRecord,
    TrancheState,
)
from relaymesh.nostr.event import PublicKey
from relaymesh.ports.ledger import JobQuery, LedgerJob, PaidMinute
from relaymesh.ports.ledger_rules import SPENT_STATES, is_unresolved
from relaymesh.ports.ledger_tables import LedgerTables
from relaymesh.units import MILLISECONDS_PER_MINUTE, AmountMsat, Timestamp


class MemoryLedger:
    """A ledger that lasts as long as the object does (`relaymesh.ports.ledger.Ledger`)."""

    def __init__(self) -> None:
        self._tables = LedgerTables()
        self._sequences: dict[str, int] = {}

    async def write(self, records: tuple[LedgerRecord, ...]) -> None:
        """Insert or replace these records, all or none of them.

        Raises:
            LedgerError: They break a rule; none of them was written.
        """
        await anyio.lowlevel.checkpoint()
        self._tables.write(records)

    async def find_jobs(self, query: JobQuery) -> tuple[LedgerJob, ...]:
        """The jobs that match, newest first; of two made in the same millisecond the one written later."""
        await anyio.lowlevel.checkpoint()
        found = [job for job in reversed(list(self._tables.jobs.values())) if _matches(job, query)]
        found.sort(key=lambda job: job.job.created_at_ms, reverse=True)
        return tuple(found[: max(query.limit, 0)])

    async def find_evidence(self, job_id: str | None = None) -> tuple[EvidenceRecord, ...]:
        """The evidence of one job (or of all), in the order in which it was first written."""
        await anyio.lowlevel.checkpoint()
        quotes = {
            (each.job.side, each.job.quote_id) for each in self._tables.jobs.values() if each.job.job_id == job_id
        }
        return tuple(
            record for key, record in self._tables.evidence.items() if job_id in (None, record.job_id) or key in quotes
        )

    async def find_sealed(
        self, side: Side | None = None, client: PublicKey | None = None, job_id: str | None = None
    ) -> tuple[SealedRecord, ...]:
        """What was delivered sealed for one job, in the order of its tranches; or for all, as it was first written."""
        await anyio.lowlevel.checkpoint()
        found = [
            record
            for record in self._tables.sealed.values()
            if side in (None, record.side) and client in (None, record.client) and job_id in (None, record.job_id)
        ]
        return tuple(found if job_id is None else sorted(found, key=lambda record: record.tranche))

    async def paid_by_minute(self, since_ms: int) -> tuple[PaidMinute, ...]:
        """What the client's side has paid or may yet have paid, fees included, by the minute in which it was opened."""
        await anyio.lowlevel.checkpoint()
        paid: list[TrancheRecord | PaymentRecord] = [*self._tables.payments.values()]
        for job in self._tables.jobs.values():
            paid += job.tranches if job.job.side == "client" else ()
        minutes: Counter[int] = Counter()
        for each in paid:
            if each.state in SPENT_STATES and each.opened_at_ms >= since_ms:
                minutes[each.opened_at_ms // MILLISECONDS_PER_MINUTE] += each.amount_msat + each.fee_msat
        return tuple(
            PaidMinute(minute * MILLISECONDS_PER_MINUTE, AmountMsat(minutes[minute])) for minute in sorted(minutes)
        )

    async def find_payments(self) -> tuple[PaymentRecord, ...]:
        """The payments that are no tranches of jobs, in the order in which they were first written."""
        await anyio.lowlevel.checkpoint()
        return tuple(self._tables.payments.values())

    async def next_sequence(self, scope: str, now: Timestamp) -> int:
        """max(last + 1, `now`) for this scope."""
        await anyio.lowlevel.checkpoint()
        self._sequences[scope] = max(self._sequences.get(scope, now - 1) + 1, now)
        return self._sequences[scope]


def _matches(job: LedgerJob, query: JobQuery) -> bool:
    return (
        query.side in (None, job.job.side)
        and job.job.job_id.startswith(query.job_id or "")
        and query.client in (None, job.job.client)
        and (query.unpaid_order is None or any(_is_unpaid(tranche, query.unpaid_order) for tranche in job.tranches))
        and (not query.only_unresolved or is_unresolved(job))
    )


def _is_unpaid(tranche: TrancheRecord, order: str) -> bool:
    return tranche.order == order and tranche.state in (TrancheState.EXPIRED, TrancheState.FAILED)
