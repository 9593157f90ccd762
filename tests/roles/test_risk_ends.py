"""What a job puts at stake is free again however it ends, and so is its place."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import anyio
import pytest

from relaymesh.errors import LedgerError
from relaymesh.machines.records import LedgerRecord
from relaymesh.market.unpaid_work import UnpaidWork
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.memory_ledger import MemoryLedger
from relaymesh.ports.memory_lightning import FailPayment, HoldPayment
from relaymesh.ports.memory_runner import RunScript
from relaymesh.protocol.fields import SettlementForm
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.roles.client import ClientSettings
from relaymesh.roles.client_jobs import OpenSession, RunningJob
from relaymesh.units import AmountMsat
from tests.roles.market import Market, MarketNode, open_session, start_job, wanted

pytestmark = pytest.mark.anyio
BUYER: Final = KeyPair(b"\x21" * 32)
FORMS: Final[tuple[SettlementForm, ...]] = ("sealed", "postpay")


class FullLedger(MemoryLedger):
    """A ledger whose disk is full from some write on."""

    left = 0

    async def write(self, records: tuple[LedgerRecord, ...]) -> None:
        if self.left < 1:
            raise LedgerError("the disk is full")
        self.left -= 1
        await super().write(records)


Ending = Callable[[Market, MarketNode, OpenSession, RunningJob], Awaitable[None]]


async def to_its_end(market: Market, node: MarketNode, session: OpenSession, job: RunningJob) -> None:
    await job.wait_outcome()


async def cancelled(market: Market, node: MarketNode, session: OpenSession, job: RunningJob) -> None:
    await anyio.sleep(0.7)
    job.cancel()


async def left(market: Market, node: MarketNode, session: OpenSession, job: RunningJob) -> None:
    await anyio.sleep(0.7)
    await session.aclose()


async def cut_off(market: Market, node: MarketNode, session: OpenSession, job: RunningJob) -> None:
    await anyio.sleep(0.7)
    market.network.fail()


SLOW: Final = RunScript(pace_ms=300)
ENDINGS: Final[dict[str, tuple[RunScript, Ending]]] = {
    "to its end": (RunScript(), to_its_end),
    "with a runner that fails": (replace(SLOW, fails_after=2), to_its_end),
    "with a runner that fails at once": (RunScript(fails_after=0), to_its_end),
    "with a runner that refuses": (RunScript(refuses=True), to_its_end),
    "cancelled": (SLOW, cancelled),
    "left": (SLOW, left),
    "cut off": (SLOW, cut_off),
}


async def lender(market: Market, form: SettlementForm, script: RunScript) -> MarketNode:
    assert form != "session"
    return await market.add_node(
        settlement=(SettlementTerm(order=form, tranche_units=16),),
        unpaid=UnpaidWork(AmountMsat(1_000_000), {BUYER.public_key: AmountMsat(1_000_000)}),
        script=script,
    )


def assert_nothing_is_at_stake(node: MarketNode) -> None:
    work = node.tools.unpaid
    owed = sum(debt.amount_msat for debt in work.debts)
    assert (work.at_stake_msat(None), work.at_stake_msat(BUYER.public_key)) == (0, owed)
    assert node.tools.places.running == 0 and node.tools.places.load().queue == 0


@pytest.mark.parametrize("pays", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", ENDINGS)
async def test_a_job_leaves_nothing_at_stake(how: str, form: SettlementForm, pays: bool) -> None:
    script, end = ENDINGS[how]
    async with Market().open() as market:
        node = await lender(market, form, script)
        if not pays:
            market.buyer.plan(*[FailPayment() for _ in range(8)])
        async with market.client(ClientSettings(credit_key=BUYER)) as client:
            session = await open_session(client, wanted(settlement=form))
            async with start_job(session) as job:
                await end(market, node, session, job)
                await anyio.sleep(1)
            await session.aclose()
        await anyio.sleep(180)
        assert_nothing_is_at_stake(node)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("writes", range(6))
async def test_a_ledger_that_fails_leaves_nothing_at_stake(writes: int, form: SettlementForm) -> None:
    async with Market().open() as market:
        node = await lender(market, form, RunScript())
        ledger = FullLedger()
        ledger.left = writes
        node.tools.ledger = ledger
        market.buyer.plan(HoldPayment())
        async with market.client(ClientSettings(credit_key=BUYER)) as client:
            session = await open_session(client, wanted(settlement=form))
            async with start_job(session):
                await anyio.sleep(5)
            await session.aclose()
        await anyio.sleep(180)
        assert_nothing_is_at_stake(node)
