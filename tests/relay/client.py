"""A small WebSocket client on raw sockets, and ways to run a relay, for the relay's tests."""

import base64
import contextlib
import os
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import anyio
import orjson
from anyio.abc import ByteStream

from relaymesh.nostr.event import UnsignedEvent, VerifiedEvent
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.relay_information import parse_relay_information
from relaymesh.units import Timestamp
from relaymesh_relay.server import serve
from relaymesh_relay.settings import Settings

PATIENCE_SECONDS = 10
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where hundreds of databases are made quickly; None leaves it to the system."""
ALICE, BOB, CAROL = (KeyPair(bytes([number]) * 32) for number in (1, 2, 3))
NOW = Timestamp(1_750_000_000)


def sign(
    key: KeyPair = ALICE, kind: int = 1, content: str = "", tags: Sequence[Sequence[str]] = (), created_at: int = NOW
) -> VerifiedEvent:
    """An event of this key."""
    frozen = tuple(tuple(tag) for tag in tags)
    return key.sign(UnsignedEvent(key.public_key, Timestamp(created_at), kind, frozen, content))


def settings_in(directory: Path, **sections: Any) -> Settings:
    """Settings with the database in this folder and a free port; sections as given."""
    settings = Settings(**sections)
    return replace(
        settings,
        network=replace(settings.network, port=0),
        storage=replace(settings.storage, file=str(directory / "relay.sqlite3")),
    )


@contextlib.asynccontextmanager
async def running_relay(settings: Settings, log: Callable[[str], object] = bool) -> AsyncIterator[str]:
    """A relay in this process, for as long as the block lasts; gives its URL."""
    send, receive = anyio.create_memory_object_stream[str](1)
    with send, receive:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(serve, settings, started=send.send_nowait, log=log))
            with anyio.fail_after(PATIENCE_SECONDS):
                url = await receive.receive()
            yield url
            tasks.cancel_scope.cancel()


class ClosedByRelay(Exception):
    """The relay ended the connection; `code` is what it gave as reason, None without a close frame."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"closed with code {code}")
        self.code = code


class RefusedByRelay(Exception):
    """The relay answered the handshake with another status than 101."""

    def __init__(self, status: int) -> None:
        super().__init__(f"refused with status {status}")
        self.status = status


