"""A subscriber's queue: once each, bounded, and what marks the end of stored events is never pushed out."""

from dataclasses import replace

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.nostr.event import EventId, PublicKey, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.relay_subscription import RelayCounters, RelaySubscription
from relaymesh.ports.relays import Carried, Delivered, Delivery, RelayGone, StoredEventsEnd
from relaymesh.units import Timestamp

pytestmark = pytest.mark.anyio


def make_event(number: int, kind: int = 1) -> VerifiedEvent:
    """As if it had been verified: the queue must not look at signatures again."""
    return VerifiedEvent(
        PublicKey("aa" * 32), Timestamp(number), kind, (), "", EventId(number.to_bytes(32).hex()), "cc" * 64
    )


def _queue(maximum_unread: int = 100, maximum_remembered: int = 1_000) -> tuple[RelaySubscription, RelayCounters]:
    counters = RelayCounters()
    return RelaySubscription((Filter(kinds=(1,)),), counters, maximum_unread, maximum_remembered), counters


async def _drain(subscription: RelaySubscription) -> list[Delivery]:
    subscription.close()
    return [delivery async for delivery in subscription]


async def test_an_event_is_wanted_until_it_was_delivered() -> None:
    subscription, counters = _queue()
    event = make_event(1)
    assert subscription.wants(event, "ws://one")
    assert subscription.wants(event, "ws://one")  # what is only claimed is not remembered
    subscription.deliver(Delivered("ws://one", event))
    assert not subscription.wants(event, "ws://one")
    subscription.deliver(Delivered("ws://two", event))
    assert not subscription.wants(make_event(2, kind=7), "ws://one")
    assert await _drain(subscription) == [Delivered("ws://one", event)]
    assert (counters.delivered, counters.repeated, counters.unwanted) == (1, 2, 1)


async def test_what_is_remembered_is_bounded() -> None:
    subscription, _ = _queue(maximum_remembered=3)
    for number in range(5):
        subscription.deliver(Delivered("ws://one", make_event(number)))
    wanted = [subscription.wants(make_event(number), "ws://one") for number in range(5)]
    assert wanted == [True, True, False, False, False]


async def test_who_carries_what_is_told_to_whoever_asks_and_believed_only_with_a_true_id() -> None:
    key = KeyPair(bytes(31) + b"\x07")
    event = key.sign(UnsignedEvent(key.public_key, Timestamp(5), 1, (), "true"))
    false = replace(event, content="false")
    subscription = RelaySubscription((Filter(kinds=(1,)),), RelayCounters(), with_carriers=True)
    subscription.deliver(Delivered("ws://one", event))
    assert not subscription.wants(event, "ws://two")
    assert not subscription.wants(false, "ws://three")
    subscription.deliver(Delivered("ws://four", event))  # was verified at the same time as the first
    subscription.lose(RelayGone("ws://one"))
    assert await _drain(subscription) == [
        Delivered("ws://one", event),
        Carried("ws://two", event.id, Timestamp(5)),
        Carried("ws://four", event.id, Timestamp(5)),
        RelayGone("ws://one"),
    ]


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 8))
async def test_the_newest_events_and_every_end_survive_in_order(steps: list[bool], maximum: int) -> None:
    subscription, counters = _queue(maximum_unread=maximum)
    offered: list[Delivery] = []
    for number, is_event in enumerate(steps):
        if is_event:
            delivered = Delivered("ws://one", make_event(number))
            offered.append(delivered)
            subscription.deliver(delivered)
        else:
            end = StoredEventsEnd(f"ws://{number}")
            offered.append(end)
            subscription.end_stored(end)
    got = await _drain(subscription)
    events = [delivery for delivery in got if isinstance(delivery, Delivered)]
    all_events = [delivery for delivery in offered if isinstance(delivery, Delivered)]
    assert [each for each in got if isinstance(each, StoredEventsEnd)] == [
        each for each in offered if isinstance(each, StoredEventsEnd)
    ]
    assert events == all_events[len(all_events) - len(events) :]
    assert counters.dropped == len(all_events) - len(events)
    assert got == [delivery for delivery in offered if delivery in got]


async def test_a_reader_that_waits_is_woken_by_an_event_and_by_the_end() -> None:
    subscription, _ = _queue()
    got: list[Delivery] = []

    async def read() -> None:
        got.extend([delivery async for delivery in subscription])

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        subscription.deliver(Delivered("ws://one", make_event(1)))
        await anyio.wait_all_tasks_blocked()
        assert len(got) == 0
        subscription.close()
        subscription.deliver(Delivered("ws://one", make_event(2)))
    assert got == [Delivered("ws://one", make_event(1))]
