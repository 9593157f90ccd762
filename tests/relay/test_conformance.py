"""NIP-01 as a client sees it, over real sockets."""

from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from relaymesh_relay.settings import Access, Limits
from tests.relay.client import ALICE, BOB, NOW, Client, running_relay, settings_in, sign

pytestmark = pytest.mark.anyio


async def test_an_event_is_acknowledged_and_found(client: Client) -> None:
    event = sign(content="hello")
    assert await client.submit(event) == (True, "")
    assert await client.query_events({"ids": [event.id]}) == [event.to_json()]


async def test_tricky_characters_come_back_as_they_were_sent(client: Client) -> None:
    content = 'line\nquote" backslash\\ tab\t null\x00 bell\x07 delete\x7f é 😀 \u2028 </script>'
    event = sign(content=content, tags=[["t", content], ["x", ""]])
    assert (await client.submit(event))[0]
    assert await client.query_events({"#t": [content]}) == [event.to_json()]


async def test_a_second_copy_is_accepted_as_duplicate(client: Client) -> None:
    event = sign()
    await client.submit(event)
    accepted, message = await client.submit(event)
    assert accepted and message.startswith("duplicate:")


async def test_a_wrong_id_is_refused(client: Client) -> None:
    event = sign().to_json() | {"content": "changed"}
    await client.send("EVENT", event)
    accepted, message = await client.answer_to(event["id"])
    assert not accepted and message.startswith("invalid:")
    assert await client.query({}) == []


async def test_a_wrong_signature_is_refused(client: Client) -> None:
    event = sign().to_json() | {"sig": sign(content="another").signature}
    await client.send("EVENT", event)
    accepted, message = await client.answer_to(event["id"])
    assert not accepted and message.startswith("invalid:")
    assert await client.query({}) == []


async def test_a_forged_copy_does_not_keep_the_true_event_out(client: Client) -> None:
    event = sign()
    forged = event.to_json() | {"sig": "0" * 128}
    await client.send("EVENT", forged)
    await client.publish(event)
    answers = sorted([(await client.receive())[2], (await client.receive())[2]])
    assert answers == [False, True]
    assert await client.query({"ids": [event.id]}) == [event.id]


