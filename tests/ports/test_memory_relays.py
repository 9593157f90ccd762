"""What relays in memory have beyond the rules: faults on demand, bounds, and signatures of the caller's choice."""

import anyio
import pytest

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import Event, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.memory_relays import MemoryRelay, MemoryRelays
from relaymesh.ports.relays import Delivered, StoredEventsEnd
from relaymesh.units import Timestamp

pytestmark = pytest.mark.anyio

KEY = KeyPair(b"\x22" * 32)
ALL = (Filter(),)


def write(content: str, kind: int = 1, created_at: int = 1_750_000_000) -> VerifiedEvent:
    return KEY.sign(UnsignedEvent(KEY.public_key, Timestamp(created_at), kind, (), content))


async def test_a_relay_that_loses_events_acknowledges_them() -> None:
    relay = MemoryRelay()
    relay.loses = lambda event: event.content == "lost"
    relays = relay.connect()
    for content in ("lost", "kept"):
        [answer] = await relays.publish(write(content))
        assert answer.accepted
    assert [event.content for event in relay.query(ALL)] == ["kept"]


async def test_a_relay_may_say_that_nobody_listens() -> None:
    relay = MemoryRelay(says_mute=True)
    relays = relay.connect()
    event = write("hello", kind=28_770)
    [answer] = await relays.publish(event)
    assert (answer.accepted, answer.message) == (False, "mute: no one was listening")
    async with relays.subscribe((Filter(kinds=(28_770,)),)) as deliveries:
        [answer] = await relays.publish(event)
        assert answer.accepted
        assert [await anext(deliveries), await anext(deliveries)] == [
            StoredEventsEnd(relay.url),
            Delivered(relay.url, event),
        ]


async def test_what_was_stored_first_is_forgotten_first_when_the_store_is_full() -> None:
    relay = MemoryRelay(maximum_events=2)
    for content in ("a", "b", "c"):
        await relay.connect().publish(write(content))
    assert {event.content for event in relay.query(ALL)} == {"b", "c"}


async def test_an_answer_may_be_limited_as_public_relays_limit_theirs() -> None:
    relay = MemoryRelay(maximum_answer=2)
    relays = relay.connect()
    for age, content in enumerate("abc"):
        await relays.publish(write(content, created_at=1_750_000_000 - age))
    async with relays.subscribe(ALL) as deliveries:
        sent = [await anext(deliveries) for _ in range(3)]
    assert [each.event.content for each in sent if isinstance(each, Delivered)] == ["a", "b"]
    assert sent[2] == StoredEventsEnd(relay.url)


async def test_of_two_events_of_the_same_second_the_one_with_the_lower_id_keeps_the_place() -> None:
    first, second = sorted((write("a", kind=10_002), write("b", kind=10_002)), key=lambda event: event.id)
    for order in ((first, second), (second, first)):
        relay = MemoryRelay()
        for event in order:
            await relay.connect().publish(event)
        assert relay.query(ALL) == (first,)


async def test_a_simulation_brings_its_own_signatures() -> None:
    def token(event: Event) -> VerifiedEvent:
        if event.signature != "token":
            raise RemoteProtocolError("no token")
        return VerifiedEvent(
            event.public_key, event.created_at, event.kind, event.tags, event.content, event.id, event.signature
        )

    relays = MemoryRelay(verify=token).connect()
    true = write("hello")
    tokened = Event(true.public_key, true.created_at, true.kind, true.tags, true.content, true.id, "token")
    assert (await relays.publish(tokened))[0].accepted
    assert (await relays.publish(true))[0].message == "invalid: no token"


async def test_a_follower_of_a_failed_relay_gets_what_it_missed_when_the_relay_is_back() -> None:
    relay, other = MemoryRelay("ws://one.example"), MemoryRelay("ws://two.example")
    relays = MemoryRelays((relay, other))
    relay.fail()
    async with relays.subscribe(ALL, (relay.url,)) as deliveries:
        with anyio.move_on_after(0) as scope:
            await anext(deliveries)
        assert scope.cancelled_caught
        relay.recover()
        assert await anext(deliveries) == StoredEventsEnd(relay.url)
        await relays.publish(write("hello"), (relay.url,))
        assert await anext(deliveries) == Delivered(relay.url, write("hello"))
