"""What connections in memory have beyond the rules: a network that fails and recovers, and cables that are cut."""

import anyio
import pytest

from relaymesh.errors import SessionError
from relaymesh.ports import memory_sessions
from relaymesh.ports.memory_sessions import MemoryNetwork
from relaymesh.ports.sessions import Connection

pytestmark = pytest.mark.anyio


async def echo(connection: Connection) -> None:
    while True:
        await connection.send(await connection.receive())


async def test_a_cut_breaks_what_is_open_and_nothing_that_comes_later() -> None:
    network = MemoryNetwork()
    dialer = network.dialer()
    async with network.listener().listen(echo) as [endpoint]:
        before = await dialer.dial(endpoint)
        network.cut()
        with pytest.raises(SessionError):
            await before.receive()
        after = await dialer.dial(endpoint)
        await after.send("hello")
        assert await after.receive() == "hello"


async def test_a_network_that_failed_connects_nobody_until_it_recovers() -> None:
    network = MemoryNetwork()
    dialer = network.dialer()
    async with network.listener("ws://node.example").listen(echo) as [endpoint]:
        connection = await dialer.dial(endpoint)
        network.fail()
        with pytest.raises(SessionError):
            await dialer.dial(endpoint)
        await connection.send("still open")
        assert await connection.receive() == "still open"
        network.recover()
        await dialer.dial(endpoint)


async def test_an_endpoint_has_one_listener_at_a_time() -> None:
    network = MemoryNetwork()
    async with network.listener().listen(echo):
        with pytest.raises(SessionError):
            async with network.listener().listen(echo):
                pass
    async with network.listener().listen(echo):
        pass


async def test_a_peer_that_takes_nothing_in_does_not_hold_a_sender_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_sessions, "SEND_SECONDS", 0.05)

    async def read_nothing(connection: Connection) -> None:
        await anyio.sleep_forever()

    network = MemoryNetwork()
    async with network.listener().listen(read_nothing) as [endpoint]:
        connection = await network.dialer().dial(endpoint)
        with anyio.fail_after(5), pytest.raises(SessionError):
            while True:
                await connection.send(b"x")
