"""What the relay answers over plain HTTP on its one port: the relay information document, and a page for browsers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import orjson

from relaymesh.errors import RemoteProtocolError
from relaymesh_relay.addresses import FORWARDED, is_among
from relaymesh_relay.counts import Counts
from relaymesh_relay.health import Health
from relaymesh_relay.human_page import CONTENT_POLICY, human_page
from relaymesh_relay.metrics import METRICS_TYPE, Live, render
from relaymesh_relay.settings import Settings

HEAD_BYTES_AT_MOST: Final = 16_384
BODY_BYTES_AT_MOST: Final = 65_536
SUPPORTED_NIPS: Final = (1, 9, 11, 13, 40, 42, 45, 70)
INFORMATION_TYPE: Final = "application/nostr+json"

_CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
}
_RETENTION: Final = ({"kinds": ((20_000, 29_999),), "time": 0}, {"time": None})
"""Ephemeral events are never kept; all others until they expire, are replaced or deleted (NIP-11, "retention")."""
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


class Pages:
    """All answers.

    Args:
        settings: The relay's; the information document says what they enforce.
        counts: What `/metrics` shows.
        live: Says how things stand at this moment.
        health: What `/health` asks.
    """

    def __init__(self, settings: Settings, counts: Counts, live: Callable[[], Live], health: Health) -> None:
        self._counts = counts
        self._live = live
        self._health = health
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Say what other settings enforce from now on."""
        self._settings = settings
        self._document = information(settings)
        self._information = orjson.dumps(self._document)

    def answer(self, request: HttpRequest, send: Callable[[bytes], object]) -> None:
        """Have `send` called once with the whole response to a request that is no WebSocket handshake."""
        head = request.head
        without_body = head.method == "HEAD"
        path = head.path.partition("?")[0]
        if head.method == "OPTIONS":
            send(respond(HTTPStatus.NO_CONTENT, b"", "text/plain"))
        elif head.method not in ("GET", "HEAD"):
            send(respond(HTTPStatus.METHOD_NOT_ALLOWED, b"GET, HEAD and OPTIONS are understood\n", "text/plain"))
        elif INFORMATION_TYPE in head.headers.get("accept", ""):
            send(respond(HTTPStatus.OK, self._information, INFORMATION_TYPE, without_body=without_body))
        elif path == "/health":
            self._health.ask(lambda reason: send(_health_response(reason, without_body)))
        elif path == "/metrics":
            send(self._metrics(request, without_body))
        else:
            page = human_page(self._document, self._live()).encode()
            send(
                respond(
                    HTTPStatus.OK,
                    page,
                    "text/html; charset=utf-8",
                    without_body=without_body,
                    more={"Content-Security-Policy": CONTENT_POLICY},
                )
            )

    def _metrics(self, request: HttpRequest, without_body: bool) -> bytes:
        """The figures, for this machine and for whom the settings name; others are told how to be named."""
        network = self._settings.network
        is_forwarded = not network.address_header and not FORWARDED.isdisjoint(request.head.headers)
        if is_forwarded or not is_among(request.address, network.metrics_readers):
            reason = b"this address may not read the metrics; the operator can name it in network.metrics_readers\n"
            return respond(HTTPStatus.FORBIDDEN, reason, "text/plain", without_body=without_body)
        figures = render(self._counts, self._live())
        return respond(HTTPStatus.OK, figures, METRICS_TYPE, without_body=without_body)


def _health_response(reason: str | None, without_body: bool) -> bytes:
    if reason is None:
        return respond(HTTPStatus.OK, b"events can be stored and read\n", "text/plain", without_body=without_body)
    body = f"{reason}\n".encode()
    return respond(HTTPStatus.SERVICE_UNAVAILABLE, body, "text/plain", without_body=without_body)


def information(settings: Settings) -> dict[str, Any]:
    """The relay information document (NIP-11); each limit is the one that is enforced."""
    identity, limits, access = settings.identity, settings.limits, settings.access
    limitation: dict[str, Any] = {
        "max_message_length": limits.message_bytes,
        "max_subscriptions": limits.subscriptions,
        "max_limit": limits.limit,
        "max_subid_length": limits.subscription_id_characters,
        "max_event_tags": limits.event_tags,
        "max_content_length": limits.content_characters,
        "min_pow_difficulty": limits.proof_of_work_bits,
        "auth_required": access.authenticate_to_read or access.authenticate_to_write,
        "payment_required": False,
        "restricted_writes": bool(
            access.allowed_authors or access.allowed_kinds or access.members or access.authenticate_to_write
        ),
        "created_at_upper_limit": limits.created_at_future_seconds,
        "default_limit": limits.default_limit,
    }
    if limits.created_at_past_seconds:
        limitation["created_at_lower_limit"] = limits.created_at_past_seconds
    document = {
        "name": identity.name,
        "description": identity.description,
        "icon": identity.icon,
        "terms_of_service": identity.terms_of_service,
        "pubkey": identity.public_key,
        "contact": identity.contact,
        "supported_nips": SUPPORTED_NIPS,
        "software": "relaymesh-relay",
        "version": _version(),
        "limitation": limitation,
        "retention": _RETENTION,
    }
    return {name: value for name, value in document.items() if value != ""}


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


def _version() -> str:
    try:
        return version("relaymesh")
    except PackageNotFoundError:  # run from a source folder that was never installed
        return "unknown"
