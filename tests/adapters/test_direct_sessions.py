"""Peer-to-peer connections over real sockets: limits, deadlines, TLS, and peers that do not play by the rules."""

import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream, SocketStream
from anyio.streams.tls import TLSListener
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from relaymesh.adapters.direct_sessions import WebSocketDialer, WebSocketListener
from relaymesh.errors import SessionError
from relaymesh.ports.sessions import Connection
from tests.adapters.certificates import make_tls

pytestmark = pytest.mark.anyio

DIALER = WebSocketDialer(allow_private=True)
Handler = Callable[[Connection], Awaitable[None]]


async def echo(connection: Connection) -> None:
    while True:
        await connection.send(await connection.receive())


@asynccontextmanager
async def _listening(handle: Handler = echo, listener: WebSocketListener | None = None) -> AsyncIterator[str]:
    with anyio.fail_after(20):
        async with (listener or WebSocketListener("127.0.0.1", 0)).listen(handle) as endpoints:
            yield endpoints[0]


@asynccontextmanager
async def _raw(endpoint: str) -> AsyncIterator[SocketStream]:
    async with await anyio.connect_tcp("127.0.0.1", int(endpoint.rpartition(":")[2])) as stream:
        yield stream


async def _upgrade(stream: ByteStream) -> None:
    await stream.send(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await stream.receive()
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"permessage-deflate" not in answer


async def _is_closed(stream: ByteStream) -> bool:
    """Whether the other side closes; what it still says is read and dropped."""
    try:
        while True:
            await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return True


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "localhost.", "0.0.0.0", "[::ffff:127.0.0.1]"])
async def test_a_listener_on_this_machine_is_not_dialled_for_a_peer(host: str) -> None:
    async with _listening() as endpoint:
        with pytest.raises(SessionError):
            await WebSocketDialer().dial(endpoint.replace("127.0.0.1", host))


