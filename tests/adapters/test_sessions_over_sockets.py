"""Whole sessions over real sockets with real keys: machines, driver and adapter together, cables pulled in between."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
import pytest

from relaymesh.adapters.direct_sessions import WebSocketDialer, WebSocketListener
from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.client_session import ClientSession
from relaymesh.machines.node_session import NodeSession
from relaymesh.machines.session_interface import SessionSettings
from relaymesh.nostr.event import EventId
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.sessions import Connection
from relaymesh.protocol.frames import parse_hello
from relaymesh.protocol.key_schedule import SessionSecrets, derive_session_secrets
from relaymesh.protocol.session_codec import compute_job_id
from relaymesh.protocol.session_messages import (
    CreditMessage,
    EndMessage,
    JobId,
    JobMessage,
    OutputMessage,
    ResumeMessage,
    SessionId,
    SessionMessage,
)
from relaymesh.roles.session_driver import SessionDriver
from relaymesh.units import AmountMsat, Instant, Moment
from tests.adapters.severable import SeverableProxy, severable

pytestmark = pytest.mark.anyio

SESSION = SessionId("5e" * 32)
NONCE = bytes(32)
JOB = JobMessage(
    compute_job_id(SESSION, NONCE), NONCE.hex(), EventId("ab" * 32), "tiny", "chat", "{}", 64, AmountMsat(1_000)
)
SETTINGS = SessionSettings(redial_after_ms=(20, 50, 100), settled_after_ms=0)


def _clock() -> Moment:
    return Moment(Instant(int(anyio.current_time() * 1_000_000)), 1_750_000_000_000)


def _secrets() -> tuple[SessionSecrets, SessionSecrets]:
    """The same keys, each side's from its own secrets."""
    client, ephemeral, node = (KeyPair(bytes([number]) * 32) for number in (1, 2, 3))
    ids = (EventId("01" * 32), EventId("02" * 32))
    return (
        derive_session_secrets(*ids, client.shared_secret(ephemeral.public_key), client.shared_secret(node.public_key)),
        derive_session_secrets(*ids, ephemeral.shared_secret(client.public_key), node.shared_secret(client.public_key)),
    )


