"""Killed at any write of a sealed purchase: what was paid can be read, and nothing is paid or released besides."""

import anyio
import pytest

from relaymesh.machines.records import TrancheState
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.ledger import JobQuery
from relaymesh.ports.memory_ledger import MemoryLedger
from relaymesh.protocol.evidence import read_metering
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.roles.recovery import recover_node
from relaymesh.roles.sealed_recovery import forget_sealed, open_sealed_jobs
from tests.roles.market import PROMPT, Market, MarketNode, loop_clock, purchase, wanted
from tests.roles.test_recovery import CrashingLedger, unresolved

pytestmark = pytest.mark.anyio
SEALED = (SettlementTerm(order="sealed", tranche_units=8),)
WRITES = range(16)


async def buy_until_killed(market: Market, node: MarketNode, ledger: CrashingLedger, *, is_node: bool) -> str:
    """Buy a job until the process with this ledger is killed; what the buyer read by then."""
    read: list[str] = []

    async def buy() -> None:
        async with market.client() as client:
            read.extend((await purchase(client, wanted(settlement="sealed"))).pieces)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(buy)
        with anyio.move_on_after(30):
            await ledger.crashed.wait()
        if is_node:
            node.scope.cancel()
            market.network.fail()
        await anyio.sleep(2)  # what the wallet already had goes through
        tasks.cancel_scope.cancel()
    ledger.left = -1
    return "".join(read)


async def paid_text(ledger: MemoryLedger) -> tuple[int, int]:
    """Bytes that were paid for, and what for them: the row is priced by the byte, and its input comes first."""
    rows = [row for job in await ledger.find_jobs(JobQuery(side="client")) for row in job.tranches]
    paid = [row for row in rows if row.state is TrancheState.RELEASED]
    return sum(row.units for row in paid), sum(row.amount_msat for row in paid)


@pytest.mark.parametrize("writes", WRITES)
async def test_a_client_killed_at_any_write_reads_what_it_paid_without_the_node(writes: int) -> None:
    async with Market().open() as market:
        node = await market.add_node(settlement=SEALED)
        ledger = CrashingLedger(writes)
        market.client_ledger = ledger
        read = await buy_until_killed(market, node, ledger, is_node=False)
        node.scope.cancel()
        opened = await open_sealed_jobs(ledger, market.buyer)
        received = (await node.wallet.info()).balance_msat
        assert await unresolved(ledger) == ()
        units, msat = await paid_text(ledger)
        assert msat == received == sum(job.job.charged_msat for job in await ledger.find_jobs(JobQuery()))
        recovered = "".join(piece for job in opened for piece in job.pieces)
        assert recovered == PROMPT[:units] or (recovered == "" and read == PROMPT[:units])
        await forget_sealed(ledger, opened)
        assert all(sealed.leaves == () for sealed in await ledger.find_sealed("client"))


@pytest.mark.parametrize("writes", WRITES)
async def test_a_node_killed_at_any_write_sold_what_it_was_paid_for_and_signs_one_record_of_it(writes: int) -> None:
    async with Market().open() as market:
        node = await market.add_node(settlement=SEALED)
        ledger = CrashingLedger(writes)
        node.tools.ledger = ledger
        await buy_until_killed(market, node, ledger, is_node=True)
        await recover_node(ledger, node.wallet, node.key, loop_clock)
        assert await unresolved(ledger) == ()
        assert all(sealed.leaves == () for sealed in await ledger.find_sealed("node"))
        received = (await node.wallet.info()).balance_msat
        jobs = await ledger.find_jobs(JobQuery(side="node"))
        assert sum(job.job.charged_msat for job in jobs) == received
        for job in jobs:
            records = [
                read_metering(evidence.event).record
                for evidence in await ledger.find_evidence(job.job.job_id)
                if evidence.event.kind == Kind.METERING
            ]
            assert [record.charged_msat for record in records] == [job.job.charged_msat], "exactly one record"
            assert all(tranche.units_used == tranche.units_paid for tranche in records[0].tranches)
        await open_sealed_jobs(market.client_ledger, market.buyer)
        units, msat = await paid_text(market.client_ledger)
        assert msat == received and units <= len(PROMPT)
