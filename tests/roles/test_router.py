"""A router among nodes and clients, in memory: it announces, ranks, passes on, serves what it cites, asserts."""

from dataclasses import dataclass, replace

import anyio
import anyio.to_thread
import pytest

from relaymesh.machines.opening_events import QuotesCollected, RouterAnswered, RoutingRequest
from relaymesh.market.recomputation import SignedRanking
from relaymesh.market.request import BuyerRequest
from relaymesh.nostr.event import Event, EventId
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.citation import read_citation
from relaymesh.protocol.quote import JobShape
from relaymesh.protocol.ranking import Ranking
from relaymesh.protocol.refusal import Refusal, RefusalCode
from relaymesh.roles.market_view import MarketView
from relaymesh.roles.negotiation import collect_quotes
from relaymesh.roles.routers import Examined, RouterExaminer
from relaymesh.units import AmountMsat
from tests.roles.market import Market, chat_row, loop_clock, purchase
from tests.roles.routers import RunningRouter, open_router

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("mine_in_place")]


@dataclass
class Asked:
    quotes: QuotesCollected
    answers: list[RouterAnswered]
    examined: list[Examined]


async def ask(market: Market, *routers: RunningRouter, request: BuyerRequest | None = None, asks: int = 3) -> Asked:
    """Ask routers, collect what nodes quote, and look at every ranking."""
    relays = market.connect_relays()
    answers: list[RouterAnswered] = []
    async with MarketView(relays, loop_clock) as view:
        wanted = request or BuyerRequest("echo", "chat", SHAPE, AmountMsat(10_000))
        selection = await view.wait_for_choice(wanted, 5)
        routing = RoutingRequest(tuple(router.key.public_key for router in routers), "cheapest", asks)
        collected = await collect_quotes(
            relays, loop_clock, selection, way="routed", routing=routing, on_router=answers.append
        )
        examiner = RouterExaminer(relays, view, loop_clock)
        return Asked(collected, answers, [await examiner.examine(answer) for answer in answers])


SHAPE = JobShape(input_tokens=20, input_bytes=60, output_tokens=16, output_bytes=64)


async def test_a_router_announces_itself_and_the_market_sees_it() -> None:
    async with Market().open() as market, open_router(market) as router:
        said = router.announcement.announcement
        assert said.relays == market.relay_urls and said.policies[0] == "balanced" and said.fee_msat == 0
        [stored] = market.relays[0].query((Filter(kinds=(Kind.ROUTER_ANNOUNCEMENT,)),))
        assert stored == router.announcement.event


async def test_nodes_quote_straight_to_the_client_that_asked_a_router() -> None:
    async with Market().open() as market:
        for minimum in (30, 10, 20):
            await market.add_node(chat_row(minimum_msat=AmountMsat(minimum)))
        async with open_router(market) as router:
            asked = await ask(market, router, asks=2)
            quoted = {bid.choice.candidate.offer.node for bid in asked.quotes.quotes}
            [answer] = asked.answers
            assert isinstance(answer.answer, SignedRanking)
            ranking = answer.answer.ranking
            assert quoted == {row.node for row in ranking.rows if row.asked} and len(quoted) == 2
            assert len(ranking.rows) == 3 and answer.router == router.key.public_key
            assert router.role.counters.asked == 2


async def test_a_client_computes_the_ranking_again_and_agrees_with_what_it_sees_itself() -> None:
    async with Market().open() as market:
        for minimum in (30, 10, 20):
            await market.add_node(chat_row(minimum_msat=AmountMsat(minimum)))
        async with open_router(market) as router:
            [examined] = (await ask(market, router)).examined
            assert examined.is_right and examined.comparison is not None
            assert examined.comparison.agreement_milli == 1_000 and examined.comparison.is_same_registry
            assert examined.weight_milli == 0, "it is new, so it weighs nothing yet"


async def test_what_a_router_cites_is_served_after_relays_have_dropped_it() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        async with open_router(market) as router:
            [answer] = (await ask(market, router)).answers
            assert isinstance(answer.answer, SignedRanking)
            [row] = answer.answer.ranking.rows
            await anyio.sleep(3_000)  # the status is long replaced, and the offer renewed
            assert row.status_id is not None
            assert not market.relays[0].query((Filter(ids=(row.status_id, row.offer_id)),))
            reposts = market.relays[0].query((Filter(kinds=(Kind.GENERIC_REPOST,), authors=(router.key.public_key,)),))
            held = {verify(read_citation(repost)).id for repost in reposts}
            assert {row.status_id, row.offer_id} <= held
            assert node.offer is not None and row.offer_id == node.offer.event.id
            relays = market.connect_relays()
            async with MarketView(relays, loop_clock) as view:
                examined = await RouterExaminer(relays, view, loop_clock).examine(answer)
            assert examined.is_right


