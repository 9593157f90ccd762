"""Restart after a crash at any point: every open row is resolved, nothing is paid or served twice or forgotten."""

import anyio
import pytest
from structlog.testing import capture_logs

from relaymesh.errors import LightningError
from relaymesh.machines.records import JobState, TrancheState
from relaymesh.machines.settlement import invoice_label
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.ledger import JobQuery, LedgerJob
from relaymesh.ports.lightning import Invoice, InvoiceRequest, InvoiceState, WalletInfo
from relaymesh.ports.memory_ledger import MemoryLedger
from relaymesh.ports.memory_lightning import HoldPayment, LoseAnswer, MemoryWallet
from relaymesh.ports.memory_runner import RunScript
from relaymesh.protocol.evidence import read_metering
from relaymesh.roles.client_tools import PaymentPolicy
from relaymesh.roles.recovery import NodeRecovery, recover_client, recover_node
from tests.roles.market import Market, MarketNode, loop_clock, open_session, purchase, start_job

pytestmark = pytest.mark.anyio


class CrashingLedger(MemoryLedger):
    """A ledger whose process is killed after so many writes: later ones never happen."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.left = writes
        self.crashed = anyio.Event()

    async def write(self, records) -> None:  # type: ignore[no-untyped-def]  # as the port has it
        if self.left == 0:
            self.crashed.set()
            await anyio.sleep_forever()  # a killed process gets no further; the test ends it
        self.left -= 1
        await super().write(records)


async def unresolved(ledger: MemoryLedger) -> tuple[LedgerJob, ...]:
    return await ledger.find_jobs(JobQuery(only_unresolved=True))


async def crash_client_after(writes: int) -> None:
    async with Market().open() as market:
        node = await market.add_node()
        ledger = CrashingLedger(writes)
        market.client_ledger = ledger
        async with market.client() as client, anyio.create_task_group() as tasks:
            tasks.start_soon(purchase, client)
            with anyio.move_on_after(20):
                await ledger.crashed.wait()
            await anyio.sleep(2)  # what the wallet already had goes through
            tasks.cancel_scope.cancel()
        ledger.left = -1
        received = (await node.wallet.info()).balance_msat
        recovered = await recover_client(ledger, market.buyer)
        assert recovered.in_doubt == ()
        assert await unresolved(ledger) == ()
        jobs = await ledger.find_jobs(JobQuery(side="client"))
        released = sum(
            tranche.amount_msat for job in jobs for tranche in job.tranches if tranche.state is TrancheState.RELEASED
        )
        assert released == sum(job.job.charged_msat for job in jobs) == received
        assert all(job.job.body == "" and job.job.keys == b"" for job in jobs)


@pytest.mark.parametrize("writes", range(14))
async def test_a_client_killed_at_any_write_knows_afterwards_what_it_paid(writes: int) -> None:
    await crash_client_after(writes)


@pytest.mark.parametrize("writes", range(14))
async def test_a_node_killed_at_any_write_owes_one_record_and_signs_it_after_the_restart(writes: int) -> None:
    async with Market().open() as market:
        node = await market.add_node()
        ledger = CrashingLedger(writes)
        node.tools.ledger = ledger
        async with market.client() as client, anyio.create_task_group() as tasks:
            tasks.start_soon(purchase, client)
            with anyio.move_on_after(30):
                await ledger.crashed.wait()
            node.scope.cancel()
            market.network.fail()
            await anyio.sleep(2)
            tasks.cancel_scope.cancel()
        ledger.left = -1
        await recover_node(ledger, node.wallet, node.key, loop_clock)
        assert await unresolved(ledger) == ()
        jobs = await ledger.find_jobs(JobQuery(side="node"))
        received = (await node.wallet.info()).balance_msat
        assert sum(job.job.charged_msat for job in jobs) == received
        for job in jobs:
            records = [
                read_metering(evidence.event).record
                for evidence in await ledger.find_evidence(job.job.job_id)
                if evidence.event.kind == Kind.METERING
            ]
            assert [record.charged_msat for record in records] == [job.job.charged_msat], "exactly one record"


async def stopped_in_mid_payment(market: Market, fault: object) -> MarketNode:
    """A client that is stopped while its payment hangs."""
    node = await market.add_node()
    market.buyer.plan(fault)  # type: ignore[arg-type]  # any of the wallet's faults
    async with market.client(policy=PaymentPolicy(deadline_ms=500)) as client:
        with anyio.move_on_after(10):
            await purchase(client)
    return node


async def test_a_payment_the_wallet_cannot_judge_stays_unknown_over_restarts_until_it_can() -> None:
    async with Market().open() as market:
        await stopped_in_mid_payment(market, HoldPayment())
        for _ in range(2):
            recovered = await recover_client(market.client_ledger, market.buyer)
            assert [job.state for job in recovered.in_doubt] == [JobState.UNKNOWN]
        (found,) = await unresolved(market.client_ledger)
        assert found.job.body, "what may have to be taken up again is kept"
        market.buyer.release(found.tranches[0].payment_hash)
        recovered = await recover_client(market.client_ledger, market.buyer)
        assert [job.charged_msat for job in recovered.ended] == [found.tranches[0].amount_msat]
        assert await unresolved(market.client_ledger) == ()


async def test_a_lost_answer_is_found_again_whatever_it_was() -> None:
    for paid in (True, False):
        async with Market().open() as market:
            node = await stopped_in_mid_payment(market, LoseAnswer(paid=paid))
            await recover_client(market.client_ledger, market.buyer)
            (job,) = await market.client_ledger.find_jobs(JobQuery())
            assert (job.job.charged_msat > 0) is paid
            assert (await node.wallet.info()).balance_msat == job.job.charged_msat


async def test_a_node_waits_for_an_invoice_that_can_still_be_paid_before_it_ends_the_job() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        ledger = CrashingLedger(2)  # the job with its tranche, the invoice
        node.tools.ledger = ledger
        market.buyer.plan(HoldPayment())
        async with market.client(policy=PaymentPolicy(deadline_ms=500)) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(purchase, client)
            await anyio.sleep(5)
            node.scope.cancel()
            tasks.cancel_scope.cancel()
        ledger.left = -1
        began = anyio.current_time()
        with capture_logs() as logs:
            await recover_node(ledger, node.wallet, node.key, loop_clock)
        assert [entry["event"] for entry in logs] == ["waiting_for_open_invoice"], "or nobody knows what it waits for"
        assert 1 < anyio.current_time() - began <= 61, "an invoice expires after a minute"
        (job,) = await ledger.find_jobs(JobQuery())
        assert job.tranches[0].state is TrancheState.EXPIRED
        assert job.tranches[0].invoice_label == invoice_label(job.job.client, job.job.job_id, 0)


class AwayAtFirst:
    """A wallet that is away the first time it is asked."""

    def __init__(self, wallet: MemoryWallet) -> None:
        self._wallet, self.is_away = wallet, True

    async def create_invoice(self, request: InvoiceRequest) -> Invoice:
        return await self._wallet.create_invoice(request)

    async def lookup_invoice(self, label: str) -> InvoiceState:
        return await self._wallet.lookup_invoice(label)

    async def info(self) -> WalletInfo:
        return await self._wallet.info()

    async def wait_invoice(self, label: str) -> InvoiceState:
        if self.is_away:
            self.is_away = False
            raise LightningError("the wallet is away")
        return await self._wallet.wait_invoice(label)


async def test_a_restarted_node_serves_while_it_waits_for_an_open_invoice_and_then_ends_its_job() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        ledger = CrashingLedger(2)  # the job with its tranche, the invoice
        node.tools.ledger = ledger
        market.buyer.plan(HoldPayment())
        async with market.client(policy=PaymentPolicy(deadline_ms=500)) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(purchase, client)
            await anyio.sleep(5)
            node.scope.cancel()
            tasks.cancel_scope.cancel()
        ledger.left = -1
        recovery = NodeRecovery(ledger, AwayAtFirst(node.wallet), node.key, loop_clock)
        began = anyio.current_time()
        await recovery.resolve()
        assert anyio.current_time() == began, "nothing is waited for before the node serves"
        (waiting,) = recovery.waiting
        assert recovery.outcomes == [] and len(await unresolved(ledger)) == 1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(recovery.wait)
            await anyio.sleep(2)
            (paying,) = await market.client_ledger.find_jobs(JobQuery(side="client"))
            market.buyer.release(paying.tranches[0].payment_hash)
        assert await unresolved(ledger) == ()
        (job,) = recovery.outcomes
        assert job.job_id == waiting.job.job_id
        assert job.charged_msat == (await node.wallet.info()).balance_msat > 0


async def test_a_client_that_comes_back_with_an_interrupted_job_gets_its_record_and_no_second_run() -> None:
    async with Market().open() as market:
        node = await market.add_node(script=RunScript(pace_ms=500), tranche_units=None)
        async with market.client() as client:
            session = await open_session(client)
            async with start_job(session) as job:
                async for _ in job.outputs():
                    break
                job_id = job.job_id
            await anyio.sleep(1)
            runs = node.runner.counts.started
            again = session._jobs.get(job_id)
            assert again is None
        assert node.runner.counts.started == runs
        (record,) = [
            evidence for evidence in await node.ledger.find_evidence(job_id) if evidence.event.kind == Kind.METERING
        ]
        assert read_metering(record.event).record.status == "partial"
