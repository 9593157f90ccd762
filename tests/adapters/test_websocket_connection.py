"""One WebSocket and the clock: a peer that is silent, and one that takes nothing in."""

import socket

import anyio
import anyio.to_thread
import pytest
from anyio.abc import SocketStream
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from relaymesh.adapters import websocket_connection
from relaymesh.adapters.websocket_connection import WebSocketConnection, connect_websocket
from relaymesh.errors import SessionError

pytestmark = pytest.mark.anyio


async def _accept(stream: SocketStream) -> ServerProtocol:
    """The server's half of the handshake, without the rest of a server."""
    core = ServerProtocol()
    while core.state is State.CONNECTING:
        core.receive_data(await stream.receive())
        for event in core.events_received():
            assert isinstance(event, Request)
            core.send_response(core.accept(event))
    await stream.send(b"".join(core.data_to_send()))
    return core


async def _connect(port: int, keepalive_seconds: float | None = None) -> WebSocketConnection:
    return await connect_websocket(
        parse_uri(f"ws://127.0.0.1:{port}"),
        ["127.0.0.1"],
        tls=None,
        connect_seconds=5,
        keepalive_seconds=keepalive_seconds,
    )


async def test_a_peer_that_answers_pings_is_kept_and_one_that_does_not_is_given_up() -> None:
    pings = 0

    async def serve(stream: SocketStream) -> None:
        nonlocal pings
        async with stream:
            core = await _accept(stream)
            async for data in stream:
                core.receive_data(data)
                pings += len(core.events_received())
                if pings < 4:
                    await stream.send(b"".join(core.data_to_send()))

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        with anyio.fail_after(10):
            connection = await _connect(listener.extra(anyio.abc.SocketAttribute.local_port), 0.2)
            with pytest.raises(SessionError):
                await connection.receive()
        assert pings >= 4
        group.cancel_scope.cancel()


def _accept_and_read_no_more(server: socket.socket) -> socket.socket:
    peer, _ = server.accept()
    core = ServerProtocol()
    while core.state is State.CONNECTING:
        core.receive_data(peer.recv(65_536))
        for event in core.events_received():
            assert isinstance(event, Request)
            core.send_response(core.accept(event))
    peer.sendall(b"".join(core.data_to_send()))
    return peer


async def test_a_peer_that_takes_nothing_in_does_not_hold_a_sender_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_connection, "SEND_SECONDS", 0.1)
    peers: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server, anyio.fail_after(10):

        async def accept() -> None:
            peers.append(await anyio.to_thread.run_sync(_accept_and_read_no_more, server))

        async with anyio.create_task_group() as group:
            group.start_soon(accept)
            connection = await _connect(server.getsockname()[1])
        with pytest.raises(SessionError, match="took nothing"):
            while True:
                await connection.send(b"x" * 65_536)
        with pytest.raises(SessionError):
            await connection.receive()
        await connection.aclose()
        peers[0].close()
