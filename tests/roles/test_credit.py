"""Work before payment, whole: lent to keys that are known, bounded for all others, and never forgotten unpaid."""

from typing import Final

import anyio
import pytest

from relaymesh.machines import guaranteeing
from relaymesh.machines.records import JobState
from relaymesh.market.unpaid_work import Reservation, UnpaidWork
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.ledger import JobQuery
from relaymesh.ports.memory_lightning import FailPayment, HoldPayment
from relaymesh.protocol.fields import Order
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.roles.client import ClientSettings
from relaymesh.roles.client_tools import PaymentPolicy
from relaymesh.roles.node_credit import OpenInvoices, recall_unpaid
from relaymesh.units import AmountMsat
from tests.roles.market import PROMPT, Market, MarketNode, open_session, purchase, start_job, wanted

pytestmark = pytest.mark.anyio
BUYER: Final = KeyPair(b"\x21" * 32)
LINE: Final = AmountMsat(200_000)
KNOWN: Final = ClientSettings(credit_key=BUYER)


async def lender(market: Market, *orders: Order, unknown_msat: int = 1_000_000, maximum_jobs: int = 4) -> MarketNode:
    return await market.add_node(
        settlement=tuple(SettlementTerm(order=order) for order in orders),
        unpaid=UnpaidWork(AmountMsat(unknown_msat), {BUYER.public_key: LINE}),
        maximum_jobs=maximum_jobs,
    )


async def recalled(node: MarketNode) -> UnpaidWork:
    """What the node would know after a restart, from its ledger alone."""
    work = UnpaidWork(AmountMsat(0), {BUYER.public_key: LINE})
    await recall_unpaid(node.ledger, work)
    return work


async def test_a_buyer_whose_key_is_known_is_served_first_and_pays_afterwards() -> None:
    async with Market().open() as market:
        node = await lender(market, "postpay")
        async with market.client(KNOWN) as client:
            bought = await purchase(client, wanted(settlement="postpay"))
        await anyio.sleep(1)  # on the virtual clock: the node takes the receipt
        outcome = bought.bought.outcome
        assert outcome is not None and outcome.state is JobState.DONE and outcome.paid_msat > 0
        assert bought.text.split() == PROMPT.split()
        assert bought.bought.contract is not None and bought.bought.contract.term.order == "postpay"
        assert node.tools.unpaid.at_stake_msat(BUYER.public_key) == 0, "paid, so the whole line is free again"
        assert (await recalled(node)).debts == ()
        kinds = [each.event.kind for each in await node.ledger.find_evidence()]
        assert kinds.count(Kind.GUARANTEE) == 1


async def test_a_stranger_is_not_served_on_credit() -> None:
    async with Market().open() as market:
        node = await lender(market, "postpay")
        for settings in (None, ClientSettings(credit_key=KeyPair.generate())):
            async with market.client(settings) as client:
                bought = await purchase(client, wanted(settlement="postpay"))
            assert "payment-required" in bought.bought.reason
        assert node.runner.counts.started == 0


async def test_what_was_delivered_and_not_paid_stays_the_keys_debt_also_after_a_restart() -> None:
    async with Market().open() as market:
        node = await lender(market, "postpay")
        market.buyer.plan(*[FailPayment() for _ in range(3)])
        async with market.client(KNOWN) as client:
            session = await open_session(client, wanted(settlement="postpay"))
            for _ in range(2):
                async with start_job(session) as job:
                    assert [data async for data in job.outputs()]
                    assert (await job.wait_outcome()).state is JobState.FAILED
            await session.aclose()
        await anyio.sleep(120)
        debts = node.tools.unpaid.debts
        assert len(debts) == 2 and {debt.guarantor for debt in debts} == {BUYER.public_key}
        owed_msat = sum(debt.amount_msat for debt in debts)
        assert node.tools.unpaid.at_stake_msat(BUYER.public_key) == owed_msat > 0
        after = await recalled(node)
        assert sorted(after.debts, key=str) == sorted(debts, key=str)
        assert after.trust(session.contract.client, BUYER.public_key).credit_msat == LINE - owed_msat
        forgiven = UnpaidWork(AmountMsat(0), after.lines, forgiven=[debt.job[1] for debt in debts])
        await recall_unpaid(node.ledger, forgiven)
        assert forgiven.debts == () and forgiven.at_stake_msat(BUYER.public_key) == 0


