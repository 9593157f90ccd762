"""One WebSocket: the sans-I/O core of `websockets` on an asyncio transport.

The library's own asyncio layer costs 31 µs of CPU per small message for both sides, this one 23, and it writes all
frames of one turn at once. asyncio is used directly, because the transport calls back into a protocol object.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Final, cast

import anyio
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import WebSocketException
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import WebSocketURI

from relaymesh.errors import SessionError
from relaymesh.units import Timestamp

MAXIMUM_MESSAGE_BYTES: Final = 2**20
MAXIMUM_QUEUED_BYTES: Final = 2**20
"""What may wait to be received before the other side is made to wait."""
MAXIMUM_QUEUED_FRAMES: Final = 1_024
MAXIMUM_UNREAD_PONGS: Final = 64
"""So many pings are answered to a peer that takes nothing in; after one more the connection is given up."""
SEND_SECONDS: Final = 10
CLOSE_SECONDS: Final = 1


class _SilentLogger(logging.Logger):
    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the standard library's name
        return False


SILENT: Final = _SilentLogger("websockets")
"""For the cores, which would otherwise log every frame of a program that turns debugging on."""


class WebSocketConnection(asyncio.Protocol):
    """An open WebSocket (`relaymesh.ports.sessions.Connection`), for one task that receives and any that send.

    Args:
        core: The protocol core of this side.
        on_open: Called once the opening handshake is complete.
        keepalive_seconds: After so much silence a ping is sent, after twice as much the connection is given up;
            None leaves that to whoever uses the connection.
    """

    def __init__(
        self,
        core: ClientProtocol | ServerProtocol,
        on_open: Callable[["WebSocketConnection"], None] | None = None,
        keepalive_seconds: float | None = None,
    ) -> None:
        self._core = core
        self._on_open = on_open
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._queue: deque[bytes | str] = deque()
        self._queued_bytes = 0
        self._is_reading = True
        self._fragments = bytearray()
        self._is_text = False
        self._failure: Exception | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._arrival: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._unread_pongs = 0
        self._keepalive_seconds = keepalive_seconds
        self.peer_time: Timestamp | None = None
        """What the other side's clock said in the opening handshake, if it did (HTTP, `Date`)."""
        self._is_silent = False
        self._is_pinged = False
        self._keepalive: asyncio.TimerHandle | None = None

    # ── what the port promises ────────────────────────────────────────────────────────────────────────────────────

    async def send(self, *frames: bytes | str) -> None:
        """Send frames in order, in one write; SessionError once the connection is gone."""
        if self._core.state is not State.OPEN:
            raise SessionError("the connection is closed", retryable=True)
        for frame in frames:
            if isinstance(frame, str):
                self._core.send_text(frame.encode())
            else:
                self._core.send_binary(frame)
        self._write()
        if self._room is not None:
            await self._wait_room()

    async def receive(self) -> bytes | str:
        """The next frame; SessionError once the connection is gone and all that had arrived was received."""
        while not self._queue:
            if self._lost.done() or self._core.state is not State.OPEN:
                raise SessionError("the connection is closed", retryable=True) from self._failure
            self._arrival = self._loop.create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        return self._take()

    def receive_nowait(self) -> bytes | str | None:
        """The next frame if one has already arrived, else None."""
        return self._take() if self._queue else None

    async def aclose(self) -> None:
        """Say goodbye, and wait for the other side's at most a second; never fails."""
        if self._transport is None:
            return
        try:
            if self._core.state is State.OPEN:
                self._core.send_close(CloseCode.NORMAL_CLOSURE)
                self._write()
            self._queue.clear()
            self._resume_reading()
            with anyio.move_on_after(CLOSE_SECONDS):
                await self._wait_lost()
        finally:
            self._transport.abort()

    def abort(self) -> None:
        """Close at once, without a goodbye."""
        if self._transport is not None:
            self._transport.abort()

    async def wait_open(self) -> None:
        """Wait for the opening handshake; SessionError if it fails."""
        await asyncio.shield(self._opened)

    # ── what the transport calls ──────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TCP (or TLS) connection is there."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        if isinstance(self._core, ClientProtocol):
            self._core.send_request(self._core.connect())
            self._write()
        if self._keepalive_seconds is not None:
            self._keepalive = self._loop.call_later(self._keepalive_seconds, self._check_silence)

    def data_received(self, data: bytes) -> None:
        """Bytes arrived: hand the frames in them over and send what the core has to answer."""
        self._is_silent = self._is_pinged = False
        self._core.receive_data(data)
        for event in self._core.events_received():
            if isinstance(event, Frame):
                self._take_frame(event)
            else:
                self._take_handshake(event)
        self._write()
        self._wake()

    def eof_received(self) -> bool:
        """The other side will send nothing more: close."""
        self._core.receive_eof()
        self._write()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is closed: nobody waits any longer."""
        self._core.receive_eof()
        self._core.data_to_send()
        self._failure = self._failure or exc or self._core.parser_exc
        if self._keepalive is not None:
            self._keepalive.cancel()
        if not self._lost.done():
            self._lost.set_result(None)
        if not self._opened.done():
            self._opened.set_exception(SessionError("the WebSocket handshake failed", retryable=True))
            self._opened.exception()  # retrieved here, since nobody may be waiting
        self.resume_writing()
        self._wake()

    def pause_writing(self) -> None:
        """The transport's buffer is full: senders wait."""
        if self._room is None:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """There is room again."""
        room, self._room, self._unread_pongs = self._room, None, 0
        if room is not None and not room.done():
            room.set_result(None)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY and frame.fin:
            self._put(bytes(frame.data))
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if frame.opcode is not Opcode.CONT:
                self._is_text = frame.opcode is Opcode.TEXT
            self._fragments += frame.data
            if frame.fin:
                whole = bytes(self._fragments)
                self._fragments.clear()
                self._put_text(whole) if self._is_text else self._put(whole)
        elif frame.opcode is Opcode.PING and self._room is not None:
            self._unread_pongs += 1
            if self._unread_pongs > MAXIMUM_UNREAD_PONGS:
                self.abort()

    def _put_text(self, whole: bytes) -> None:
        try:
            self._put(whole.decode())
        except UnicodeDecodeError as error:
            self._failure = error
            self._core.fail(CloseCode.INVALID_DATA, "text frames must be UTF-8")

    def _put(self, frame: bytes | str) -> None:
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        is_full = self._queued_bytes > MAXIMUM_QUEUED_BYTES or len(self._queue) > MAXIMUM_QUEUED_FRAMES
        if is_full and self._is_reading and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    def _take(self) -> bytes | str:
        frame = self._queue.popleft()
        self._queued_bytes -= len(frame)
        if not self._queue and not self._is_reading:
            self._resume_reading()
        return frame

    def _resume_reading(self) -> None:
        self._queued_bytes = 0
        if not self._is_reading and self._transport is not None and not self._transport.is_closing():
            self._is_reading = True
            self._transport.resume_reading()

    def _take_handshake(self, event: Request | Response) -> None:
        if isinstance(event, Request):
            assert isinstance(self._core, ServerProtocol)
            self._core.send_response(self._core.accept(event))
        else:
            self.peer_time = _read_date(event.headers)
        if self._core.state is State.OPEN:
            self._opened.set_result(None)
            if self._on_open is not None:
                self._on_open(self)
        else:
            self._failure = self._core.handshake_exc

    def _write(self) -> None:
        """Hand the core's bytes to the transport; close where the core says that all is said."""
        transport = self._transport
        if transport is None or transport.is_closing():
            self._core.data_to_send()
            return
        chunks = self._core.data_to_send()
        if not chunks:
            return
        if chunks[-1]:
            transport.write(chunks[0] if len(chunks) == 1 else b"".join(chunks))
            return
        transport.write(b"".join(chunks))
        transport.close()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def _wait_room(self) -> None:
        """A dead peer must not hold a sender for longer than the port says."""
        try:
            with anyio.fail_after(SEND_SECONDS):
                while self._room is not None:
                    await asyncio.shield(self._room)
        except TimeoutError as error:
            self.abort()
            raise SessionError(f"the other side took nothing for {SEND_SECONDS} s", retryable=True) from error
        if self._lost.done():
            raise SessionError("the connection is closed", retryable=True) from self._failure

    async def _wait_lost(self) -> None:
        await asyncio.shield(self._lost)

    def _check_silence(self) -> None:
        """Ping after an interval of silence; give up after another, which only a ping that was sent can begin."""
        assert self._keepalive_seconds is not None
        if self._is_pinged:
            self.abort()
            return
        if self._is_silent and self._core.state is State.OPEN:
            self._is_pinged = True
            self._core.send_ping(b"")
            self._write()
        self._is_silent = True
        self._keepalive = self._loop.call_later(self._keepalive_seconds, self._check_silence)


