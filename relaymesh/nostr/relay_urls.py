"""Relay URLs: one spelling for each relay, so that two can be compared."""

import re
from collections.abc import Iterable
from typing import Final

from relaymesh.errors import UsageError

MAXIMUM_URL_CHARACTERS: Final = 200

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}
_URL = re.compile(
    r"(?P<scheme>wss?)://"
    r"(?P<host>[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_.])?|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?:#.*)?\Z",
    re.IGNORECASE,
)


def normalise_relay_url(text: str) -> str:
    """A relay's URL with lowercase scheme and host, without default port, trailing slash or fragment.

    Raises:
        UsageError: The text is no `ws://` or `wss://` URL with a host, or holds a user name, blanks or controls.
    """
    expected = "expected a relay URL such as wss://relay.example.com"
    if len(text) > MAXIMUM_URL_CHARACTERS or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f"{expected}: at most {MAXIMUM_URL_CHARACTERS} ASCII characters without blanks")
    parts = _URL.match(text)
    if parts is None:
        raise UsageError(f"{expected}: ws:// or wss://, a host, perhaps a port and a path, and no user name")
    scheme, host = parts["scheme"].lower(), parts["host"].lower()
    port = _DEFAULT_PORTS[scheme] if parts["port"] is None else int(parts["port"])
    if not 0 < port < 65_536:
        raise UsageError(f"{expected}, with a port from 1 to 65535, not {port}")
    place = host if port == _DEFAULT_PORTS[scheme] else f"{host}:{port}"
    return f"{scheme}://{place}{(parts['path'] or '').rstrip('/')}{parts['query'] or ''}"


def is_same_relay(named: str, relay_urls: Iterable[str]) -> bool:
    """Whether what somebody else wrote is, normalised, one of these relay URLs; what is no URL is none of them.

    Raises:
        UsageError: One of `relay_urls` is no relay URL.
    """
    own_urls = tuple(map(normalise_relay_url, relay_urls))
    try:
        return normalise_relay_url(named) in own_urls
    except UsageError:
        return False
