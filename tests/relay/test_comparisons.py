"""Comparing by Negentropy as a client sees it (NIP-77), and what a comparison may cost."""

import asyncio
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import orjson
import pytest

from relaymesh.nostr.event import VerifiedEvent
from relaymesh.units import Instant, Moment
from relaymesh_relay.connection import Connection
from relaymesh_relay.hub import Hub
from relaymesh_relay.relay import Relay
from relaymesh_relay.settings import Access, Limits, Negentropy, Rates, Settings
from relaymesh_relay.sqlite_store import SqliteStore
from relaymesh_relay.store import Record, StorageError, to_document
from tests.relay.client import ALICE, BOB, NOW, Client, information, running_relay, settings_in, sign
from tests.relay.negentropy_client import AskingSide

pytestmark = pytest.mark.anyio

EVERYTHING = "6100000200"  # a list of no ids, up to infinity
MOMENT = Moment(Instant(0), NOW * 1_000)


async def compare(client: Client, wanted: dict[str, Any], ours: list[VerifiedEvent]) -> AskingSide:
    asking = AskingSide({(event.created_at, bytes.fromhex(event.id)) for event in ours})
    message: bytes | None = asking.first()
    await client.send("NEG-OPEN", "n", wanted, asking.first().hex())
    while message is not None:
        kind, name, answer = await client.receive()
        assert (kind, name) == ("NEG-MSG", "n")
        message = asking.go_on(bytes.fromhex(answer))
        if message is not None:
            await client.send("NEG-MSG", "n", message.hex())
    await client.send("NEG-CLOSE", "n")
    return asking


async def listed(client: Client, wanted: dict[str, Any]) -> set[str]:
    """The ids that a comparison lists for somebody who has nothing."""
    return {event_id.hex() for event_id in (await compare(client, wanted, [])).missing_here}


