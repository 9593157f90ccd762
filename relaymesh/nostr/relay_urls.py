"""Relay URLs: one spelling for each relay, so that two can be compared."""

from typing import Final
from urllib.parse import urlsplit

from relaymesh.errors import UsageError

MAXIMUM_URL_CHARACTERS: Final = 200

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}


def normalise_relay_url(text: str) -> str:
    """A relay's URL with lowercase scheme and host, without default port, trailing slash or fragment.

    Raises:
        UsageError: The text is not a `ws://` or `wss://` URL with a host, or holds a user name, blanks or controls.
    """
    expected = "expected a relay URL such as wss://relay.example.com"
    if len(text) > MAXIMUM_URL_CHARACTERS or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f"{expected}: at most {MAXIMUM_URL_CHARACTERS} ASCII characters without blanks")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{expected}, got one with a malformed host or port") from error
    if parts.scheme not in _DEFAULT_PORTS or not host or parts.username is not None or parts.password is not None:
        raise UsageError(f"{expected}, with ws:// or wss:// and a host, and without a user name")
    host = f"[{host}]" if ":" in host else host
    place = host if port in (None, _DEFAULT_PORTS[parts.scheme]) else f"{host}:{port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{place}{parts.path.rstrip('/')}{query}"
