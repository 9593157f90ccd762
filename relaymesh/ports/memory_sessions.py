"""Peer-to-peer connections in memory, for tests and simulations: frames in order, bounded, and cut on demand."""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final
from weakref import WeakSet

import anyio
import anyio.lowlevel

from relaymesh.errors import RemoteProtocolError, SessionError
from relaymesh.ports.sessions import Connection

MAXIMUM_FRAMES: Final = 256
"""So many frames may be under way in one direction before a sender waits."""
SEND_SECONDS: Final = 10


class _Pipe:
    """One direction of a connection."""

    def __init__(self) -> None:
        self._frames: deque[bytes | str] = deque()
        self._is_closed = False
        self._changed = anyio.Event()

    async def put(self, frame: bytes | str) -> None:
        if len(self._frames) >= MAXIMUM_FRAMES:
            with anyio.move_on_after(SEND_SECONDS):
                while len(self._frames) >= MAXIMUM_FRAMES and not self._is_closed:
                    await self._changed.wait()
            if len(self._frames) >= MAXIMUM_FRAMES:
                self.close()
        if self._is_closed:
            raise SessionError("the connection is closed", retryable=True)
        self._frames.append(frame)
        self._change()

    async def get(self) -> bytes | str:
        while not self._frames:
            if self._is_closed:
                raise SessionError("the connection is closed", retryable=True)
            await self._changed.wait()  # until the other side writes or the connection is closed
        frame = self._frames.popleft()
        self._change()
        return frame

    def close(self) -> None:
        self._is_closed = True
        self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class MemoryConnection:
    """One end of a connection (`relaymesh.ports.sessions.Connection`)."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    async def send(self, *frames: bytes | str) -> None:
        """Send frames in order; SessionError once the connection is gone."""
        await anyio.lowlevel.checkpoint()
        for frame in frames:
            await self._outgoing.put(frame)

    async def receive(self) -> bytes | str:
        """The next frame; SessionError once the connection is gone and all that had arrived was received."""
        await anyio.lowlevel.checkpoint()
        return await self._incoming.get()

    async def aclose(self) -> None:
        """Close; never fails."""
        self.cut()

    def cut(self) -> None:
        """Break both directions at once."""
        self._incoming.close()
        self._outgoing.close()


class MemoryNetwork:
    """A network that dialers and listeners share.

    `fail` makes every dial fail from then on, `recover` ends that; `cut` breaks every connection there is.
    """

    def __init__(self) -> None:
        self._doors: dict[str, Callable[[MemoryConnection], object]] = {}
        self._connections: WeakSet[MemoryConnection] = WeakSet()
        self._is_down = False

    def dialer(self) -> "MemoryDialer":
        """What a client needs."""
        return MemoryDialer(self)

    def listener(self, endpoint: str = "ws://node.example") -> "MemoryListener":
        """What a node needs; clients reach it at `endpoint`."""
        return MemoryListener(self, endpoint)

    def fail(self) -> None:
        """Let no dial succeed from now on; connections that are open stay open."""
        self._is_down = True

    def recover(self) -> None:
        """Let dials succeed again."""
        self._is_down = False

    def cut(self) -> None:
        """Break every open connection."""
        for connection in tuple(self._connections):
            connection.cut()

    def connect(self, endpoint: str) -> MemoryConnection:
        """The client's end of a new connection; SessionError if nobody listens there."""
        door = self._doors.get(endpoint)
        if door is None or self._is_down:
            raise SessionError(f"{endpoint} does not answer", retryable=True)
        there, back = _Pipe(), _Pipe()
        mine, theirs = MemoryConnection(back, there), MemoryConnection(there, back)
        self._connections.add(mine)
        door(theirs)
        return mine

    def open_door(self, endpoint: str, door: Callable[[MemoryConnection], object]) -> None:
        """Listen at an endpoint; SessionError if somebody does."""
        if endpoint in self._doors:
            raise SessionError(f"somebody listens at {endpoint} already")
        self._doors[endpoint] = door

    def close_door(self, endpoint: str) -> None:
        """Listen no longer."""
        del self._doors[endpoint]


class MemoryDialer:
    """Dials within a memory network (`relaymesh.ports.sessions.Dialer`)."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network

    async def dial(self, endpoint: str) -> Connection:
        """Connect; SessionError if nobody listens at this endpoint."""
        await anyio.lowlevel.checkpoint()
        return self._network.connect(endpoint)


class MemoryListener:
    """Listens within a memory network (`relaymesh.ports.sessions.Listener`)."""

    def __init__(self, network: MemoryNetwork, endpoint: str) -> None:
        self._network = network
        self._endpoint = endpoint

    def listen(self, handle: Callable[[Connection], Awaitable[None]]) -> AbstractAsyncContextManager[tuple[str, ...]]:
        """Accept connections while the block runs; yields the endpoint. Each runs `handle` in a task."""
        return self._listen(handle)

    @asynccontextmanager
    async def _listen(self, handle: Callable[[Connection], Awaitable[None]]) -> AsyncIterator[tuple[str, ...]]:
        group = anyio.create_task_group()
        self._network.open_door(self._endpoint, lambda connection: group.start_soon(_run_handler, handle, connection))
        try:
            async with group:
                try:
                    yield (self._endpoint,)
                finally:
                    group.cancel_scope.cancel()
        finally:
            self._network.close_door(self._endpoint)


async def _run_handler(handle: Callable[[Connection], Awaitable[None]], connection: MemoryConnection) -> None:
    """Run a role's handler; whatever the peer did wrong ends this connection alone."""
    try:
        await handle(connection)
    except* (SessionError, RemoteProtocolError):
        pass
    finally:
        connection.cut()