def _read_date(headers: Headers) -> Timestamp | None:
    try:
        return Timestamp(int(parsedate_to_datetime(headers["Date"]).timestamp()))
    except (LookupError, ValueError, OverflowError):  # none, or two, or no date
        return None


async def connect_websocket(
    uri: WebSocketURI,
    addresses: Sequence[str],
    *,
    tls: ssl.SSLContext | None,
    connect_seconds: float,
    maximum_bytes: int = MAXIMUM_MESSAGE_BYTES,
    keepalive_seconds: float | None = None,
) -> WebSocketConnection:
    """Connect to the first of these addresses that answers, and complete the opening handshake.

    Args:
        uri: What is asked for: its host goes into the `Host` header and, with TLS, is checked in the certificate.
        addresses: IP addresses; nothing is resolved again.
        tls: For `wss`.
        connect_seconds: For all of it together.

    Raises:
        SessionError: None of them answered in time, or the handshake failed.
    """
    failures: list[Exception] = []
    try:
        with anyio.fail_after(connect_seconds):
            for address in addresses:
                core = ClientProtocol(uri, max_size=maximum_bytes, logger=SILENT)
                connection = WebSocketConnection(core, keepalive_seconds=keepalive_seconds)
                try:
                    await _connect(connection, uri, address, tls)
                    return connection
                except (OSError, WebSocketException, SessionError) as error:
                    failures.append(error)
                    connection.abort()
                except BaseException:
                    connection.abort()
                    raise
    except TimeoutError as error:
        failures.append(error)
    failure = failures[-1] if failures else None
    raise SessionError(f"{uri.host}:{uri.port} does not answer as a WebSocket", retryable=True) from failure


async def _connect(
    connection: WebSocketConnection, uri: WebSocketURI, address: str, tls: ssl.SSLContext | None
) -> None:
    loop = asyncio.get_running_loop()
    hostname = uri.host if tls is not None else None
    await loop.create_connection(lambda: connection, address, uri.port, ssl=tls, server_hostname=hostname)
    await connection.wait_open()
