"""Records in memory under the rules of every ledger: all that a ledger in memory is, and what any other one touches.

A ledger whose database does not know the rules looks up what a write touches, puts the write into these tables, and
carries out what they took.
"""

from collections import ChainMap
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace

from relaymesh.machines.records import (
    EvidenceRecord,
    JobRecord,
    LedgerRecord,
    PaymentRecord,
    SealedRecord,
    Side,
    TrancheRecord,
)
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.ports.ledger import LedgerJob
from relaymesh.ports.ledger_rules import (
    check_stays_paid,
    check_stays_sealed,
    check_stays_terminal,
    missing_job,
    missing_tranche,
    repeated_payment_hash,
)

JobKey = tuple[Side, PublicKey, str]
TrancheKey = tuple[JobKey, int]
EvidenceKey = tuple[Side, EventId]


@dataclass(frozen=True, slots=True)
class LedgerTables:
    """Everything that is kept; `payers` says which tranche of the client's side last used a payment hash."""

    jobs: MutableMapping[JobKey, LedgerJob] = field(default_factory=dict)
    evidence: MutableMapping[EvidenceKey, EvidenceRecord] = field(default_factory=dict)
    payers: MutableMapping[str, TrancheKey] = field(default_factory=dict)
    sealed: MutableMapping[TrancheKey, SealedRecord] = field(default_factory=dict)
    payments: MutableMapping[str, PaymentRecord] = field(default_factory=dict)

    def write(self, records: tuple[LedgerRecord, ...]) -> None:
        """Insert or replace these records, all or none of them.

        Raises:
            LedgerError: They break a rule; none of them was written.
        """
        changes = LedgerTables()
        staged = LedgerTables(
            ChainMap(changes.jobs, self.jobs),
            ChainMap(changes.evidence, self.evidence),
            ChainMap(changes.payers, self.payers),
            ChainMap(changes.sealed, self.sealed),
            ChainMap(changes.payments, self.payments),
        )
        for record in records:
            staged.put(record)
        self.jobs.update(changes.jobs)
        self.evidence.update(changes.evidence)
        self.payers.update(changes.payers)
        self.sealed.update(changes.sealed)
        self.payments.update(changes.payments)

    def put(self, record: LedgerRecord) -> None:
        """Insert or replace one record; LedgerError if that breaks a rule."""
        match record:
            case JobRecord(side=side, client=client, job_id=job_id):
                known = self.jobs.get((side, client, job_id))
                self.jobs[side, client, job_id] = LedgerJob(record, () if known is None else known.tranches)
            case TrancheRecord():
                self._put_tranche(record)
            case SealedRecord():
                self._put_sealed(record)
            case PaymentRecord(payment_hash=payment_hash):
                check_stays_paid(self.payments.get(payment_hash), record)
                self.payments[payment_hash] = record
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

    def _put_sealed(self, record: SealedRecord) -> None:
        key = (record.side, record.client, record.job_id)
        job = self.jobs.get(key)
        if job is None or all(tranche.tranche != record.tranche for tranche in job.tranches):
            raise missing_tranche(record)
        check_stays_sealed(self.sealed.get((key, record.tranche)), record)
        self.sealed[key, record.tranche] = record

    def _is_in_use(self, payment_hash: str, besides: TrancheKey) -> bool:
        payer = self.payers.get(payment_hash)
        if payer is None or payer == besides:
            return False
        key, number = payer
        return any(
            tranche.tranche == number and tranche.payment_hash == payment_hash for tranche in self.jobs[key].tranches
        )
