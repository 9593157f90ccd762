"""What every dialer and listener keep to: plain async functions, to be run against one's own.

from tests.conformance.sessions.rules import RULES, SessionsUnderTest

@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_my_transport(rule):
    await rule(SessionsUnderTest(dialer=my_dialer, listener=my_listener, nobody="where nobody listens"))
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import anyio
import anyio.lowlevel
import pytest

from relaymesh.errors import RemoteProtocolError, SessionError
from relaymesh.ports.sessions import Connection, Dialer, Listener

DEADLINE_SECONDS = 20.0


@dataclass(frozen=True)
class SessionsUnderTest:
    """A dialer and a listener that can reach each other, and an endpoint where nobody listens."""

    dialer: Dialer
    listener: Listener
    nobody: str


Rule = Callable[[SessionsUnderTest], Awaitable[None]]


class Accepted:
    """Keeps the connections that a listener accepted open and hands them to the rule."""

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[Connection](100)
        self.ended = 0

    async def handle(self, connection: Connection) -> None:
        await self._send.send(connection)
        try:
            await anyio.sleep_forever()
        finally:
            self.ended += 1

    async def next(self) -> Connection:
        return await self._receive.receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._send.close()
        self._receive.close()


@asynccontextmanager
async def _connected(subject: SessionsUnderTest) -> AsyncIterator[tuple[Connection, Connection]]:
    """The two ends of one connection: the dialer's and the listener's."""
    with Accepted() as accepted, anyio.fail_after(DEADLINE_SECONDS):
        async with subject.listener.listen(accepted.handle) as endpoints:
            near = await subject.dialer.dial(endpoints[0])
            yield near, await accepted.next()
            await near.aclose()


async def frames_arrive_whole_in_order_and_of_their_kind_both_ways(subject: SessionsUnderTest) -> None:
    async with _connected(subject) as (near, far):
        frames: list[bytes | str] = [
            "text",
            b"binary",
            "Grüße 👋",
            b"\x00\xff" * 300,
            b"",
            "",
            b"x" * 70_000,
            "y" * 70_000,
        ]
        for sender, receiver in ((near, far), (far, near)):
            for frame in frames:
                await sender.send(frame)
            assert [await receiver.receive() for _ in frames] == frames


async def several_frames_may_be_sent_at_once(subject: SessionsUnderTest) -> None:
    async with _connected(subject) as (near, far):
        frames = [bytes([number]) * number for number in range(1, 100)]
        await near.send(*frames)
        await far.send(*frames)
        assert [await far.receive() for _ in frames] == frames
        assert [await near.receive() for _ in frames] == frames


async def what_arrived_before_a_close_is_received_after_it(subject: SessionsUnderTest) -> None:
    for closes_first in (0, 1):
        async with _connected(subject) as ends:
            closing, other = ends[closes_first], ends[1 - closes_first]
            await closing.send(b"first", "last")
            await closing.aclose()
            assert await other.receive() == b"first"
            assert await other.receive() == "last"
            with pytest.raises(SessionError):
                await other.receive()
            with pytest.raises(SessionError):
                await closing.receive()


async def a_closed_connection_takes_no_more_frames(subject: SessionsUnderTest) -> None:
    async with _connected(subject) as (near, far):
        await far.aclose()
        with pytest.raises(SessionError):
            await far.send(b"too late")
        with pytest.raises(SessionError):
            while True:  # until the other side's close has come across
                await near.send(b"nobody reads this")
                await anyio.lowlevel.checkpoint()


async def a_receiver_that_waits_learns_of_the_close(subject: SessionsUnderTest) -> None:
    async with _connected(subject) as (near, far), anyio.create_task_group() as group:

        async def wait() -> None:
            with pytest.raises(SessionError):
                await near.receive()

        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await far.aclose()


async def closing_twice_or_with_a_peer_that_reads_nothing_is_fine(subject: SessionsUnderTest) -> None:
    async with _connected(subject) as (near, far):
        await far.send(b"x" * 60_000)
        with anyio.fail_after(2):
            await near.aclose()
            await near.aclose()
            await far.aclose()


async def a_cancelled_wait_loses_nothing(subject: SessionsUnderTest) -> None:
    async with _connected(subject) as (near, far):
        frames = [bytes([number]) for number in range(20)]
        received: list[bytes | str] = []
        for frame in frames:
            with anyio.move_on_after(0):
                received.append(await far.receive())
            await near.send(frame)
        while len(received) < len(frames):
            received.append(await far.receive())
        assert received == frames


async def a_sender_waits_for_a_slow_reader_and_goes_on_with_it(subject: SessionsUnderTest) -> None:
    async with _connected(subject) as (near, far):
        sent = 0
        chunk = b"x" * 65_536
        is_blocked = False
        while not is_blocked:
            with anyio.move_on_after(0.2) as scope:
                await near.send(chunk)
            is_blocked = scope.cancelled_caught
            sent += 1
            assert sent < 1_000, "64 MB were taken in without a reader"
        received = 0
        while received < sent - 1:
            assert await far.receive() == chunk
            received += 1
        await far.send(b"done")
        assert await near.receive() == b"done"


async def nobody_at_an_endpoint_is_a_session_error(subject: SessionsUnderTest) -> None:
    with anyio.fail_after(DEADLINE_SECONDS), pytest.raises(SessionError):
        await subject.dialer.dial(subject.nobody)


async def a_handler_that_breaks_off_ends_its_own_connection_alone(subject: SessionsUnderTest) -> None:
    async def handle(connection: Connection) -> None:
        frame = await connection.receive()
        if frame == "bad":
            raise RemoteProtocolError("the client broke the protocol")
        if frame == "worse":
            async with anyio.create_task_group() as group:
                await connection.aclose()
                group.start_soon(connection.receive)
        await connection.send(frame)
        await connection.receive()

    with anyio.fail_after(DEADLINE_SECONDS):
        async with subject.listener.listen(handle) as endpoints:
            good, bad, worse = [await subject.dialer.dial(endpoints[0]) for _ in range(3)]
            for each, frame in ((bad, "bad"), (worse, "worse")):
                await each.send(frame)
                with pytest.raises(SessionError):
                    await each.receive()
            await good.send("good")
            assert await good.receive() == "good"
            for each in (good, bad, worse):
                await each.aclose()


async def many_connections_are_carried_at_once(subject: SessionsUnderTest) -> None:
    async def echo(connection: Connection) -> None:
        while True:
            await connection.send(await connection.receive())

    async def talk(endpoint: str, number: int) -> None:
        connection = await subject.dialer.dial(endpoint)
        for turn in range(10):
            frame = f"{number}:{turn}"
            await connection.send(frame)
            assert await connection.receive() == frame
        await connection.aclose()

    with anyio.fail_after(DEADLINE_SECONDS):
        async with subject.listener.listen(echo) as endpoints, anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(talk, endpoints[0], number)


async def leaving_the_listener_ends_its_connections_and_handlers(subject: SessionsUnderTest) -> None:
    with Accepted() as accepted, anyio.fail_after(DEADLINE_SECONDS):
        async with subject.listener.listen(accepted.handle) as endpoints:
            near = await subject.dialer.dial(endpoints[0])
            await accepted.next()
        assert accepted.ended == 1
        with pytest.raises(SessionError):
            await near.receive()
        with pytest.raises(SessionError):
            await subject.dialer.dial(endpoints[0])
        await near.aclose()


RULES: tuple[Rule, ...] = (
    frames_arrive_whole_in_order_and_of_their_kind_both_ways,
    several_frames_may_be_sent_at_once,
    what_arrived_before_a_close_is_received_after_it,
    a_closed_connection_takes_no_more_frames,
    a_receiver_that_waits_learns_of_the_close,
    closing_twice_or_with_a_peer_that_reads_nothing_is_fine,
    a_cancelled_wait_loses_nothing,
    a_sender_waits_for_a_slow_reader_and_goes_on_with_it,
    nobody_at_an_endpoint_is_a_session_error,
    a_handler_that_breaks_off_ends_its_own_connection_alone,
    many_connections_are_carried_at_once,
    leaving_the_listener_ends_its_connections_and_handlers,
)
