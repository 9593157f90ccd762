"""Prepaid sessions in a whole market in memory: one payment, many small jobs, and what is left is the stated rest."""

from contextlib import suppress

import anyio
import pytest

from relaymesh.errors import LedgerError
from relaymesh.machines.records import SESSION_ACCOUNT, JobState, TrancheState
from relaymesh.ports.ledger import JobQuery, LedgerJob
from relaymesh.ports.ledger_audit import audit
from relaymesh.ports.lightning import InvoiceRequest
from relaymesh.ports.memory_ledger import MemoryLedger
from relaymesh.ports.memory_lightning import FailPayment, HoldPayment
from relaymesh.ports.memory_runner import RunScript
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.protocol.refusal import RefusalCode, refuse
from relaymesh.protocol.session_messages import ErrorMessage, InvoiceMessage, JobId
from relaymesh.roles.client_jobs import OpenSession
from relaymesh.roles.recovery import recover_client, recover_node
from relaymesh.units import AmountMsat
from tests.roles.market import (
    EPOCH_MS,
    PROMPT,
    Market,
    MarketNode,
    loop_clock,
    open_session,
    purchase,
    start_job,
    wanted,
)
from tests.roles.test_recovery import CrashingLedger

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


async def test_jobs_at_the_same_time_share_the_session_s_money() -> None:
    async with Market().open() as market:
        node = await market.add_node(settlement=(SESSION_TERM,))
        async with market.client() as client:
            session = await open_session(client, JOB)
            texts: list[str] = []

            async def run() -> None:
                texts.extend(await run_jobs(session, 3))

            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(run)
            await session.aclose()
            ours = await check(market.client_ledger)
        await anyio.sleep(120)
        theirs = await check(node.ledger)
        assert len(texts) == 12 and ours.job.charged_msat == theirs.job.charged_msat
        assert (await node.wallet.info()).balance_msat == sum(each.amount_msat for each in theirs.tranches)


async def test_a_payment_that_is_made_while_the_connection_is_lost_funds_the_job_after_it() -> None:
    async with Market().open() as market:
        node = await market.add_node(settlement=(SESSION_TERM,))
        market.buyer.plan(HoldPayment())
        async with market.client() as client:
            session = await open_session(client, JOB)
            async with start_job(session, JOB) as job:
                await anyio.sleep(1)
                market.network.cut()
                market.buyer.release(account_of(await all_jobs(node.ledger)).tranches[0].payment_hash)
                text = "".join([data async for data in job.outputs()])
                outcome = await job.wait_outcome()
            assert outcome.state is JobState.DONE and text.split() == PROMPT.split()
            await session.aclose()
            assert len((await check(market.client_ledger)).tranches) == 1
        await anyio.sleep(120)
        await check(node.ledger)


async def test_a_session_that_is_never_paid_runs_nothing_and_leaves_no_row_open() -> None:
    async with Market().open() as market:
        node = await market.add_node(settlement=(SESSION_TERM,))
        market.buyer.plan(FailPayment(reason="no route was found"))
        async with market.client() as client:
            session = await open_session(client, JOB)
            async with start_job(session, JOB) as job:
                assert [data async for data in job.outputs()] == []
                outcome = await job.wait_outcome()
            assert outcome.state is JobState.FAILED and outcome.committed_msat == 0
            assert outcome.refusal is not None and "no route was found" in outcome.refusal.reason
            await session.aclose()
        await anyio.sleep(120)
        for ledger in (market.client_ledger, node.ledger):
            assert await ledger.find_jobs(JobQuery(only_unresolved=True)) == ()
        assert account_of(await all_jobs(node.ledger)).tranches[0].state is TrancheState.EXPIRED
        assert node.runner.counts.started == 0, "the runner was started"


async def test_what_a_job_does_not_use_is_there_for_the_next() -> None:
    async with Market().open() as market:
        await market.add_node(settlement=(SESSION_TERM,))
        async with market.client() as client:
            session = await open_session(client, JOB)
            async with start_job(session, JOB) as job:
                async for _ in job.outputs():
                    job.cancel()
                outcome = await job.wait_outcome()
            assert outcome.state is JobState.CANCELLED and outcome.is_verified, outcome.complaints
            assert 0 < outcome.paid_msat < 300
            await run_jobs(session, 3)
            await session.aclose()
            assert len((await check(market.client_ledger)).tranches) == 1


async def test_a_job_that_is_larger_than_a_tranche_is_refused_before_it_is_sent() -> None:
    async with Market().open() as market:
        await market.add_node(settlement=(SESSION_TERM,))
        async with market.client() as client:
            session = await open_session(client, JOB)
            large = wanted("much " * 3_000, settlement="session")
            refused = session.price(large.to_order(session.contract.quote.row, AmountMsat(50_000)))
            assert refused == refuse(
                RefusalCode.OVER_BUDGET, "this job costs more than one of the session's tranches, 5000 msat"
            )


