"""Peer-to-peer connections over WebSocket: what a client dials with and what a node listens with (RM-02, "Transport").

TLS is optional, since a session encrypts by itself; a reverse proxy may stand in front of a listener.
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import anyio
from websockets.server import ServerProtocol

from relaymesh.adapters.addresses import parse_endpoint, resolve_endpoint
from relaymesh.adapters.websocket_connection import (
    MAXIMUM_MESSAGE_BYTES,
    SILENT,
    WebSocketConnection,
    connect_websocket,
)
from relaymesh.errors import RemoteProtocolError, SessionError
from relaymesh.ports.sessions import Connection

CONNECT_SECONDS: Final = 8
HANDSHAKE_SECONDS: Final = 5
MAXIMUM_CONNECTIONS: Final = 4_096
MAXIMUM_CONNECTIONS_PER_ADDRESS: Final = 256


class WebSocketDialer:
    """Dials the endpoints that nodes name (`relaymesh.ports.sessions.Dialer`).

    Args:
        allow_private: Also dial loopback, private, link-local and shared addresses: for a network of one's own.
        tls: For `wss`; None means the system's certificate authorities.
        connect_seconds: How long connecting and the WebSocket handshake may take together.
    """

    def __init__(
        self,
        allow_private: bool = False,
        *,
        tls: ssl.SSLContext | None = None,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self._allow_private = allow_private
        self._tls = tls
        self._connect_seconds = connect_seconds

    async def dial(self, endpoint: str) -> Connection:
        """Connect to an endpoint that a peer named; its name is resolved once, and what was checked is dialled.

        Raises:
            SessionError: The endpoint is malformed, not allowed, or does not answer in time.
        """
        uri = parse_endpoint(endpoint)
        addresses = await resolve_endpoint(uri, allow_private=self._allow_private)
        if uri.secure and self._tls is None:
            self._tls = ssl.create_default_context()
        return await connect_websocket(
            uri, addresses, tls=self._tls if uri.secure else None, connect_seconds=self._connect_seconds
        )


class WebSocketListener:
    """Listens for the clients of a node (`relaymesh.ports.sessions.Listener`).

    Args:
        host: The address to bind, for example `127.0.0.1` or `0.0.0.0`.
        port: The port; 0 lets the system choose one.
        announce: The endpoints that clients are told; none given: `ws://host:port` as bound.
        maximum_connections: More are refused, all addresses together.
        maximum_per_address: More are refused, from one address; a reverse proxy counts as one.
        handshake_seconds: How long a client may take for the WebSocket handshake.
    """

    def __init__(
        self,
        host: str,
        port: int,
        announce: tuple[str, ...] = (),
        *,
        maximum_connections: int = MAXIMUM_CONNECTIONS,
        maximum_per_address: int = MAXIMUM_CONNECTIONS_PER_ADDRESS,
        handshake_seconds: float = HANDSHAKE_SECONDS,
    ) -> None:
        self._host = host
        self._port = port
        self._announce = announce
        self._maximum_connections = maximum_connections
        self._maximum_per_address = maximum_per_address
        self._handshake_seconds = handshake_seconds

    def listen(self, handle: Callable[[Connection], Awaitable[None]]) -> AbstractAsyncContextManager[tuple[str, ...]]:
        """Accept connections while the block runs; yields the endpoints to announce. Each runs `handle` in a task.

        Raises:
            SessionError: The address cannot be bound.
        """
        return self._listen(handle)

    @asynccontextmanager
    async def _listen(self, handle: Callable[[Connection], Awaitable[None]]) -> AsyncIterator[tuple[str, ...]]:
        limits = (self._maximum_connections, self._maximum_per_address, self._handshake_seconds)
        doorman = _Doorman(*limits)
        try:
            server = await asyncio.get_running_loop().create_server(doorman.admit, self._host, self._port, backlog=512)
        except OSError as error:
            reason = error.strerror or error
            where = f"{self._host}:{self._port}"
            raise SessionError(f"cannot listen on {where}: {reason}; choose another host or port") from error
        port = server.sockets[0].getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            async with anyio.create_task_group() as group:
                doorman.welcome = lambda connection: group.start_soon(_run_handler, handle, connection)
                try:
                    yield self._announce or (f"ws://{host}:{port}",)
                finally:
                    server.close()
                    doorman.welcome = WebSocketConnection.abort
                    group.cancel_scope.cancel()
        finally:
            doorman.abort_all()


class _Admitted(WebSocketConnection):
    """A connection that tells the doorman when it comes and when it goes."""

    def __init__(self, doorman: "_Doorman") -> None:
        core = ServerProtocol(max_size=MAXIMUM_MESSAGE_BYTES, logger=SILENT)
        super().__init__(core, on_open=doorman.opened)
        self._doorman = doorman
        self._address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if peer else ""
        self._doorman.came(self, self._address)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._doorman.went(self, self._address)


class _Doorman:
    """Counts connections, refuses those beyond the limits, and hands over those whose handshake is complete."""

    def __init__(self, maximum: int, maximum_per_address: int, handshake_seconds: float) -> None:
        self._maximum = maximum
        self._maximum_per_address = maximum_per_address
        self._handshake_seconds = handshake_seconds
        self.welcome: Callable[[WebSocketConnection], object] = WebSocketConnection.abort
        self._by_address: Counter[str] = Counter()
        self._handshakes: dict[WebSocketConnection, asyncio.TimerHandle] = {}
        self._present: set[WebSocketConnection] = set()

    def admit(self) -> WebSocketConnection:
        """A protocol object for the next connection."""
        return _Admitted(self)

    def came(self, connection: WebSocketConnection, address: str) -> None:
        """A TCP connection was made."""
        self._by_address[address] += 1
        self._present.add(connection)
        if len(self._present) > self._maximum or self._by_address[address] > self._maximum_per_address:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        self._handshakes[connection] = loop.call_later(self._handshake_seconds, connection.abort)

    def opened(self, connection: WebSocketConnection) -> None:
        """Its handshake is complete."""
        self._end_handshake(connection)
        self.welcome(connection)

    def went(self, connection: WebSocketConnection, address: str) -> None:
        """A connection is gone."""
        self._end_handshake(connection)
        self._present.discard(connection)
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def abort_all(self) -> None:
        """Close whatever is still open."""
        for connection in tuple(self._present):
            connection.abort()

    def _end_handshake(self, connection: WebSocketConnection) -> None:
        timer = self._handshakes.pop(connection, None)
        if timer is not None:
            timer.cancel()


async def _run_handler(handle: Callable[[Connection], Awaitable[None]], connection: WebSocketConnection) -> None:
    """Run a role's handler; whatever the peer or the network did wrong ends this connection alone."""
    try:
        await handle(connection)
    except* (SessionError, RemoteProtocolError):
        pass
    finally:
        with anyio.CancelScope(shield=True):  # at most a second, as `aclose` promises
            await connection.aclose()