async def test_a_client_learns_which_ids_only_one_side_has(client: Client) -> None:
    events = [sign(content=str(number), created_at=NOW + number // 3) for number in range(300)]
    await client.publish(*events[:200])
    for event in events[:200]:
        assert (await client.answer_to(event.id))[0]
    asking = await compare(client, {"kinds": [1]}, events[40:])
    assert asking.missing_here == {bytes.fromhex(event.id) for event in events[:40]}
    assert asking.missing_there == {bytes.fromhex(event.id) for event in events[200:]}


async def test_only_what_the_filter_asks_for_is_compared(client: Client) -> None:
    events = [sign(kind=kind, created_at=NOW + kind) for kind in (1, 7, 8)]
    for event in events:
        await client.submit(event)
    assert await listed(client, {"kinds": [7, 8]}) == {event.id for event in events[1:]}
    assert await listed(client, {"limit": 1}) == {events[2].id}
    assert await listed(client, {"limit": 0}) == set()


async def test_what_may_not_be_read_is_not_compared(memory_path: Path) -> None:
    settings = settings_in(memory_path, access=Access(private_to_recipients=True))
    open_event, private = sign(), sign(kind=1_059, tags=[["p", BOB.public_key]])
    async with running_relay(settings) as url, Client(url) as client:
        for event in (open_event, private):
            assert (await client.submit(event))[0]
        assert await listed(client, {}) == {open_event.id}


async def test_a_new_comparison_of_the_same_name_replaces_the_first(memory_path: Path) -> None:
    settings = settings_in(memory_path, negentropy=Negentropy(comparisons=1))
    async with running_relay(settings) as url, Client(url) as client:
        for _ in range(2):
            await client.send("NEG-OPEN", "n", {}, EVERYTHING)
            assert await client.receive() == ["NEG-MSG", "n", "6100000200"]
        await client.send("NEG-OPEN", "other", {}, EVERYTHING)
        kind, name, reason = await client.receive()
        assert (kind, name) == ("NEG-ERR", "other") and reason.startswith("rate-limited:")
        await client.send("NEG-CLOSE", "n")
        await client.send("NEG-OPEN", "other", {}, EVERYTHING)
        assert (await client.receive())[0] == "NEG-MSG"


async def test_comparisons_and_subscriptions_have_names_of_their_own(client: Client) -> None:
    event = sign()
    await client.query({"kinds": [1]}, subscription_id="n")
    await client.send("NEG-OPEN", "n", {}, EVERYTHING)
    assert (await client.receive())[0] == "NEG-MSG"
    await client.send("NEG-CLOSE", "n")
    await client.publish(event)
    assert ["EVENT", "n", event.to_json()] in [await client.receive(), await client.receive()]


async def test_too_many_events_are_refused_with_their_greatest_number(memory_path: Path) -> None:
    settings = settings_in(memory_path, negentropy=Negentropy(records=3))
    async with running_relay(settings) as url, Client(url) as client:
        for number in range(3):
            await client.submit(sign(content=str(number)))
        assert len(await listed(client, {})) == 3
        await client.submit(sign(content="one more"))
        await client.send("NEG-OPEN", "n", {}, EVERYTHING)
        kind, name, reason, maximum = await client.receive()
        assert (kind, name, maximum) == ("NEG-ERR", "n", 3) and reason.startswith("blocked:")
        assert len(await listed(client, {"limit": 3})) == 3


@pytest.mark.parametrize(
    ("message", "prefix"),
    [
        (["NEG-OPEN", "n", {}, "zz"], "invalid:"),
        (["NEG-OPEN", "n", {}, ""], "invalid:"),
        (["NEG-OPEN", "n", {}, "610000"], "invalid:"),
        (["NEG-OPEN", "n", {"search": "words"}, EVERYTHING], "invalid:"),
        (["NEG-OPEN", "n" * 11, {}, EVERYTHING], "invalid:"),
        (["NEG-MSG", "n", EVERYTHING], "closed:"),
        (["NEG-MSG", "n"], "invalid:"),
    ],
)
async def test_what_cannot_be_answered_is_refused(memory_path: Path, message: list[Any], prefix: str) -> None:
    settings = settings_in(memory_path, limits=Limits(subscription_id_characters=10))
    async with running_relay(settings) as url, Client(url) as client:
        await client.send(*message)
        kind, name, reason = await client.receive()
        assert (kind, name) == ("NEG-ERR", message[1]) and reason.startswith(prefix)
        await client.send("NEG-MSG", "n", EVERYTHING)
        assert (await client.receive())[2].startswith("closed:")


async def test_another_version_is_answered_with_ours(client: Client) -> None:
    await client.send("NEG-OPEN", "n", {}, "62")
    assert await client.receive() == ["NEG-MSG", "n", "61"]


async def test_it_is_neither_offered_nor_announced_where_it_is_off(memory_path: Path) -> None:
    settings = settings_in(memory_path, negentropy=Negentropy(enabled=False))
    async with running_relay(settings) as url, Client(url) as client:
        assert 77 not in (await information(url))["supported_nips"]
        await client.send("NEG-OPEN", "n", {}, EVERYTHING)
        kind, _, reason = await client.receive()
        assert kind == "NEG-ERR" and reason.startswith("blocked:")


async def test_it_is_announced_where_it_is_on(relay_url: str) -> None:
    assert 77 in (await information(relay_url))["supported_nips"]


async def test_comparing_can_be_kept_for_authenticated_clients(memory_path: Path) -> None:
    settings = settings_in(memory_path, access=Access(authenticate_to_read=True))
    async with running_relay(settings) as url, Client(url) as client:
        await client.send("NEG-OPEN", "n", {}, EVERYTHING)
        assert (await client.receive())[0] == "AUTH"
        assert (await client.receive())[2].startswith("auth-required:")


def connect(settings: Settings, *, is_exempt: bool = True) -> Connection:
    return Connection(settings, address="192.0.2.1", relay_urls=(), challenge="c", is_exempt=is_exempt, now=MOMENT)


def say(relay: Relay, connection: Connection, *message: Any, now: Moment = MOMENT) -> None:
    relay.receive(connection, orjson.dumps(message), now)


def said(connection: Connection) -> list[Any]:
    outgoing, connection.outgoing = connection.outgoing, []
    return [orjson.loads(message) for message in outgoing]


def store_of(directory: Path, count: int) -> SqliteStore:
    store = SqliteStore(settings_in(directory).storage)
    writer = store.open_writer()
    events = [sign(ALICE, content=str(number)) for number in range(count)]
    writer.write([Record(event, to_document(event)) for event in events])
    writer.close()
    return store


def work_off(relay: Relay, store: SqliteStore) -> None:
    reader = store.open_reader()
    for each in relay.take_rounds():
        list(each.steps(reader))
        relay.compared(each, is_finished=True)
    reader.close()


def test_too_many_messages_are_refused() -> None:
    settings = Settings(rates=Rates(requests_per_second=1, requests_burst=1))
    relay, connection = Relay(settings), connect(settings, is_exempt=False)
    say(relay, connection, "NEG-OPEN", "n", {}, EVERYTHING)
    say(relay, connection, "NEG-MSG", "n", EVERYTHING)
    ((kind, name, reason),) = said(connection)
    assert (kind, name) == ("NEG-ERR", "n") and reason.startswith("rate-limited:")
    assert not [each for each in relay.take_rounds() if each.is_wanted]


def test_a_malformed_message_ends_the_comparison() -> None:
    relay, connection = Relay(Settings()), connect(Settings())
    say(relay, connection, "NEG-OPEN", "n", {}, EVERYTHING)
    say(relay, connection, "NEG-MSG", "n", "zz")
    assert said(connection)[0][2].startswith("invalid:")
    assert not connection.open_comparisons


def test_a_message_that_does_not_wait_for_its_turn_ends_the_comparison() -> None:
    relay, connection = Relay(Settings()), connect(Settings())
    say(relay, connection, "NEG-OPEN", "n", {}, EVERYTHING)
    say(relay, connection, "NEG-MSG", "n", EVERYTHING)
    assert said(connection)[0][2].startswith("closed:")
    (waiting,) = relay.take_rounds()
    assert not waiting.is_wanted
    relay.compared(waiting, is_finished=True)
    assert said(connection) == []


def test_a_comparison_whose_client_is_silent_is_ended_and_others_are_not(memory_path: Path) -> None:
    settings = Settings(negentropy=Negentropy(idle_seconds=60))
    relay, connection, store = Relay(settings), connect(settings), store_of(memory_path, 3)
    for name in ("busy", "silent"):
        say(relay, connection, "NEG-OPEN", name, {}, EVERYTHING)
    work_off(relay, store)
    soon = Moment(MOMENT.after_ms(59_000), NOW)
    say(relay, connection, "NEG-MSG", "busy", EVERYTHING, now=soon)
    relay.end_idle_comparisons(soon)
    assert [message[0] for message in said(connection)] == ["NEG-MSG", "NEG-MSG"]
    work_off(relay, store)
    relay.take_touched()
    relay.end_idle_comparisons(Moment(MOMENT.after_ms(60_000), NOW))
    assert relay.take_touched() == [connection]
    answered, ended = said(connection)
    assert answered[:2] == ["NEG-MSG", "busy"]
    assert ended[:2] == ["NEG-ERR", "silent"] and ended[2].startswith("closed:")


def test_limits_that_were_read_again_hold_for_comparisons_too(memory_path: Path) -> None:
    relay, connection = Relay(Settings()), connect(Settings())
    relay.adopt(Settings(negentropy=Negentropy(records=1)))
    say(relay, connection, "NEG-OPEN", "n", {}, EVERYTHING)
    work_off(relay, store_of(memory_path, 2))
    ((kind, name, reason, *_),) = said(connection)
    assert (kind, name) == ("NEG-ERR", "n") and reason.startswith("blocked:")


async def test_the_sweep_of_connections_ends_comparisons_that_nobody_goes_on_with(memory_path: Path) -> None:
    asked: list[Moment] = []
    hub = Hub(settings_in(memory_path), asyncio.get_running_loop(), lambda: MOMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.relay, "end_idle_comparisons", asked.append)
        hub.sweep_connections()
    hub.pipeline.start()
    await anyio.to_thread.run_sync(hub.pipeline.close)
    assert asked == [MOMENT]


def test_a_comparison_that_is_being_answered_is_not_ended_for_silence() -> None:
    relay, connection = Relay(Settings()), connect(Settings())
    say(relay, connection, "NEG-OPEN", "n", {}, EVERYTHING)
    relay.end_idle_comparisons(Moment(MOMENT.after_ms(3_600_000), NOW))
    assert said(connection) == []


def test_all_comparisons_together_hold_no_more_records_than_they_may(memory_path: Path) -> None:
    settings = Settings(negentropy=Negentropy(records_together=10))
    store, relay = store_of(memory_path, 4), Relay(settings)
    first, second, third = (connect(settings) for _ in range(3))
    for connection in (first, second, third):
        say(relay, connection, "NEG-OPEN", "n", {}, EVERYTHING)
        work_off(relay, store)
    assert [said(each)[0][0] for each in (first, second, third)] == ["NEG-MSG", "NEG-MSG", "NEG-ERR"]
    relay.disconnect(first)
    say(relay, second, "NEG-CLOSE", "n")
    for name in ("one", "two"):
        say(relay, third, "NEG-OPEN", name, {}, EVERYTHING)
        work_off(relay, store)
    assert [message[0] for message in said(third)] == ["NEG-MSG", "NEG-MSG"]


def test_a_store_that_cannot_be_read_ends_the_comparison(memory_path: Path) -> None:
    relay, connection, store = Relay(Settings()), connect(Settings()), store_of(memory_path, 1)
    say(relay, connection, "NEG-OPEN", "n", {}, EVERYTHING)
    (waiting,) = relay.take_rounds()
    reader = store.open_reader()
    reader.close()
    with pytest.raises(StorageError):
        list(waiting.steps(reader))
    relay.failed(waiting)
    ((kind, name, reason),) = said(connection)
    assert (kind, name) == ("NEG-ERR", "n") and reason.startswith("error:")
    assert not connection.open_comparisons


def test_gathering_pauses_now_and_then(memory_path: Path) -> None:
    relay, connection, store = Relay(Settings()), connect(Settings()), store_of(memory_path, 300)
    say(relay, connection, "NEG-OPEN", "n", {}, EVERYTHING)
    (waiting,) = relay.take_rounds()
    reader = store.open_reader()
    assert len(list(waiting.steps(reader))) > 3
    reader.close()