async def test_a_name_is_resolved_once_and_what_was_checked_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that points elsewhere the second time must not matter: there is no second time."""
    asked = []

    async def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(anyio, "getaddrinfo", resolve)
    async with _listening() as endpoint:
        connection = await DIALER.dial(endpoint.replace("127.0.0.1", "node.example"))
        await connection.send("hello")
        assert await connection.receive() == "hello"
        await connection.aclose()
    assert asked == ["node.example"]


async def test_an_address_that_does_not_answer_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.9.9.9", "127.0.0.1")]

    monkeypatch.setattr(anyio, "getaddrinfo", resolve)
    async with _listening() as endpoint:
        connection = await DIALER.dial(endpoint.replace("127.0.0.1", "node.example"))
        await connection.send("hello")
        assert await connection.receive() == "hello"
        await connection.aclose()


async def test_announced_endpoints_are_told_instead_of_the_bound_address() -> None:
    listener = WebSocketListener("127.0.0.1", 0, ("wss://node.example/relaymesh",))
    async with _listening(listener=listener) as endpoint:
        assert endpoint == "wss://node.example/relaymesh"


async def test_an_address_that_is_taken_is_a_session_error_that_names_it() -> None:
    async with _listening() as endpoint:
        port = int(endpoint.rpartition(":")[2])
        with pytest.raises(SessionError, match=f"127.0.0.1:{port}"):
            async with WebSocketListener("127.0.0.1", port).listen(echo):
                pass


async def test_a_server_that_accepts_and_says_nothing_is_given_up() -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    with silent:
        dialer = WebSocketDialer(allow_private=True, connect_seconds=0.1)
        with anyio.fail_after(5), pytest.raises(SessionError):
            await dialer.dial(f"ws://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"220 mail ready\r\n", b"\x00" * 5_000, b""])
async def test_a_server_that_speaks_something_else_is_a_session_error(answer: bytes) -> None:
    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            if answer:
                await stream.send(answer)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with anyio.fail_after(5), pytest.raises(SessionError):
            await DIALER.dial(f"ws://127.0.0.1:{port}")
        group.cancel_scope.cancel()


async def test_connections_beyond_the_limit_are_refused_until_there_is_room() -> None:
    listener = WebSocketListener("127.0.0.1", 0, maximum_connections=2)
    async with _listening(listener=listener) as endpoint:
        first, second = await DIALER.dial(endpoint), await DIALER.dial(endpoint)
        with pytest.raises(SessionError):
            await DIALER.dial(endpoint)
        await first.aclose()
        third = await _dial_when_there_is_room(endpoint)
        await second.aclose()
        await third.aclose()


async def test_connections_of_one_address_are_limited_apart() -> None:
    listener = WebSocketListener("127.0.0.1", 0, maximum_per_address=1)
    async with _listening(listener=listener) as endpoint:
        first = await DIALER.dial(endpoint)
        with pytest.raises(SessionError):
            await DIALER.dial(endpoint)
        port = int(endpoint.rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port, local_host="127.0.0.2") as elsewhere:
            await _upgrade(elsewhere)
        await first.aclose()
        await (await _dial_when_there_is_room(endpoint)).aclose()


async def _dial_when_there_is_room(endpoint: str) -> Connection:
    while True:
        try:
            return await DIALER.dial(endpoint)
        except SessionError:
            await anyio.lowlevel.checkpoint()


async def test_a_client_that_never_finishes_its_handshake_is_cut_off() -> None:
    listener = WebSocketListener("127.0.0.1", 0, handshake_seconds=0.05)
    async with _listening(listener=listener) as endpoint, _raw(endpoint) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        assert await _is_closed(stream)


@pytest.mark.parametrize(
    "rubbish", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + bytes(100), b"A" * 100_000, b"\r\n\r\n"]
)
async def test_a_client_that_speaks_something_else_is_sent_away(rubbish: bytes) -> None:
    listener = WebSocketListener("127.0.0.1", 0, handshake_seconds=0.2)
    async with _listening(listener=listener) as endpoint, _raw(endpoint) as stream:
        await stream.send(rubbish)
        assert await _is_closed(stream)


@pytest.mark.parametrize(
    "frame",
    [
        Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True),
        Frame(Opcode.BINARY, b"unmasked").serialize(mask=False),
        Frame(Opcode.CONT, b"of nothing").serialize(mask=True),
        b"\x83\x80" + bytes(4),
        b"\xf2\x80" + bytes(4),
        b"\x82\xff" + (2**20 + 1).to_bytes(8) + bytes(4),
        b"\x89\xfe\x01\x00" + bytes(4 + 256),
    ],
    ids=["no UTF-8", "unmasked", "no beginning", "unknown opcode", "reserved bits", "too long", "long ping"],
)
async def test_a_malformed_frame_ends_the_connection_and_no_other(frame: bytes) -> None:
    async with _listening() as endpoint, _raw(endpoint) as stream:
        other = await DIALER.dial(endpoint)
        await _upgrade(stream)
        await stream.send(frame)
        assert await _is_closed(stream)
        await other.send("still here")
        assert await other.receive() == "still here"
        await other.aclose()


async def test_fragments_are_put_together_and_pings_answered_in_between() -> None:
    async with _listening() as endpoint, connect(endpoint, compression=None) as client:
        await client.send(["Grü", "ße", " 👋"])
        assert await client.recv() == "Grüße 👋"
        await client.send([b"a" * 70_000, b"", b"b"])
        assert await client.recv() == b"a" * 70_000 + b"b"
        await (await client.ping())


async def test_fragments_of_nothing_are_not_gathered() -> None:
    nothing = Frame(Opcode.CONT, b"", fin=False).serialize(mask=True) * 10_000
    async with _listening() as endpoint, _raw(endpoint) as stream:
        await _upgrade(stream)
        tracemalloc.start()
        try:
            await stream.send(Frame(Opcode.TEXT, b"", fin=False).serialize(mask=True))
            for _ in range(10):
                await stream.send(nothing)
            await stream.send(Frame(Opcode.PING, b"").serialize(mask=True))
            assert await stream.receive() == Frame(Opcode.PONG, b"").serialize(mask=False)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 400_000
        await stream.send(Frame(Opcode.CONT, b"end").serialize(mask=True))
        assert await stream.receive() == Frame(Opcode.TEXT, b"end").serialize(mask=False)


async def test_a_peer_that_pings_and_never_takes_an_answer_is_cut_off() -> None:
    async with _listening() as endpoint, _raw(endpoint) as stream:
        await _upgrade(stream)
        pings = Frame(Opcode.PING, bytes(125)).serialize(mask=True) * 1_000
        with pytest.raises(anyio.BrokenResourceError):
            for _ in range(1_000):
                await stream.send(pings)


async def test_another_implementation_is_served_and_its_close_answered() -> None:
    async with _listening() as endpoint, connect(endpoint) as client:
        await client.send("hello")
        assert await client.recv() == "hello"
        await client.close()
        assert client.close_code == 1000


async def test_a_handler_that_returns_closes_its_connection_properly() -> None:
    async def answer_once(connection: Connection) -> None:
        await connection.send(await connection.receive())

    async with _listening(answer_once) as endpoint, connect(endpoint) as client:
        await client.send("hello")
        assert await client.recv() == "hello"
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert client.close_code == 1000


async def test_frames_sent_together_leave_in_one_write() -> None:
    async with _listening() as endpoint, _raw(endpoint) as stream:
        await _upgrade(stream)
        await stream.send(b"".join(Frame(Opcode.BINARY, bytes([n])).serialize(mask=True) for n in range(5)))
        received = b""
        while len(received) < 15:
            received += await stream.receive()
        assert received == b"".join(Frame(Opcode.BINARY, bytes([n])).serialize(mask=False) for n in range(5))


async def test_wss_checks_the_certificate_of_the_name_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = make_tls(tmp_path, "node.example")

    async def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(anyio, "getaddrinfo", resolve)
    async with _listening() as endpoint, _tls_proxy(server, int(endpoint.rpartition(":")[2])) as port:
        dialer = WebSocketDialer(allow_private=True, tls=client)
        connection = await dialer.dial(f"wss://node.example:{port}/path")
        await connection.send(b"x" * 100_000)
        assert await connection.receive() == b"x" * 100_000
        await connection.aclose()
        with pytest.raises(SessionError):
            await dialer.dial(f"wss://other.example:{port}")
        with pytest.raises(SessionError):
            await WebSocketDialer(allow_private=True).dial(f"wss://node.example:{port}")


@asynccontextmanager
async def _tls_proxy(context: ssl.SSLContext, target: int) -> AsyncIterator[int]:
    """What a reverse proxy does: TLS outside, plain inside."""

    async def forward(near: ByteStream) -> None:
        async with near, await anyio.connect_tcp("127.0.0.1", target) as far, anyio.create_task_group() as group:

            async def pump(source: ByteStream, sink: ByteStream) -> None:
                try:
                    async for chunk in source:
                        await sink.send(chunk)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass
                group.cancel_scope.cancel()

            group.start_soon(pump, near, far)
            group.start_soon(pump, far, near)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(TLSListener(listener, context, standard_compatible=False).serve, forward)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        group.cancel_scope.cancel()