class Client:
    """One WebSocket connection, frame by frame."""

    def __init__(self, url: str, headers: str = "") -> None:
        self._url = url
        self._headers = headers
        self._stream: ByteStream
        self._buffer = b""

    async def __aenter__(self) -> Self:
        parts = urlsplit(self._url)
        assert parts.hostname is not None
        if parts.scheme == "wss":
            self._stream = await anyio.connect_tcp(parts.hostname, parts.port or 443, tls=True)
        else:
            self._stream = await anyio.connect_tcp(parts.hostname, parts.port or 80)
        key = base64.b64encode(os.urandom(16)).decode()
        await self._stream.send(
            f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{self._headers}\r\n".encode()
        )
        while b"\r\n\r\n" not in self._buffer:
            await self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if b" 101 " not in head:
            await self._stream.aclose()
            raise RefusedByRelay(int(head.split(b" ")[1]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stream.aclose()

    async def send(self, *message: Any) -> None:
        """One message, as JSON."""
        await self.send_frame(orjson.dumps(message))

    async def publish(self, *events: VerifiedEvent) -> None:
        """Events, one after the other, without waiting for answers."""
        await self._stream.send(b"".join(frame(orjson.dumps(["EVENT", event.to_json()])) for event in events))

    async def send_frame(self, payload: bytes, opcode: int = 1, is_final: bool = True) -> None:
        """One masked frame."""
        await self._stream.send(frame(payload, opcode, is_final))

    async def send_raw(self, data: bytes) -> None:
        """Bytes as they are."""
        await self._stream.send(data)

    async def receive(self) -> list[Any]:
        """The next message."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while True:
                opcode, payload = await self._receive_frame()
                if opcode == 8:
                    raise ClosedByRelay(struct.unpack("!H", payload[:2])[0] if payload else None)
                if opcode == 9:
                    await self.send_frame(payload, 10)
                elif opcode == 1:
                    message = orjson.loads(payload)
                    assert isinstance(message, list)
                    return message

    async def receive_frame_of(self, opcode: int) -> bytes:
        """The payload of the next frame of this kind; others are passed over."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while True:
                got, payload = await self._receive_frame()
                if got == opcode:
                    return payload

    async def submit(self, event: VerifiedEvent) -> tuple[bool, str]:
        """Publish, and wait for this event's OK."""
        await self.publish(event)
        return await self.answer_to(event.id)

    async def answer_to(self, event_id: str) -> tuple[bool, str]:
        """This event's OK; other messages are passed over."""
        while True:
            match await self.receive():
                case ["OK", answered, bool(accepted), str(message)] if answered == event_id:
                    return accepted, message

    async def query(self, *filters: dict[str, Any], subscription_id: str = "q") -> list[str]:
        """The ids of what is stored, in the order it came; the subscription stays open."""
        return [event["id"] for event in await self.query_events(*filters, subscription_id=subscription_id)]

    async def query_events(self, *filters: dict[str, Any], subscription_id: str = "q") -> list[dict[str, Any]]:
        """What is stored, in the order it came; the subscription stays open."""
        await self.send("REQ", subscription_id, *filters)
        events = []
        while True:
            match await self.receive():
                case ["EVENT", name, dict(event)] if name == subscription_id:
                    events.append(event)
                case ["EOSE", name, *_] if name == subscription_id:
                    return events
                case ["CLOSED", name, reason] if name == subscription_id:
                    raise AssertionError(reason)

    async def _receive_frame(self) -> tuple[int, bytes]:
        head = await self._take(2)
        length = head[1]
        assert not length & 0x80, "a server must not mask"
        if length == 126:
            (length,) = struct.unpack("!H", await self._take(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self._take(8))
        assert head[0] & 0x80, "the relay sends no fragments"
        return head[0] & 15, await self._take(length)

    async def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._fill()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    async def _fill(self) -> None:
        try:
            with anyio.fail_after(PATIENCE_SECONDS):
                self._buffer += await self._stream.receive(1 << 20)
        except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise ClosedByRelay(None) from error


def frame(payload: bytes, opcode: int = 1, is_final: bool = True) -> bytes:
    """A masked client frame (RFC 6455, section 5.2)."""
    first = (0x80 if is_final else 0) | opcode
    if len(payload) < 126:
        head = struct.pack("!BB", first, 0x80 | len(payload))
    elif len(payload) < 65_536:
        head = struct.pack("!BBH", first, 0x80 | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, len(payload))
    mask = os.urandom(4)
    pattern = (mask * (len(payload) // 4 + 1))[: len(payload)]
    body = (int.from_bytes(payload) ^ int.from_bytes(pattern)).to_bytes(len(payload))
    return head + mask + body


async def request(url: str, text: str) -> tuple[str, bytes]:
    """A plain HTTP exchange: the head and the body of the answer."""
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    async with await anyio.connect_tcp(parts.hostname, parts.port) as stream:
        await stream.send(text.replace("\n", "\r\n").encode())
        answer = b""
        with anyio.fail_after(PATIENCE_SECONDS), contextlib.suppress(anyio.EndOfStream):
            while True:
                answer += await stream.receive()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode(), body


async def information(url: str, path: str = "/") -> dict[str, Any]:
    """What the relay says about itself (NIP-11), in the form that it must have."""
    head, body = await request(url, f"GET {path} HTTP/1.1\nHost: x\nAccept: application/nostr+json\n\n")
    assert head.startswith("HTTP/1.1 200 ") and "Content-Type: application/nostr+json" in head
    assert "Access-Control-Allow-Origin: *" in head
    parse_relay_information(body)
    document = orjson.loads(body)
    assert isinstance(document, dict)
    return document
