"""The event's bytes, id and shape (NIP-01)."""

import hashlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.nostr.event import (
    Event,
    UnsignedEvent,
    VerifiedEvent,
    is_hex_32,
    parse_event,
)
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.kinds import Kind
from relaymesh.units import Timestamp
from tests.nostr import strategies

AUTHOR = KeyPair(bytes(31) + b"\x03")

ESCAPES = {"\n": "\\n", '"': '\\"', "\\": "\\\\", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def make_event(content: str = "", tags: tuple[tuple[str, ...], ...] = (), kind: int = 1) -> UnsignedEvent:
    return UnsignedEvent(AUTHOR.public_key, Timestamp(1_700_000_000), kind, tags, content)


def wire_event(**changes: Any) -> dict[str, Any]:
    value = AUTHOR.sign(make_event("hello", (("t", "relaymesh"),))).to_json()
    return {**value, **changes}


@given(strategies.unsigned_events(AUTHOR))
def test_the_serialisation_is_the_one_that_json_writes_without_blanks_or_ascii_escapes(event: UnsignedEvent) -> None:
    fields = [0, event.public_key, event.created_at, event.kind, event.tags, event.content]
    expected = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    assert event.serialise() == expected
    assert event.compute_id() == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize("character", strategies.TRICKY_CHARACTERS, ids=ascii)
def test_each_tricky_character_is_escaped_as_nip_01_says_or_left_as_it_is(character: str) -> None:
    if character in ESCAPES:
        written = ESCAPES[character]
    elif character < " ":
        written = f"\\u{ord(character):04x}"  # NIP-01 names seven; JSON has no other way to carry the rest
    else:
        written = character
    expected = f'[0,"{AUTHOR.public_key}",1700000000,1,[["t","{written}"]],"{written}"]'
    assert make_event(character, (("t", character),)).serialise() == expected.encode()


def test_every_character_of_the_first_plane_survives_serialisation_and_parsing() -> None:
    every = "".join(chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000)
    event = AUTHOR.sign(make_event(every))
    assert parse_event(json.loads(json.dumps(event.to_json()))).content == every
    assert json.loads(event.serialise())[5] == every


@pytest.mark.parametrize(
    "surrogate", [chr(0xD800), chr(0xDFFF), f"a{chr(0xDC00)}b", chr(0xDC00) + chr(0xD800)], ids=ascii
)
def test_a_lone_surrogate_is_refused_before_it_is_hashed(surrogate: str) -> None:
    for event in (make_event(surrogate), make_event("", (("t", surrogate),)), make_event("", ((surrogate,),))):
        with pytest.raises(LocalProtocolError, match="surrogates"):
            event.serialise()


def test_a_number_beyond_64_bits_is_refused_and_not_rounded() -> None:
    event = UnsignedEvent(AUTHOR.public_key, Timestamp(2**64), 1, (), "")
    with pytest.raises(LocalProtocolError, match="64 bits"):
        event.serialise()


def test_a_kind_from_the_enumeration_is_serialised_as_its_number() -> None:
    assert make_event(kind=Kind.OFFER).serialise() == make_event(kind=38_770).serialise()


@given(strategies.signed_events())
def test_an_event_survives_the_way_over_the_wire(event: Event) -> None:
    assert parse_event(event.to_json()) == event
    assert parse_event(orjson.loads(orjson.dumps(event.to_json()))) == event
    assert parse_event(json.loads(json.dumps(event.to_json()))) == event


def test_unknown_fields_of_an_event_are_ignored() -> None:
    assert parse_event(wire_event(extra=[1, 2])) == parse_event(wire_event())


@given(strategies.json_values)
def test_any_json_is_an_event_or_a_remote_error(value: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_event(value)


@given(strategies.damaged_events())
def test_a_damaged_event_is_an_event_all_the_same_or_a_remote_error(value: dict[str, Any]) -> None:
    try:
        event = parse_event(value)
    except RemoteProtocolError:
        return
    assert event.to_json() == value


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("id", "A" * 64),
        ("id", "a" * 63),
        ("id", "a" * 65),
        ("id", "a" * 64 + "\n"),
        ("id", "٣" * 64),
        ("id", None),
        ("pubkey", "g" * 64),
        ("pubkey", "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg"),
        ("sig", "a" * 126),
        ("sig", "a" * 130),
        ("sig", "A" * 128),
        ("sig", ""),
        ("created_at", True),
        ("created_at", 1.0),
        ("created_at", -1),
        ("created_at", 2**53),
        ("created_at", 1.8446744073709552e19),
        ("created_at", "1700000000"),
        ("created_at", None),
        ("kind", 65_536),
        ("kind", -1),
        ("kind", False),
        ("kind", 1.0),
        ("tags", None),
        ("tags", {}),
        ("tags", "t"),
        ("tags", ["t"]),
        ("tags", [[]]),
        ("tags", [None]),
        ("tags", [["t", None]]),
        ("tags", [["t", 1]]),
        ("tags", [[["t"]]]),
        ("content", None),
        ("content", 1),
        ("content", ["x"]),
    ],
)
def test_a_field_of_the_wrong_form_is_refused(field: str, wrong: object) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_event(wire_event(**{field: wrong}))


