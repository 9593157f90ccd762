"""What our relay answers, over real sockets, beyond what `tests/conformance/relay` asks of every relay."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from relaymesh_relay.settings import Access, Limits
from tests.conformance.relay.test_events import NONSENSE
from tests.relay.client import NOW, Client, running_relay, settings_in, sign

pytestmark = pytest.mark.anyio


async def test_every_refusal_says_of_which_sort_it_is(client: Client) -> None:
    event, newest = sign(), sign(kind=10_002, created_at=NOW + 1)
    for stored in (event, newest):
        assert await client.submit(stored) == (True, "")
    accepted, message = await client.submit(event)
    assert accepted and message.startswith("duplicate:")
    accepted, message = await client.submit(sign(kind=10_002))
    assert not accepted and message.startswith("duplicate:")
    for change in ({"content": "changed"}, {"sig": newest.signature}):
        wrong = sign(content="fresh").to_json() | change
        await client.send("EVENT", wrong)
        accepted, message = await client.answer_to(wrong["id"])
        assert not accepted and message.startswith("invalid:")


async def test_tricky_characters_come_back_as_they_were_sent(client: Client) -> None:
    content = 'line\nquote" backslash\\ tab\t null\x00 bell\x07 delete\x7f é 😀 \u2028 </script>'
    event = sign(content=content, tags=[["t", content], ["x", ""]])
    assert (await client.submit(event))[0]
    assert await client.query_events({"#t": [content]}) == [event.to_json()]


async def test_a_forged_copy_does_not_keep_the_true_event_out(client: Client) -> None:
    event = sign()
    forged = event.to_json() | {"sig": "0" * 128}
    await client.send("EVENT", forged)
    await client.publish(event)
    answers = sorted([(await client.receive())[2], (await client.receive())[2]])
    assert answers == [False, True]
    assert await client.query({"ids": [event.id]}) == [event.id]


async def test_limit_zero_brings_no_stored_event_but_live_ones(client: Client) -> None:
    await client.submit(sign(content="stored"))
    assert await client.query({"limit": 0}) == []
    live = sign(content="live")
    await client.publish(live)
    received = [await client.receive(), await client.receive()]
    assert ["EVENT", "q", live.to_json()] in received


async def test_an_empty_list_matches_nothing(client: Client) -> None:
    await client.submit(sign())
    for name in ("ids", "authors", "kinds", "#t"):
        assert await client.query({name: []}) == []


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


@pytest.mark.parametrize("text", [*NONSENSE, b'["REQ",1,{}]', b"\xff\xfe"])
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


async def test_the_limit_of_a_filter_is_brought_down_to_what_the_relay_allows(memory_path: Path) -> None:
    settings = settings_in(memory_path, limits=Limits(limit=3, default_limit=2))
    async with running_relay(settings) as url, Client(url) as client:
        for number in range(5):
            await client.submit(sign(content=str(number)))
        assert len(await client.query({"limit": 100})) == 3
        assert len(await client.query({})) == 2
