"""Under which name an address is counted, and which addresses may see what is not for everybody."""

import ipaddress
from collections.abc import Sequence
from typing import Final

from relaymesh.errors import UsageError

LOOPBACK: Final = "loopback"
"""The name of all addresses that are this machine's own."""
FORWARDED: Final = frozenset({"forwarded", "via", "x-forwarded-for", "x-real-ip"})
"""Headers by which a proxy shows that a request comes from elsewhere."""


def name_address(address: str) -> str:
    """Under which name an address is counted: IPv6 by its first 64 bits, which one customer has to himself."""
    parsed = _parse(address)
    if parsed is None:  # whatever a proxy wrote
        return address
    if parsed.is_loopback:
        return LOOPBACK
    return str(ipaddress.ip_network((parsed, 64), strict=False) if parsed.version == 6 else parsed)


def is_among(address: str, networks: Sequence[str]) -> bool:
    """Whether an address is this machine's own or belongs to one of these networks."""
    parsed = _parse(address)
    if parsed is None:
        return False
    return parsed.is_loopback or any(parsed in ipaddress.ip_network(network, strict=False) for network in networks)


def check_networks(networks: Sequence[str], setting: str) -> None:
    """Make sure that these are addresses or networks.

    Raises:
        UsageError: One is neither.
    """
    for network in networks:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError as error:
            raise UsageError(
                f"the setting {setting} must hold addresses or networks such as 192.0.2.0/24, not {network}"
            ) from error


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed
