"""Client and node as roles, whole: found, quoted, opened, paid, delivered, accounted for, and every way that fails."""

import anyio
import pytest

from relaymesh.machines.records import JobState, TrancheState
from relaymesh.nostr.event import VerifiedEvent
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.ledger import JobQuery
from relaymesh.ports.memory_lightning import FailPayment, HoldPayment
from relaymesh.ports.memory_runner import RunScript
from relaymesh.protocol.evidence import read_receipt
from relaymesh.protocol.refusal import RefusalCode
from relaymesh.roles.node_places import Place
from relaymesh.units import AmountMsat
from tests.roles.market import PROMPT, Market, chat_row, open_session, purchase, start_job, wanted

pytestmark = pytest.mark.anyio


async def test_a_stranger_buys_a_job_knowing_only_relays() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        async with market.client() as client:
            bought = await purchase(client)
        outcome = bought.bought.outcome
        assert outcome is not None and outcome.state is JobState.DONE
        assert bought.text.split() == PROMPT.split()
        assert outcome.is_verified and outcome.receipt is not None
        assert read_receipt(verify(outcome.receipt), verify).metering.event.public_key == node.key.public_key
        assert (await node.wallet.info()).balance_msat == outcome.paid_msat > 0


async def test_both_ledgers_hold_both_signatures_afterwards() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        async with market.client() as client:
            await purchase(client)
        for ledger in (market.client_ledger, node.ledger):
            kinds = {record.event.kind for record in await ledger.find_evidence()}
            assert {Kind.METERING, Kind.RECEIPT} <= kinds
            assert await ledger.find_jobs(JobQuery(only_unresolved=True)) == ()


async def test_no_prompt_and_no_output_ever_reach_a_relay() -> None:
    async with Market().open() as market:
        await market.add_node()
        seen: list[str] = []
        async with market.client() as client:
            async with client.relays.subscribe(()) as deliveries:
                assert deliveries is not None
            bought = await purchase(client, wanted("canary seventeen"))
            assert bought.text
        for relay in market.relays:
            seen += [event.content for event in relay.query(())]
        assert not any("canary" in content for content in seen)


async def test_the_cheapest_node_is_chosen() -> None:
    async with Market().open() as market:
        await market.add_node(chat_row(output_msat=AmountMsat(9_000)))
        cheap = await market.add_node(chat_row(output_msat=AmountMsat(1_000)))
        async with market.client() as client:
            bought = await purchase(client)
        assert bought.bought.contract is not None and bought.bought.contract.node == cheap.key.public_key


async def test_a_model_nobody_offers_is_one_clear_sentence() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with market.client() as client:
            bought = await purchase(client, wanted(model="absent"))
        assert bought.bought.outcome is None
        assert "model not offered" in bought.bought.reason


async def test_an_empty_market_is_one_clear_sentence_after_a_bounded_wait() -> None:
    async with Market().open() as market, market.client() as client:
        began = anyio.current_time()
        bought = await purchase(client)
        assert anyio.current_time() - began <= 6
        assert bought.bought.outcome is None and bought.bought.reason


async def test_a_runner_that_fails_before_its_first_output_leads_to_the_next_node() -> None:
    async with Market().open() as market:
        free = chat_row(input_msat=AmountMsat(0), output_msat=AmountMsat(0), minimum_msat=AmountMsat(0))
        broken = await market.add_node(free, script=RunScript(fails_after=0))
        sound = await market.add_node()
        async with market.client() as client:
            bought = await purchase(client)
        assert bought.bought.outcome is not None and bought.bought.outcome.state is JobState.DONE
        assert bought.bought.contract is not None and bought.bought.contract.node == sound.key.public_key
        assert [node for node, _ in bought.bought.tried] == [broken.key.public_key]


async def test_a_runner_that_fails_in_mid_stream_ends_in_a_signed_partial_result() -> None:
    async with Market().open() as market:
        await market.add_node(script=RunScript(fails_after=3), tranche_units=None)
        async with market.client() as client:
            bought = await purchase(client)
        outcome = bought.bought.outcome
        assert outcome is not None and outcome.state is JobState.FAILED
        assert bought.text.split() == PROMPT.split()[:3]
        assert outcome.metering is not None and outcome.metering.record.status == "partial"
        assert outcome.metering.record.charged_msat == outcome.paid_msat


async def test_a_wallet_without_funds_pays_nothing_and_says_so() -> None:
    async with Market().open() as market:
        await market.add_node()
        market.buyer.plan(*[FailPayment() for _ in range(3)])
        async with market.client() as client:
            bought = await purchase(client)
        assert bought.bought.reason.startswith("payment-required")
        assert (await market.buyer.info()).balance_msat == 1_000_000


async def test_an_offer_that_names_another_lightning_node_is_never_paid() -> None:
    async with Market().open() as market:
        await market.add_node(lightning_node_id="03" + "cd" * 32)
        async with market.client() as client:
            bought = await purchase(client)
        assert "payment-mismatch" in bought.bought.reason
        assert (await market.buyer.info()).balance_msat == 1_000_000


