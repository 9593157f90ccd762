"""Nobody's slowness, greed or silence costs the others: bounded memory, bounded waiting, one connection cut at most."""

from pathlib import Path

import anyio
import pytest

from relaymesh_relay.settings import Limits, Network
from tests.relay.client import ALICE, NOW, Client, ClosedByRelay, running_relay, settings_in, sign

pytestmark = pytest.mark.anyio

LARGE = "x" * 50_000


async def test_a_reader_who_never_reads_is_cut_and_the_others_get_everything(memory_path: Path) -> None:
    network = Network(unsent_bytes=1_000_000)
    events = [sign(kind=20_001, content=LARGE + str(number)) for number in range(500)]
    received = 0
    async with (
        running_relay(settings_in(memory_path, network=network)) as url,
        Client(url) as stuck,
        Client(url) as reader,
        Client(url) as sender,
    ):
        for each in (stuck, reader):
            await each.query({"kinds": [20_001]})
        for event in events:
            await sender.publish(event)
            assert await reader.receive() == ["EVENT", "q", event.to_json()]
            assert (await sender.answer_to(event.id))[0]
        with pytest.raises(ClosedByRelay):
            while True:
                await stuck.receive()
                received += 1
    assert received < len(events)


async def test_requests_for_more_than_a_client_reads_are_served_as_it_reads(memory_path: Path) -> None:
    network = Network(unsent_bytes=2_000_000)
    events = [sign(content=LARGE + str(number), created_at=NOW + number) for number in range(40)]
    ended: set[str] = set()
    received = 0
    async with (
        running_relay(settings_in(memory_path, network=network)) as url,
        Client(url) as greedy,
        Client(url) as other,
    ):
        for event in events:
            assert (await other.submit(event))[0]
        for number in range(30):  # 60 MB of answers, of which at most 2 MB may wait
            await greedy.send("REQ", str(number), {"kinds": [1]})
        assert len(await other.query({"kinds": [1]})) == len(events)
        while len(ended) < 30:
            message = await greedy.receive()
            received += message[0] == "EVENT"
            if message[0] == "EOSE":
                ended.add(message[1])
    assert received == 30 * len(events)


async def test_a_flood_of_requests_waits_outside_the_relay(memory_path: Path) -> None:
    settings = settings_in(memory_path, limits=Limits(pending=10))
    async with running_relay(settings) as url, Client(url) as client:
        await client.submit(sign())
        for number in range(200):
            await client.send("COUNT", str(number % 7), {"authors": [ALICE.public_key]})
        answers = [await client.receive() for _ in range(200)]
        assert answers == [["COUNT", str(number % 7), {"count": 1}] for number in range(200)]


async def test_a_flood_of_events_waits_outside_the_relay(memory_path: Path) -> None:
    settings = settings_in(memory_path, limits=Limits(pending=10))
    events = [sign(content=str(number)) for number in range(200)]
    async with running_relay(settings) as url, Client(url) as client:
        await client.publish(*events)
        for event in events:
            assert (await client.answer_to(event.id))[0]


async def test_a_silent_client_is_pinged_and_cut_when_it_does_not_answer(memory_path: Path) -> None:
    network = Network(ping_seconds=1, handshake_seconds=1)
    async with running_relay(settings_in(memory_path, network=network)) as url, Client(url) as client:
        host, _, port = url.removeprefix("ws://").partition(":")
        async with await anyio.connect_tcp(host, int(port)) as half_open:
            await half_open.send(b"GET / HTTP/1.1\r\n")
            with anyio.fail_after(10), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await half_open.receive()
        assert await client.receive_frame_of(9) == b""
        with pytest.raises(ClosedByRelay):
            await client.receive_frame_of(1)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x05hello", 1_002),  # not masked
        (b"\xc1\x80\x00\x00\x00\x00", 1_002),  # a reserved bit
        (b"\x83\x80\x00\x00\x00\x00", 1_002),  # a reserved opcode
        (b"\x82\x81\x00\x00\x00\x00x", 1_003),  # binary
        (b"\x80\x80\x00\x00\x00\x00", 1_002),  # the continuation of nothing
        (b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00", 1_009),  # an announced length of 2^63 − 1
        (b"\x88\x82\x00\x00\x00\x00\x03\xe8", 1_000),  # a proper goodbye
    ],
)
async def test_a_broken_frame_ends_its_own_connection_only(relay_url: str, data: bytes, code: int) -> None:
    async with Client(relay_url) as breaking, Client(relay_url) as other:
        await breaking.send_raw(data)
        with pytest.raises(ClosedByRelay) as closed:
            await breaking.receive()
        assert closed.value.code == code
        assert (await other.submit(sign()))[0]


async def test_endless_fragments_are_refused_at_the_message_limit(memory_path: Path) -> None:
    settings = settings_in(memory_path, limits=Limits(message_bytes=10_000))
    async with running_relay(settings) as url, Client(url) as client:
        for number in range(101):
            await client.send_frame(b"x" * 100, 1 if number == 0 else 0, is_final=False)
        with pytest.raises(ClosedByRelay) as closed:
            await client.receive()
        assert closed.value.code == 1_009


async def test_a_client_that_vanishes_in_the_middle_of_everything_leaves_the_relay_well(relay_url: str) -> None:
    for number in range(5):
        async with Client(relay_url) as client:
            await client.send("REQ", "q", {})
            await client.publish(*(sign(content=f"{number}.{each}") for each in range(20)))
            await client.send("COUNT", "c", {})
    async with Client(relay_url) as client:
        assert (await client.submit(sign(content="after")))[0]
