"""One connection's machine: whatever comes in, what goes out is a message of the protocol or nothing."""

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.nostr.filters import Filter
from relaymesh.nostr.messages import ClosedMessage, EventMessage, NoticeMessage, OkMessage, parse_relay_message
from relaymesh.units import Instant, Moment
from relaymesh_relay.connection import Compare, Connection, Count, Subscribe, Unsubscribe
from relaymesh_relay.settings import Limits, Rates, Settings
from tests.nostr import strategies
from tests.relay.client import sign

SHIPPED = Settings()
NOW = Moment(Instant(0), 1_750_000_000_000)


def connect(chosen: Settings = SHIPPED, *, is_exempt: bool = True) -> Connection:
    return Connection(
        chosen, address="192.0.2.1", relay_urls=("ws://relay.example",), challenge="c", is_exempt=is_exempt, now=NOW
    )


def text(*message: Any) -> bytes:
    return orjson.dumps(message)


def damaged(message: bytes, position: int, byte: int) -> bytes:
    return message[: position % len(message)] + bytes([byte]) + message[position % len(message) + 1 :]


requests = st.tuples(
    st.sampled_from(["REQ", "COUNT", "EVENT", "CLOSE", "AUTH", "NOTICE", "NEG-OPEN", "NEG-MSG", ""]),
    strategies.json_values,
    st.dictionaries(
        st.sampled_from(["ids", "authors", "kinds", "#e", "#t", "since", "until", "limit", "search"]),
        strategies.json_values,
    ),
).map(list)


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")  # also what orjson refuses: NaN, surrogates, huge numbers


hostile = st.one_of(
    st.binary(max_size=300),
    strategies.json_values.map(dumps),
    st.lists(strategies.json_values, max_size=4).map(dumps),
    requests.map(dumps),
    strategies.damaged_events().map(lambda event: dumps(["EVENT", event])),
    st.builds(damaged, st.just(text("EVENT", sign().to_json())), st.integers(0, 1_000), st.integers(0, 255)),
    st.integers(1, 3_000).map(lambda depth: b"[" * depth + b"]" * depth),
)


@given(st.lists(hostile, max_size=5))
@settings(max_examples=120)
def test_whatever_comes_in_only_messages_of_the_protocol_go_out(texts: list[bytes]) -> None:
    connection = connect()
    for each in texts:
        for effect in connection.receive(each, NOW):
            assert isinstance(effect, EventMessage | Subscribe | Count | Unsubscribe | Compare)
    for message in connection.outgoing:
        if orjson.loads(message)[0] == "NEG-ERR":
            continue
        assert isinstance(parse_relay_message(message), OkMessage | ClosedMessage | NoticeMessage)


def test_messages_become_effects() -> None:
    connection = connect()
    event = sign()
    match connection.receive(text("EVENT", event.to_json()), NOW):
        case (EventMessage(submitted),):
            assert submitted.to_json() == event.to_json()
        case other:
            pytest.fail(f"not one submission: {other}")
    assert connection.receive(text("REQ", "q", {"kinds": [1]}), NOW) == (Subscribe("q", (Filter(kinds=(1,)),)),)
    assert connection.receive(text("COUNT", "q", {}, {}), NOW) == (Count("q", (Filter(), Filter())),)
    assert connection.receive(text("CLOSE", "q"), NOW) == (Unsubscribe("q"),)
    assert connection.outgoing == []


@pytest.mark.parametrize(
    ("limits", "message", "prefix"),
    [
        (Limits(filters=2), ["REQ", "q", {}, {}, {}], "invalid:"),
        (Limits(filters=2), ["COUNT", "q", {}, {}, {}], "invalid:"),
        (Limits(filter_values=3), ["REQ", "q", {"kinds": [1, 2], "#t": ["a", "b"]}], "invalid:"),
        (Limits(subscription_id_characters=3), ["REQ", "long", {}], "invalid:"),
        (Limits(subscriptions=0), ["REQ", "q", {}], "rate-limited:"),
    ],
)
def test_a_request_beyond_a_limit_is_closed_with_a_reason(limits: Limits, message: list[Any], prefix: str) -> None:
    connection = connect(Settings(limits=limits))
    assert connection.receive(text(*message), NOW) == ()
    closed = parse_relay_message(connection.outgoing[0])
    assert isinstance(closed, ClosedMessage) and closed.message.startswith(prefix)
    assert closed.subscription_id == message[1]


def test_an_open_subscription_can_be_replaced_when_no_further_may_be_opened() -> None:
    connection = connect(Settings(limits=Limits(subscriptions=1)))
    connection.open_subscriptions["q"] = object()
    assert connection.receive(text("REQ", "q", {}), NOW)
    assert not connection.receive(text("REQ", "other", {}), NOW)


def test_too_many_events_are_refused_until_time_has_passed() -> None:
    rates = Rates(events_per_second=1, events_burst=2)
    connection = connect(Settings(rates=rates), is_exempt=False)
    message = text("EVENT", sign().to_json())
    assert [len(connection.receive(message, NOW)) for _ in range(3)] == [1, 1, 0]
    refused = parse_relay_message(connection.outgoing[0])
    assert isinstance(refused, OkMessage) and not refused.accepted and refused.message.startswith("rate-limited:")
    later = replace(NOW, instant=NOW.after_ms(1_000))
    assert [len(connection.receive(message, later)) for _ in range(2)] == [1, 0]


def test_too_many_requests_are_refused() -> None:
    connection = connect(Settings(rates=Rates(requests_per_second=1, requests_burst=1)), is_exempt=False)
    assert connection.receive(text("REQ", "q", {}), NOW)
    assert not connection.receive(text("COUNT", "q", {}), NOW)
    closed = parse_relay_message(connection.outgoing[0])
    assert isinstance(closed, ClosedMessage) and closed.message.startswith("rate-limited:")


def test_an_exempt_connection_has_no_rate() -> None:
    rates = Rates(events_per_second=1, events_burst=1, requests_per_second=1, requests_burst=1)
    connection = connect(Settings(rates=rates), is_exempt=True)
    for _ in range(5):
        assert connection.receive(text("REQ", "q", {}), NOW)
        assert connection.receive(text("EVENT", sign().to_json()), NOW)
