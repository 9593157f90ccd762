"""Relays over real sockets that forge, flood, fall silent, ask who we are, or are none of our business."""

import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from websockets.asyncio.server import ServerConnection

from relaymesh.adapters import websocket_relays
from relaymesh.adapters.websocket_relays import WebSocketRelays
from relaymesh.errors import LocalProtocolError, UsageError
from relaymesh.machines.relay_connection_interface import RelayConnectionSettings
from relaymesh.nostr.authentication import build_authentication, check_authentication
from relaymesh.nostr.event import Event, UnsignedEvent, VerifiedEvent, parse_event
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.ports.relays import Delivered, Delivery, Published, StoredEventsEnd
from relaymesh.units import Instant, Moment, Timestamp
from tests.adapters.scripted_relay import ScriptedRelay, event_text, say, scripted_relay

pytestmark = pytest.mark.anyio

QUICK = RelayConnectionSettings(first_retry_ms=20, last_retry_ms=50)
KEY = KeyPair(b"\x11" * 32)
FILTERS = (Filter(kinds=(1,)),)


def write(content: str, kind: int = 1) -> VerifiedEvent:
    return KEY.sign(UnsignedEvent(KEY.public_key, Timestamp(1_750_000_000), kind, (), content))


def forge(event: Event) -> Event:
    return Event(event.public_key, event.created_at, event.kind, event.tags, "forged", event.id, event.signature)


async def accept_everything(relay: ScriptedRelay, connection: ServerConnection, message: list[Any]) -> None:
    if message[0] == "EVENT":
        await say(connection, "OK", message[1]["id"], True, "")
    elif message[0] == "REQ":
        await say(connection, "EOSE", message[1])


async def say_nothing(relay: ScriptedRelay, connection: ServerConnection, message: list[Any]) -> None:
    pass


async def _collect(deliveries: AsyncIterator[Delivery]) -> list[VerifiedEvent]:
    """All events until the first end of stored events."""
    events = []
    async for delivery in deliveries:
        if isinstance(delivery, StoredEventsEnd):
            break
        if isinstance(delivery, Delivered):
            events.append(delivery.event)
    return events


async def test_forged_unwanted_and_repeated_events_never_reach_the_subscriber() -> None:
    true, other_kind, last = write("true"), write("other", kind=2), write("last")

    async def script(relay: ScriptedRelay, connection: ServerConnection, message: list[Any]) -> None:
        for event in (forge(true), true, true, other_kind, forge(last), last):
            await connection.send(event_text(message[1], event))
        await connection.send(event_text("another", write("unasked")))
        await say(connection, "EOSE", message[1])

    async with scripted_relay(script) as relay, WebSocketRelays((relay.url,)) as relays:
        async with relays.subscribe(FILTERS) as deliveries:
            assert await _collect(deliveries) == [true, last]
        assert relays.counters.delivered == 2
        assert relays.counters.forged == 2
        assert relays.counters.unwanted == 1


async def test_how_far_a_relay_s_clock_is_ahead_of_ours_is_read_from_its_handshake() -> None:
    an_hour_ago = Moment(Instant(0), (int(time.time()) - 3_600) * 1_000)
    async with (
        scripted_relay(accept_everything) as relay,
        WebSocketRelays((relay.url,), clock=lambda: an_hour_ago) as relays,
        relays.subscribe(FILTERS) as deliveries,
    ):
        assert await _collect(deliveries) == []
        assert relays.clock_offsets[relay.url] == pytest.approx(3_600, abs=5)


async def test_an_event_is_checked_whole_even_when_its_forgery_comes_with_it() -> None:
    """A forgery that wears a true event's id must neither get through nor push the true one out."""
    true = write("true")

    async def script(relay: ScriptedRelay, connection: ServerConnection, message: list[Any]) -> None:
        for event in (forge(true), true, forge(true)):
            await connection.send(event_text(message[1], event))
        await say(connection, "EOSE", message[1])

    async with (
        scripted_relay(script) as relay,
        WebSocketRelays((relay.url,)) as relays,
        relays.subscribe(FILTERS) as deliveries,
    ):
        assert await _collect(deliveries) == [true]


async def test_a_thousand_stored_events_arrive_verified_in_order() -> None:
    events = [write(f"{number}") for number in range(1_000)]

    async def script(relay: ScriptedRelay, connection: ServerConnection, message: list[Any]) -> None:
        for event in events:
            await connection.send(event_text(message[1], event))
        await say(connection, "EOSE", message[1])

    async with (
        scripted_relay(script) as relay,
        WebSocketRelays((relay.url,)) as relays,
        relays.subscribe(FILTERS) as deliveries,
    ):
        assert await _collect(deliveries) == events


