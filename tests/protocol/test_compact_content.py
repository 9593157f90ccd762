"""Content laid out as we lay it out is read a short way, and decided exactly as everything else is."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import RemoteProtocolError
from relaymesh.protocol.content import _read_compact, check_content
from relaymesh.units import MAXIMUM_INTEGER

NUMBERS = (
    st.integers(-(2**70), 2**70)
    | st.sampled_from([MAXIMUM_INTEGER, MAXIMUM_INTEGER + 1, -MAXIMUM_INTEGER, -MAXIMUM_INTEGER - 1])
    | st.floats(allow_nan=False, allow_infinity=False)
)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=12) | st.sampled_from([":1.5", "[-0", ",1e5", '"'])
OBJECTS = st.dictionaries(
    st.text(max_size=4),
    st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)),
    max_size=4,
)


def _decide(text: str) -> object:
    try:
        return check_content(text)
    except RemoteProtocolError:
        return "refused"


@given(OBJECTS)
def test_a_text_is_decided_alike_with_and_without_a_blank_in_it(value: dict[str, object]) -> None:
    compact = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    assert _decide(compact) == _decide(" " + compact)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"a":{"b":1,"b":2}}',
        '{"a":1.5}',
        '{"a":[1.0]}',
        '{"a":1e5}',
        '{"a":-0}',
        '{"a":9007199254740992}',
        '{"a":-9007199254740992}',
        '{"a":"\\ud800"}',
        '{"a":' * 9 + "1" + "}" * 9,
        '{"a":' + "[" * 8 + "]" * 8 + "}",
        "[1]",
    ],
)
def test_compact_content_that_breaks_a_rule_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        check_content(text)


@pytest.mark.parametrize("text", ['{"a":9007199254740991}', '{"a":' * 8 + "1" + "}" * 8, '{"a":":1.5"}', '{"a":"é😀"}'])
def test_compact_content_at_the_edge_of_a_rule_is_read(text: str) -> None:
    assert check_content(text) == orjson.loads(text)


@pytest.mark.parametrize(
    "text",
    ['{"a":"38770:1e5f"}', '{"a":[":12345678901234567890",",1.5"]}', '{"a":"\\":1e5","b":"\\\\","c":":1.0"}'],
)
def test_what_only_looks_like_an_unusual_number_is_read_the_short_way(text: str) -> None:
    assert _read_compact(text.encode()) == json.loads(text)


@pytest.mark.parametrize("text", ['{"a":"\\\\","b":1e5}', '{"a":":","b":[1.0]}', '{"a":"x","b":12345678901234567890}'])
def test_an_unusual_number_behind_a_string_is_looked_at(text: str) -> None:
    assert _read_compact(text.encode()) is None
