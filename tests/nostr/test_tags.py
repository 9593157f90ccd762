"""Addresses, expiration and what relays index (NIP-01, NIP-40)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import Event, PublicKey, Tags, UnsignedEvent
from relaymesh.nostr.tags import Address, indexed_values, parse_address, read_expiration, read_identifier
from relaymesh.units import Timestamp
from tests.nostr import strategies

AUTHOR = PublicKey("a" * 64)


def make_event(*tags: tuple[str, ...], kind: int = 38_770) -> UnsignedEvent:
    return UnsignedEvent(AUTHOR, Timestamp(1), kind, tags, "")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ((), ""),
        ((("d",),), ""),
        ((("d",), ("d", "x")), ""),
        ((("e", "y"), ("d", "main"), ("d", "other")), "main"),
        ((("d", "a:b/c"),), "a:b/c"),
    ],
)
def test_the_identifier_is_the_first_d_tag(tags: Tags, expected: str) -> None:
    assert read_identifier(make_event(*tags)) == expected


def test_addresses_of_events() -> None:
    addressable = Address.from_event(make_event(("d", "main")))
    replaceable = Address.from_event(make_event(("d", "ignored"), kind=10_002))
    assert addressable == Address(38_770, AUTHOR, "main")
    assert replaceable == Address(10_002, AUTHOR, "")
    assert Address.from_event(make_event(("d", "main"), kind=1)) is None
    assert Address.from_event(make_event(("d", "main"), kind=28_770)) is None


@given(strategies.text, strategies.hex_32, st.integers(30_000, 39_999))
def test_addresses_come_back_whatever_the_identifier_holds(identifier: str, author: str, kind: int) -> None:
    address = Address(kind, PublicKey(author), identifier)
    assert parse_address(address.to_text()) == address


@pytest.mark.parametrize("text", [f"10002:{AUTHOR}:", f"0:{AUTHOR}:", f"38770:{AUTHOR}:", f"38770:{AUTHOR}:a:b"])
def test_addresses_are_written_as_they_were_read(text: str) -> None:
    assert parse_address(text).to_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "::",
        f"38770:{AUTHOR}",
        f":{AUTHOR}:main",
        f"1:{AUTHOR}:",
        f"28770:{AUTHOR}:main",
        f"10002:{AUTHOR}:main",
        f"65536:{AUTHOR}:main",
        f"038770:{AUTHOR}:main",
        f"+38770:{AUTHOR}:main",
        f"-1:{AUTHOR}:main",
        f" 38770:{AUTHOR}:main",
        f"٣٨٧٧٠:{AUTHOR}:main",
        f"{'9' * 5000}:{AUTHOR}:main",
        f"38770:{AUTHOR.upper()}:main",
        f"38770:{AUTHOR[1:]}:main",
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_address(text)


@given(strategies.text_with_surrogates)
def test_any_text_is_an_address_or_a_remote_error(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_address(text)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ((), None),
        ((("expiration", "1700000000"),), 1_700_000_000),
        ((("expiration", "0"),), 0),
        ((("expiration", "5"), ("expiration", "9")), 5),
        ((("expiration",),), 0),
        ((("expiration", ""),), 0),
        ((("expiration", "never"),), 0),
        ((("expiration", "-5"),), 0),
        ((("expiration", "1.5"),), 0),
        ((("expiration", "٣"),), 0),
        ((("expiration", "1_000"),), 0),
        ((("expiration", " 5"),), 0),
        ((("expiration", "9007199254740991"),), 2**53 - 1),
        ((("expiration", "9007199254740992"),), 0),
        ((("expiration", "9" * 5000),), 0),
    ],
)
def test_a_malformed_expiration_is_long_past(tags: Tags, expected: int | None) -> None:
    assert read_expiration(make_event(*tags)) == expected


def test_single_letters_are_indexed_by_their_first_value() -> None:
    event = make_event(
        ("t", "relaymesh", "x"), ("m", "one"), ("m", "two"), ("d",), ("alt", "z"), ("é", "z"), ("1", "z")
    )
    assert indexed_values(event) == (("t", "relaymesh"), ("m", "one"), ("m", "two"))


@given(strategies.signed_events())
def test_every_event_can_be_read(event: Event) -> None:
    read_identifier(event)
    read_expiration(event)
    assert all(letter.isalpha() for letter, _ in indexed_values(event))
