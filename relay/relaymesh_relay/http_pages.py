"""What the relay answers over plain HTTP on its one port: the relay information document, and a page for browsers."""

import html
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import orjson

from relaymesh.errors import RemoteProtocolError
from relaymesh_relay.settings import Settings

HEAD_BYTES_AT_MOST: Final = 16_384
SUPPORTED_NIPS: Final = (1, 9, 11, 13, 40, 42, 45, 70)
INFORMATION_TYPE: Final = "application/nostr+json"

_CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
}


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
    """All answers, made once.

    Args:
        settings: The relay's; the information document says what they enforce.
    """

    def __init__(self, settings: Settings) -> None:
        self._information = orjson.dumps(information(settings))
        self._page = _page(settings).encode()

    def answer(self, request: RequestHead) -> bytes:
        """The whole HTTP response to a request that is no WebSocket handshake."""
        if request.method == "OPTIONS":
            return respond(HTTPStatus.NO_CONTENT, b"", "text/plain")
        if request.method not in ("GET", "HEAD"):
            return respond(HTTPStatus.METHOD_NOT_ALLOWED, b"GET, HEAD and OPTIONS are understood\n", "text/plain")
        without_body = request.method == "HEAD"
        if INFORMATION_TYPE in request.headers.get("accept", ""):
            return respond(HTTPStatus.OK, self._information, INFORMATION_TYPE, without_body=without_body)
        return respond(HTTPStatus.OK, self._page, "text/html; charset=utf-8", without_body=without_body)


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
        "restricted_writes": bool(access.allowed_authors or access.allowed_kinds or access.authenticate_to_write),
        "created_at_upper_limit": limits.created_at_future_seconds,
        "default_limit": limits.default_limit,
    }
    if limits.created_at_past_seconds:
        limitation["created_at_lower_limit"] = limits.created_at_past_seconds
    document = {
        "name": identity.name,
        "description": identity.description,
        "pubkey": identity.public_key,
        "contact": identity.contact,
        "supported_nips": SUPPORTED_NIPS,
        "software": "relaymesh-relay",
        "version": _version(),
        "limitation": limitation,
    }
    return {name: value for name, value in document.items() if value != ""}


def respond(status: HTTPStatus, body: bytes, content_type: str, *, without_body: bool = False) -> bytes:
    """One HTTP response, after which the connection closes."""
    headers = {
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
        "Connection": "close",
        **_CORS,
    }
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return head if without_body else head + body


def _page(settings: Settings) -> str:
    name, description = html.escape(settings.identity.name), html.escape(settings.identity.description)
    nips = ", ".join(map(str, SUPPORTED_NIPS))
    rows = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(value))}</td></tr>"
        for key, value in information(settings)["limitation"].items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><h1>{name}</h1>'
        f"<p>{description}</p><p>This is a Nostr relay: speak to it over WebSocket. NIPs: {nips}.</p>"
        f"<table>{rows}</table></html>\n"
    )


def _version() -> str:
    try:
        return version("relaymesh")
    except PackageNotFoundError:  # run from a source folder that was never installed
        return "unknown"
