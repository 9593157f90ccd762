"""Relay lists (NIP-65)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import RemoteProtocolError, UsageError
from relaymesh.nostr.event import Tags, UnsignedEvent
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.kinds import is_replaceable
from relaymesh.nostr.relay_list import MAXIMUM_RELAYS, RelayList, build_relay_list, read_relay_list
from relaymesh.nostr.relay_urls import normalise_relay_url
from relaymesh.units import Timestamp
from tests.nostr import strategies

ALICE = KeyPair(bytes(31) + b"\x01")

urls = st.lists(strategies.relay_urls.map(normalise_relay_url), max_size=4, unique=True).map(tuple)


def read(tags: Tags, kind: int = 10_002) -> RelayList:
    return read_relay_list(ALICE.sign(UnsignedEvent(ALICE.public_key, Timestamp(1), kind, tags, "")))


def test_the_example_of_nip_65() -> None:
    relays = read(
        (
            ("r", "wss://alicerelay.example.com"),
            ("r", "wss://brando-relay.com"),
            ("r", "wss://expensive-relay.example2.com", "write"),
            ("r", "wss://nostr-relay.example.com", "read"),
        )
    )
    both = ("wss://alicerelay.example.com", "wss://brando-relay.com")
    assert relays.read_urls == (*both, "wss://nostr-relay.example.com")
    assert relays.write_urls == (*both, "wss://expensive-relay.example2.com")


@given(urls, urls)
def test_what_is_announced_is_read(read_urls: tuple[str, ...], write_urls: tuple[str, ...]) -> None:
    event = build_relay_list(ALICE.public_key, RelayList(read_urls, write_urls), Timestamp(1))
    assert is_replaceable(event.kind)
    relays = read_relay_list(ALICE.sign(event))
    assert relays.read_urls == read_urls
    assert set(relays.write_urls) == set(write_urls)


def test_a_relay_for_both_is_announced_once_and_unmarked() -> None:
    event = build_relay_list(ALICE.public_key, RelayList(("wss://a.b/",), ("WSS://A.B",)), Timestamp(1))
    assert event.tags == (("r", "wss://a.b"),)


def test_entries_that_cannot_be_used_are_passed_over() -> None:
    relays = read(
        (
            ("r",),
            ("r", "nonsense"),
            ("r", "http://a.b"),
            ("r", "wss://a.b", "sometimes"),
            ("e", "x"),
            ("r", "wss://c.d"),
        )
    )
    assert relays == RelayList(("wss://c.d",), ("wss://c.d",))


def test_a_relay_named_twice_counts_once() -> None:
    relays = read((("r", "wss://a.b", "read"), ("r", "wss://a.b/"), ("r", "wss://A.b", "read")))
    assert relays == RelayList(("wss://a.b",), ("wss://a.b",))


def test_an_endless_list_is_read_up_to_a_bound() -> None:
    relays = read(tuple(("r", f"wss://relay{number}.example.com") for number in range(1_000)))
    assert len(relays.read_urls) == MAXIMUM_RELAYS


def test_another_kind_is_no_relay_list() -> None:
    with pytest.raises(RemoteProtocolError):
        read((("r", "wss://a.b"),), kind=1)


def test_only_relay_urls_are_announced() -> None:
    with pytest.raises(UsageError):
        build_relay_list(ALICE.public_key, RelayList(("https://a.b",), ()), Timestamp(1))
