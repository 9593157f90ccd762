"""Every way to a session over relays: auctions and posted prices end in jobs that are paid and signed for."""

import anyio
import pytest

from relaymesh.machines.opening_events import OpeningSettings, QuotesCollected, SessionAgreed
from relaymesh.machines.records import JobState
from relaymesh.market.bids import Way
from relaymesh.market.standing import Standing
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.relays import Delivered
from relaymesh.roles.client import Client, ClientSettings
from relaymesh.roles.market_view import MarketView
from relaymesh.roles.negotiation import collect_quotes, negotiate
from relaymesh.roles.node_places import Place
from relaymesh.units import AmountMsat
from tests.roles.market import PROMPT, Market, MarketNode, Purchase, chat_row, loop_clock, purchase, wanted

pytestmark = pytest.mark.anyio
REAL_TIME = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""Mining takes a thread, for which a virtual clock does not wait."""
CONVERSATION = (Kind.QUOTE_REQUEST, Kind.QUOTE, Kind.SESSION_REQUEST, Kind.SESSION_ACCEPT, Kind.REFUSAL)


def assert_bought(bought: Purchase, node: MarketNode) -> None:
    outcome, contract = bought.bought.outcome, bought.bought.contract
    assert outcome is not None and contract is not None, bought.bought.reason
    assert outcome.state is JobState.DONE and outcome.is_verified and bought.text == PROMPT
    assert contract.node == node.key.public_key


async def buy_watched(market: Market, client: Client) -> tuple[Purchase, list[int]]:
    """Buy one job; also the kinds of all conversation that passes, each event once."""
    kinds: list[int] = []
    async with (
        market.connect_relays().subscribe((Filter(kinds=CONVERSATION, limit=0),)) as deliveries,
        anyio.create_task_group() as tasks,
    ):

        async def watch() -> None:
            async for delivery in deliveries:
                kinds.extend([delivery.event.kind] if isinstance(delivery, Delivered) else [])

        tasks.start_soon(watch)
        bought = await purchase(client)
        tasks.cancel_scope.cancel()
    return bought, kinds


@REAL_TIME
async def test_an_auction_is_won_by_the_lowest_bid_and_paid() -> None:
    async with Market(relays=2).open() as market:
        await market.add_node()
        cheap = await market.add_node(chat_row(output_msat=AmountMsat(1_000)))
        async with market.client(ClientSettings(candidates=1, way="open")) as client:
            bought, kinds = await buy_watched(market, client)
        assert_bought(bought, cheap)
        assert sorted(kinds) == [Kind.QUOTE_REQUEST, Kind.QUOTE, Kind.QUOTE, Kind.SESSION_REQUEST, Kind.SESSION_ACCEPT]


@REAL_TIME
async def test_bids_can_be_looked_at_without_buying() -> None:
    async with Market().open() as market:
        nodes = [await market.add_node(chat_row(output_msat=AmountMsat(price))) for price in (3_000, 1_000, 2_000)]
        async with MarketView(market.connect_relays(), loop_clock, candidates=1) as view:
            selection = await view.wait_for_choice(wanted().to_request(), 5)
            collected = await collect_quotes(market.connect_relays(), loop_clock, selection, way="open")
        assert isinstance(collected, QuotesCollected)
        bidders = [bid.choice.candidate.offer.node for bid in collected.quotes]
        assert set(bidders) == {each.key.public_key for each in nodes}  # near-equals are drawn among


@REAL_TIME
async def test_a_node_that_does_not_bid_is_still_asked_when_nobody_bids() -> None:
    async with Market().open() as market:
        node = await market.add_node(open_requests_per_second=0)
        async with market.client(ClientSettings(way="open", opening=OpeningSettings(quote_ms=200))) as client:
            assert_bought(await purchase(client), node)


async def test_a_posted_price_takes_one_round_trip_and_what_it_buys_is_signed_for() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        async with market.client(ClientSettings(way="posted")) as client:
            bought, kinds = await buy_watched(market, client)
        assert_bought(bought, node)
        assert kinds == [Kind.SESSION_REQUEST, Kind.SESSION_ACCEPT]
        outcome = bought.bought.outcome
        assert outcome is not None and outcome.metering is not None
        assert outcome.metering.record.max_msat < 100_000, "the job is capped by what its shape costs"


@pytest.mark.parametrize(("successes_milli", "way"), [(0, "directed"), (5_000, "posted")])
async def test_without_a_wish_the_posted_price_is_for_nodes_that_are_known(successes_milli: int, way: Way) -> None:
    async with Market().open() as market:
        node = await market.add_node()
        async with market.client() as client:
            client.market.standings = {node.key.public_key: Standing(successes_milli=successes_milli)}
            bought, kinds = await buy_watched(market, client)
        assert_bought(bought, node)
        assert (Kind.QUOTE_REQUEST in kinds) is (way == "directed")


@pytest.mark.parametrize("way", ["directed", "posted"])
async def test_who_is_busy_is_tried_again_when_he_said_and_his_busyness_costs_nothing(way: Way) -> None:
    async with Market().open() as market:
        node = await market.add_node(maximum_jobs=1)
        async with market.client(ClientSettings(way=way)) as client:
            await client.wait_for_choice(wanted().to_request())
            place = node.tools.places.ask(KeyPair.generate().public_key)
            assert isinstance(place, Place)

            async def free_later() -> None:
                await anyio.sleep(0.9)
                node.tools.places.leave(place)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(free_later)
                bought = await purchase(client)
        assert_bought(bought, node)
        [(tried, reason)] = bought.bought.tried
        assert tried == node.key.public_key and reason.startswith("busy")


async def test_a_node_that_is_busy_for_long_is_not_waited_for() -> None:
    async with Market().open() as market:
        node = await market.add_node(maximum_jobs=1)
        node.tools.places._service_ms = 60_000
        async with market.client() as client:
            assert (await client.wait_for_choice(wanted().to_request())).chosen
            node.tools.places.ask(KeyPair.generate().public_key)
            began = anyio.current_time()
            bought = await purchase(client)
        assert bought.bought.outcome is None and bought.bought.reason.startswith("busy")
        assert anyio.current_time() - began < 10


async def test_a_session_at_a_posted_price_is_agreed_by_both_sides_alike() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        relays, key = market.connect_relays(), KeyPair.generate()
        async with MarketView(relays, loop_clock) as view:
            selection = await view.wait_for_choice(wanted().to_request(), 5)
            agreed = await negotiate(relays, loop_clock, selection, key, key.public_key, way="posted")
        assert isinstance(agreed, SessionAgreed) and agreed.contract.node == node.key.public_key
        assert agreed.contract.quote.max_msat is None and agreed.contract.term == agreed.contract.quote.settlement[0]
