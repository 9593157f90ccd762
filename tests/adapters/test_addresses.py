"""Endpoints that peers name: none of them leads to our own machine or network."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.adapters.addresses import is_public, may_dial, parse_endpoint, resolve_endpoint
from relaymesh.errors import SessionError

pytestmark = pytest.mark.anyio

INTERNAL = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.127.255.255",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "2001:db8::1",
]


@pytest.mark.parametrize("text", INTERNAL)
def test_an_address_that_is_not_on_the_public_internet_is_refused(text: str) -> None:
    assert not is_public(ip_address(text))
    assert not may_dial(ip_address(text), allow_private=False)


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "193.99.144.80", "2606:4700::1111", "2a00:1450:4001:80b::200e"])
def test_a_public_address_is_dialled(text: str) -> None:
    assert may_dial(ip_address(text), allow_private=False)


def test_allowing_private_addresses_allows_no_multicast_and_no_nowhere() -> None:
    allowed = [text for text in INTERNAL if may_dial(ip_address(text), allow_private=True)]
    assert {"127.0.0.1", "10.0.0.1", "::1", "fe80::1", "100.64.0.1"} <= set(allowed)
    assert not {"0.0.0.0", "::", "224.0.0.1", "ff02::1"} & set(allowed)


@given(st.ip_addresses())
def test_what_wraps_an_ipv4_address_is_never_public(address: object) -> None:
    wrapped = ip_address(f"::ffff:{address}") if "." in str(address) else None
    assert wrapped is None or not is_public(wrapped)


@pytest.mark.parametrize(
    "endpoint",
    [
        "ws://127.0.0.1:80",
        "ws://[::1]:80",
        "ws://0.0.0.0:80",
        "ws://[::ffff:127.0.0.1]:80",
        "ws://100.64.0.1",
        "ws://localhost",
        "ws://localhost.",
        "ws://LOCALHOST:1",
        "wss://2130706433/",
        "wss://127.1/",
        "ws://0x7f.0.0.1/",
        "ws://[fe80::1%25lo]/",
    ],
)
async def test_no_spelling_of_our_own_machine_resolves(endpoint: str) -> None:
    with pytest.raises(SessionError):
        await resolve_endpoint(parse_endpoint(endpoint), allow_private=False)


async def test_our_own_machine_resolves_when_it_is_allowed() -> None:
    assert "127.0.0.1" in await resolve_endpoint(parse_endpoint("ws://localhost:80"), allow_private=True)


async def test_a_name_that_does_not_resolve_is_a_session_error() -> None:
    with pytest.raises(SessionError, match="does not resolve"):
        await resolve_endpoint(parse_endpoint("ws://no-such-host.invalid"), allow_private=True)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "http://node.example",
        "ws:///path",
        "ws://",
        "node.example:80",
        "ws://node.example:99999",
        "ws://node.example:port",
        "ws://user:password@node.example",
        "ws://node.example/#fragment",
        "ws://node.example/a b",
        "ws://node.example/\r\nHost: other",
        "ws://[::1",
        "ws://" + "a" * 600,
        "file:///etc/passwd",
    ],
)
def test_an_endpoint_that_is_no_plain_websocket_url_is_refused(endpoint: str) -> None:
    with pytest.raises(SessionError):
        parse_endpoint(endpoint)


@given(st.text(max_size=60))
def test_random_endpoints_are_read_or_refused(text: str) -> None:
    for endpoint in (text, f"ws://{text}", f"wss://host{text}"):
        try:
            uri = parse_endpoint(endpoint)
        except SessionError:
            continue
        assert uri.host and uri.username is None