class Side:
    """What one side was told, and its driver."""

    def __init__(self) -> None:
        self.driver: SessionDriver
        self.got: list[SessionMessage] = []
        self.reconnects = 0
        self.changed = anyio.Event()
        self.paused: set[JobId] = set()
        self.closed = ""

    def session_opened(self, reconnected: bool) -> None:
        self.reconnects += reconnected
        self._change()

    def session_interrupted(self) -> None:
        self._change()

    def message_delivered(self, message: SessionMessage) -> None:
        self.got.append(message)
        self._change()

    def output_paused(self, job_id: JobId, paused: bool) -> None:
        (self.paused.add if paused else self.paused.discard)(job_id)
        self._change()

    def session_closed(self, reason: str) -> None:
        self.closed = reason
        self._change()

    def outputs(self) -> list[OutputMessage]:
        return [message for message in self.got if isinstance(message, OutputMessage)]

    async def wait_for(self, what: type[SessionMessage], number: int = 1) -> None:
        while sum(isinstance(message, what) for message in self.got) < number:
            await self.changed.wait()

    def _change(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()


@asynccontextmanager
async def _session() -> AsyncIterator[tuple[Side, Side, SeverableProxy]]:
    """An open session between a client and a node, over a cable that can be pulled."""
    client_keys, node_keys = _secrets()
    client, node = Side(), Side()

    async def handle(connection: Connection) -> None:
        hello = parse_hello(await connection.receive())
        if hello.session_id != SESSION:
            raise RemoteProtocolError("no such session")
        await node.driver.serve(connection, hello)

    with anyio.fail_after(20):
        async with WebSocketListener("127.0.0.1", 0).listen(handle) as [endpoint], anyio.create_task_group() as group:
            port = urlsplit(endpoint).port
            assert port is not None
            async with severable(port) as cable:
                dialer = WebSocketDialer(allow_private=True)
                client_machine = ClientSession(SESSION, client_keys, SETTINGS)
                node_machine = NodeSession(SESSION, node_keys, SETTINGS)
                client.driver = SessionDriver(
                    client_machine,
                    client_machine.receive,
                    client,
                    _clock,
                    lambda: dialer.dial(f"ws://127.0.0.1:{cable.port}"),
                )
                node.driver = SessionDriver(node_machine, node_machine.receive, node, _clock)
                group.start_soon(node.driver.run)
                group.start_soon(client.driver.run)
                yield client, node, cable
            group.cancel_scope.cancel()


async def test_a_job_streams_over_an_encrypted_session_and_the_session_ends_on_both_sides() -> None:
    async with _session() as (client, node, _):
        client.driver.send(JOB, CreditMessage(JOB.job_id, 100_000))
        await node.wait_for(JobMessage)
        assert node.got == [JOB]
        for number in range(500):
            node.driver.send(OutputMessage(JOB.job_id, number, f"token {number} "))
            await anyio.lowlevel.checkpoint()
        node.driver.send(EndMessage(JOB.job_id))
        await client.wait_for(EndMessage)
        assert [output.number for output in client.outputs()] == list(range(500))
        client.driver.end("done")
        while not (client.closed and node.closed):
            await anyio.lowlevel.checkpoint()
        assert (client.closed, node.closed) == ("done", "the other side said: done")


async def test_output_waits_for_credit_over_real_sockets() -> None:
    async with _session() as (client, node, _):
        client.driver.send(JOB, CreditMessage(JOB.job_id, 10))
        await node.wait_for(JobMessage)
        node.driver.send(OutputMessage(JOB.job_id, 0, "0123456789"), OutputMessage(JOB.job_id, 1, "more"))
        await client.wait_for(OutputMessage)
        assert JOB.job_id in node.paused
        assert len(client.outputs()) == 1
        client.driver.send(CreditMessage(JOB.job_id, 4))
        await client.wait_for(OutputMessage, 2)
        assert JOB.job_id not in node.paused


async def test_a_stream_goes_on_where_it_was_after_every_cut_of_the_cable() -> None:
    tokens = [f"token {number} " for number in range(60)]
    async with _session() as (client, node, cable):

        async def produce() -> None:
            """A node's job: sends what is produced, and after a RESUME again from where the buyer says."""
            await node.wait_for(JobMessage)
            resumes = 0
            number = 0
            while True:
                while number < len(tokens):
                    node.driver.send(OutputMessage(JOB.job_id, number, tokens[number]))
                    number += 1
                    await anyio.lowlevel.checkpoint()
                    if _resumed(node) != resumes:
                        break
                else:
                    node.driver.send(EndMessage(JOB.job_id))
                    while _resumed(node) == resumes:
                        await node.changed.wait()
                resumes = _resumed(node)
                number = next(each.next_output for each in reversed(node.got) if isinstance(each, ResumeMessage))

        async with anyio.create_task_group() as group:
            group.start_soon(produce)
            client.driver.send(JOB, CreditMessage(JOB.job_id, 100))
            for cut in range(1, 4):
                await client.wait_for(OutputMessage, cut * 5)
                await cable.pull()
                await cable.plug_in()
                while client.reconnects < cut:
                    await client.changed.wait()
                got = _contiguous(client)
                client.driver.send(ResumeMessage(JOB.job_id, got), CreditMessage(JOB.job_id, 100))
            client.driver.send(CreditMessage(JOB.job_id, 100_000))
            await client.wait_for(EndMessage)
            group.cancel_scope.cancel()
        assert cable.connections == 4
        assert _contiguous(client) == len(tokens)
        assert all(output.data == tokens[output.number] for output in client.outputs())


def _resumed(side: Side) -> int:
    return sum(isinstance(message, ResumeMessage) for message in side.got)


def _contiguous(side: Side) -> int:
    """How many outputs arrived without a gap from the first on; what was sent again counts once."""
    numbers = {output.number for output in side.outputs()}
    count = 0
    while count in numbers:
        count += 1
    return count