async def test_stored_events_come_newest_first_and_equal_times_by_lowest_id(client: Client) -> None:
    events = [sign(content=str(number), created_at=NOW + number // 3) for number in range(9)]
    for event in events:
        await client.submit(event)
    expected = sorted(events, key=lambda event: (-event.created_at, event.id))
    assert await client.query({"kinds": [1]}) == [event.id for event in expected]
    assert await client.query({"limit": 4}) == [event.id for event in expected[:4]]


async def test_limit_zero_brings_no_stored_event_but_live_ones(client: Client) -> None:
    await client.submit(sign(content="stored"))
    assert await client.query({"limit": 0}) == []
    live = sign(content="live")
    await client.publish(live)
    received = [await client.receive(), await client.receive()]
    assert ["EVENT", "q", live.to_json()] in received


async def test_an_event_that_matches_several_filters_comes_once(client: Client) -> None:
    event = sign(tags=[["t", "a"], ["t", "b"]])
    await client.submit(event)
    assert await client.query({"#t": ["a", "b"]}, {"kinds": [1]}, {"authors": [ALICE.public_key]}) == [event.id]


async def test_conditions_of_one_filter_must_all_hold_and_filters_are_alternatives(client: Client) -> None:
    by_alice = sign(ALICE, 1, tags=[["t", "a"]])
    by_bob = sign(BOB, 7, tags=[["t", "a"]])
    for event in (by_alice, by_bob):
        await client.submit(event)
    assert await client.query({"authors": [ALICE.public_key], "kinds": [7]}) == []
    assert await client.query({"authors": [BOB.public_key], "#t": ["a"]}) == [by_bob.id]
    assert set(await client.query({"authors": [ALICE.public_key]}, {"kinds": [7]})) == {by_alice.id, by_bob.id}


async def test_since_and_until_are_inclusive(client: Client) -> None:
    events = [sign(content=str(number), created_at=NOW + number) for number in range(4)]
    for event in events:
        await client.submit(event)
    assert await client.query({"since": NOW + 1, "until": NOW + 2}) == [events[2].id, events[1].id]


async def test_an_empty_list_matches_nothing(client: Client) -> None:
    await client.submit(sign())
    for name in ("ids", "authors", "kinds", "#t"):
        assert await client.query({name: []}) == []


@pytest.mark.parametrize("kind", [0, 3, 10_002, 19_999])
async def test_of_a_replaceable_event_only_the_newest_is_kept(client: Client, kind: int) -> None:
    newest, oldest, middle = (sign(kind=kind, created_at=NOW + age, content=str(age)) for age in (9, 1, 5))
    assert (await client.submit(oldest))[0]
    assert (await client.submit(newest))[0]
    accepted, message = await client.submit(middle)
    assert not accepted and message.startswith("duplicate:")
    assert await client.query({"kinds": [kind]}) == [newest.id]


async def test_replaceable_events_of_one_time_are_decided_by_the_lowest_id(client: Client) -> None:
    lowest, *others = sorted(
        (sign(kind=10_002, content=str(number)) for number in range(4)), key=lambda event: event.id
    )
    for event in (others[0], lowest, *others[1:]):
        await client.submit(event)
    assert await client.query({"kinds": [10_002]}) == [lowest.id]


async def test_addressable_events_are_kept_one_for_each_identifier(client: Client) -> None:
    first, second = sign(kind=38_770, tags=[["d", "main"]]), sign(kind=38_770, tags=[["d", "spare"]])
    newer = sign(kind=38_770, tags=[["d", "main"]], created_at=NOW + 1)
    of_bob = sign(BOB, 38_770, tags=[["d", "main"]])
    for event in (first, second, of_bob, newer):
        assert (await client.submit(event))[0]
    assert set(await client.query({"kinds": [38_770]})) == {second.id, newer.id, of_bob.id}
    wanted = {"kinds": [38_770], "authors": [ALICE.public_key], "#d": ["main"]}
    assert await client.query(wanted) == [newer.id]


async def test_a_replaced_event_that_comes_again_stays_replaced(client: Client) -> None:
    old, new = sign(kind=10_002), sign(kind=10_002, created_at=NOW + 1)
    for event in (old, new):
        await client.submit(event)
    assert not (await client.submit(old))[0]
    assert await client.query({"kinds": [10_002]}) == [new.id]


async def test_ephemeral_events_reach_listeners_and_are_not_stored(relay_url: str) -> None:
    event = sign(kind=28_770, tags=[["p", BOB.public_key]])
    async with Client(relay_url) as listener, Client(relay_url) as sender:
        assert await listener.query({"#p": [BOB.public_key]}) == []
        assert await sender.submit(event) == (True, "")
        assert await listener.receive() == ["EVENT", "q", event.to_json()]
        assert await sender.query({"kinds": [28_770]}) == []


async def test_a_repeated_ephemeral_event_is_delivered_again(relay_url: str) -> None:
    event = sign(kind=28_770)
    async with Client(relay_url) as listener, Client(relay_url) as sender:
        await listener.query({"kinds": [28_770]})
        for _ in range(2):
            assert await sender.submit(event) == (True, "")
            assert await listener.receive() == ["EVENT", "q", event.to_json()]


async def test_an_ephemeral_event_nobody_waits_for_is_answered_with_mute(client: Client) -> None:
    accepted, message = await client.submit(sign(kind=20_001))
    assert not accepted and message == "mute: no one was listening"


async def test_mute_can_be_switched_off(memory_path: Path) -> None:
    settings = settings_in(memory_path, access=Access(mute_unheard=False))
    async with running_relay(settings) as url, Client(url) as client:
        assert await client.submit(sign(kind=20_001)) == (True, "")


async def test_live_events_reach_every_subscription_that_asks_and_no_other(relay_url: str) -> None:
    event = sign(tags=[["t", "wanted"]])
    async with Client(relay_url) as one, Client(relay_url) as other, Client(relay_url) as sender:
        await one.query({"#t": ["wanted"]}, subscription_id="first")
        await one.query({"authors": [ALICE.public_key]}, {"#t": ["wanted"]}, subscription_id="second")
        await other.query({"#t": ["else"]}, subscription_id="third")
        await sender.submit(event)
        received = [await one.receive(), await one.receive()]
        assert sorted(message[1] for message in received) == ["first", "second"]
        assert await other.query({"ids": [event.id]}) == [event.id]  # the answer comes first: nothing live was queued


async def test_close_ends_a_subscription(relay_url: str) -> None:
    async with Client(relay_url) as listener, Client(relay_url) as sender:
        await listener.query({"kinds": [1]}, subscription_id="closing")
        await listener.send("CLOSE", "closing")
        await listener.query({"limit": 0}, subscription_id="open")
        event = sign()
        await sender.submit(event)
        assert await listener.receive() == ["EVENT", "open", event.to_json()]


async def test_a_subscription_of_the_same_name_replaces_the_first(relay_url: str) -> None:
    async with Client(relay_url) as listener, Client(relay_url) as sender:
        await listener.query({"kinds": [1]}, subscription_id="one")
        await listener.query({"kinds": [7]}, subscription_id="one")
        first, second = sign(kind=1), sign(kind=7)
        await sender.submit(first)
        await sender.submit(second)
        assert await listener.receive() == ["EVENT", "one", second.to_json()]


async def test_closing_what_is_not_open_is_no_error(client: Client) -> None:
    await client.send("CLOSE", "never opened")
    assert await client.query({}) == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"hello",
        b"{}",
        b"[]",
        b"[1]",
        b'["EVENT"]',
        b'["EVENT",{}]',
        b'["REQ"]',
        b'["REQ",1,{}]',
        b'["REQ","",{}]',
        b'["UNKNOWN","x"]',
        b'["CLOSE"]',
        b'["EVENT",{"id":"\\ud800"}]',
        b"\xff\xfe",
        b"[" * 5_000,
    ],
)
async def test_malformed_messages_are_answered_with_a_notice_and_nothing_else_happens(
    client: Client, text: bytes
) -> None:
    await client.send_frame(text)
    kind, message = await client.receive()
    assert kind == "NOTICE" and message.startswith("invalid:")
    assert await client.query({}) == []


