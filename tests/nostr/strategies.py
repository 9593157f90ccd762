"""What the tests of floor 0 draw from: text with every trap in it, JSON of any shape, keys and events."""

from typing import Any

from hypothesis import strategies as st

from relaymesh.nostr.event import MAXIMUM_CREATED_AT, MAXIMUM_KIND, Event, UnsignedEvent
from relaymesh.nostr.keys import CURVE_ORDER, KeyPair
from relaymesh.units import Timestamp

TRICKY_CHARACTERS = (
    [chr(code) for code in range(0x20)]  # all that JSON must escape
    + list("\"\\/<>&'")
    + ["\x7f", "\x80", "\x9f", "\u2028", "\u2029", "\ufeff", "\ufffe", "\uffff", "\U0001f600", "\U0010ffff", "e\u0301"]
)

text = st.text(
    st.one_of(st.sampled_from([each for each in TRICKY_CHARACTERS if len(each) == 1]), st.characters(codec="utf-8")),
    max_size=80,
)
text_with_surrogates = st.text(st.characters(exclude_categories=()), max_size=80)
hex_32 = st.binary(min_size=32, max_size=32).map(bytes.hex)
integers = st.integers() | st.sampled_from([2**31, 2**53 - 1, 2**53, 2**63, 2**64 - 1, 2**64, -(2**63) - 1])

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | integers | st.floats() | text_with_surrogates | hex_32,
    lambda children: st.lists(children, max_size=5) | st.dictionaries(text_with_surrogates, children, max_size=5),
    max_leaves=15,
)

key_pairs = st.integers(1, CURVE_ORDER - 1).map(lambda number: KeyPair(number.to_bytes(32)))
relay_urls = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["ws", "wss", "WSS"]),
    st.text("abcxyz019-.", max_size=20).map(lambda middle: f"r{middle}9") | st.sampled_from(["[::1]", "127.0.0.1"]),
    st.sampled_from(["", ":80", ":443", ":7777", ":65535"]),
    st.sampled_from(["", "/", "/inbox", "/a/b/", "?key=1"]),
)

tags = st.lists(st.lists(text, min_size=1, max_size=4).map(tuple), max_size=5).map(tuple)


@st.composite
def unsigned_events(draw: st.DrawFn, key_pair: KeyPair) -> UnsignedEvent:
    """An event by this author, with anything in it that NIP-01 allows."""
    return UnsignedEvent(
        key_pair.public_key,
        Timestamp(draw(st.integers(0, MAXIMUM_CREATED_AT))),
        draw(st.integers(0, MAXIMUM_KIND)),
        draw(tags),
        draw(text),
    )


@st.composite
def signed_events(draw: st.DrawFn) -> Event:
    """A whole event with a true id and signature, as it comes off the wire: not yet verified."""
    key_pair = draw(key_pairs)
    event = key_pair.sign(draw(unsigned_events(key_pair)))
    return Event(event.public_key, event.created_at, event.kind, event.tags, event.content, event.id, event.signature)


@st.composite
def damaged_events(draw: st.DrawFn) -> dict[str, Any]:
    """An event's JSON object with one or two fields left out or replaced by anything."""
    value = draw(signed_events()).to_json()
    for name in draw(st.lists(st.sampled_from(sorted(value)), min_size=1, max_size=2, unique=True)):
        if draw(st.booleans()):
            del value[name]
        else:
            value[name] = draw(json_values)
    return value