async def crash(market: Market, side: str, writes: int) -> MarketNode:
    """Run jobs of a session until one side's ledger writes no more, as if its process had been killed."""
    node = await market.add_node(settlement=(SESSION_TERM,))
    ledger = CrashingLedger(writes)
    if side == "client":
        market.client_ledger = ledger
    else:
        node.ledger = node.tools.ledger = ledger
    async with market.client() as client, anyio.create_task_group() as tasks:
        session = await open_session(client, JOB)
        tasks.start_soon(run_jobs_carelessly, session)
        with anyio.move_on_after(60):
            await ledger.crashed.wait()
        await anyio.sleep(2)  # what the wallet already had goes through
        tasks.cancel_scope.cancel()
    node.scope.cancel()
    ledger.left = -1
    return node


async def run_jobs_carelessly(session: OpenSession) -> None:
    """Jobs, whatever becomes of them."""
    for _ in range(30):
        async with start_job(session, JOB) as job:
            async for _ in job.outputs():
                pass
            with suppress(LedgerError):
                await job.wait_outcome()


@pytest.mark.parametrize("side", ["client", "node"])
@pytest.mark.parametrize("writes", [*range(12), 30, 31, 32, 33])
async def test_after_a_crash_a_session_s_account_closes_over_the_jobs_that_the_ledger_has(
    side: str, writes: int
) -> None:
    async with Market().open() as market:
        node = await crash(market, side, writes)
        await recover_client(market.client_ledger, market.buyer)
        await recover_node(node.ledger, node.wallet, node.key, loop_clock)
        received = (await node.wallet.info()).balance_msat
        for ledger in (market.client_ledger, node.ledger):
            jobs = await all_jobs(ledger)
            assert await ledger.find_jobs(JobQuery(only_unresolved=True)) == ()
            for invariant in audit(jobs, (), (), now_ms=EPOCH_MS + 10**9, open_ms=0):
                assert invariant.holds, invariant.broken
            assert sum(job.job.charged_msat for job in jobs) == received, "what was paid is not what was charged"


async def test_an_invoice_for_the_session_is_nothing_where_each_job_is_paid_by_itself() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with market.client() as client:
            session = await open_session(client)
            assert session.contract.term.scope == "job"
            invoice = InvoiceMessage(JobId(session.contract.session_id), 0, "prepay", "lntest", AmountMsat(1), 1, 0)
            async with start_job(session) as job:
                session.message_delivered(invoice)
                text = "".join([data async for data in job.outputs()])
                outcome = await job.wait_outcome()
            assert outcome.state is JobState.DONE and text.split() == PROMPT.split()


async def test_a_node_that_asks_for_money_before_any_job_gets_none() -> None:
    async with Market().open() as market:
        await market.add_node(settlement=(SESSION_TERM,))
        async with market.client() as client:
            session = await open_session(client, JOB)
            label = InvoiceRequest("greedy", AmountMsat(TRANCHE_MSAT), "RelayMesh job", 60)
            issued = await market.nodes[0].wallet.create_invoice(label)
            session_id = JobId(session.contract.session_id)
            invoice = InvoiceMessage(
                session_id,
                0,
                "prepay",
                issued.bolt11,
                AmountMsat(TRANCHE_MSAT),
                TRANCHE_MSAT,
                1_000 * issued.expires_at,
            )
            session.message_delivered(invoice)
            await anyio.sleep(30)
            assert (await market.nodes[0].wallet.info()).balance_msat == 0


async def test_who_says_too_much_about_a_session_s_money_loses_the_session() -> None:
    async with Market().open() as market:
        await market.add_node(settlement=(SESSION_TERM,))
        async with market.client() as client:
            session = await open_session(client, JOB)
            session_id = JobId(session.contract.session_id)
            for number in range(600):
                session.message_delivered(ErrorMessage(session_id, refuse(RefusalCode.BUSY, str(number)), True))
            await anyio.sleep(1)
            assert session.is_closed


async def test_who_has_prepaid_a_session_pays_nobody_else_for_a_job_that_failed_there() -> None:
    async with Market().open() as market:
        for _ in range(2):
            await market.add_node(settlement=(SESSION_TERM,), script=RunScript(fails_after=0))
        async with market.client() as client:
            bought = (await purchase(client, JOB)).bought
        assert bought.outcome is not None and bought.outcome.state is JobState.FAILED
        assert bought.outcome.paid_msat == 0 and not bought.tried
        assert sum([(await node.wallet.info()).balance_msat for node in market.nodes]) == TRANCHE_MSAT
