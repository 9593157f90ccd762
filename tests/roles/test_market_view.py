"""The market in view: the union of what relays have, and who of them withholds what."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from relaymesh.market.omissions import GRACE_SECONDS, RelayReport
from relaymesh.market.state import Address
from relaymesh.nostr.event import UnsignedEvent, VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.memory_relays import MemoryRelay, MemoryRelays
from relaymesh.protocol.codec import SignedOffer
from relaymesh.roles.market_view import MarketView
from tests.market.builders import MODEL, buyer_request, node, sign, signed_offer, signed_status
from tests.roles.market import loop_clock

pytestmark = pytest.mark.anyio


EVERYWHERE = tuple(f"ws://relay-{number}.test/" for number in range(3))


def offer(number: int, label: str = "main", age: int = 0, relays: tuple[str, ...] = EVERYWHERE) -> SignedOffer:
    """An offer that node `number` makes now."""
    now = loop_clock().timestamp
    return signed_offer(node(number), label, seq=now, created_at=now - age, valid_until=now + 3_600, relays=relays)


def three_relays(maximum_answer: int | None = None) -> tuple[MemoryRelay, ...]:
    return tuple(MemoryRelay(f"ws://relay-{number}.test", maximum_answer=maximum_answer) for number in range(3))


def publish(event: VerifiedEvent, *relays: MemoryRelay) -> None:
    for relay in relays:
        assert relay.accept(event) == (True, "")


@asynccontextmanager
async def view_of(*relays: MemoryRelay) -> AsyncIterator[MarketView]:
    async with MarketView(MemoryRelays(relays), loop_clock) as view:
        assert await view.wait_complete(5)
        yield view


def report_of(view: MarketView, relay: MemoryRelay) -> RelayReport[Address]:
    return next(report for report in view.relay_reports() if report.relay_url == relay.url)


async def settle() -> None:
    """Let everything happen that needs no time."""
    await anyio.wait_all_tasks_blocked()


async def test_it_is_the_union_of_what_its_relays_have_and_knows_who_carries_what() -> None:
    relays = three_relays()
    offers = [offer(number) for number in range(3)]
    publish(offers[0].event, *relays)
    publish(offers[1].event, relays[1])
    publish(offers[2].event, relays[2], relays[0])
    async with view_of(*relays) as view:
        now = loop_clock().timestamp
        assert set(view.directory.offers(now)) == set(offers)
        carriers = [set(view.directory.relays_of(each.event.id)) for each in offers]
    urls = [relay.url for relay in relays]
    assert carriers == [set(urls), {urls[1]}, {urls[0], urls[2]}]


@pytest.mark.parametrize("maximum", [1, 7, 500, None])
async def test_all_of_it_comes_into_view_whatever_a_relay_sends_at_once(maximum: int | None) -> None:
    relays = three_relays(maximum)
    offers = [offer(number, age=number) for number in range(60)]
    for number, each in enumerate(offers):
        publish(each.event, *{relays[number % 3], relays[0]})
    async with view_of(*relays) as view:
        assert set(view.directory.offers(loop_clock().timestamp)) == set(offers)
        for number, each in enumerate(offers):
            assert set(view.directory.relays_of(each.event.id)) == {relays[number % 3].url, relays[0].url}


async def test_every_kind_of_state_is_asked_for() -> None:
    relay = MemoryRelay()
    publish(signed_status(created_at=loop_clock().timestamp, expires_at=loop_clock().timestamp + 60).event, relay)
    async with view_of(relay) as view:
        assert view.directory.status(node(1), loop_clock().timestamp) is not None
        [followed] = relay._followers
        [asked] = followed.filters
    assert asked.kinds is not None and set(asked.kinds) >= set(range(Kind.OFFER, Kind.STAKE_COMMITMENT + 1))


async def test_a_relay_that_loses_what_others_deliver_is_reported_with_what_it_withholds() -> None:
    relays = three_relays()
    relays[1].loses = lambda event: event.public_key == node(7)
    async with view_of(*relays) as view:
        await anyio.sleep(2)
        withheld, delivered = offer(7), offer(8)
        for each in (withheld, delivered):
            publish(each.event, *relays)
        await anyio.sleep(GRACE_SECONDS + 1)
        address = (node(7), int(Kind.OFFER), "main")
        assert report_of(view, relays[1]).missing == ((address, withheld.event.id),)
        for honest in (relays[0], relays[2]):
            assert report_of(view, honest) == RelayReport(honest.url, delivered=2)
        relays[1].loses = lambda event: False
        publish(withheld.event, relays[1])
        await settle()
        assert report_of(view, relays[1]) == RelayReport(relays[1].url, delivered=2, withheld=1, late=1)


async def test_a_relay_where_a_node_does_not_publish_withholds_nothing_of_it() -> None:
    relays = three_relays()
    async with view_of(*relays) as view:
        await anyio.sleep(2)
        publish(offer(7, relays=(relays[0].url, "ws://user@nonsense")).event, relays[0])
        await anyio.sleep(GRACE_SECONDS + 1)
        assert [report_of(view, relay).withheld for relay in relays] == [0, 0, 0]


async def test_what_has_ended_is_withheld_by_nobody() -> None:
    relays = three_relays()
    relays[1].loses = lambda event: True
    async with view_of(*relays) as view:
        await anyio.sleep(2)
        publish(offer(7).event, *relays)
        await anyio.sleep(GRACE_SECONDS + 1)
        assert len(report_of(view, relays[1]).missing) == 1
        await anyio.sleep(3_600)
        assert report_of(view, relays[1]).missing == ()


async def test_a_relay_that_was_out_of_reach_is_not_suspected_and_is_read_again_when_it_is_back() -> None:
    relays = three_relays(maximum_answer=2)
    async with view_of(*relays) as view:
        await anyio.sleep(2)
        relays[1].fail()
        relays[2].fail()
        while_away = [offer(number, age=number) for number in range(5)]
        for each in while_away:
            publish(each.event, relays[0])
        await anyio.sleep(GRACE_SECONDS + 1)
        assert [report_of(view, relay).withheld for relay in relays] == [0, 0, 0]
        back = [offer(10 + number, age=number) for number in range(6)]
        relays[1].recover()  # with nothing new
        relays[2]._is_down = False
        for each in back:
            publish(each.event, relays[2])
        relays[2].recover()
        await anyio.sleep(1)
        assert set(view.directory.offers(loop_clock().timestamp)) == {*while_away, *back}


async def test_it_chooses_as_soon_as_somebody_comes_who_can_serve() -> None:
    relay = MemoryRelay()
    async with view_of(relay) as view, anyio.create_task_group() as tasks:

        async def come() -> None:
            await anyio.sleep(3)
            now = loop_clock().timestamp
            publish(offer(4).event, relay)
            publish(signed_status(node(4), seq=now, created_at=now, expires_at=now + 60).event, relay)

        tasks.start_soon(come)
        began = anyio.current_time()
        selection = await view.wait_for_choice(buyer_request(model=MODEL), 60)
        assert [choice.candidate.offer.node for choice in selection.chosen] == [node(4)]
        assert anyio.current_time() - began == pytest.approx(3)


async def test_what_is_not_valid_is_counted_with_who_brought_it_and_what_was_wrong() -> None:
    relay = MemoryRelay()
    good = offer(1).event
    content = good.content.replace('"per":1000', '"per":0')
    bad = sign(UnsignedEvent(good.public_key, good.created_at, good.kind, good.tags, content))
    async with view_of(relay) as view:
        publish(bad, relay)
        await settle()
        [ignored] = view.directory.last_ignored
    assert (ignored.relay_url, ignored.author, ignored.kind) == (relay.url, node(1), Kind.OFFER)
    assert "rows.0.per" in ignored.detail
