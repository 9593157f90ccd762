"""Paging: everything comes, whatever a relay sends at once, and no relay keeps anybody waiting."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.nostr.event import VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.ports.memory_relays import MemoryRelay, MemoryRelays
from relaymesh.ports.relays import Delivered, Delivery
from relaymesh.roles import paging
from relaymesh.roles.paging import PAGE_SECONDS, page_back
from tests.market.builders import NOW, node, signed_offer

pytestmark = pytest.mark.anyio

WANTED = Filter(kinds=(38_770,))


def relay_with(ages: list[int], maximum_answer: int) -> tuple[MemoryRelay, set[VerifiedEvent]]:
    """A relay that has one offer of each of these ages, and sends so many at once."""
    relay = MemoryRelay(maximum_answer=maximum_answer)
    events = {signed_offer(node(number), created_at=NOW - age).event for number, age in enumerate(ages)}
    for event in events:
        relay.accept(event)
    return relay, events


async def fetch(relays: MemoryRelays) -> tuple[bool, list[VerifiedEvent]]:
    taken: list[VerifiedEvent] = []
    complete = await page_back(relays, relays.urls[0], WANTED, NOW, lambda delivered: taken.append(delivered.event))
    return complete, taken


@given(st.lists(st.integers(0, 12), max_size=30), st.integers(1, 5))
async def test_every_event_comes_unless_more_were_made_in_a_second_than_the_relay_sends(
    ages: list[int], maximum: int
) -> None:
    relay, events = relay_with(ages, maximum)
    complete, taken = await fetch(relay.connect())
    assert complete
    together = {age: ages.count(age) for age in ages}
    expected = {event for event in events if together[NOW - event.created_at] <= maximum}
    assert expected <= set(taken) <= events
    assert {event.created_at for event in taken} == {event.created_at for event in events}


async def test_what_a_page_brings_again_is_not_taken_again() -> None:
    relay, events = relay_with([0, 5, 9], 500)
    complete, taken = await fetch(relay.connect())
    assert complete and len(taken) == len(events) and set(taken) == events


class Silent(MemoryRelays):
    """Relays that never end an answer."""

    @asynccontextmanager
    async def _nothing(self) -> AsyncIterator[AsyncIterator[Delivery]]:
        async def wait() -> AsyncIterator[Delivery]:
            await anyio.sleep_forever()
            yield Delivered("", signed_offer().event)

        yield wait()

    def subscribe(self, *_: object, **__: object):  # type: ignore[no-untyped-def]  # as `Relays` has it
        return self._nothing()


async def test_a_relay_that_does_not_answer_is_given_up() -> None:
    relay, _ = relay_with([0], 500)
    began = anyio.current_time()
    assert await fetch(Silent((relay,))) == (False, [])
    assert anyio.current_time() - began == pytest.approx(PAGE_SECONDS)


async def test_a_relay_that_always_has_more_is_left_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MAXIMUM_PAGES", 3)
    relay, events = relay_with(list(range(20)), 2)
    complete, taken = await fetch(relay.connect())
    assert not complete
    assert 0 < len(set(taken)) < len(events)
