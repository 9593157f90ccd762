"""The messages between clients and relays (NIP-01, NIP-42, NIP-45, NIP-67, NIP-77)."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.nostr.event import EventId, UnsignedEvent, parse_event
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.messages import (
    AuthChallenge,
    AuthMessage,
    ClientMessage,
    ClosedMessage,
    CloseMessage,
    CountMessage,
    CountResult,
    EndOfStoredEvents,
    EventMessage,
    NegentropyClose,
    NegentropyError,
    NegentropyMessage,
    NegentropyOpen,
    NoticeMessage,
    OkMessage,
    RelayMessage,
    RequestMessage,
    SubscriptionEvent,
    parse_client_message,
    parse_relay_message,
)
from relaymesh.units import Timestamp
from tests.nostr import strategies

ALICE = KeyPair(bytes(31) + b"\x01")
EVENT = parse_event(ALICE.sign(UnsignedEvent(ALICE.public_key, Timestamp(1), 1, (("t", "x"),), "hi")).to_json())
EVENT_OBJECT = EVENT.to_json()
PARSERS: list[Callable[[str | bytes], object]] = [parse_client_message, parse_relay_message]

subscription_ids = strategies.text.filter(bool).map(lambda value: value[:64])
filters = st.builds(
    Filter,
    authors=st.none() | st.lists(strategies.hex_32, max_size=2).map(tuple),
    kinds=st.none() | st.lists(st.integers(0, 65_535), max_size=2).map(tuple),
    tags=st.lists(st.tuples(st.just("t"), st.lists(strategies.text, max_size=2).map(tuple)), max_size=1).map(tuple),
    limit=st.none() | st.integers(0, 100),
)
some_filters = st.lists(filters, min_size=1, max_size=3).map(tuple)

client_messages: st.SearchStrategy[ClientMessage] = st.one_of(
    st.builds(EventMessage, strategies.signed_events()),
    st.builds(AuthMessage, strategies.signed_events()),
    st.builds(RequestMessage, subscription_ids, some_filters),
    st.builds(CountMessage, subscription_ids, some_filters),
    st.builds(CloseMessage, subscription_ids),
    st.builds(NegentropyOpen, subscription_ids, filters, st.binary(max_size=50)),
    st.builds(NegentropyMessage, subscription_ids, st.binary(max_size=50)),
    st.builds(NegentropyClose, subscription_ids),
)
relay_messages: st.SearchStrategy[RelayMessage] = st.one_of(
    st.builds(SubscriptionEvent, subscription_ids, strategies.signed_events()),
    st.builds(OkMessage, strategies.hex_32.map(EventId), st.booleans(), strategies.text),
    st.builds(EndOfStoredEvents, subscription_ids, st.lists(strategies.text, max_size=2).map(tuple)),
    st.builds(ClosedMessage, subscription_ids, strategies.text),
    st.builds(NoticeMessage, strategies.text),
    st.builds(AuthChallenge, strategies.text),
    st.builds(CountResult, subscription_ids, st.integers(0, 2**53 - 1)),
)


@given(client_messages)
def test_a_client_s_message_survives_the_way_over_the_wire(message: ClientMessage) -> None:
    assert parse_client_message(message.to_text()) == message
    assert parse_client_message(message.to_text().encode()) == message


@given(relay_messages)
def test_a_relay_s_message_survives_the_way_over_the_wire(message: RelayMessage) -> None:
    assert parse_relay_message(message.to_text()) == message
    assert parse_relay_message(message.to_text().encode()) == message


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (EventMessage(EVENT), ["EVENT", EVENT_OBJECT]),
        (AuthMessage(EVENT), ["AUTH", EVENT_OBJECT]),
        (RequestMessage("s", (Filter(kinds=(1,)), Filter(limit=2))), ["REQ", "s", {"kinds": [1]}, {"limit": 2}]),
        (CountMessage("s", (Filter(kinds=(1,)),)), ["COUNT", "s", {"kinds": [1]}]),
        (CloseMessage("s"), ["CLOSE", "s"]),
        (SubscriptionEvent("s", EVENT), ["EVENT", "s", EVENT_OBJECT]),
        (OkMessage(EVENT.id, False, "pow: too little"), ["OK", EVENT.id, False, "pow: too little"]),
        (EndOfStoredEvents("s"), ["EOSE", "s"]),
        (EndOfStoredEvents("s", ("finish",)), ["EOSE", "s", ["finish"]]),
        (NegentropyOpen("s", Filter(kinds=(1,)), b"\x61\xff"), ["NEG-OPEN", "s", {"kinds": [1]}, "61ff"]),
        (NegentropyMessage("s", b"\x61"), ["NEG-MSG", "s", "61"]),
        (NegentropyClose("s"), ["NEG-CLOSE", "s"]),
        (NegentropyError("s", "closed: bye"), ["NEG-ERR", "s", "closed: bye"]),
        (NegentropyError("s", "blocked: too big", 9), ["NEG-ERR", "s", "blocked: too big", 9]),
        (ClosedMessage("s", "error: bye"), ["CLOSED", "s", "error: bye"]),
        (NoticeMessage("hello"), ["NOTICE", "hello"]),
        (AuthChallenge("c"), ["AUTH", "c"]),
        (CountResult("s", 3), ["COUNT", "s", {"count": 3}]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_messages_are_written_as_the_standards_print_them(
    message: ClientMessage | RelayMessage | NegentropyError, expected: list[Any]
) -> None:
    assert json.loads(message.to_text()) == expected


def test_a_verified_event_is_written_as_any_event() -> None:
    verified = ALICE.sign(UnsignedEvent(ALICE.public_key, Timestamp(1), 1, (("t", "x"),), "hi"))
    assert json.loads(EventMessage(verified).to_text())[1]["pubkey"] == ALICE.public_key


def test_blanks_between_the_parts_of_a_message_mean_nothing() -> None:
    assert parse_client_message(' [ "CLOSE" ,\n"s" ] ') == CloseMessage("s")


def test_a_count_may_say_more_than_we_ask() -> None:
    text = '["COUNT","s",{"count":1,"approximate":true,"hll":"00"}]'
    assert parse_relay_message(text) == CountResult("s", 1)


BROKEN: list[Any] = [
    [],
    {},
    None,
    "EVENT",
    [None],
    [["EVENT"]],
    ["event", EVENT_OBJECT],
    ["UNKNOWN", 1],
    ["EVENT"],
    ["EVENT", None],
    ["EVENT", []],
    ["EVENT", {**EVENT_OBJECT, "kind": "1"}],
    ["EVENT", EVENT_OBJECT, EVENT_OBJECT],
    ["EVENT", "s", EVENT_OBJECT, 1],
    ["EVENT", "", EVENT_OBJECT],
    ["EVENT", "s" * 65, EVENT_OBJECT],
    ["EVENT", 1, EVENT_OBJECT],
    ["REQ"],
    ["REQ", "s"],
    ["REQ", None, {}],
    ["REQ", "", {}],
    ["REQ", "s" * 65, {}],
    ["REQ", "s", []],
    ["REQ", "s", {}, None],
    ["REQ", "s", {"search": "x"}],
    ["COUNT"],
    ["COUNT", "s"],
    ["COUNT", "s", {"count": "1"}],
    ["COUNT", "s", {"count": True}],
    ["COUNT", "s", {"count": -1}],
    ["COUNT", "s", {"count": 2**53}],
    ["COUNT", "s", []],
    ["COUNT", 1, {"count": 1}],
    ["CLOSE"],
    ["CLOSE", ""],
    ["CLOSE", 1],
    ["CLOSE", "s", 1],
    ["AUTH"],
    ["AUTH", None],
    ["AUTH", []],
    ["AUTH", "c", 1],
    ["OK"],
    ["OK", EVENT.id],
    ["OK", EVENT.id, True],
    ["OK", EVENT.id, "true", ""],
    ["OK", EVENT.id, 1, ""],
    ["OK", EVENT.id, True, None],
    ["OK", EVENT.id.upper(), True, ""],
    ["OK", "", True, ""],
    ["OK", None, True, ""],
    ["OK", EVENT.id, True, "", 1],
    ["EOSE"],
    ["EOSE", None],
    ["EOSE", "s", 1],
    ["EOSE", "s", [1]],
    ["EOSE", "s", [], []],
    ["NEG-OPEN", "s", {}],
    ["NEG-OPEN", "s", {}, 61],
    ["NEG-OPEN", "s", [], "61"],
    ["NEG-OPEN", "s", {}, "61", ""],
    ["NEG-OPEN", "", {}, "61"],
    ["NEG-MSG", "s"],
    ["NEG-MSG", "s", "6"],
    ["NEG-MSG", "s", "6 1 "],
    ["NEG-MSG", "s", "zz"],
    ["NEG-MSG", "s", "61", ""],
    ["NEG-CLOSE"],
    ["NEG-CLOSE", "s", ""],
    ["CLOSED"],
    ["CLOSED", "s"],
    ["CLOSED", "s", None],
    ["CLOSED", "s", "", ""],
    ["NOTICE"],
    ["NOTICE", None],
    ["NOTICE", "a", "b"],
]


@pytest.mark.parametrize("message", BROKEN, ids=lambda message: json.dumps(message)[:40])
@pytest.mark.parametrize("parse", PARSERS, ids=["client", "relay"])
def test_a_malformed_message_is_a_remote_error(parse: Callable[[str | bytes], object], message: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        parse(json.dumps(message))


def test_each_direction_refuses_the_other_s_messages() -> None:
    for client_only in (EventMessage(EVENT), AuthMessage(EVENT), CloseMessage("s"), RequestMessage("s", (Filter(),))):
        with pytest.raises(RemoteProtocolError):
            parse_relay_message(client_only.to_text())
    for relay_only in (SubscriptionEvent("s", EVENT), AuthChallenge("c"), EndOfStoredEvents("s"), NoticeMessage("n")):
        with pytest.raises(RemoteProtocolError):
            parse_client_message(relay_only.to_text())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[]x",
        "\x00",
        "NaN",
        '["CLOSE","\\ud800"]',
        '["CLOSE","s",]',
        "[" * 100_000,
        '["REQ","s",' + '{"#t":' * 5_000 + "}" * 5_000 + "]",
        '["CLOSE","' + chr(0xD800) + '"]',
        b"\xff\xfe",
        b'["CLOSE","\xff"]',
        b"",
        '\ufeff["CLOSE","s"]',
    ],
    ids=lambda text: ascii(text)[:30],
)
@pytest.mark.parametrize("parse", PARSERS, ids=["client", "relay"])
def test_what_is_no_json_is_a_remote_error(parse: Callable[[str | bytes], object], text: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse(text)


types = st.sampled_from(
    ["EVENT", "REQ", "COUNT", "CLOSE", "AUTH", "OK", "EOSE", "CLOSED", "NOTICE", "NEG-OPEN", "NEG-MSG"]
)
parts = st.one_of(strategies.json_values, st.just("s"), strategies.damaged_events(), st.just(EVENT_OBJECT))


@given(st.builds(lambda name, rest: [name, *rest], types, st.lists(parts, max_size=4)))
def test_anything_behind_a_known_type_is_a_message_or_a_remote_error(message: list[Any]) -> None:
    text = json.dumps(message)
    for parse in PARSERS:
        try:
            parse(text)
        except RemoteProtocolError:
            continue


@given(strategies.text_with_surrogates | st.binary(max_size=80))
def test_any_text_is_a_remote_error(text: str | bytes) -> None:
    for parse in PARSERS:
        with pytest.raises(RemoteProtocolError):
            parse(text)


def test_a_number_too_big_for_64_bits_is_no_time() -> None:
    text = json.dumps(["EVENT", {**EVENT_OBJECT, "created_at": 2**70}])
    with pytest.raises(RemoteProtocolError):
        parse_client_message(text)


def test_a_message_with_a_lone_surrogate_is_not_written() -> None:
    with pytest.raises(LocalProtocolError, match="surrogates"):
        NoticeMessage(chr(0xD800)).to_text()


def test_no_error_repeats_what_came() -> None:
    secret = "the prompt nobody may see"
    for text in (json.dumps([secret, secret]), json.dumps(["NOTICE", secret, secret]), secret):
        for parse in PARSERS:
            with pytest.raises(RemoteProtocolError) as error:
                parse(text)
            assert secret not in str(error.value)