async def test_a_subscriber_that_does_not_read_loses_the_oldest_events_and_they_are_counted() -> None:
    events = [write(f"{number}") for number in range(50)]

    async def script(relay: ScriptedRelay, connection: ServerConnection, message: list[Any]) -> None:
        for event in events:
            await connection.send(event_text(message[1], event))
        await say(connection, "EOSE", message[1])

    async with scripted_relay(script) as relay, WebSocketRelays((relay.url,), maximum_unread=10) as relays:
        async with relays.subscribe(FILTERS) as deliveries:
            while relays.counters.delivered < 50:
                await anyio.lowlevel.checkpoint()
            kept = await _collect(deliveries)
        assert kept == events[-len(kept) :]
        assert len(kept) <= 10
        assert relays.counters.dropped == 50 - len(kept)


async def test_rubbish_between_events_costs_no_subscription() -> None:
    async def script(relay: ScriptedRelay, connection: ServerConnection, message: list[Any]) -> None:
        for rubbish in ("", "[", '["EVENT"]', '["EVENT","1",{"id":1}]', '["NOTICE",5]', '["WHAT"]'):
            await connection.send(rubbish)
        await connection.send(b"\x00binary")
        await connection.send(event_text(message[1], write("good")))
        await say(connection, "EOSE", message[1])

    async with scripted_relay(script) as relay, WebSocketRelays((relay.url,)) as relays:
        async with relays.subscribe(FILTERS) as deliveries:
            assert await _collect(deliveries) == [write("good")]
        assert relay.connections == 1


async def test_a_relay_that_says_nothing_is_answered_for_in_time() -> None:
    settings = RelayConnectionSettings(answer_in_ms=50)
    async with (
        scripted_relay(say_nothing) as silent,
        scripted_relay(accept_everything) as relay,
        WebSocketRelays((silent.url, relay.url), settings=settings) as relays,
    ):
        late, good = await relays.publish(write("hello"))
        assert (late.relay_url, late.accepted) == (silent.url, False)
        assert "in time" in late.message
        assert good == Published(relay.url, write("hello").id, True, "")


async def test_a_relays_own_words_come_back() -> None:
    async def script(relay: ScriptedRelay, connection: ServerConnection, message: list[Any]) -> None:
        await say(connection, "OK", message[1]["id"], False, "mute: no one was listening")

    async with scripted_relay(script) as relay, WebSocketRelays((relay.url,)) as relays:
        [answer] = await relays.publish(write("hello", kind=28_770))
        assert answer == Published(relay.url, answer.event_id, False, "mute: no one was listening")


async def test_two_publishers_of_one_event_get_the_one_answer() -> None:
    async with scripted_relay(accept_everything) as relay, WebSocketRelays((relay.url,)) as relays:
        answers: list[tuple[Published, ...]] = []

        async def publish() -> None:
            answers.append(await relays.publish(write("hello")))

        async with anyio.create_task_group() as group:
            group.start_soon(publish)
            group.start_soon(publish)
        assert [answer.accepted for each in answers for answer in each] == [True, True]
        assert len([message for message in relay.heard if message[0] == "EVENT"]) == 1


async def test_a_relay_that_drops_us_is_connected_again_and_asked_again() -> None:
    async def script(relay: ScriptedRelay, connection: ServerConnection, message: list[Any]) -> None:
        if relay.connections < 3:
            connection.transport.abort()
        else:
            await accept_everything(relay, connection, message)

    async with scripted_relay(script) as relay, WebSocketRelays((relay.url,), settings=QUICK) as relays:
        async with relays.subscribe(FILTERS) as deliveries:
            assert await _collect(deliveries) == []
        assert relay.connections == 3


async def test_a_relay_that_closes_a_subscription_for_good_keeps_nobody_waiting() -> None:
    async def script(relay: ScriptedRelay, connection: ServerConnection, message: list[Any]) -> None:
        await say(connection, "CLOSED", message[1], "restricted: members only")

    async with scripted_relay(script) as relay, WebSocketRelays((relay.url,)) as relays:
        async with relays.subscribe(FILTERS) as deliveries:
            assert await _collect(deliveries) == []
        assert relays.counters.refused == 1


async def test_a_challenge_is_signed_when_a_relay_asks_who_we_are() -> None:
    known = set()

    async def script(relay: ScriptedRelay, connection: ServerConnection, message: list[Any]) -> None:
        if message[0] == "AUTH":
            event = verify(parse_event(message[1]))
            known.add(check_authentication(event, (relay.url,), "prove it", Timestamp(1_750_000_000)))
            await say(connection, "OK", event.id, True, "")
        elif known:
            await accept_everything(relay, connection, message)
        elif message[0] == "REQ":
            await say(connection, "CLOSED", message[1], "auth-required: who are you?")
        else:
            await say(connection, "OK", message[1]["id"], False, "auth-required: who are you?")

    def authenticate(url: str, challenge: str) -> VerifiedEvent:
        return KEY.sign(build_authentication(KEY.public_key, url, challenge, Timestamp(1_750_000_000)))

    async with (
        scripted_relay(script, greeting=('["AUTH","prove it"]',)) as relay,
        WebSocketRelays((relay.url,), authenticate=authenticate) as relays,
    ):
        async with relays.subscribe(FILTERS) as deliveries:
            assert await _collect(deliveries) == []
        [answer] = await relays.publish(write("hello"))
        assert answer.accepted
    assert known == {KEY.public_key}