@pytest.mark.parametrize("field", ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"])
def test_a_missing_field_is_refused(field: str) -> None:
    value = wire_event()
    del value[field]
    with pytest.raises(RemoteProtocolError):
        parse_event(value)


@pytest.mark.parametrize("json_text", ['"\\ud800"', '"\\udc00\\ud800"'])
def test_an_event_with_a_lone_surrogate_from_a_lenient_parser_has_no_id(json_text: str) -> None:
    event = parse_event(wire_event(content=json.loads(json_text)))
    with pytest.raises(LocalProtocolError):
        event.compute_id()


def test_tags_are_read_by_their_first_value_and_in_order() -> None:
    event = AUTHOR.sign(make_event("", (("p",), ("p", "first", "relay"), ("e", "x"), ("p", "second"))))
    assert event.tag_value("p") == "first"
    assert event.tag_values("p") == ("first", "second")
    assert event.tag_value("d") is None
    assert event.tag_values("d") == ()


def test_an_event_off_the_wire_is_not_taken_for_a_verified_one() -> None:
    verified = AUTHOR.sign(make_event())
    parsed = parse_event(verified.to_json())
    assert isinstance(verified, VerifiedEvent)
    assert not isinstance(parsed, VerifiedEvent)


def test_an_event_cannot_be_changed() -> None:
    event = AUTHOR.sign(make_event())
    with pytest.raises(AttributeError):
        event.content = "other"  # type: ignore[misc]  # what the test is about


@given(st.one_of(strategies.hex_32, strategies.text, strategies.json_values))
def test_only_64_lowercase_hex_characters_are_32_bytes_in_hex(value: Any) -> None:
    expected = isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
    assert is_hex_32(value) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"public_key": "x"},
        {"public_key": AUTHOR.public_key.upper()},
        {"created_at": -1},
        {"created_at": 2**53},
        {"created_at": 1.5},
        {"created_at": True},
        {"kind": 65_536},
        {"kind": -1},
        {"tags": [["t", "x"]]},
        {"tags": ((),)},
        {"tags": (("t", None),)},
        {"tags": (["t"],)},
        {"content": None},
        {"content": b"x"},
    ],
    ids=str,
)
def test_what_nobody_would_accept_is_no_shape_of_an_event(changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "public_key": AUTHOR.public_key,
        "created_at": 1,
        "kind": 1,
        "tags": (),
        "content": "",
        **changes,
    }
    with pytest.raises(LocalProtocolError):
        UnsignedEvent(**fields).check_shape()


@given(strategies.unsigned_events(AUTHOR))
def test_what_nip_01_allows_is_a_shape_of_an_event(event: UnsignedEvent) -> None:
    event.check_shape()
