"""HTTP requests and responses on the relay's one port: one request to a connection."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from relaymesh.errors import RemoteProtocolError

HEAD_BYTES_AT_MOST: Final = 16_384
BODY_BYTES_AT_MOST: Final = 65_536

_CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "*, Authorization",
    "Access-Control-Allow-Methods": "GET, HEAD, POST, OPTIONS",
}
_NO_MORE: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The first lines of an HTTP request.

    Args:
        method: GET, HEAD, …
        path: What is asked for.
        headers: By lowercase name; of several with one name, the last.
    """

    method: str
    path: str
    headers: dict[str, str]

    @property
    def is_websocket(self) -> bool:
        """Whether the client wants to speak WebSocket (RFC 6455, section 4.1)."""
        return self.headers.get("upgrade", "").lower() == "websocket"

    @property
    def body_bytes(self) -> int:
        """The announced length of the body; nothing is taken as none."""
        text = self.headers.get("content-length", "0")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A whole request.

    Args:
        head: Its first lines.
        body: What follows them, as long as announced; cut short when that is more than `BODY_BYTES_AT_MOST`.
        address: Who sent it, as a trusted proxy or the network says.
    """

    head: RequestHead
    body: bytes
    address: str


def parse_head(head: bytes) -> RequestHead:
    """Read a request up to its empty line.

    Raises:
        RemoteProtocolError: It is no HTTP/1.1 request.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise RemoteProtocolError("a connection must begin with an HTTP/1.1 request")
    pairs = (line.partition(":") for line in lines if line)
    return RequestHead(parts[0], parts[1], {name.strip().lower(): value.strip() for name, _, value in pairs})


def respond(
    status: HTTPStatus,
    body: bytes,
    content_type: str,
    *,
    without_body: bool = False,
    more: Mapping[str, str] = _NO_MORE,
) -> bytes:
    """One HTTP response, after which the connection closes."""
    headers = {
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "Cache-Control": "no-store",
        **_CORS,
        **more,
    }
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return head if without_body else head + body
