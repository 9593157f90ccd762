"""What clients may send to the shipped relay: each is refused in due form, memory stays bounded, nothing is logged."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import orjson
import pytest

from relaymesh_relay.settings import Limits, Network
from tests.relay.client import MEMORY, NOW, PATIENCE_SECONDS, Client, ClosedByRelay, running_relay, settings_in, sign
from tests.relay.processes import complaints, relay_process, resident_megabytes

pytestmark = pytest.mark.anyio

LIMITS = Limits()
SEVERAL = 20
GROWTH_MEGABYTES = 40


@dataclass(frozen=True)
class Running:
    url: str
    process_id: int


@pytest.fixture(scope="module")
def relay() -> Iterator[Running]:
    """The relay as a process; in the end it has said nothing and stops in order."""
    with TemporaryDirectory(dir=MEMORY) as directory, relay_process(f"{directory}/relay.sqlite3") as (process, url):
        yield Running(url, process.pid)
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
        assert complaints(process) == ""


@pytest.fixture
async def bounded(relay: Running) -> AsyncIterator[Running]:
    """The relay, which in the end serves others and holds hardly more memory than before."""
    before = resident_megabytes(relay.process_id)
    yield relay
    async with Client(relay.url) as other:
        event = sign(content=f"still here at {before}")
        assert (await other.submit(event))[0]
        assert await other.query({"ids": [event.id]}) == [event.id]
    assert resident_megabytes(relay.process_id) - before < GROWTH_MEGABYTES


def event_with(**fields: bytes) -> bytes:
    """An EVENT message in which these fields are written so."""
    written = {name: orjson.dumps(value) for name, value in sign().to_json().items()} | fields
    return b'["EVENT",{%b}]' % b",".join(b'"%b":%b' % (name.encode(), value) for name, value in written.items())


def padded(message: bytes, size: int = LIMITS.message_bytes) -> bytes:
    return message[:-1] + b" " * (size - len(message)) + message[-1:]


BEYOND_64_BITS = str(2**70).encode()
DEEP = b"[" * 60_000 + b"]" * 60_000

REFUSED = {
    "nothing but brackets": (b"[" * LIMITS.message_bytes, "NOTICE"),
    "a deep message": (DEEP, "NOTICE"),
    "a deep filter": (b'["REQ","q",{"kinds":%b}]' % DEEP, "NOTICE"),
    "deep tags": (event_with(tags=DEEP), "NOTICE"),
    "somewhat deep tags": (event_with(tags=b"[" * 500 + b"]" * 500), "OK"),
    "a frame of 128 KiB": (padded(b'["EVENT",{}]'), "NOTICE"),
    "bytes that are no UTF-8": (event_with(content=b'"\xff\xfe"'), "NOTICE"),
    "an overlong form of UTF-8": (event_with(content=b'"\xc0\x80"'), "NOTICE"),
    "a surrogate in UTF-8": (event_with(content=b'"\xed\xa0\x80"'), "NOTICE"),
    "a lone surrogate": (event_with(content=b'"\\ud800"'), "NOTICE"),
    "a lone surrogate in a filter": (b'["REQ","q",{"#t":["\\udfff"]}]', "NOTICE"),
    "a time beyond 64 bits": (event_with(created_at=BEYOND_64_BITS), "OK"),
    "a kind beyond 64 bits": (event_with(kind=b"-" + BEYOND_64_BITS), "OK"),
    "a time like a float": (event_with(created_at=b"1e400"), "NOTICE"),
    "a limit beyond 64 bits": (b'["REQ","q",{"limit":%b}]' % BEYOND_64_BITS, "CLOSED"),
    "a number of 100,000 digits": (b'["REQ","q",{"since":%b}]' % (b"9" * 100_000), "NOTICE"),
    "10,000 kinds": (orjson.dumps(["REQ", "q", {"kinds": list(range(10_000))}]), "CLOSED"),
    "10,000 tag values": (orjson.dumps(["COUNT", "q", {"#t": [str(each) for each in range(10_000)]}]), "CLOSED"),
    "10,000 filters": (orjson.dumps(["REQ", "q", *({"limit": 1} for _ in range(10_000))]), "CLOSED"),
    "not a number": (event_with(created_at=b"NaN"), "NOTICE"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_makes_no_sense_is_refused_in_due_form(bounded: Running, name: str) -> None:
    text, expected = REFUSED[name]
    async with Client(bounded.url) as client:
        for _ in range(SEVERAL):
            await client.send_frame(text)
            answer = await client.receive()
            assert answer[0] == expected and answer[-1].startswith("invalid:")


async def test_10_000_ids_are_more_than_a_message_holds(bounded: Running) -> None:
    text = orjson.dumps(["REQ", "q", {"ids": [f"{number:064x}" for number in range(10_000)]}])
    for _ in range(SEVERAL):
        async with Client(bounded.url) as client:
            with pytest.raises(ClosedByRelay) as closed:
                await client.send_frame(text)
                await client.receive()
            assert closed.value.code == 1_009


async def test_as_many_ids_as_are_allowed_are_searched(bounded: Running) -> None:
    event = sign(content="one of many")
    ids = [event.id, *(f"{number:064x}" for number in range(1_899))]
    async with Client(bounded.url) as client:
        await client.submit(event)
        for _ in range(5):
            assert await client.query({"ids": ids}) == [event.id]


async def test_the_last_of_equal_keys_counts_and_only_it_is_passed_on(bounded: Running) -> None:
    event = sign(content="equal keys")
    text = orjson.dumps(["EVENT", event.to_json()]).replace(b'{"id"', b'{"content":"another","kind":7,"id"')
    async with Client(bounded.url) as client:
        await client.send_frame(text)
        assert await client.answer_to(event.id) == (True, "")
        await client.send_frame(b'["REQ","q",{"ids":["%b"],"kinds":[7],"kinds":[1]}]' % event.id.encode())
        assert await client.receive() == ["EVENT", "q", event.to_json()]


async def test_10_000_subscriptions_are_served_and_no_connection_has_more_than_its_share(bounded: Running) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(bounded.url)) for _ in range(40)]
        for client in clients:
            for number in range(250):
                await client.send("REQ", str(number), {"#t": [f"hostile {number}"], "limit": 0})
            assert [await client.receive() for _ in range(250)] == [["EOSE", str(number)] for number in range(250)]
        event = sign(tags=[["t", "hostile 249"]])
        async with Client(bounded.url) as sender:
            assert (await sender.submit(event))[0]
        for client in clients:
            assert await client.receive() == ["EVENT", "249", event.to_json()]
        for number in range(250, LIMITS.subscriptions):
            await clients[1].send("REQ", str(number), {"limit": 0})
            assert (await clients[1].receive())[0] == "EOSE"
        await clients[1].send("REQ", "one more", {"limit": 0})
        assert (await clients[1].receive())[2].startswith("rate-limited:")


async def test_a_client_that_never_reads_costs_no_more_than_may_wait_for_it(bounded: Running) -> None:
    large = [sign(kind=20_001, content="x" * 60_000 + str(number), created_at=NOW) for number in range(600)]
    async with Client(bounded.url) as stuck, Client(bounded.url) as sender:
        await stuck.query({"kinds": [20_001]})
        for event in large:  # 36 MB, of which at most 16 may wait
            await sender.submit(event)
        assert (await sender.submit(sign(kind=20_001)))[1].startswith("mute:")  # the one who listened was cut


async def test_a_client_that_sends_byte_after_byte_holds_nobody_up_and_is_cut(tmp_path: Path) -> None:
    network = Network(handshake_seconds=1)
    async with running_relay(settings_in(tmp_path, network=network)) as url, Client(url) as other:
        host, _, port = url.removeprefix("ws://").partition(":")
        async with await anyio.connect_tcp(host, int(port)) as slow:
            with anyio.fail_after(PATIENCE_SECONDS), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                while True:
                    await slow.send(b"G")
                    assert await other.query({"limit": 0}) == []
                    with anyio.move_on_after(0.1):
                        await slow.receive()
