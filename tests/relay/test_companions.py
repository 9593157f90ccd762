"""Deletion, expiration, authentication and access, beyond what `tests/conformance/relay` asks of every relay."""

import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from relaymesh.nostr.authentication import build_authentication
from relaymesh.nostr.keys import KeyPair
from relaymesh.units import Timestamp
from relaymesh_relay.settings import Access, Limits
from tests.relay.client import ALICE, BOB, CAROL, NOW, Client, information, running_relay, settings_in, sign

pytestmark = pytest.mark.anyio


async def test_an_author_can_delete_own_events_and_they_stay_out(client: Client) -> None:
    mine, theirs = sign(ALICE), sign(BOB)
    for event in (mine, theirs):
        await client.submit(event)
    deletion = sign(ALICE, 5, tags=[["e", mine.id], ["e", theirs.id]])
    assert (await client.submit(deletion))[0]
    assert set(await client.query({})) == {theirs.id, deletion.id}
    accepted, message = await client.submit(mine)
    assert not accepted and message.startswith("blocked:")


async def test_expired_events_are_refused(client: Client) -> None:
    accepted, message = await client.submit(sign(tags=[["expiration", str(NOW)]]))
    assert not accepted and message.startswith("invalid:")


async def hints(client: Client, *filters: dict[str, Any]) -> list[Any]:
    """What stands behind the name in the EOSE."""
    await client.send("REQ", "q", *filters)
    while (message := await client.receive())[0] != "EOSE":
        assert message[0] in ("EVENT", "OK")
    return message[2:]


async def test_the_end_of_stored_events_says_whether_there_are_more(memory_path: Path) -> None:
    settings = settings_in(memory_path, limits=Limits(limit=4, default_limit=3))
    async with running_relay(settings) as url, Client(url) as client:
        assert await hints(client, {}) == [["finish"]]
        for number in range(3):
            await client.submit(sign(content=str(number), tags=[["t", str(number)]]))
        assert await hints(client, {}) == [["finish"]]
        assert await hints(client, {"limit": 2}) == [["more"]]
        assert await hints(client, {"limit": 3}) == [["finish"]]
        assert await hints(client, {"limit": 0}) == []
        await client.submit(sign(kind=7))
        assert await hints(client, {}) == [["more"]]
        assert await hints(client, {"limit": 100}) == [["finish"]]
        assert await hints(client, {"kinds": [1]}, {"kinds": [7]}) == [["finish"]]
        assert await hints(client, {"kinds": [7]}, {"kinds": [1], "limit": 2}) == [["more"]]
        assert await hints(client, {"kinds": [1]}, {"limit": 0}) == []
        assert await hints(client, {"#t": ["0", "1"], "limit": 1}, {"#t": ["0", "1"]}) == []
        await client.submit(sign(kind=8))
        assert await hints(client, {"limit": 100}) == [["more"]]


async def test_nobody_waits_for_a_further_event_that_is_hard_to_find(client: Client) -> None:
    events = [sign(BOB, tags=[["t", "x"]], created_at=NOW + number) for number in range(2, 600)]
    await client.publish(sign(tags=[["t", "x"]]), *events, sign(tags=[["t", "x"]], created_at=NOW + 600))
    await client.publish(*(sign(content=str(number), created_at=NOW + number) for number in range(1, 600)))
    await client.submit(sign(content="last"))
    wanted = {"#t": ["x"], "authors": [ALICE.public_key]}
    assert await hints(client, wanted | {"limit": 1}) == []
    assert await hints(client, wanted) == [["finish"]]
    assert await hints(client, {"#t": ["x"], "limit": 599}) == [["more"]]
    assert await hints(client, {"#t": ["x"], "limit": 600}) == [["finish"]]


async def test_what_the_client_may_not_read_is_nothing_more(memory_path: Path) -> None:
    settings = settings_in(memory_path, access=Access(private_to_recipients=True))
    async with running_relay(settings) as url, Client(url) as client:
        for kind in (4, 1):
            await client.submit(sign(kind=kind))
        assert await hints(client, {"limit": 1}) == [["finish"]]


async def authenticate(client: Client, url: str, key: KeyPair, challenge: str) -> tuple[bool, str]:
    now = Timestamp(int(time.time()))
    event = key.sign(build_authentication(key.public_key, url, challenge, now))
    await client.send("AUTH", event.to_json())
    return await client.answer_to(event.id)


