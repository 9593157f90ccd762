"""NIP-01: events are taken and come back as they were signed, and what was not signed so is refused."""

from typing import Any

import orjson
import pytest

from tests.conformance.relay.subject import RelayClient, RelayUnderTest

pytestmark = pytest.mark.anyio

NONSENSE = (
    b"",
    b"hello",
    b"{}",
    b"[]",
    b"[1]",
    b'["EVENT"]',
    b'["EVENT",{}]',
    b'["REQ"]',
    b'["REQ","",{}]',
    b'["UNKNOWN","x"]',
    b'["CLOSE"]',
    b'["EVENT",{"id":"\\ud800"}]',
    b"[" * 5_000,
)
"""Messages that no relay can make sense of."""


async def test_an_event_is_acknowledged_and_found(relay: RelayUnderTest, client: RelayClient) -> None:
    event = relay.author().write(1, ("t", "hello", "more"), ("unknown",))
    await client.store(event)
    assert await client.find_events({"ids": [event.id]}) == [event.to_json()]


async def test_characters_that_json_escapes_come_back_as_they_were_sent(
    relay: RelayUnderTest, client: RelayClient
) -> None:
    content = 'line\n quote" backslash\\ return\r tab\t back\b feed\f delete\x7f é 😀 \u2028 </script>'
    event = relay.author().write(1, ("t", content), ("x", ""), content=content)
    await client.store(event)
    assert await client.find_events({"ids": [event.id]}) == [event.to_json()]
    assert await client.find({"ids": [event.id], "#t": [content]}) == [event.id]


async def test_a_second_copy_is_called_a_duplicate_or_accepted_and_is_there_once(
    relay: RelayUnderTest, client: RelayClient
) -> None:
    event = relay.author().write()
    await client.store(event)
    accepted, message = await client.submit(event)
    assert accepted or message.startswith("duplicate:")
    assert await client.find({"ids": [event.id]}) == [event.id]


async def test_a_message_may_be_laid_out_in_any_way(relay: RelayUnderTest, client: RelayClient) -> None:
    event = relay.author().write()
    reversed_fields = dict(reversed(event.to_json().items()))
    await client.send_frame(orjson.dumps(["EVENT", reversed_fields], option=orjson.OPT_INDENT_2))
    assert (await client.answer_to(event.id))[0]
    assert await client.find_events({"ids": [event.id]}) == [event.to_json()]


async def test_a_wrong_id_is_refused(relay: RelayUnderTest, client: RelayClient) -> None:
    author = relay.author()
    await client.refused(author.write().to_json() | {"content": "changed"})
    assert await client.find(author.events) == []


async def test_a_signature_of_something_else_is_refused(relay: RelayUnderTest, client: RelayClient) -> None:
    author = relay.author()
    await client.refused(author.write().to_json() | {"sig": author.write().signature})
    assert await client.find(author.events) == []


async def test_a_signature_of_somebody_else_is_refused(relay: RelayUnderTest, client: RelayClient) -> None:
    author, other = relay.author(), relay.author()
    forged = author.write().to_json() | {"pubkey": other.key.public_key}
    await client.refused(forged)
    assert await client.find(author.events, other.events) == []


async def test_a_forged_copy_does_not_keep_the_true_event_out(relay: RelayUnderTest, client: RelayClient) -> None:
    event = relay.author().write()
    await client.refused(event.to_json() | {"sig": "0" * 128})
    await client.store(event)
    assert await client.find({"ids": [event.id]}) == [event.id]


@pytest.mark.parametrize("text", NONSENSE)
async def test_a_message_that_makes_no_sense_does_others_no_harm(
    relay: RelayUnderTest, client: RelayClient, text: bytes
) -> None:
    await client.send_frame(text)
    event = relay.author().write()
    async with relay.connect() as other:
        await other.store(event)
        assert await other.find({"ids": [event.id]}) == [event.id]


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 65_536},
        {"kind": "1"},
        {"created_at": -1},
        {"created_at": 1.5},
        {"tags": [[1]]},
        {"tags": {}},
        {"content": None},
        {"pubkey": "f" * 63},
        {"pubkey": "f" * 64},
        {"sig": "0"},
    ],
)
async def test_a_malformed_event_is_answered_and_never_stored(
    relay: RelayUnderTest, client: RelayClient, change: dict[str, Any]
) -> None:
    event = relay.author().write().to_json() | change
    await client.send("EVENT", event)
    await client.receive_refusal_of_anything(event["id"])
    assert await client.find({"ids": [event["id"]]}) == []
