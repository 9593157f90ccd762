"""Where we let a peer send us: endpoints that others name are resolved once, then checked (RM-02, "Transport").

What is dialled is the address that was checked, never the name again. So a name cannot point at something harmless
while it is looked at and at our own machine or network when it is dialled.
"""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

import anyio
from websockets.exceptions import InvalidURI
from websockets.uri import WebSocketURI, parse_uri

from relaymesh.errors import SessionError

MAXIMUM_ENDPOINT_CHARACTERS: Final = 512
MAXIMUM_ADDRESSES: Final = 4

_EMBEDDING_NETWORKS: Final = (
    ip_network("64:ff9b::/96"),  # NAT64: the last 32 bits are an IPv4 address
    ip_network("64:ff9b:1::/48"),
    ip_network("2002::/16"),  # 6to4
    ip_network("2001::/32"),  # Teredo
    ip_network("::/96"),  # IPv4-compatible
)


def parse_endpoint(endpoint: str) -> WebSocketURI:
    """Read a `ws://` or `wss://` URL.

    Raises:
        SessionError: It is not one, or it carries a user name, a fragment or an impossible port.
    """
    if len(endpoint) > MAXIMUM_ENDPOINT_CHARACTERS or not endpoint.isprintable() or " " in endpoint:
        raise SessionError(f"an endpoint must be a URL of at most {MAXIMUM_ENDPOINT_CHARACTERS} characters")
    try:
        uri = parse_uri(endpoint)
    except (InvalidURI, ValueError) as error:
        raise SessionError("an endpoint must be a ws:// or wss:// URL with a host") from error
    if uri.username is not None:
        raise SessionError("an endpoint must not carry a user name")
    return uri


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address belongs to the public internet and to one machine there.

    Loopback, private, link-local, shared (CGNAT), documentation, multicast, unspecified and reserved addresses do not,
    nor do IPv6 addresses that wrap an IPv4 one, whatever that is.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None or any(address in network for network in _EMBEDDING_NETWORKS):
            return False
        if address.scope_id is not None:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def may_dial(address: IPv4Address | IPv6Address, *, allow_private: bool) -> bool:
    """Whether this address may be dialled for a peer; multicast and unspecified addresses never."""
    if address.is_multicast or address.is_unspecified:
        return False
    return allow_private or is_public(address)


async def resolve_endpoint(uri: WebSocketURI, *, allow_private: bool, seconds: float = 5) -> list[str]:
    """The addresses of an endpoint that may be dialled, in the resolver's order, at most 4.

    Raises:
        SessionError: The name does not resolve in time, or every address it has is refused.
    """
    addresses = [uri.host] if _is_address(uri.host) else await _look_up(uri, seconds)
    allowed = [text for text in addresses if may_dial(ip_address(text), allow_private=allow_private)]
    if not allowed:
        raise SessionError(
            f"the host {uri.host} is not on the public internet; if it is yours, allow private addresses by "
            "--allow-private or network.allow_private"
        )
    return allowed[:MAXIMUM_ADDRESSES]


def _is_address(host: str) -> bool:
    """Whether a host is an IP address as the standards spell it, which needs no thread to be resolved in."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def _look_up(uri: WebSocketURI, seconds: float) -> list[str]:
    try:
        with anyio.fail_after(seconds):
            found = await anyio.getaddrinfo(uri.host, uri.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
        raise SessionError(f"the host {uri.host} does not resolve", retryable=True) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