async def test_a_relay_that_a_peer_named_is_a_guest_and_connected_only_where_that_is_allowed() -> None:
    async with scripted_relay(accept_everything) as relay:
        async with WebSocketRelays(()) as strict:
            [answer] = await strict.publish(write("hello"), (relay.url,))
            assert not answer.accepted
        assert relay.connections == 0
        async with WebSocketRelays((), allow_private=True) as relays:
            [answer] = await relays.publish(write("hello"), (relay.url,))
            assert answer.accepted
            async with relays.subscribe(FILTERS, (relay.url + "/",)) as deliveries:
                assert await _collect(deliveries) == []
            assert relays.urls == ()
        assert relay.connections == 1  # one spelling of a URL or another: the same relay


async def test_guests_are_few_and_the_one_unused_for_longest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_relays, "MAXIMUM_GUESTS", 2)
    async with scripted_relay(accept_everything) as relay, WebSocketRelays((), allow_private=True) as relays:
        urls = [f"{relay.url}/{number}" for number in range(4)]
        for url in urls[:3]:
            assert (await relays.publish(write("hello"), (url,)))[0].accepted
        assert relay.connections == 3
        async with relays.subscribe(FILTERS, (urls[1], urls[2])) as deliveries:
            await _collect(deliveries)
            [answer] = await relays.publish(write("hello"), (urls[3],))
            assert not answer.accepted and "at most 2" in answer.message
        assert (await relays.publish(write("hello"), (urls[3],)))[0].accepted


async def test_a_relay_that_never_answers_its_door_holds_up_neither_use_nor_leaving() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf, anyio.fail_after(5):
        url = f"ws://127.0.0.1:{deaf.getsockname()[1]}"
        async with (
            scripted_relay(accept_everything) as relay,
            WebSocketRelays((url, relay.url)) as relays,
            relays.subscribe(FILTERS) as deliveries,
        ):
            async for delivery in deliveries:
                assert delivery == StoredEventsEnd(relay.url)
                break
            with anyio.move_on_after(0.05) as scope:
                await relays.publish(write("hello"))
            assert scope.cancelled_caught
        assert ["EVENT", write("hello").to_json()] in relay.heard


async def test_whoever_still_publishes_when_the_relays_are_left_gets_an_answer() -> None:
    answers: list[tuple[Published, ...]] = []
    async with scripted_relay(say_nothing) as relay, anyio.create_task_group() as group:

        async def publish(relays: WebSocketRelays) -> None:
            answers.append(await relays.publish(write("hello")))

        async with WebSocketRelays((relay.url,)) as relays:
            group.start_soon(publish, relays)
            while not relay.heard:
                await anyio.lowlevel.checkpoint()
    assert [answer.accepted for answer in answers[0]] == [False]


async def test_a_subscription_ends_when_the_relays_are_left() -> None:
    async with scripted_relay(accept_everything) as relay:
        async with WebSocketRelays((relay.url,)) as relays:
            subscription = relays.subscribe(FILTERS)
            deliveries = await subscription.__aenter__()
        await subscription.__aexit__(None, None, None)
        assert all(
            isinstance(delivery, StoredEventsEnd | Delivered) for delivery in [item async for item in deliveries]
        )


async def test_relays_are_used_inside_their_block_and_named_by_relay_urls() -> None:
    with pytest.raises(UsageError):
        WebSocketRelays(("http://relay.example",))
    outside = WebSocketRelays(("wss://Relay.Example/", "wss://relay.example"))
    assert outside.urls == ("wss://relay.example",)
    with pytest.raises(LocalProtocolError):
        await outside._link("wss://relay.example").publish(write("hello"))


async def test_who_is_cancelled_may_publish_its_last_words() -> None:
    """A node that is stopped says so; the links must not have gone before it."""
    last_words = write("goodbye")
    answers: list[Published] = []
    async with scripted_relay(accept_everything) as relay:
        with anyio.CancelScope() as scope:
            async with WebSocketRelays((relay.url,), settings=QUICK) as relays:
                await relays.publish(write("hello"))
                try:
                    scope.cancel()
                    await anyio.sleep_forever()
                finally:
                    with anyio.move_on_after(5, shield=True):
                        answers.extend(await relays.publish(last_words))
    assert [answer.accepted for answer in answers] == [True]
