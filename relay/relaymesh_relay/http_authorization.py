"""Who signed an HTTP request (NIP-98): every check the standard asks for, and none is accepted twice."""

import base64
import binascii
import hashlib
from collections.abc import Collection
from typing import Final

import orjson

from relaymesh.errors import ProtocolError, RemoteProtocolError
from relaymesh.nostr.event import Event, EventId, PublicKey, parse_event
from relaymesh.nostr.keys import verify
from relaymesh.units import Timestamp

AUTHORIZATION_KIND: Final = 27_235
WINDOW_SECONDS: Final = 60
_SCHEME: Final = "nostr "


class Authorizations:
    """Checks authorizations, and remembers those it accepted for as long as they could come again."""

    def __init__(self) -> None:
        self._accepted: dict[EventId, Timestamp] = {}

    def check(
        self, header: str, *, method: str, url: str, body: bytes, signers: Collection[str], now: Timestamp
    ) -> PublicKey:
        """Who authorized a request.

        Args:
            header: The request's `Authorization`.
            method: GET, POST, …
            url: The relay's; `ws` and `http` are one, and so are `wss` and `https`.
            body: The request's; its hash must be signed too (NIP-86, "Authorization").
            signers: Who may.
            now: The relay's time.

        Raises:
            RemoteProtocolError: It authorizes nobody to do this here and now, or has done so before.
        """
        event = _read(header)
        _check_request(event, method, url, body, now)
        if event.public_key not in signers:  # before the signature, which costs most
            raise RemoteProtocolError("the authorization must be signed by one of the relay's administrators")
        try:
            author = verify(event).public_key
        except ProtocolError as error:
            raise RemoteProtocolError(f"the authorization must be a valid event: {error}") from error
        self._accepted = {
            event_id: made_at for event_id, made_at in self._accepted.items() if now - made_at <= WINDOW_SECONDS
        }
        if event.id in self._accepted:
            raise RemoteProtocolError("the authorization was used before; sign a new one for each request")
        self._accepted[event.id] = event.created_at
        return author


def _read(header: str) -> Event:
    if header[: len(_SCHEME)].lower() != _SCHEME:
        raise RemoteProtocolError("the request must carry an Authorization header: Nostr and a base64 event (NIP-98)")
    encoded = header[len(_SCHEME) :].strip().rstrip("=")
    try:
        text = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        return parse_event(orjson.loads(text))
    except (binascii.Error, ValueError, ProtocolError) as error:
        raise RemoteProtocolError("the authorization must be an event of Nostr in base64") from error


def _check_request(event: Event, method: str, url: str, body: bytes, now: Timestamp) -> None:
    if event.kind != AUTHORIZATION_KIND:
        raise RemoteProtocolError(f"the authorization must be of kind {AUTHORIZATION_KIND}, not {event.kind}")
    if abs(now - event.created_at) > WINDOW_SECONDS:
        raise RemoteProtocolError(f"the authorization must be made within {WINDOW_SECONDS} seconds; check the clock")
    if tuple(map(_normalise, event.tag_values("u"))) != (_normalise(url),):
        raise RemoteProtocolError(f"the authorization must name this relay's URL in its u tag: {url}")
    if tuple(value.upper() for value in event.tag_values("method")) != (method,):
        raise RemoteProtocolError(f"the authorization must name the method {method}")
    if event.tag_values("payload") != (hashlib.sha256(body).hexdigest(),):
        raise RemoteProtocolError("the authorization must carry the SHA-256 of the body in its payload tag")


def _normalise(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    web = {"ws": "http", "wss": "https"}.get(scheme, scheme)
    return f"{web}{separator}{rest.rstrip('/')}"