@pytest.mark.parametrize(
    "wanted",
    [
        {"ids": ["short"]},
        {"ids": ["A" * 64]},
        {"authors": [1]},
        {"kinds": ["1"]},
        {"kinds": [70_000]},
        {"#tt": ["x"]},
        {"since": -1},
        {"limit": 1.5},
        {"search": "words"},
        {"since": 2**70},
        [],
    ],
)
async def test_a_filter_that_is_not_understood_closes_the_subscription(client: Client, wanted: Any) -> None:
    await client.send_frame(
        b'["REQ","q",'
        + (b'{"since":' + str(2**70).encode() + b"}" if wanted == {"since": 2**70} else orjson.dumps(wanted))
        + b"]"
    )
    kind, name, message = await client.receive()
    assert (kind, name) == ("CLOSED", "q") and message.startswith("invalid:")


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 65_536},
        {"kind": "1"},
        {"kind": True},
        {"created_at": -1},
        {"created_at": 1.5},
        {"tags": [[]]},
        {"tags": [[1]]},
        {"tags": {}},
        {"content": None},
        {"pubkey": "f" * 63},
        {"pubkey": "f" * 64},
        {"sig": "0"},
    ],
)
async def test_a_malformed_event_with_a_readable_id_is_answered_with_ok_false(
    client: Client, change: dict[str, Any]
) -> None:
    event = sign().to_json() | change
    await client.send("EVENT", event)
    accepted, message = await client.answer_to(event["id"])
    assert not accepted and message.startswith("invalid:")


async def test_a_fragmented_message_is_put_together_and_pings_between_are_answered(client: Client) -> None:
    event = sign(content="in pieces")
    text = orjson.dumps(["EVENT", event.to_json()])
    await client.send_frame(text[:10], 1, is_final=False)
    await client.send_frame(b"ping", 9)
    await client.send_frame(text[10:50], 0, is_final=False)
    await client.send_frame(text[50:], 0)
    assert await client.receive_frame_of(10) == b"ping"
    assert await client.answer_to(event.id) == (True, "")


async def test_unknown_fields_and_spare_blanks_of_an_event_are_not_passed_on(client: Client) -> None:
    event = sign()
    text = orjson.dumps(["EVENT", event.to_json() | {"extra": "x" * 100}], option=orjson.OPT_INDENT_2)
    await client.send_frame(text)
    assert (await client.answer_to(event.id))[0]
    assert await client.query_events({"ids": [event.id]}) == [event.to_json()]


async def test_a_large_answer_arrives_whole_and_in_order(client: Client) -> None:
    events = [sign(content="x" * 2_000 + str(number), created_at=NOW + number) for number in range(400)]
    await client.publish(*events)
    for event in events:
        assert (await client.answer_to(event.id))[0]
    expected = [event.id for event in reversed(events)]
    assert await client.query({"kinds": [1]}) == expected


async def test_what_is_published_while_stored_events_are_read_comes_exactly_once(relay_url: str) -> None:
    events = [sign(content=str(number), created_at=NOW + number) for number in range(120)]
    async with Client(relay_url) as sender, Client(relay_url) as reader:
        await sender.publish(*events[:60])
        await anyio.lowlevel.checkpoint()
        await reader.send("REQ", "q", {"kinds": [1]})
        await sender.publish(*events[60:])
        for event in events:
            assert (await sender.answer_to(event.id))[0]
        received: list[str] = []
        while len(received) < len(events):
            message = await reader.receive()
            if message[0] == "EVENT":
                received.append(message[2]["id"])
        assert sorted(received) == sorted(event.id for event in events)


async def test_the_limit_of_a_filter_is_brought_down_to_what_the_relay_allows(memory_path: Path) -> None:
    settings = settings_in(memory_path, limits=Limits(limit=3, default_limit=2))
    async with running_relay(settings) as url, Client(url) as client:
        for number in range(5):
            await client.submit(sign(content=str(number)))
        assert len(await client.query({"limit": 100})) == 3
        assert len(await client.query({})) == 2
