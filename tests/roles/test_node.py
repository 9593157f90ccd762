"""The node in a market: jobs wait for a place, prices follow the load, calls for bids are answered."""

from typing import Any

import anyio
import pytest

from relaymesh.machines.records import JobState
from relaymesh.market.surge import SurgeTerms
from relaymesh.nostr.event import VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.proof_of_work import mine
from relaymesh.ports.memory_runner import RunScript
from relaymesh.ports.relays import Delivered
from relaymesh.protocol.codec import SignedOffer, SignedStatus
from relaymesh.protocol.open_request import build_open_request
from relaymesh.protocol.quote import OpenRequest
from relaymesh.protocol.refusal import RefusalCode
from relaymesh.protocol.session_messages import ByeMessage, CancelMessage, ErrorMessage
from relaymesh.roles.client import Client
from relaymesh.roles.client_jobs import OpenSession
from relaymesh.roles.market_view import MarketView
from relaymesh.roles.node_places import Place
from relaymesh.units import AmountMsat
from tests.roles.market import (
    Market,
    MarketNode,
    Purchase,
    chat_row,
    loop_clock,
    open_session,
    purchase,
    start_job,
    wanted,
)
from tests.roles.stranger import Stranger

pytestmark = pytest.mark.anyio
FREE = chat_row(input_msat=AmountMsat(0), output_msat=AmountMsat(0), minimum_msat=AmountMsat(0))


def status_of(client: Client, node: MarketNode) -> SignedStatus:
    status = client.market.directory.status(node.key.public_key, client.tools.clock().timestamp)
    assert status is not None
    return status


def fill(node: MarketNode, jobs: int) -> list[Place]:
    """Let jobs of others take places."""
    places = [node.tools.places.ask(KeyPair.generate().public_key) for _ in range(jobs)]
    assert all(isinstance(place, Place) for place in places)
    return [place for place in places if isinstance(place, Place)]


# ── the queue ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_twenty_four_buyers_at_once_are_all_served_by_eight_places() -> None:
    async with Market().open() as market:
        node = await market.add_node(maximum_jobs=8, queue_limit=16, script=RunScript(pace_ms=100))
        purchases: list[Purchase] = []
        async with market.client() as client:

            async def buy() -> None:
                purchases.append(await purchase(client))

            async with anyio.create_task_group() as tasks:
                for _ in range(24):
                    tasks.start_soon(buy)
        states = [each.bought.outcome.state for each in purchases if each.bought.outcome is not None]
        assert states == [JobState.DONE] * 24
        assert node.tools.places.running == node.tools.places.load().queue == 0


async def test_a_job_that_waits_begins_when_a_place_comes_free_and_the_market_sees_the_queue() -> None:
    async with Market().open() as market:
        node = await market.add_node(maximum_jobs=1, queue_limit=4)
        async with market.client() as client:
            session = await open_session(client)
            (taken,) = fill(node, 1)
            async with start_job(session) as job:
                await anyio.sleep(4)
                assert node.runner.counts.running == 0 and node.tools.places.load().queue == 1
                node.tools.places.leave(taken)
                outcome = await job.wait_outcome()
            assert outcome.state is JobState.DONE
            await anyio.sleep(1)
            waiting = [*fill(node, 1), *fill(node, 4)]
            await anyio.sleep(121)
            status = status_of(client, node).status
            assert (status.state, status.labels["main"].free, status.labels["main"].queue) == ("busy", 0, 4)
            for place in waiting:
                node.tools.places.leave(place)


async def test_a_job_that_waited_in_vain_is_busy_costs_nothing_and_says_when_to_come_back() -> None:
    async with Market().open() as market:
        node = await market.add_node(maximum_jobs=1, queue_limit=4)
        async with market.client() as client:
            session = await open_session(client)
            fill(node, 1)
            async with start_job(session) as job:
                outcome = await job.wait_outcome()
        assert outcome.refusal is not None and outcome.refusal.code is RefusalCode.BUSY
        assert outcome.refusal.retry_in_ms is not None
        assert outcome.committed_msat == outcome.paid_msat == 0 and not outcome.complaints


async def test_a_job_that_is_cancelled_or_left_while_it_waits_leaves_the_queue() -> None:
    async with Market().open() as market:
        node = await market.add_node(FREE, maximum_jobs=1, queue_limit=4)
        stranger = await Stranger.open(market)
        fill(node, 1)
        first, second = stranger.job(), stranger.job()
        await stranger.send(first, second)
        await stranger.hear(0.5)
        assert node.tools.places.load().queue == 2
        await stranger.send(CancelMessage(first.job_id))
        heard = await stranger.hear(0.5)
        codes = [message.refusal.code for message in heard if isinstance(message, ErrorMessage)]
        assert codes == [RefusalCode.CANCELLED] and node.tools.places.load().queue == 1
        await stranger.send(ByeMessage("so long"))
        await anyio.sleep(0.5)
        assert node.tools.places.load().queue == 0 and node.tools.places.running == 1


