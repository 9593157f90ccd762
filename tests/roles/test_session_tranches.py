"""Prepaid sessions in a whole market in memory: one payment, many small jobs, and what is left is the stated rest."""

import anyio
import pytest

from relaymesh.machines.records import SESSION_ACCOUNT, JobState, TrancheState
from relaymesh.ports.ledger import JobQuery, LedgerJob
from relaymesh.ports.ledger_audit import audit
from relaymesh.ports.memory_ledger import MemoryLedger
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.roles.client_jobs import OpenSession
from tests.roles.market import EPOCH_MS, Market, open_session, start_job, wanted

pytestmark = pytest.mark.anyio

TRANCHE_MSAT = 5_000
SESSION_TERM = SettlementTerm(order="prepay", scope="session", tranche_units=TRANCHE_MSAT)
JOB = wanted(settlement="session")


async def run_jobs(session: OpenSession, count: int) -> list[str]:
    """So many jobs, one after the other; what each put out."""
    texts = []
    for _ in range(count):
        async with start_job(session, JOB) as job:
            texts.append("".join([data async for data in job.outputs()]))
            outcome = await job.wait_outcome()
            assert outcome.state is JobState.DONE and outcome.complaints == (), outcome
            assert outcome.is_verified
    return texts


async def all_jobs(ledger: MemoryLedger) -> tuple[LedgerJob, ...]:
    """Everything that a ledger has."""
    return await ledger.find_jobs(JobQuery())


def account_of(jobs: tuple[LedgerJob, ...]) -> LedgerJob:
    (account,) = [job for job in jobs if job.job.job_type == SESSION_ACCOUNT]
    return account


async def check(ledger: MemoryLedger) -> LedgerJob:
    """Every rule of the ledger holds, and the session's account is closed."""
    jobs = await all_jobs(ledger)
    for invariant in audit(jobs, (), (), now_ms=EPOCH_MS + 10**9, open_ms=0):
        assert invariant.holds, invariant.broken
    account = account_of(jobs)
    assert account.job.state is JobState.DONE
    assert {tranche.state for tranche in account.tranches} == {TrancheState.RELEASED}
    return account


async def test_many_small_jobs_are_served_from_few_payments_and_both_ledgers_agree() -> None:
    async with Market().open() as market:
        node = await market.add_node(settlement=(SESSION_TERM,))
        async with market.client() as client:
            session = await open_session(client, JOB)
            assert session.contract.term.scope == "session"
            texts = await run_jobs(session, 40)
            assert len(set(texts)) == 1 and texts[0]
            await session.aclose()
            ours = await check(market.client_ledger)
        await anyio.sleep(120)
        theirs = await check(node.ledger)
    assert 1 < len(ours.tranches) < 10
    assert ours.job.charged_msat == theirs.job.charged_msat
    assert [each.payment_hash for each in ours.tranches] == [each.payment_hash for each in theirs.tranches]
    drawn = {job.job.job_id: job.job.charged_msat for job in await all_jobs(node.ledger)}
    assert drawn == {job.job.job_id: job.job.charged_msat for job in await all_jobs(market.client_ledger)}
