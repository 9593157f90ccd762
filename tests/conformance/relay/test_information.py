"""NIP-11: the relay says who it is, and its limits are as it says."""

import time
from collections.abc import Awaitable, Callable

import pytest

from relaymesh.nostr.relay_information import parse_relay_information
from tests.conformance.relay.subject import START, RelayClient, RelayUnderTest
from tests.relay.client import ClosedByRelay

pytestmark = pytest.mark.anyio

SLACK_SECONDS = 60


async def test_the_information_document_can_be_read_from_anywhere(relay: RelayUnderTest) -> None:
    if relay.document is None:
        relay.pass_over("the relay has no information document")
    parse_relay_information(relay.document.content)
    assert relay.document.headers["Access-Control-Allow-Origin"] == "*"


async def subscriptions(relay: RelayUnderTest, client: RelayClient, count: int) -> bool:
    for number in range(count):
        await client.send("REQ", f"s{number}", relay.author().events)
    answers: set[str] = set()
    while len(answers) < count:
        match await client.receive():
            case ["EOSE", name, *_]:
                answers.add(name)
            case ["CLOSED" | "NOTICE", *_]:
                return False
    return True


async def name_length(relay: RelayUnderTest, client: RelayClient, length: int) -> bool:
    await client.send("REQ", "n" * length, relay.author().events)
    return (await client.receive())[:2] == ["EOSE", "n" * length]


async def event_tags(relay: RelayUnderTest, client: RelayClient, count: int) -> bool:
    return (await client.submit(relay.author().write(1, *([("t", "x")] * count))))[0]


async def content_length(relay: RelayUnderTest, client: RelayClient, length: int) -> bool:
    return (await client.submit(relay.author().write(content="x" * length)))[0]


async def message_length(relay: RelayUnderTest, client: RelayClient, size: int) -> bool:
    words = f'["REQ","q",{{"authors":["{relay.author().key.public_key}"]}}'.encode()
    try:
        await client.send_frame(words + b" " * (size - len(words) - 1) + b"]")
        return (await client.receive())[:2] == ["EOSE", "q"]
    except ClosedByRelay:
        return False


async def lead(relay: RelayUnderTest, client: RelayClient, seconds: int) -> bool:
    return (await client.submit(relay.author().write(seconds=int(time.time()) + seconds - START)))[0]


Attempt = Callable[[RelayUnderTest, RelayClient, int], Awaitable[bool]]


@pytest.mark.parametrize(
    ("name", "attempt", "step"),
    [
        ("max_subscriptions", subscriptions, 1),
        ("max_subid_length", name_length, 1),
        ("max_event_tags", event_tags, 1),
        ("max_content_length", content_length, 1),
        ("max_message_length", message_length, 1),
        ("created_at_upper_limit", lead, SLACK_SECONDS),
    ],
)
async def test_what_is_announced_is_allowed_and_more_is_not(
    relay: RelayUnderTest, name: str, attempt: Attempt, step: int
) -> None:
    announced = relay.require_limit(name)
    async with relay.connect() as client:
        assert await attempt(relay, client, max(announced - step + 1, 0))
    async with relay.connect() as client:
        assert not await attempt(relay, client, announced + step)


async def test_a_limit_beyond_the_announced_one_is_brought_down(relay: RelayUnderTest, client: RelayClient) -> None:
    announced = relay.require_limit("max_limit")
    author = relay.author()
    await client.store(author.write())
    assert len(await client.find(author.events | {"limit": announced + 1})) == 1
