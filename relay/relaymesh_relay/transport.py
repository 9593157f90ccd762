"""TCP connections: HTTP requests and WebSockets, joined to the relay; one write per connection and turn of the loop.

The WebSocket protocol is `websockets`' own machine without I/O, driven by an asyncio protocol: no task and no timer per
connection, and all answers of one turn of the loop leave in one write.
"""

import asyncio
import secrets
import time
from http import HTTPStatus
from typing import Final, cast

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from relaymesh.errors import RemoteProtocolError
from relaymesh.units import Instant, Moment
from relaymesh_relay.addresses import name_address
from relaymesh_relay.connection import Connection
from relaymesh_relay.frames import FrameReader, text_frame
from relaymesh_relay.http_messages import (
    BODY_BYTES_AT_MOST,
    HEAD_BYTES_AT_MOST,
    HttpRequest,
    RequestHead,
    parse_head,
    respond,
)
from relaymesh_relay.hub import Hub
from relaymesh_relay.settings import Settings

_WRITE_BUFFER_BYTES: Final = 256 * 1024
_CHALLENGE_BYTES: Final = 16
_GOODBYE_SECONDS: Final = 5.0


def read_clock() -> Moment:
    """What the system's clocks say."""
    return Moment(Instant(time.monotonic_ns() // 1_000), time.time_ns() // 1_000_000)


class ClientTransport(asyncio.Protocol):
    """One TCP connection: an HTTP request, and the WebSocket that may follow it."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._transport: asyncio.Transport
        self._peer = ""
        self._address = ""
        self._request: RequestHead | None = None
        self._head = bytearray()
        self._websocket: ServerProtocol | None = None
        self._frames: FrameReader | None = None
        self._connection: Connection | None = None
        self._fragments: bytearray | None = None
        self._heard_at = 0.0
        self._closes_at: float | None = None
        self._is_pinged = False
        self._is_congested = False
        self._is_reading = True
        self._is_answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        self._address = name_address(self._peer)
        self._heard_at = self._hub.loop.time()
        self._hub.clients.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone."""
        hub, connection = self._hub, self._connection
        hub.clients.discard(self)
        if connection is None:
            return
        hub.by_connection.pop(connection, None)
        hub.per_address[self._address] -= 1
        if hub.per_address[self._address] <= 0:
            del hub.per_address[self._address]
        hub.relay.disconnect(connection)
        hub.pipeline.forget(connection)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._hub.relay.counts.received_bytes += len(data)
        if self._websocket is None:  # the handshake's time runs from the start, however it drips
            self._receive_head(data)
        else:
            self._heard_at = self._hub.loop.time()
            self._is_pinged = False
            self._receive_frames(data)

    def eof_received(self) -> bool:
        """The client will send no more; nothing is kept open for it."""
        return False

    def pause_writing(self) -> None:
        """More is waiting to be sent than the client takes: ask neither the store nor the client for more."""
        self._is_congested = True
        if self._connection is not None:
            self._hub.pipeline.hold_back(self._connection)
        self.adjust_reading()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._is_congested = False
        if self._connection is not None:
            self._hub.pipeline.resume(self._connection)
        self.adjust_reading()

    def adopt(self, settings: Settings, now: Moment) -> None:
        """Be held to other settings from now on."""
        if self._hub.is_blocked(self._address):
            self._transport.abort()
        elif self._websocket is not None and self._connection is not None:
            self._websocket.max_message_size = settings.limits.message_bytes
            self._connection.adopt(settings, now, is_exempt=self._hub.is_exempt(self._address))
            self.adjust_reading()

    def flush(self) -> None:
        """Send everything that waits in the connection, in one write."""
        websocket, connection = self._websocket, self._connection
        if websocket is None or connection is None:
            return
        outgoing, connection.outgoing = connection.outgoing, []
        if websocket.state is State.OPEN:
            websocket.writes += map(text_frame, outgoing)
        self._write(websocket)
        self.adjust_reading()

    def sweep(self, now: float) -> None:
        """Ping after long silence; cut after twice as long, or when the handshake takes too long."""
        network = self._hub.settings.network
        silence = now - self._heard_at
        is_late = self._closes_at is not None and now > self._closes_at
        if is_late or silence > (network.handshake_seconds if self._websocket is None else 2 * network.ping_seconds):
            self._transport.abort()
        elif self._websocket is None or self._websocket.state is not State.OPEN:
            return
        elif silence > network.ping_seconds and not self._is_pinged:
            self._is_pinged = True
            self._websocket.send_ping(b"")
            self._write(self._websocket)

    def say_goodbye(self) -> None:
        """Close because the relay stops."""
        if self._websocket is not None and self._websocket.state is State.OPEN:
            self.flush()
            self._websocket.send_close(CloseCode.GOING_AWAY, "the relay is stopping")
            self._write(self._websocket)
        self._transport.close()

    def _receive_head(self, data: bytes) -> None:
        self._head += data
        if self._request is not None:
            self._receive_body(self._request)
            return
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > HEAD_BYTES_AT_MOST:
                self._respond(respond(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"", "text/plain"))
            return
        try:
            request = parse_head(bytes(self._head[:end]))
        except RemoteProtocolError as error:
            self._respond(respond(HTTPStatus.BAD_REQUEST, f"{error}\n".encode(), "text/plain"))
            return
        self._take_forwarded_address(request)
        if request.is_websocket:
            self._open_websocket(request, end + 4)
        else:
            del self._head[: end + 4]
            self._request = request
            self._receive_body(request)

    def _receive_body(self, request: RequestHead) -> None:
        """Answer once the body is whole; one that is too long is refused by its length, before it comes."""
        if self._is_answering:
            return
        wanted = request.body_bytes
        if len(self._head) >= wanted or wanted > BODY_BYTES_AT_MOST:
            self._is_answering = True
            self._transport.pause_reading()
            self._hub.pages.answer(HttpRequest(request, bytes(self._head[:wanted]), self._peer), self._respond)

    def _take_forwarded_address(self, request: RequestHead) -> None:
        header = self._hub.settings.network.address_header
        if header:
            self._peer = request.headers.get(header.lower(), "").rpartition(",")[2].strip()
            self._address = name_address(self._peer)

    def _respond(self, response: bytes) -> None:
        self._hub.relay.counts.sent_bytes += len(response)
        self._transport.write(response)
        self._transport.close()

    def _open_websocket(self, request: RequestHead, end: int) -> None:
        hub = self._hub
        refusal = hub.refuse_connection(self._address)
        if refusal is not None:
            self._respond(refusal)
            return
        now = read_clock()
        websocket = self._websocket = ServerProtocol(max_size=hub.settings.limits.message_bytes)
        self._frames = FrameReader(websocket)
        self._connection = Connection(
            hub.settings,
            address=self._address,
            relay_urls=_own_urls(hub.settings, request),
            challenge=secrets.token_hex(_CHALLENGE_BYTES),
            is_exempt=hub.is_exempt(self._address),
            now=now,
            counts=hub.relay.counts,
        )
        hub.by_connection[self._connection] = self
        hub.per_address[self._address] += 1
        websocket.receive_data(self._head[:end])
        for event in websocket.events_received():
            if isinstance(event, Request):
                websocket.send_response(websocket.accept(event))
        data, self._head = bytes(self._head[end:]), bytearray()
        self._receive_frames(data)

    def _receive_frames(self, data: bytes) -> None:
        websocket, frames, connection = self._websocket, self._frames, self._connection
        assert websocket is not None and frames is not None and connection is not None  # they come together
        now = read_clock()
        for text in frames.receive(data):
            if text is not None:
                self._hub.relay.receive(connection, text, now)
                continue
            for event in websocket.events_received():
                if isinstance(event, Frame):
                    self._receive_frame(websocket, connection, event, now)
        self._write(websocket)
        self.adjust_reading()
        self._hub.schedule_pump()

    def _receive_frame(self, websocket: ServerProtocol, connection: Connection, frame: Frame, now: Moment) -> None:
        if frame.opcode is Opcode.TEXT:
            self._fragments = bytearray(frame.data)
        elif frame.opcode is Opcode.CONT and self._fragments is not None:
            self._fragments += frame.data
            if frame.fin:
                text, self._fragments = bytes(self._fragments), None
                self._hub.relay.receive(connection, text, now)
        elif frame.opcode is Opcode.BINARY and websocket.state is State.OPEN:
            websocket.fail(CloseCode.UNSUPPORTED_DATA, "a relay understands text messages only")

    def _write(self, websocket: ServerProtocol) -> None:
        data = b"".join(websocket.data_to_send())
        if data:
            self._hub.relay.counts.sent_bytes += len(data)
            self._transport.write(data)
        if websocket.eof_sent:
            self._half_close()
        elif self._transport.get_write_buffer_size() > self._hub.settings.network.unsent_bytes:
            self._transport.abort()

    def _half_close(self) -> None:
        """Send no more, and read on for a while: closing at once would tear our goodbye from the client's hands."""
        if self._closes_at is None and not self._transport.is_closing():
            self._closes_at = self._hub.loop.time() + _GOODBYE_SECONDS
            self._transport.write_eof()

    def adjust_reading(self) -> None:
        """Read from the client unless it does not take its answers or has too many events waiting for theirs."""
        connection, hub = self._connection, self._hub
        if connection is None or self._transport.is_closing():
            return
        is_behind = self._is_congested or connection.pending >= hub.settings.limits.pending
        wanted = not is_behind and not hub.is_stopping
        if wanted and not self._is_reading:
            self._transport.resume_reading()
        elif self._is_reading and not wanted:
            self._transport.pause_reading()
        self._is_reading = wanted


def _own_urls(settings: Settings, request: RequestHead) -> tuple[str, ...]:
    """The addresses under which a client may know this relay: as configured, or else as it asked for."""
    if settings.identity.url:
        return (settings.identity.url,)
    host = request.headers.get("host", "")
    return tuple(f"{scheme}://{host}{request.path}" for scheme in ("ws", "wss"))
