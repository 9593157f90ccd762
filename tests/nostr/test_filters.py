"""Which events a filter matches, and which filters are understood (NIP-01)."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import Event, EventId, PublicKey, UnsignedEvent
from relaymesh.nostr.filters import Filter, parse_filter
from relaymesh.nostr.keys import KeyPair
from relaymesh.units import Timestamp
from tests.nostr import strategies

ALICE = KeyPair(bytes(31) + b"\x01")
EVENT = ALICE.sign(
    UnsignedEvent(
        ALICE.public_key,
        Timestamp(1_000),
        38_770,
        (("t", "relaymesh"), ("m", "one", "two"), ("m", "three"), ("d",), ("alt", "text"), ("", "empty")),
        "",
    )
)
OTHER = "0" * 64

letters = st.sampled_from("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
lists_of_hex = st.lists(strategies.hex_32, max_size=3)
filter_objects: st.SearchStrategy[dict[str, Any]] = st.builds(
    lambda fixed, tags, hex_tags: {**fixed, **tags, **hex_tags},
    st.fixed_dictionaries(
        {},
        optional={
            "ids": lists_of_hex,
            "authors": lists_of_hex,
            "kinds": st.lists(st.integers(0, 65_535), max_size=3),
            "since": st.integers(0, 2**53 - 1),
            "until": st.integers(0, 2**53 - 1),
            "limit": st.integers(0, 5_000),
        },
    ),
    st.dictionaries(
        letters.filter(lambda letter: letter not in "ep").map("#{}".format),
        st.lists(strategies.text, max_size=3),
        max_size=3,
    ),
    st.dictionaries(st.sampled_from(["#e", "#p"]), lists_of_hex, max_size=2),
)


def by_the_book(filter_object: dict[str, Any], event: Event) -> bool:
    """NIP-01's sentences, one after the other, on the JSON objects themselves."""
    value = event.to_json()
    for name, wanted in filter_object.items():
        if name.startswith("#"):
            met = any(tag[0] == name[1] and tag[1:2] and tag[1] in wanted for tag in value["tags"])
        elif name in ("ids", "authors", "kinds"):
            met = value[{"ids": "id", "authors": "pubkey", "kinds": "kind"}[name]] in wanted
        elif name == "since":
            met = value["created_at"] >= wanted
        elif name == "until":
            met = value["created_at"] <= wanted
        else:
            met = name == "limit"
        if not met:
            return False
    return True


@st.composite
def filters_near(draw: st.DrawFn, event: Event) -> dict[str, Any]:
    """A filter each of whose conditions meets the event about every second time."""
    near: dict[str, st.SearchStrategy[Any]] = {
        "ids": st.lists(st.sampled_from([event.id, OTHER]), max_size=2),
        "authors": st.lists(st.sampled_from([event.public_key, OTHER]), max_size=2),
        "kinds": st.lists(st.sampled_from([event.kind, 7]), max_size=2),
        "since": st.integers(event.created_at - 1, event.created_at + 1),
        "until": st.integers(event.created_at - 1, event.created_at + 1),
        "limit": st.integers(0, 1),
        "#t": st.lists(st.sampled_from(["relaymesh", "other"]), max_size=2),
        "#m": st.lists(st.sampled_from(["one", "two", "three"]), max_size=2),
        "#d": st.lists(st.sampled_from(["", "main"]), max_size=2),
    }
    names = draw(st.lists(st.sampled_from(sorted(near)), max_size=4, unique=True))
    return {name: draw(near[name]) for name in names}


@given(filters_near(EVENT))
def test_a_filter_matches_what_nip_01_says(value: dict[str, Any]) -> None:
    assert parse_filter(value).matches(EVENT) == by_the_book(value, EVENT)


@given(filter_objects, strategies.signed_events())
def test_any_filter_agrees_with_the_book_on_any_event(value: dict[str, Any], event: Event) -> None:
    assert parse_filter(value).matches(event) == by_the_book(value, event)


@given(filter_objects)
def test_a_filter_survives_the_way_over_the_wire(value: dict[str, Any]) -> None:
    assert parse_filter(value).to_json() == value
    assert parse_filter(parse_filter(value).to_json()) == parse_filter(value)