async def test_several_routers_are_asked_at_once_and_each_node_quotes_once() -> None:
    async with Market().open() as market:
        for minimum in (10, 20):
            await market.add_node(chat_row(minimum_msat=AmountMsat(minimum)))
        async with open_router(market) as first, open_router(market) as second:
            asked = await ask(market, first, second)
            assert {answer.router for answer in asked.answers} == {first.key.public_key, second.key.public_key}
            assert len(asked.quotes.quotes) == 2 and all(each.is_right for each in asked.examined)


async def test_a_router_that_bends_its_ranking_is_booked_against() -> None:
    async with Market().open() as market:
        for minimum in (10, 20):
            await market.add_node(chat_row(minimum_msat=AmountMsat(minimum)))
        async with open_router(market) as router:
            [answer] = (await ask(market, router)).answers
            assert isinstance(answer.answer, SignedRanking)
            honest = answer.answer.ranking
            bent = Ranking.model_validate({**dict(honest), "rows": tuple(reversed(honest.rows))})
            lied = replace(answer, answer=replace(answer.answer, ranking=bent))
            relays = market.connect_relays()
            async with MarketView(relays, loop_clock) as view:
                examiner = RouterExaminer(relays, view, loop_clock)
                examined = await examiner.examine(lied)
            assert not examined.is_right and examined.recomputation is not None and examined.recomputation.faults
            record = examiner.records[router.key.public_key]
            assert (record.right, record.wrong) == (0, 1) and examined.weight_milli == 0


async def test_a_ranking_whose_events_nobody_shows_is_booked_neither_way() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with open_router(market) as router:
            [answer] = (await ask(market, router)).answers
            assert isinstance(answer.answer, SignedRanking)
            row = answer.answer.ranking.rows[0].model_copy(update={"offer_id": EventId("00" * 32)})
            ranking = answer.answer.ranking.model_copy(update={"rows": (row,)})
            hidden = replace(answer, answer=replace(answer.answer, ranking=ranking))
            relays = market.connect_relays()
            async with MarketView(relays, loop_clock) as view:
                examiner = RouterExaminer(relays, view, loop_clock)
                examined = await examiner.examine(hidden)
            assert examined.recomputation is not None and examined.recomputation.missing == (EventId("00" * 32),)
            assert not examiner.records


async def test_a_router_that_is_silent_does_not_keep_a_client_from_quotes() -> None:
    async with Market().open() as market:
        await market.add_node()
        nobody = RunningRouter(None, KeyPair.generate(), None, None)  # type: ignore[arg-type]  # only its key is used
        asked = await ask(market, nobody)
        assert not asked.answers and not asked.quotes.quotes


async def test_a_fee_is_refused_first_and_the_invoice_stands_in_the_refusal() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with open_router(market, fee_msat=AmountMsat(250)) as router:
            asked = await ask(market, router)
            [examined] = asked.examined
            assert isinstance(examined.refusal, Refusal) and examined.bolt11
            assert examined.refusal.code is RefusalCode.PAYMENT_REQUIRED
            assert router.announcement.announcement.fee_msat == 250


async def test_a_receipt_makes_a_standing_and_an_assertion() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        async with open_router(market) as router:
            async with market.client() as client:
                bought = (await purchase(client)).bought
            assert bought.outcome is not None and bought.outcome.receipt is not None
            receipt: Event = bought.outcome.receipt
            await market.connect_relays().publish(receipt)
            await anyio.sleep(120)
            standing = router.role.evidence.reputation.standing(node.key.public_key, loop_clock().timestamp)
            assert standing.successes_milli > 0
            [assertion] = market.relays[0].query((Filter(kinds=(Kind.REPUTATION_ASSERTION,)),))
            assert assertion.tag_value("d") == node.key.public_key
            asked = await ask(market, router)
            answer = asked.answers[0].answer
            assert isinstance(answer, SignedRanking)
            row = answer.ranking.rows[0]
            assert row.assertion_id == assertion.id and row.standing is not None
            assert row.standing.successes_milli == standing.successes_milli
            assert asked.examined[0].is_right