# ── surge ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SURGE = SurgeTerms(minimum_permille=1_000, maximum_permille=2_000, step_permille=100, interval_seconds=30)


def offer_of(view: MarketView, node: MarketNode) -> SignedOffer:
    (offer,) = [each for each in view.directory.offers(loop_clock().timestamp) if each.node == node.key.public_key]
    return offer


async def test_prices_rise_with_demand_by_a_new_offer_and_fall_again() -> None:
    async with Market().open() as market, MarketView(market.connect_relays(), loop_clock) as view:
        node = await market.add_node(maximum_jobs=4, surge=SURGE)
        base = chat_row()
        await anyio.sleep(1)
        first = offer_of(view, node)
        taken = fill(node, 4)
        await anyio.sleep(30)
        full = offer_of(view, node)
        for place in taken:
            node.tools.places.leave(place)
        await anyio.sleep(30)
        idle = offer_of(view, node)
        prices = [each.offer.rows[0].output_msat for each in (first, full, idle)]
        assert prices == [base.output_msat, 2 * base.output_msat, base.output_msat]
        assert first.offer.seq < full.offer.seq < idle.offer.seq


async def test_an_offer_whose_price_may_move_does_not_stand_for_long_and_moves_no_more_often_than_said() -> None:
    async with Market().open() as market, MarketView(market.connect_relays(), loop_clock) as view:
        node = await market.add_node(maximum_jobs=4, surge=SURGE)
        await anyio.sleep(1)
        seen = {offer_of(view, node).event.id: offer_of(view, node)}
        for number in range(120):
            places = fill(node, 1 + number % 4)
            await anyio.sleep(1)
            seen[offer_of(view, node).event.id] = offer_of(view, node)
            for place in places:
                node.tools.places.leave(place)
        assert 2 <= len(seen) <= 1 + 4 + 3, "one each interval, and a renewal at half of its time"
        assert all(each.offer.valid_until - each.event.created_at <= 90 for each in seen.values())


async def test_whoever_relied_on_the_lower_price_is_served_at_it_and_nobody_at_more_than_he_saw() -> None:
    async with Market().open() as market:
        node = await market.add_node(maximum_jobs=4, surge=SURGE)
        async with market.client() as client:
            selection = await client.wait_for_choice(wanted().to_request())
            taken = fill(node, 3)
            await anyio.sleep(31)
            session = await client.open_session(selection)
            assert isinstance(session, OpenSession)
            assert session.contract.quote.row == selection.chosen[0].candidate.row
            bought = await purchase(client)
            for place in taken:
                node.tools.places.leave(place)
        assert bought.bought.contract is not None
        row = bought.bought.contract.quote.row
        assert row.output_msat == chat_row().output_msat * 17 // 10
        assert bought.bought.outcome is not None and bought.bought.outcome.is_verified


# ── calls on everybody ────────────────────────────────────────────────────────────────────────────────────────────


def call(author: KeyPair, bits: int, **changes: Any) -> VerifiedEvent:
    fields: dict[str, Any] = {
        "model": "echo",
        "job_type": "chat",
        "shape": wanted().to_request().shape,
        "budget_msat": AmountMsat(100_000),
        "settlement": ("prepay",),
        **changes,
    }
    draft = build_open_request(OpenRequest(**fields), author.public_key, loop_clock().timestamp)
    return author.sign(mine(draft, bits))


async def test_who_calls_without_work_or_for_what_is_not_sold_is_not_heard_and_the_node_goes_on() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        relays, hostile = market.connect_relays(), KeyPair.generate()
        answers: list[VerifiedEvent] = []
        to_hostile = Filter(kinds=(Kind.QUOTE, Kind.REFUSAL), tags=(("p", (hostile.public_key,)),))
        async with relays.subscribe((to_hostile,)) as deliveries, anyio.create_task_group() as tasks:

            async def listen() -> None:
                async for delivery in deliveries:
                    answers.extend([delivery.event] if isinstance(delivery, Delivered) else [])

            tasks.start_soon(listen)
            for number in range(100):
                await relays.publish(call(hostile, 0, budget_msat=AmountMsat(10_000 + number)))
            heard = call(hostile, 16)
            for event in (call(hostile, 16, capabilities=("fly",)), call(hostile, 16, model="other"), heard, heard):
                await relays.publish(event)
            await anyio.sleep(1)
            tasks.cancel_scope.cancel()
        assert {answer.tag_value("e") for answer in answers} == {heard.id}
        assert {answer.public_key for answer in answers} == {node.key.public_key}
        async with market.client() as client:
            bought = await purchase(client)
        assert bought.bought.outcome is not None and bought.bought.outcome.state is JobState.DONE