async def test_a_busy_node_is_passed_over_and_says_why() -> None:
    async with Market().open() as market:
        busy = await market.add_node(chat_row(output_msat=AmountMsat(1)), maximum_jobs=1)
        free = await market.add_node()
        assert isinstance(busy.tools.places.ask(KeyPair.generate().public_key), Place)
        async with market.client() as client:
            bought = await purchase(client)
        assert bought.bought.contract is not None and bought.bought.contract.node == free.key.public_key


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # mining takes a thread, for which a virtual clock does not wait
async def test_proof_of_work_that_a_node_asks_for_is_done() -> None:
    async with Market().open() as market:
        await market.add_node(pow_bits=8)
        async with market.client() as client:
            bought = await purchase(client)
        assert bought.bought.outcome is not None and bought.bought.outcome.state is JobState.DONE


async def test_one_dead_relay_of_two_holds_nothing_up() -> None:
    async with Market(relays=2).open() as market:
        await market.add_node()
        market.relays[0].fail()
        async with market.client() as client:
            bought = await purchase(client)
        assert bought.bought.outcome is not None and bought.bought.outcome.state is JobState.DONE


@pytest.mark.parametrize("kind", [Kind.QUOTE_REQUEST, Kind.QUOTE, Kind.SESSION_REQUEST, Kind.SESSION_ACCEPT])
@pytest.mark.parametrize("relays", [1, 2])
async def test_an_event_that_a_relay_loses_is_made_good_by_asking_again(kind: Kind, relays: int) -> None:
    async with Market(relays=relays).open() as market:
        await market.add_node()
        lost: list[VerifiedEvent] = []

        def lose(event: VerifiedEvent) -> bool:
            is_lost = event.kind == kind and len(lost) < relays
            lost.extend([event] if is_lost else [])
            return is_lost

        for relay in market.relays:
            relay.loses = lose
        async with market.client() as client:
            bought = await purchase(client)
        assert len(lost) == relays
        assert bought.bought.outcome is not None and bought.bought.outcome.state is JobState.DONE


async def test_a_held_payment_ends_unknown_and_is_counted_as_spent() -> None:
    async with Market().open() as market:
        await market.add_node()
        market.buyer.plan(HoldPayment())
        async with market.client() as client:
            bought = await purchase(client)
        outcome = bought.bought.outcome
        assert outcome is not None and outcome.state is JobState.UNKNOWN
        assert outcome.committed_msat > 0 == outcome.paid_msat
        (job,) = await market.client_ledger.find_jobs(JobQuery(only_unresolved=True))
        assert job.tranches[0].state is TrancheState.UNKNOWN


async def test_many_jobs_share_one_session() -> None:
    async with Market().open() as market:
        node = await market.add_node(maximum_jobs=32)
        async with market.client() as client:
            session = await open_session(client)
            texts: dict[int, str] = {}

            async def run(number: int) -> None:
                async with start_job(session, wanted(f"job {number} says hello")) as running:
                    texts[number] = "".join([piece async for piece in running.outputs()])
                    outcome = await running.wait_outcome()
                assert outcome.state is JobState.DONE and outcome.is_verified

            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(run, number)
            assert all(f"job {number} " in text for number, text in texts.items()) and len(texts) == 20
        kinds = [record.event.kind for record in await node.ledger.find_evidence()]
        assert kinds.count(Kind.METERING) == 20


async def test_a_connection_that_breaks_in_mid_stream_is_resumed_without_loss() -> None:
    async with Market().open() as market:
        await market.add_node(script=RunScript(pace_ms=200), tranche_units=None)
        async with market.client() as client:
            session = await open_session(client)
            pieces: list[str] = []
            async with start_job(session) as job:
                async for piece in job.outputs():
                    pieces.append(piece)
                    if len(pieces) == 2:
                        market.network.cut()
                outcome = await job.wait_outcome()
        assert "".join(pieces).split() == PROMPT.split()
        assert outcome.state is JobState.DONE and outcome.is_verified


async def test_a_node_that_is_gone_after_the_payment_ends_the_job_with_what_was_paid_on_record() -> None:
    async with Market().open() as market:
        node = await market.add_node(script=RunScript(first_output_ms=2_000))
        async with market.client() as client:

            async def leave() -> None:
                await anyio.sleep(1)  # of the two seconds until the first output
                node.scope.cancel()
                market.network.fail()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(leave)
                bought = await purchase(client)
        outcome = bought.bought.outcome
        assert outcome is not None and outcome.state is JobState.FAILED
        assert outcome.paid_msat == (await node.wallet.info()).balance_msat > 0
        assert bought.bought.reason


async def test_a_client_that_is_gone_stops_the_runner() -> None:
    async with Market().open() as market:
        node = await market.add_node(script=RunScript(pace_ms=1_000), tranche_units=None)
        async with market.client() as client:
            session = await open_session(client)
            async with start_job(session) as job:
                async for _ in job.outputs():
                    break
        await anyio.sleep(31)
        assert node.runner.counts.running == 0
        (record,) = await node.ledger.find_jobs(JobQuery())
        assert record.job.state is JobState.FAILED


async def test_a_node_says_that_it_is_draining_when_it_stops() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        node.scope.cancel()
        await anyio.sleep(1)
        async with market.client() as client:
            await anyio.sleep(1)
            status = client.market.directory.status(node.key.public_key, client.tools.clock().timestamp)
            assert status is not None and status.status.state == "draining"


async def test_a_quote_past_its_time_begins_no_more_jobs() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with market.client() as client:
            session = await open_session(client)
            await anyio.sleep(61)
            async with start_job(session) as job:
                outcome = await job.wait_outcome()
        assert outcome.refusal is not None and outcome.refusal.code is RefusalCode.EXPIRED