async def test_a_protected_event_is_taken_from_its_authenticated_author_only(relay_url: str) -> None:
    event = sign(tags=[["-"]])
    async with Client(relay_url) as client:
        await client.publish(event)
        kind, challenge = await client.receive()
        assert kind == "AUTH"
        accepted, message = await client.answer_to(event.id)
        assert not accepted and message.startswith("auth-required:")
        assert await authenticate(client, relay_url, BOB, challenge) == (True, "")
        assert (await client.submit(event))[1].startswith("restricted:")
        assert await authenticate(client, relay_url, ALICE, challenge) == (True, "")
        assert await client.submit(event) == (True, "")


@pytest.mark.parametrize(
    ("kind", "content", "is_taken"),
    [
        (6, orjson.dumps(sign(BOB, tags=[["-"]]).to_json()).decode(), False),
        (16, orjson.dumps(sign(BOB, 20, tags=[["-"]]).to_json()).decode(), False),
        (6, orjson.dumps(sign(BOB, tags=[["t", "-"]]).to_json()).decode(), True),
        (6, "", True),
        (6, 'no event, but "-"', True),
        (1, orjson.dumps(sign(BOB, tags=[["-"]]).to_json()).decode(), True),
    ],
)
async def test_a_repost_must_not_hold_a_protected_event(
    client: Client, kind: int, content: str, is_taken: bool
) -> None:
    accepted, message = await client.submit(sign(kind=kind, content=content))
    assert accepted == is_taken and (accepted or message.startswith("blocked:"))


async def test_reading_and_writing_can_be_kept_for_authenticated_clients(memory_path: Path) -> None:
    access = Access(authenticate_to_read=True, authenticate_to_write=True)
    async with running_relay(settings_in(memory_path, access=access)) as url, Client(url) as client:
        await client.send("REQ", "q", {})
        _, challenge = await client.receive()
        assert (await client.receive())[2].startswith("auth-required:")
        await client.send("COUNT", "q", {})
        assert (await client.receive())[2].startswith("auth-required:")
        assert (await client.submit(sign()))[1].startswith("auth-required:")
        assert (await authenticate(client, url, CAROL, challenge))[0]
        assert (await client.submit(sign()))[0]
        assert len(await client.query({})) == 1


async def test_private_messages_go_to_author_and_recipient_only(memory_path: Path) -> None:
    settings = settings_in(memory_path, access=Access(private_to_recipients=True))
    message = sign(ALICE, 1_059, tags=[["p", BOB.public_key]])
    async with running_relay(settings) as url, Client(url) as sender, Client(url) as bob, Client(url) as stranger:
        await bob.send("REQ", "q", {"kinds": [1_059]})
        _, challenge = await bob.receive()
        assert (await bob.receive())[2].startswith("auth-required:")
        await authenticate(bob, url, BOB, challenge)
        assert {17, 59} <= set((await information(url))["supported_nips"])
        await bob.query({"kinds": [1_059]})
        await stranger.query({"kinds": [1_059, 1]})
        assert (await sender.submit(message))[0]
        assert await bob.receive() == ["EVENT", "q", message.to_json()]
        assert await bob.query({"kinds": [1_059]}, subscription_id="again") == [message.id]
        await stranger.send("COUNT", "c", {"kinds": [1_059]}, {"ids": [message.id]})
        assert await stranger.receive() == ["COUNT", "c", {"count": 0}]
        assert await stranger.query({"ids": [message.id]}, subscription_id="again") == []


async def test_an_authentication_is_no_event_to_store(client: Client) -> None:
    accepted, message = await client.submit(sign(kind=22_242))
    assert not accepted and message.startswith("invalid:")


async def test_kinds_and_authors_can_be_refused(memory_path: Path) -> None:
    access = Access(denied_kinds=(7,), denied_authors=(BOB.public_key,))
    async with running_relay(settings_in(memory_path, access=access)) as url, Client(url) as client:
        assert (await client.submit(sign(kind=7)))[1].startswith("blocked:")
        assert (await client.submit(sign(BOB)))[1].startswith("blocked:")
        assert (await client.submit(sign(ALICE)))[0]


async def test_only_listed_authors_and_kinds_can_be_taken(memory_path: Path) -> None:
    access = Access(allowed_kinds=(1,), allowed_authors=(ALICE.public_key,))
    async with running_relay(settings_in(memory_path, access=access)) as url, Client(url) as client:
        assert (await client.submit(sign(kind=7)))[1].startswith("blocked:")
        assert (await client.submit(sign(BOB)))[1].startswith("restricted:")
        assert (await client.submit(sign(ALICE)))[0]
