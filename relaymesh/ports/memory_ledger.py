"""A ledger in memory that keeps every rule of the port: for tests, for the simulator, for whoever builds on the port.

It forgets with its process; whatever opens it again is given the same object.
"""

from collections import ChainMap
from collections.abc import MutableMapping
from dataclasses import dataclass, replace

import anyio.lowlevel

from relaymesh.machines.records import EvidenceRecord, JobRecord, LedgerRecord, Side, TrancheRecord
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.ports.ledger import JobQuery, LedgerJob
from relaymesh.ports.ledger_rules import check_stays_terminal, is_unresolved, missing_job, repeated_payment_hash
from relaymesh.units import Timestamp

_JobKey = tuple[Side, PublicKey, str]
_TrancheKey = tuple[_JobKey, int]
_EvidenceKey = tuple[Side, EventId]


@dataclass(frozen=True, slots=True)
class _Tables:
    """Everything that is kept; `payers` says which tranche of the client's side last used a payment hash."""

    jobs: MutableMapping[_JobKey, LedgerJob]
    evidence: MutableMapping[_EvidenceKey, EvidenceRecord]
    payers: MutableMapping[str, _TrancheKey]

    def overlaid(self) -> "_Tables":
        """A view that takes writes without changing what lies below."""
        return _Tables(ChainMap({}, self.jobs), ChainMap({}, self.evidence), ChainMap({}, self.payers))

    def put(self, record: LedgerRecord) -> None:
        """Insert or replace one record; LedgerError if that breaks a rule."""
        match record:
            case JobRecord(side=side, client=client, job_id=job_id):
                known = self.jobs.get((side, client, job_id))
                self.jobs[side, client, job_id] = LedgerJob(record, () if known is None else known.tranches)
            case TrancheRecord():
                self._put_tranche(record)
            case EvidenceRecord(side=side, event=event):
                first = self.evidence.get((side, event.id), record)
                self.evidence[side, event.id] = replace(first, plaintext=record.plaintext)

    def _put_tranche(self, record: TrancheRecord) -> None:
        key = (record.side, record.client, record.job_id)
        job = self.jobs.get(key)
        if job is None:
            raise missing_job(record)
        tranches = {tranche.tranche: tranche for tranche in job.tranches}
        check_stays_terminal(tranches.get(record.tranche), record)
        if record.side == "client" and record.payment_hash:
            if self._is_in_use(record.payment_hash, (key, record.tranche)):
                raise repeated_payment_hash(record)
            self.payers[record.payment_hash] = (key, record.tranche)
        tranches[record.tranche] = record
        self.jobs[key] = LedgerJob(job.job, tuple(tranches[number] for number in sorted(tranches)))

    def _is_in_use(self, payment_hash: str, besides: _TrancheKey) -> bool:
        payer = self.payers.get(payment_hash)
        if payer is None or payer == besides:
            return False
        key, number = payer
        return any(
            tranche.tranche == number and tranche.payment_hash == payment_hash for tranche in self.jobs[key].tranches
        )


class MemoryLedger:
    """A ledger that lasts as long as the object does (`relaymesh.ports.ledger.Ledger`)."""

    def __init__(self) -> None:
        self._tables = _Tables({}, {}, {})
        self._sequences: dict[str, int] = {}

    async def write(self, records: tuple[LedgerRecord, ...]) -> None:
        """Insert or replace these records, all or none of them.

        Raises:
            LedgerError: They break a rule; none of them was written.
        """
        await anyio.lowlevel.checkpoint()
        staged = self._tables.overlaid()
        for record in records:
            staged.put(record)
        for table, changes in (
            (self._tables.jobs, staged.jobs),
            (self._tables.evidence, staged.evidence),
            (self._tables.payers, staged.payers),
        ):
            assert isinstance(changes, ChainMap)
            table.update(changes.maps[0])

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

    async def next_sequence(self, scope: str, now: Timestamp) -> int:
        """max(last + 1, `now`) for this scope."""
        await anyio.lowlevel.checkpoint()
        self._sequences[scope] = max(self._sequences.get(scope, now - 1) + 1, now)
        return self._sequences[scope]


def _matches(job: LedgerJob, query: JobQuery) -> bool:
    return (
        query.side in (None, job.job.side)
        and job.job.job_id.startswith(query.job_id or "")
        and (not query.only_unresolved or is_unresolved(job))
    )