def test_the_empty_filter_matches_everything() -> None:
    assert Filter().matches(EVENT)
    assert Filter().to_json() == {}


@pytest.mark.parametrize("name", ["ids", "authors", "kinds", "#t", "#e"])
def test_an_empty_list_matches_nothing(name: str) -> None:
    assert not parse_filter({name: []}).matches(EVENT)


def test_only_the_first_value_of_a_tag_counts() -> None:
    assert Filter(tags=(("m", ("one",)),)).matches(EVENT)
    assert Filter(tags=(("m", ("three",)),)).matches(EVENT)
    assert not Filter(tags=(("m", ("two",)),)).matches(EVENT)
    assert not Filter(tags=(("d", ("",)),)).matches(EVENT)


def test_each_of_several_tags_must_be_met() -> None:
    assert Filter(tags=(("m", ("one", "x")), ("t", ("relaymesh",)))).matches(EVENT)
    assert not Filter(tags=(("m", ("one",)), ("t", ("other",)))).matches(EVENT)


def test_the_bounds_of_time_belong_to_the_filter() -> None:
    at = EVENT.created_at
    assert Filter(since=at, until=at).matches(EVENT)
    assert not Filter(since=Timestamp(at + 1)).matches(EVENT)
    assert not Filter(until=Timestamp(at - 1)).matches(EVENT)


def test_a_limit_is_no_condition_on_an_event() -> None:
    assert Filter(limit=0).matches(EVENT)


def test_filters_are_equal_by_their_conditions_and_can_be_copied_with_changes() -> None:
    one = Filter(kinds=(1, 2), authors=(PublicKey(OTHER),))
    assert one == Filter(kinds=(1, 2), authors=(PublicKey(OTHER),))
    assert hash(one) == hash(Filter(kinds=(1, 2), authors=(PublicKey(OTHER),)))
    assert one != Filter(kinds=(2, 1), authors=(PublicKey(OTHER),))
    changed = replace(one, kinds=(38_770,), authors=None, ids=(EventId(EVENT.id),))
    assert changed.matches(EVENT)
    assert "_kinds" not in repr(changed)


def test_an_end_beyond_all_time_means_the_last_possible_second() -> None:
    assert parse_filter({"until": 2**64 - 1}).until == 2**53 - 1


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "filter",
        {"ids": None},
        {"ids": "a" * 64},
        {"ids": ["a" * 63]},
        {"ids": ["A" * 64]},
        {"ids": [None]},
        {"authors": ["npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg"]},
        {"authors": ["ab"]},
        {"#e": ["x"]},
        {"#p": ["x"]},
        {"#P2": ["x"]},
        {"#": ["x"]},
        {"#é": ["x"]},
        {"#1": ["x"]},
        {"##": ["x"]},
        {"#t": "x"},
        {"#t": [1]},
        {"#t": [None]},
        {"kinds": 1},
        {"kinds": [1.0]},
        {"kinds": [True]},
        {"kinds": [-1]},
        {"kinds": [65_536]},
        {"kinds": ["1"]},
        {"since": "1"},
        {"since": -1},
        {"since": 1.5},
        {"since": True},
        {"since": None},
        {"since": 2**53},
        {"until": -1},
        {"until": 1e300},
        {"limit": -1},
        {"limit": None},
        {"limit": 2**64},
        {"search": "x"},
        {"&t": ["x"]},
        {"": []},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_since_it_would_match_too_much(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_filter(value)


@given(strategies.json_values)
def test_any_json_is_a_filter_or_a_remote_error(value: Any) -> None:
    try:
        parsed = parse_filter(value)
    except RemoteProtocolError:
        return
    assert parsed.to_json() == value


@given(filter_objects, st.data())
def test_a_damaged_filter_is_a_filter_all_the_same_or_a_remote_error(
    value: dict[str, Any], data: st.DataObject
) -> None:
    assume(value)
    name = data.draw(st.sampled_from(sorted(value)))
    value[name] = data.draw(strategies.json_values)
    try:
        parsed = parse_filter(value)
    except RemoteProtocolError:
        return
    assert parsed.to_json().keys() == value.keys()
