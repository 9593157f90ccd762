"""The relay information document (NIP-11) says what is enforced, limit by limit, and HTTP answers what it should."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from relaymesh.nostr.event import UnsignedEvent, VerifiedEvent
from relaymesh.nostr.proof_of_work import mine
from relaymesh.units import Timestamp
from relaymesh_relay.settings import Access, Identity, Limits, Network, Rates
from tests.relay.client import (
    ALICE,
    BOB,
    Client,
    ClosedByRelay,
    RefusedByRelay,
    information,
    request,
    running_relay,
    settings_in,
    sign,
)

pytestmark = pytest.mark.anyio

Attempt = Callable[[Client, int], Awaitable[bool]]


async def send_message_of(client: Client, size: int) -> bool:
    await client.send_frame(b'["CLOSE","' + b"x" * (size - 12) + b'"]')
    try:
        message = await client.receive()
    except ClosedByRelay as closed:
        return closed.code != 1_009
    return bool(message[0] == "NOTICE")  # too long a name, but it was read


async def open_subscriptions(client: Client, count: int) -> bool:
    answers = []
    for number in range(count):
        await client.send("REQ", str(number), {"limit": 0})
        answers.append((await client.receive())[0])
    return answers == ["EOSE"] * count


async def name_a_subscription(client: Client, length: int) -> bool:
    await client.send("REQ", "n" * length, {"limit": 0})
    return bool((await client.receive())[0] == "EOSE")


async def submit_with_tags(client: Client, count: int) -> bool:
    return (await client.submit(sign(tags=[["t", "x"]] * count)))[0]


async def submit_content_of(client: Client, length: int) -> bool:
    return (await client.submit(sign(content="é" * length)))[0]


async def submit_from_the_future(client: Client, seconds: int) -> bool:
    slack = 0 if seconds <= 60 else 60  # the clock goes on between the two looks at it
    return (await client.submit(sign(created_at=int(time.time()) + seconds + slack)))[0]


async def submit_from_the_past(client: Client, seconds: int) -> bool:
    return (await client.submit(sign(created_at=int(time.time()) - seconds + (5 if seconds <= 60 else 0))))[0]


async def fetch(client: Client, count: int) -> bool:
    for number in range(count):
        await client.submit(sign(content=str(number)))
    return len(await client.query({"limit": count})) == count


async def fetch_by_default(client: Client, count: int) -> bool:
    for number in range(count):
        await client.submit(sign(content=str(number)))
    return len(await client.query({})) == count


@dataclass(frozen=True)
class Case:
    name: str
    limits: Limits
    attempt: Attempt


CASES = [
    Case("max_message_length", Limits(message_bytes=2_000), send_message_of),
    Case("max_subscriptions", Limits(subscriptions=3), open_subscriptions),
    Case("max_subid_length", Limits(subscription_id_characters=10), name_a_subscription),
    Case("max_event_tags", Limits(event_tags=5), submit_with_tags),
    Case("max_content_length", Limits(content_characters=7), submit_content_of),
    Case("created_at_upper_limit", Limits(created_at_future_seconds=60), submit_from_the_future),
    Case("created_at_lower_limit", Limits(created_at_past_seconds=60), submit_from_the_past),
    Case("max_limit", Limits(limit=4), fetch),
    Case("default_limit", Limits(default_limit=4), fetch_by_default),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_what_is_announced_is_allowed_and_one_more_is_not(memory_path: Path, case: Case) -> None:
    async with running_relay(settings_in(memory_path, limits=case.limits)) as url:
        announced = (await information(url))["limitation"][case.name]
        async with Client(url) as client:
            assert await case.attempt(client, announced)
        async with Client(url) as client:
            assert not await case.attempt(client, announced + 1)


def mined(bits: int, kind: int = 1) -> VerifiedEvent:
    return ALICE.sign(mine(UnsignedEvent(ALICE.public_key, Timestamp(1), kind, (), ""), bits))


async def test_the_announced_proof_of_work_is_asked_for(memory_path: Path) -> None:
    async with (
        running_relay(settings_in(memory_path, limits=Limits(proof_of_work_bits=8))) as url,
        Client(url) as client,
    ):
        bits = (await information(url))["limitation"]["min_pow_difficulty"]
        assert (await client.submit(mined(bits)))[0]
        accepted, message = await client.submit(mined(bits - 1))
        assert not accepted and message.startswith("pow:")


async def test_a_kind_can_ask_for_a_proof_of_work_of_its_own(memory_path: Path) -> None:
    limits = Limits(proof_of_work_bits=4, proof_of_work_by_kind=((1, 8), (7, 0)))
    async with running_relay(settings_in(memory_path, limits=limits)) as url, Client(url) as client:
        assert (await client.submit(mined(8)))[0]
        assert (await client.submit(sign(kind=7)))[0]
        assert (await client.submit(mined(7)))[1].startswith("pow:")
        assert (await client.submit(mined(4, kind=2)))[0]
        assert (await client.submit(mined(3, kind=2)))[1].startswith("pow:")


async def test_every_limit_that_is_announced_is_tested_here(relay_url: str, memory_path: Path) -> None:
    everything = settings_in(memory_path, limits=Limits(created_at_past_seconds=9))
    async with running_relay(everything) as url:
        announced = {name for name, value in (await information(url))["limitation"].items() if type(value) is int}
    assert announced == {case.name for case in CASES} | {"min_pow_difficulty"}


@pytest.mark.parametrize(
    "access", [Access(), Access(authenticate_to_read=True), Access(allowed_authors=(BOB.public_key,))]
)
async def test_what_is_announced_about_access_is_true(memory_path: Path, access: Access) -> None:
    async with running_relay(settings_in(memory_path, access=access)) as url, Client(url) as client:
        limitation = (await information(url))["limitation"]
        accepted, _ = await client.submit(sign(ALICE))
        assert accepted != limitation["restricted_writes"]
        await client.send("REQ", "q", {"limit": 0})
        assert ((await client.receive())[0] == "AUTH") == limitation["auth_required"]


async def test_the_document_names_the_relay_and_only_what_is_done(memory_path: Path) -> None:
    identity = Identity(name="Näme", description="d", contact="https://example.org", public_key=ALICE.public_key)
    async with running_relay(settings_in(memory_path, identity=identity)) as url:
        document = await information(url, "/any/path")
    assert document["name"] == "Näme" and document["pubkey"] == ALICE.public_key
    assert document["supported_nips"] == [1, 9, 11, 13, 17, 40, 42, 45, 59, 62, 65, 67, 70, 77]


async def test_a_browser_gets_a_page_and_a_script_may_ask_from_anywhere(relay_url: str) -> None:
    head, body = await request(relay_url, "GET / HTTP/1.1\nHost: x\nAccept: text/html\n\n")
    assert "text/html" in head and b"<h1>RelayMesh relay</h1>" in body
    head, body = await request(relay_url, "HEAD / HTTP/1.1\nHost: x\n\n")
    assert " 200 " in head and body == b""
    head, _ = await request(relay_url, "OPTIONS / HTTP/1.1\nHost: x\n\n")
    assert " 204 " in head and "Access-Control-Allow-Headers: *" in head and "Access-Control-Allow-Methods: " in head


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("POST / HTTP/1.1\nHost: x\n\n", 405),
        ("nonsense\n\n", 400),
        ("GET / HTTP/1.1\nX: " + "x" * 20_000, 431),
        ("GET / HTTP/1.1\nHost: x\nUpgrade: websocket\n\n", 426),
        ("GET / HTTP/1.1\nHost: x\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 7\n\n", 400),
    ],
)
async def test_http_that_is_not_understood_is_refused(relay_url: str, text: str, status: int) -> None:
    head, _ = await request(relay_url, text)
    assert head.startswith(f"HTTP/1.1 {status} ")


@pytest.mark.parametrize(
    ("network", "status"),
    [
        (Network(connections=2), "503"),
        (Network(connections_per_address=2, exempt_loopback=False), "429"),
    ],
)
async def test_one_connection_too_many_is_refused_until_another_closes(
    memory_path: Path, network: Network, status: str
) -> None:
    async with running_relay(settings_in(memory_path, network=network)) as url:
        async with Client(url), Client(url):
            with pytest.raises(RefusedByRelay, match=status):
                await Client(url).__aenter__()
        async with Client(url) as client:
            assert await client.query({}) == []


async def test_a_trusted_proxy_names_the_address(memory_path: Path) -> None:
    network = Network(connections_per_address=1, address_header="X-Real-IP")
    one, other = "X-Real-IP: 192.0.2.1\r\n", "X-Real-IP: 192.0.2.2\r\n"
    async with running_relay(settings_in(memory_path, network=network)) as url, Client(url, one), Client(url, other):
        with pytest.raises(RefusedByRelay, match="429"):
            await Client(url, one).__aenter__()


async def test_rates_do_not_hold_for_this_machine_unless_it_is_asked(memory_path: Path) -> None:
    rates = Rates(events_per_second=1, events_burst=1)
    for is_exempt in (True, False):
        settings = settings_in(memory_path, rates=rates, network=Network(exempt_loopback=is_exempt))
        async with running_relay(settings) as url, Client(url) as client:
            answers = [await client.submit(sign(content=f"{is_exempt}{number}")) for number in range(3)]
            assert [accepted for accepted, _ in answers] == [True, is_exempt, is_exempt]
