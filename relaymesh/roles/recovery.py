"""What a role does about its ledger before it does anything else: every open row is resolved (RM-03, "Exactly once").

The wallet is asked what became of each payment or invoice; nothing is paid or invoiced again. A payment that the wallet
cannot judge stays unknown, and is asked about again at the next start.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import anyio
import structlog

from relaymesh.errors import LightningError
from relaymesh.machines.records import (
    SESSION_ACCOUNT,
    EvidenceRecord,
    JobRecord,
    JobState,
    SealedRecord,
    Side,
    TrancheRecord,
)
from relaymesh.machines.recovery import (
    IN_DOUBT_STATES,
    INTERRUPTED,
    UNPAID_STATES,
    account,
    close_account,
    end_job,
    interrupted_record,
    is_paid,
    paid_msat,
    resolve_invoice,
    resolve_payment,
)
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.ledger import JobQuery, Ledger, LedgerJob
from relaymesh.ports.lightning import InvoiceIssuer, InvoiceStatus, Payer
from relaymesh.protocol.evidence import build_metering
from relaymesh.protocol.refusal import RefusalCode, refuse
from relaymesh.roles.driver import Clock
from relaymesh.units import AmountMsat

_log = structlog.get_logger(__name__)
MOST_JOBS: Final = 1_000_000
WALLET_PAUSE_SECONDS: Final = 1
CLIENT_INTERRUPTED: Final = refuse(RefusalCode.CANCELLED, "the client was stopped in the middle of the job")


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was done about the rows of one ledger.

    Args:
        ended: Jobs that are terminal now.
        in_doubt: Jobs with a payment that the wallet still cannot judge.
        unread: Jobs of a client with output that was bought sealed, paid, and is still to be opened.
    """

    ended: tuple[JobRecord, ...]
    in_doubt: tuple[JobRecord, ...]
    unread: tuple[JobRecord, ...] = ()


async def recover_client(ledger: Ledger, wallet: Payer | None) -> Recovered:
    """Resolve every open job of the client's side: its payments by look-up, then the job by what they came to.

    What was delivered sealed stays until it is read (`relaymesh.roles.sealed_recovery`).

    Args:
        ledger: The client's.
        wallet: The wallet that paid; None where none is at hand, and what is in doubt stays so.
    """
    outcomes, unread = [], []
    for found in await _find_unresolved(ledger, "client"):
        tranches = tuple([await _look_up(tranche, wallet) for tranche in found.tranches])
        job = found.job
        if job.job_type == SESSION_ACCOUNT:
            job = close_account(job, tranches, await _drawn_msat(ledger, job))
        elif job.state in (JobState.OPEN, JobState.UNKNOWN):
            job = end_job(job, tranches, CLIENT_INTERRUPTED)
        if job.state is not JobState.UNKNOWN:
            tranches = account(tranches)
        await ledger.write((job, *tranches))
        outcomes.append(job)
        if await _is_paid_and_unread(ledger, job, tranches):
            unread.append(job)
    return replace(_sort(outcomes), unread=tuple(unread))


async def _is_paid_and_unread(ledger: Ledger, job: JobRecord, tranches: tuple[TrancheRecord, ...]) -> bool:
    paid = {tranche.tranche for tranche in tranches if tranche.order == "sealed" and is_paid(tranche)}
    if not paid:
        return False
    kept = await ledger.find_sealed("client", job.client, job.job_id)
    return any(sealed.leaves and sealed.tranche in paid for sealed in kept)


async def recover_node(ledger: Ledger, wallet: InvoiceIssuer, key: KeyPair, clock: Clock) -> Recovered:
    """Resolve every open job of the node's side, and sign the one record that each of them is owed.

    A client that comes back with such a job gets this record; the job is not run again.

    Raises:
        LightningError: The wallet does not answer.
    """
    recovery = NodeRecovery(ledger, wallet, key, clock)
    await recovery.resolve()
    await recovery.wait()
    return _sort(recovery.outcomes)