async def test_a_sealed_tranche_that_lapses_bars_its_key_and_leaves_nothing_reserved() -> None:
    async with Market().open() as market:
        node = await lender(market, "sealed")
        market.buyer.plan(FailPayment())
        async with market.client() as client:
            session = await open_session(client, wanted(settlement="sealed"))
            async with start_job(session) as job:
                assert [data async for data in job.outputs()] == []
                assert (await job.wait_outcome()).state is JobState.FAILED
            await anyio.sleep(120)
            assert node.tools.unpaid.at_stake_msat(None) == 0
            assert node.tools.unpaid.trust(session.contract.client).is_barred
            assert (await recalled(node)).trust(session.contract.client).is_barred
            async with start_job(session) as job:
                outcome = await job.wait_outcome()
            assert outcome.refusal is not None and "pays beforehand" in outcome.refusal.reason
            await session.aclose()
        assert node.runner.counts.started == 1


async def test_jobs_beyond_what_a_node_risks_for_strangers_are_refused_and_later_served() -> None:
    async with Market().open() as market:
        node = await lender(market, "sealed")
        async with market.client() as client:
            session = await open_session(client, wanted(settlement="sealed"))
            exposure_msat = session.contract.term.exposure_node_msat
            rest_msat = AmountMsat(1_000_000 - exposure_msat + 1)
            others = node.tools.unpaid.reserve(BUYER.public_key, None, "sealed", rest_msat)
            assert isinstance(others, Reservation)
            async with start_job(session) as job:
                outcome = await job.wait_outcome()
            assert outcome.refusal is not None and "as much unpaid work" in outcome.refusal.reason
            assert node.runner.counts.started == 0 and outcome.committed_msat == 0
            node.tools.unpaid.release(others)
            async with start_job(session) as job:
                assert (await job.wait_outcome()).state is JobState.DONE
            await session.aclose()
        await anyio.sleep(1)  # on the virtual clock: the node takes the receipt
        assert node.tools.unpaid.at_stake_msat(None) == 0


async def test_unpaid_jobs_do_not_keep_a_node_from_those_who_pay() -> None:
    async with Market().open() as market:
        node = await lender(market, "prepay", maximum_jobs=1)
        market.buyer.plan(FailPayment())
        async with market.client() as client:
            idle = await open_session(client)
            async with start_job(idle):
                await anyio.sleep(4)
                assert node.tools.places.load().free == 1, "its invoice is open for a minute, its place is not"
                bought = await purchase(client)
                assert bought.bought.outcome is not None and bought.bought.outcome.state is JobState.DONE
            await idle.aclose()


async def test_a_guarantee_that_expires_within_a_session_begins_no_more_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guaranteeing, "MAXIMUM_GUARANTEE_SECONDS", 30)
    async with Market().open() as market:
        node = await lender(market, "postpay")
        async with market.client(KNOWN) as client:
            session = await open_session(client, wanted(settlement="postpay"))
            await anyio.sleep(31)
            async with start_job(session) as job:
                outcome = await job.wait_outcome()
            assert outcome.refusal is not None and "expired" in outcome.refusal.reason
            await session.aclose()
        assert await node.ledger.find_jobs(JobQuery(side="node")) == ()


async def test_an_invoice_that_was_open_at_a_restart_counts_as_owed_until_it_is_paid() -> None:
    async with Market().open() as market:
        node = await lender(market, "postpay")
        market.buyer.plan(HoldPayment())
        policy = PaymentPolicy(deadline_ms=500)
        async with market.client(KNOWN, policy=policy) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(purchase, client, wanted(settlement="postpay"))
            await anyio.sleep(5)
            (before,) = await node.ledger.find_jobs(JobQuery(side="node", only_unresolved=True))
            tasks.cancel_scope.cancel()
        work = await recalled(node)
        invoices = OpenInvoices(work, node.ledger, [before])
        await invoices.book()
        assert work.at_stake_msat(BUYER.public_key) == before.tranches[0].amount_msat > 0
        market.buyer.release(before.tranches[0].payment_hash)
        await anyio.sleep(60)
        await invoices.settle()
        assert work.at_stake_msat(BUYER.public_key) == 0 and work.debts == ()
