"""What the relay answers over plain HTTP on its one port: the relay information document, and a page for browsers."""

from collections.abc import Callable
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import orjson

from relaymesh_relay.addresses import FORWARDED, is_among
from relaymesh_relay.counts import Counts
from relaymesh_relay.health import Health
from relaymesh_relay.http_messages import BODY_BYTES_AT_MOST, HttpRequest, respond
from relaymesh_relay.human_page import CONTENT_POLICY, human_page
from relaymesh_relay.management import RPC_TYPE
from relaymesh_relay.metrics import METRICS_TYPE, Live, render
from relaymesh_relay.settings import Settings
from relaymesh_relay.store import VANISH_KIND

SUPPORTED_NIPS: Final = (1, 9, 11, 13, 40, 42, 45, 65, 67, 70)
MANAGEMENT_NIPS: Final = (86, 98)
"""Supported where there are administrators."""
PRIVATE_NIPS: Final = (17, 59)
"""What a relay has to do with private messages: keep them from others."""
INFORMATION_TYPE: Final = "application/nostr+json"

_RETENTION: Final = ({"kinds": ((20_000, 29_999),), "time": 0}, {"time": None})
"""Ephemeral events are never kept; all others until they expire, are replaced or deleted (NIP-11, "retention")."""


class Pages:
    """All answers.

    Args:
        settings: The relay's; the information document says what they enforce.
        counts: What `/metrics` shows.
        live: Says how things stand at this moment.
        health: What `/health` asks.
        manage: Answers administrators (NIP-86).
    """

    def __init__(
        self,
        settings: Settings,
        counts: Counts,
        live: Callable[[], Live],
        health: Health,
        manage: Callable[[HttpRequest, Callable[[bytes], object]], object],
    ) -> None:
        self._manage = manage
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
        elif head.method == "POST" and self._settings.access.administrators:
            self._receive_management(request, send)
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

    def _receive_management(self, request: HttpRequest, send: Callable[[bytes], object]) -> None:
        headers = request.head.headers
        if request.head.body_bytes > BODY_BYTES_AT_MOST:
            reason = f"a request may have at most {BODY_BYTES_AT_MOST} bytes\n".encode()
            send(respond(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason, "text/plain"))
        elif "content-length" not in headers:
            send(respond(HTTPStatus.LENGTH_REQUIRED, b"a request must say its Content-Length\n", "text/plain"))
        elif headers.get("content-type", "").partition(";")[0].strip() != RPC_TYPE:
            reason = f"a request must be of type {RPC_TYPE}\n".encode()
            send(respond(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, reason, "text/plain"))
        else:
            self._manage(request, send)

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
        "supported_nips": supported_nips(settings),
        "software": "relaymesh-relay",
        "version": _version(),
        "limitation": limitation,
        "retention": _RETENTION,
    }
    return {name: value for name, value in document.items() if value != ""}


def supported_nips(settings: Settings) -> list[int]:
    """What the relay does as it is set up."""
    access = settings.access
    switched = {62: VANISH_KIND not in access.denied_kinds, 77: settings.negentropy.enabled}
    switched |= dict.fromkeys(MANAGEMENT_NIPS, bool(access.administrators))
    switched |= dict.fromkeys(PRIVATE_NIPS, access.private_to_recipients)
    return sorted([*SUPPORTED_NIPS, *(nip for nip, is_on in switched.items() if is_on)])


def _version() -> str:
    try:
        return version("relaymesh")
    except PackageNotFoundError:  # run from a source folder that was never installed
        return "unknown"
