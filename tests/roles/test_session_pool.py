"""Warm sessions: what they spare, when they are not used, and that nobody pays twice whatever dies when."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

import anyio
import pytest

from relaymesh.machines.records import SESSION_ACCOUNT, JobState, TrancheState
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.ledger import JobQuery
from relaymesh.ports.ledger_audit import audit
from relaymesh.ports.memory_ledger import MemoryLedger
from relaymesh.ports.memory_lightning import FailPayment
from relaymesh.ports.memory_runner import RunScript
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.protocol.refusal import RefusalCode
from relaymesh.roles.buying import BuyingWatcher, SilentWatcher, Wanted
from relaymesh.roles.client import Client
from relaymesh.roles.client_jobs import RunningJob
from relaymesh.roles.recovery import recover_client, recover_node
from relaymesh.roles.session_pool import SessionPool
from relaymesh.units import AmountMsat
from tests.roles.market import EPOCH_MS, PROMPT, Market, MarketNode, Purchase, chat_row, loop_clock, wanted

pytestmark = pytest.mark.anyio

FORTUNE_MSAT: Final = 1_000_000_000
TRANCHE_MSAT: Final = 5_000
SESSION_TERM: Final = SettlementTerm(order="prepay", scope="session", tranche_units=TRANCHE_MSAT)
JOB_TERM: Final = SettlementTerm(order="prepay", tranche_units=16)
PREPAID: Final = wanted(settlement="session")


@asynccontextmanager
async def pooled(market: Market, size: int = 8, idle_seconds: float = 60) -> AsyncIterator[tuple[Client, SessionPool]]:
    async with market.client() as client, SessionPool(client, size, idle_seconds) as pool:
        yield client, pool


async def purchase(pool: SessionPool, job: Wanted | None = None, watcher: BuyingWatcher | None = None) -> Purchase:
    pieces: list[str] = []

    async def deliver(data: str) -> None:
        pieces.append(data)

    return Purchase(await pool.buy(job or wanted(), deliver, watcher), pieces)


async def serve(pool: SessionPool, job: Wanted | None = None) -> Purchase:
    """Buy a job that must succeed."""
    bought = await purchase(pool, job)
    outcome = bought.bought.outcome
    assert outcome is not None and outcome.state is JobState.DONE and outcome.is_verified, bought.bought.reason
    return bought


def session_of(bought: Purchase) -> str:
    assert bought.bought.contract is not None
    return bought.bought.contract.session_id


async def test_the_next_job_begins_in_the_session_of_the_last_without_asking_anybody() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with pooled(market) as (_, pool):
            first = await serve(pool)
            asked = [event for event in market.relays[0].query(()) if event.kind == Kind.QUOTE_REQUEST]
            began = anyio.current_time()
            for _ in range(5):
                assert session_of(await serve(pool)) == session_of(first)
            assert [event for event in market.relays[0].query(()) if event.kind == Kind.QUOTE_REQUEST] == asked
            assert anyio.current_time() - began < 1
            assert len(pool.sessions) == 1


async def test_sessions_are_closed_with_the_pool() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with market.client() as client:
            async with SessionPool(client) as pool:
                await serve(pool)
                (session,) = pool.sessions
            await anyio.sleep(1)
            assert session.is_closed


async def test_jobs_at_the_same_time_have_a_session_each_where_each_is_paid_by_itself() -> None:
    async with Market().open() as market:
        await market.add_node(script=RunScript(pace_ms=50))
        async with pooled(market, size=2) as (_, pool):
            await serve(pool)
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(serve, pool)
                await anyio.sleep(0.2)
                assert len(pool.sessions) == 4
            await anyio.sleep(1)
            assert len(pool.sessions) == 2


async def test_jobs_at_the_same_time_share_a_prepaid_session_as_far_as_its_tranche_reaches() -> None:
    async with Market().open() as market:
        await market.add_node(settlement=(SESSION_TERM,), script=RunScript(pace_ms=50), maximum_jobs=32)
        async with pooled(market) as (_, pool):
            first = await serve(pool, PREPAID)
            most = TRANCHE_MSAT // (pool.sessions[0].contract.quote.max_msat or 1)
            assert most > 2
            sessions: list[str] = []

            async def run() -> None:
                sessions.append(session_of(await serve(pool, PREPAID)))

            async with anyio.create_task_group() as tasks:
                for _ in range(most + 1):
                    tasks.start_soon(run)
            assert sessions.count(session_of(first)) == most and len(set(sessions)) == 2


async def test_a_session_that_was_idle_for_too_long_is_closed() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with pooled(market, idle_seconds=20) as (_, pool):
            await serve(pool)
            (session,) = pool.sessions
            await anyio.sleep(15)
            assert len(pool.sessions) == 1
            await anyio.sleep(11)
            assert session.is_closed and not pool.sessions


async def test_a_quote_that_is_about_to_end_is_asked_for_anew() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with pooled(market, idle_seconds=600) as (_, pool):
            first = await serve(pool)
            await anyio.sleep(59)
            second = await serve(pool)
            assert session_of(second) != session_of(first) and not second.bought.tried


async def test_what_is_prepaid_serves_after_the_quote_has_ended_and_then_another_session_does() -> None:
    async with Market().open() as market:
        await market.add_node(settlement=(SESSION_TERM,))
        async with pooled(market, idle_seconds=600) as (_, pool):
            first = await serve(pool, PREPAID)
            left = pool.sessions[0].balance_msat
            await anyio.sleep(120)
            late = await serve(pool, PREPAID)
            assert session_of(late) == session_of(first) and pool.sessions[0].balance_msat < left
            sessions = [session_of(await serve(pool, PREPAID)) for _ in range(40)]
        assert 1 < len(set(sessions)) < 10 and sessions[0] == session_of(first)


async def test_a_larger_job_gets_all_its_output_and_never_less_because_of_the_session() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with pooled(market) as (_, pool):
            first = await serve(pool, wanted("one", output_tokens=1))
            long = " ".join(f"word{number}" for number in range(100))
            second = await serve(pool, wanted(long, output_tokens=200))
            assert second.text == long
            assert session_of(second) != session_of(first), "it put more at stake than the first quote stated"


async def test_a_smaller_job_fits_a_session_and_costs_no_more_than_its_own_limit() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with pooled(market) as (_, pool):
            first = await serve(pool, wanted(PROMPT * 10, output_tokens=100))
            second = await serve(pool)
            assert session_of(second) == session_of(first)
            jobs = await market.client_ledger.find_jobs(JobQuery())
            limits = {job.job.job_id: job.job.maximum_msat for job in jobs}
            assert second.bought.outcome is not None and first.bought.outcome is not None
            assert limits[second.bought.outcome.job_id] < limits[first.bought.outcome.job_id]


async def test_another_form_of_settlement_or_another_model_opens_another_session() -> None:
    async with Market().open() as market:
        await market.add_node(settlement=(SettlementTerm(order="sealed"), JOB_TERM, SESSION_TERM))
        async with pooled(market) as (_, pool):
            forms = ("session", "sealed", "prepay")
            sessions = {form: session_of(await serve(pool, wanted(settlement=form))) for form in forms}
            assert len(set(sessions.values())) == 3
            for form in forms:
                assert session_of(await serve(pool, wanted(settlement=form))) == sessions[form]
            absent = await purchase(pool, wanted(model="absent"))
            assert absent.bought.outcome is None and "model not offered" in absent.bought.reason


async def test_whoever_reads_along_is_not_served_in_a_session_that_was_opened_for_sealed_delivery() -> None:
    async with Market().open() as market:
        await market.add_node(settlement=(SettlementTerm(order="sealed"), JOB_TERM))
        async with pooled(market) as (_, pool):
            first = await serve(pool)
            second = await serve(pool, wanted(is_streamed=True))
        forms = [each.bought.contract.term.form for each in (first, second) if each.bought.contract is not None]
        assert forms == ["sealed", "prepay"]


@pytest.mark.parametrize(("apart_seconds", "is_prepaid"), [(10, True), (20, False)])
async def test_a_session_is_prepaid_of_our_own_accord_only_where_jobs_come_often(
    apart_seconds: int, is_prepaid: bool
) -> None:
    async with Market().open() as market:
        await market.add_node(settlement=(JOB_TERM, SESSION_TERM))
        forms: list[str | None] = []
        async with pooled(market) as (_, pool):
            for _ in range(12):
                bought = await serve(pool)
                assert bought.bought.contract is not None
                forms.append(bought.bought.contract.term.form)
                await anyio.sleep(apart_seconds)
        assert forms[:4] == ["prepay"] * 4
        assert ("session" in forms) == is_prepaid, forms


async def test_a_node_that_became_much_cheaper_is_taken_although_a_session_is_warm() -> None:
    async with Market().open() as market:
        dear = await market.add_node(chat_row(output_msat=AmountMsat(90_000)))
        async with pooled(market) as (_, pool):
            first = await serve(pool)
            cheap = await market.add_node(chat_row(output_msat=AmountMsat(1_000)))
            await anyio.sleep(1)
            second = await serve(pool)
        assert first.bought.contract is not None and first.bought.contract.node == dear.key.public_key
        assert second.bought.contract is not None and second.bought.contract.node == cheap.key.public_key


@pytest.mark.parametrize("change", [{"output_msat": AmountMsat(4_001)}, {"context_limit": 8_192}])
async def test_a_session_is_not_used_where_its_node_now_offers_something_else_or_asks_less(
    change: dict[str, int],
) -> None:
    async with Market().open() as market:
        await market.add_node()
        async with pooled(market) as (_, pool):
            first = await serve(pool)
            (session,) = pool.sessions
            quote = session.contract.quote  # as if it had been quoted before the node changed its offer
            changed = quote.model_copy(update={"row": quote.row.model_copy(update=change)})
            session.contract = replace(session.contract, quote=changed)
            assert session_of(await serve(pool)) != session_of(first)


async def test_a_node_that_the_buyer_ignores_or_does_not_allow_is_not_used_because_it_is_warm() -> None:
    async with Market().open() as market:
        warm = await market.add_node()
        async with pooled(market) as (_, pool):
            await serve(pool)
            other = await market.add_node()
            await anyio.sleep(1)
            for job in (
                wanted(ignore=frozenset({warm.key.public_key})),
                wanted(allow=frozenset({other.key.public_key})),
            ):
                bought = await serve(pool, job)
                assert bought.bought.contract is not None and bought.bought.contract.node == other.key.public_key


async def test_a_warm_session_whose_node_is_gone_costs_nothing_and_another_node_serves() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with pooled(market) as (_, pool):
            first = await serve(pool)
            await market.add_node()
            await anyio.sleep(1)
            market.nodes[0].scope.cancel()  # says goodbye, which the next purchase may or may not have heard
            second = await serve(pool)
            assert session_of(second) != session_of(first)
            assert second.bought.contract is not None
            assert second.bought.contract.node == market.nodes[1].key.public_key


async def test_a_session_in_which_a_job_failed_is_not_used_again() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        async with pooled(market) as (_, pool):
            first = await serve(pool)
            node.runner.script = RunScript(fails_after=2)
            broken = await purchase(pool)
            assert session_of(broken) == session_of(first) and broken.bought.reason
            node.runner.script = RunScript()
            assert session_of(await serve(pool)) != session_of(first)


async def test_a_session_that_is_over_says_nothing_against_its_node() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with pooled(market) as (_, pool):
            first = await serve(pool)
            (session,) = pool.sessions
            pool.find = lambda selection: session  # type: ignore[method-assign]  # as if it ended a moment later
            await session.aclose()
            await anyio.sleep(1)
            second = await serve(pool)
            assert session_of(second) != session_of(first)
            assert [reason.partition(":")[0] for _, reason in second.bought.tried] == [RefusalCode.CANCELLED.value]


async def test_a_payment_that_fails_in_a_warm_session_is_made_in_a_new_one() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        async with pooled(market) as (_, pool):
            first = await serve(pool)
            market.buyer.plan(FailPayment())
            second = await serve(pool)
            assert session_of(second) != session_of(first)
            paid = [each.bought.outcome.paid_msat for each in (first, second) if each.bought.outcome is not None]
            assert (await node.wallet.info()).balance_msat == sum(paid)


# ── nodes die at any moment ───────────────────────────────────────────────────────────────────────────────────────


class JobsBegun(SilentWatcher):
    """Remembers the jobs of one purchase."""

    def __init__(self) -> None:
        self.job_ids: list[str] = []

    def began(self, job: RunningJob) -> None:
        self.job_ids.append(job.job_id)


@dataclass
class Storm:
    """A market in which nodes die at arbitrary moments and others come, while requests go on."""

    market: Market
    chance: Random
    dead: list[MarketNode] = field(default_factory=list)

    async def add_node(self) -> MarketNode:
        terms = (SESSION_TERM,) if self.chance.random() < 0.5 else (JOB_TERM, SESSION_TERM)
        script = RunScript(first_output_ms=self.chance.randrange(300), pace_ms=self.chance.randrange(30))
        return await self.market.add_node(settlement=terms, script=script, maximum_jobs=8)

    def kill(self, node: MarketNode) -> None:
        """Take it from the network without a word, as a crash does, then end its tasks."""
        self.market.network.cut()  # every connection: the others' come back
        node.scope.cancel()
        self.dead.append(node)

    async def rage(self) -> None:
        while True:
            await anyio.sleep(self.chance.random() * 2)
            alive = [node for node in self.market.nodes if node not in self.dead]
            self.kill(self.chance.choice(alive))
            await self.add_node()


async def account(market: Market) -> None:
    """Every rule holds in every ledger, nothing is open, and what the nodes received is what was charged."""
    await recover_client(market.client_ledger, market.buyer)
    ours = await market.client_ledger.find_jobs(JobQuery())
    received = 0
    for node in market.nodes:
        await recover_node(node.ledger, node.wallet, node.key, loop_clock)
        received += (await node.wallet.info()).balance_msat
    ledgers: list[MemoryLedger] = [market.client_ledger, *(node.ledger for node in market.nodes)]
    for ledger in ledgers:
        jobs = await ledger.find_jobs(JobQuery())
        assert await ledger.find_jobs(JobQuery(only_unresolved=True)) == ()
        for invariant in audit(jobs, (), (), now_ms=EPOCH_MS + 10**9, open_ms=0):
            assert invariant.holds, invariant.broken
    paid = [tranche for job in ours for tranche in job.tranches if tranche.state is TrancheState.RELEASED]
    spent = FORTUNE_MSAT - (await market.buyer.info()).balance_msat
    assert sum(job.job.charged_msat for job in ours) == received == sum(tranche.amount_msat for tranche in paid)
    assert spent == received + sum(tranche.fee_msat for tranche in paid)


@pytest.mark.parametrize("seed", range(3))
async def test_whenever_nodes_die_each_request_is_served_or_says_why_and_every_msat_is_accounted_for(
    seed: int,
) -> None:
    async with Market().open() as market:
        market.buyer = market.lightning.wallet("rich", FORTUNE_MSAT)
        chance = Random(seed)
        storm = Storm(market, chance)
        for _ in range(3):
            await storm.add_node()
        ends: list[str] = []
        begun: list[JobsBegun] = []

        async def buyer(pool: SessionPool, requests: int) -> None:
            for _ in range(requests):
                await anyio.sleep(chance.random())
                begun.append(JobsBegun())
                job = wanted(settlement=chance.choice(("auto", "session", "auto")))
                bought = await purchase(pool, job, begun[-1])
                outcome = bought.bought.outcome
                is_done = outcome is not None and outcome.state is JobState.DONE
                assert is_done != bool(bought.bought.reason), "neither served nor told why"
                assert not is_done or bought.text.split() == PROMPT.split()
                ends.append(bought.bought.reason.partition(":")[0] or "served")

        async with pooled(market, size=4) as (_, pool), anyio.create_task_group() as tasks:
            tasks.start_soon(storm.rage)
            async with anyio.create_task_group() as buyers:
                for _ in range(5):
                    buyers.start_soon(buyer, pool, 20)
            tasks.cancel_scope.cancel()
        await anyio.sleep(120)
        assert len(ends) == 100 and ends.count("served") > 60, ends
        assert len(storm.dead) > 5
        await account(market)
        jobs = await market.client_ledger.find_jobs(JobQuery())
        assert {SESSION_ACCOUNT, "chat"} == {job.job.job_type for job in jobs}, "not both ways to pay were seen"
        paid = {job.job.job_id for job in jobs if job.job.charged_msat}
        assert all(len(paid.intersection(each.job_ids)) <= 1 for each in begun), "one request was paid for twice"
