"""What a node risks for a job until it is over, and what was never paid, as its ledger tells it (RM-03, "Postpay")."""

from collections.abc import Collection, Iterable
from typing import Final, Self

from relaymesh.machines.records import JobRecord, JobState, LedgerRecord, TrancheRecord, TrancheState
from relaymesh.machines.unpaid_tranches import is_unpaid_work
from relaymesh.market.unpaid_work import Debt, Reservation, UnpaidWork
from relaymesh.nostr.event import PublicKey
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.ledger import JobQuery, Ledger, LedgerJob
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.guarantee import read_guarantee
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.units import Timestamp

MOST_UNPAID_JOBS: Final = 65_536
"""So many jobs that were left unpaid are read at a start, the newest."""


class JobRisk:
    """What one job may cost the node until it is accounted for; made by `JobRisk.take`, ended in any case."""

    def __init__(self, work: UnpaidWork, contract: SessionContract, reservation: Reservation | None) -> None:
        self._work, self._contract, self._reservation = work, contract, reservation

    @classmethod
    def take(cls, work: UnpaidWork, contract: SessionContract, now: Timestamp) -> Self | Refusal:
        """Take on a job of this session, or say why not."""
        guarantee, term = contract.guarantee, contract.term
        if guarantee is not None and term.order == "postpay":
            objection = guarantee.find_objection(node=contract.node, client=contract.client, now=now)
            if objection is not None:
                return refuse(RefusalCode.PAYMENT_REQUIRED, objection)
        taken = work.reserve(contract.client, contract.guarantor, term.order, term.exposure_node_msat)
        return taken if isinstance(taken, Refusal) else cls(work, contract, taken)

    def note(self, records: Collection[LedgerRecord]) -> None:
        """What was written about the job: once it is accounted for, what it left unpaid is known and no more."""
        note_unpaid(self._work, records, self._contract.guarantor)
        if any(isinstance(record, JobRecord) and record.state is not JobState.OPEN for record in records):
            self.end()

    def end(self) -> None:
        """The job is over; once more does no harm."""
        self._work.release(self._reservation)


def note_unpaid(work: UnpaidWork, records: Iterable[LedgerRecord], guarantor: PublicKey | None) -> None:
    """Book what these records say was left unpaid: a debt of who vouched for it, or a key that is trusted no more."""
    for record in records:
        if not isinstance(record, TrancheRecord) or not is_unpaid_work(record):
            continue
        if record.order == "sealed":
            work.bar(record.client)
        elif guarantor is not None:
            job = (record.client, record.job_id)
            work.owe(Debt(guarantor, job, record.tranche, record.amount_msat))


async def recall_unpaid(ledger: Ledger, work: UnpaidWork) -> None:
    """Book what a node's ledger says was left unpaid before this start, under the name of who vouched for it."""
    guarantors: dict[PublicKey, PublicKey | None] = {}
    for order in ("sealed", "postpay"):
        query = JobQuery(side="node", unpaid_order=order, limit=MOST_UNPAID_JOBS)
        for found in reversed(await ledger.find_jobs(query)):
            client = found.job.client
            if order == "postpay" and client not in guarantors:
                guarantors[client] = await _find_guarantor(ledger, client)
            note_unpaid(work, found.tranches, guarantors.get(client))


async def _find_guarantor(ledger: Ledger, client: PublicKey) -> PublicKey | None:
    """Who vouched for a session key: its guarantee is kept with the first job of the session."""
    for found in reversed(await ledger.find_jobs(JobQuery(side="node", client=client))):
        for evidence in await ledger.find_evidence(found.job.job_id):
            if evidence.side == "node" and evidence.event.kind == Kind.GUARANTEE:
                return read_guarantee(evidence.event).guarantor
    return None


class OpenInvoices:
    """What was delivered on credit before a restart and may still be paid: it counts as owed until that is decided.

    Args:
        waiting: Jobs whose invoices were open at the start.
    """

    def __init__(self, work: UnpaidWork, ledger: Ledger, waiting: Collection[LedgerJob]) -> None:
        self._work, self._ledger = work, ledger
        self._tranches = [tranche for found in waiting for tranche in found.tranches if tranche.order == "postpay"]

    async def book(self) -> None:
        """Count them."""
        for tranche in self._tranches:
            guarantor = await _find_guarantor(self._ledger, tranche.client)
            if guarantor is not None and tranche.state is TrancheState.INVOICED:
                job = (tranche.client, tranche.job_id)
                self._work.owe(Debt(guarantor, job, tranche.tranche, tranche.amount_msat))

    async def settle(self) -> None:
        """All is decided: what was paid is owed no longer, and whoever let a sealed tranche lapse is known."""
        for tranche in self._tranches:
            self._work.settle((tranche.client, tranche.job_id), tranche.tranche)
        await recall_unpaid(self._ledger, self._work)