class NodeRecovery:
    """What a node does about what it was interrupted in: at once what is decided, and the rest while it serves again.

    Attributes:
        waiting: Jobs with an invoice that can still be paid: for a minute at most.
        outcomes: Jobs that are resolved.
    """

    def __init__(self, ledger: Ledger, wallet: InvoiceIssuer, key: KeyPair, clock: Clock) -> None:
        self.waiting: list[LedgerJob] = []
        self.outcomes: list[JobRecord] = []
        self._ledger, self._wallet, self._key, self._clock = ledger, wallet, key, clock

    async def resolve(self) -> None:
        """Resolve what the wallet can decide now; to be called before any new job begins.

        Raises:
            LightningError: The wallet does not answer: a node does not start without knowing what it was paid.
        """
        for found in await _find_unresolved(self._ledger, "node"):
            states = [await _look_up_invoice(tranche, self._wallet) for tranche in found.tranches]
            tranches = tuple(state for state in states if state is not None)
            if len(tranches) == len(states):
                await self._end(found, tranches)
            else:
                self.waiting.append(found)

    async def wait(self) -> None:
        """Wait until every invoice that was still open is paid or has lapsed, and end its job."""
        for found in self.waiting:
            tranches = tuple([await self._wait_invoice(tranche) for tranche in found.tranches])
            await self._end(found, tranches)

    async def _wait_invoice(self, tranche: TrancheRecord) -> TrancheRecord:
        while True:
            with suppress(LightningError):
                known = await _look_up_invoice(tranche, self._wallet)
                if known is not None:
                    return known
                _log.warning(
                    "waiting_for_open_invoice", job=tranche.job_id, tranche=tranche.tranche, until="paid or expired"
                )
                state = await self._wallet.wait_invoice(tranche.invoice_label)
                return resolve_invoice(tranche, is_paid=state.status is InvoiceStatus.PAID)
            await anyio.sleep(WALLET_PAUSE_SECONDS)  # the wallet is away; the invoice lapses meanwhile, or was paid

    async def _end(self, found: LedgerJob, tranches: tuple[TrancheRecord, ...]) -> None:
        ledger = self._ledger
        if found.job.job_type == SESSION_ACCOUNT:
            job = close_account(found.job, tranches, await _drawn_msat(ledger, found.job))
            await ledger.write((job, *account(tranches)))
        elif found.job.state is JobState.OPEN:
            job = await _end_at_node(ledger, found, tranches, self._key, self._clock)
        else:
            job = replace(found.job, charged_msat=paid_msat(tranches))  # paid after the job had its record
            await ledger.write((job, *account(tranches), *await _erase_sealed(ledger, job)))
        self.outcomes.append(job)


async def _find_unresolved(ledger: Ledger, side: Side) -> tuple[LedgerJob, ...]:
    """What is to be resolved."""
    return await ledger.find_jobs(JobQuery(side=side, only_unresolved=True, limit=MOST_JOBS))


async def _drawn_msat(ledger: Ledger, account_job: JobRecord) -> AmountMsat:
    """What a prepaid session's jobs were charged, as the ledger has it: nothing, where one did not end."""
    found = await ledger.find_jobs(JobQuery(side=account_job.side, client=account_job.client, limit=MOST_JOBS))
    jobs = [each.job for each in found if each.job.session_id == account_job.session_id]
    return AmountMsat(sum(job.charged_msat for job in jobs if job.job_type != SESSION_ACCOUNT))


async def _end_at_node(
    ledger: Ledger, found: LedgerJob, tranches: tuple[TrancheRecord, ...], key: KeyPair, clock: Clock
) -> JobRecord:
    now = clock()
    record = interrupted_record(found.job, tranches, now.unix_ms)
    unsigned = build_metering(record, author=key.public_key, client=found.job.client, created_at=now.timestamp)
    job = end_job(found.job, tranches, INTERRUPTED)
    evidence = EvidenceRecord("node", found.job.job_id, key.sign(unsigned))
    await ledger.write((job, *account(tranches), evidence, *await _erase_sealed(ledger, job)))
    return job


async def _erase_sealed(ledger: Ledger, job: JobRecord) -> tuple[SealedRecord, ...]:
    """What a node sold sealed, without the output: nobody is sent it any more once the job has ended."""
    kept = await ledger.find_sealed("node", job.client, job.job_id)
    return tuple(replace(sealed, leaves=()) for sealed in kept if sealed.leaves)


async def _look_up(tranche: TrancheRecord, wallet: Payer | None) -> TrancheRecord:
    if tranche.state not in IN_DOUBT_STATES or wallet is None:
        return tranche
    return resolve_payment(tranche, await wallet.lookup_payment(tranche.payment_hash))


async def _look_up_invoice(tranche: TrancheRecord, wallet: InvoiceIssuer) -> TrancheRecord | None:
    """What became of a tranche; None while its invoice can still be paid."""
    if tranche.state not in UNPAID_STATES:
        return tranche
    state = await wallet.lookup_invoice(tranche.invoice_label)
    if state.status is InvoiceStatus.OPEN:
        return None
    return resolve_invoice(tranche, is_paid=state.status is InvoiceStatus.PAID)


def _sort(jobs: list[JobRecord]) -> Recovered:
    ended = tuple(job for job in jobs if job.state is not JobState.UNKNOWN)
    return Recovered(ended, tuple(job for job in jobs if job.state is JobState.UNKNOWN))
