"""Events, packed: what comes out is what went in, to the byte."""

from hypothesis import given
from hypothesis import strategies as st

from relaymesh.nostr.event import UnsignedEvent
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.nostr.packed_event import pack, unpack
from relaymesh.units import Timestamp

KEY = KeyPair(bytes(31) + b"\x07")
words = st.text(st.characters(codec="utf-8"), max_size=20)
tags = st.lists(st.lists(words, min_size=1, max_size=4).map(tuple), max_size=4).map(tuple)


@given(st.integers(0, 2**53 - 1).map(Timestamp), st.integers(0, 65_535), tags, words)
def test_an_event_comes_out_as_it_went_in(
    created_at: Timestamp, kind: int, event_tags: tuple[tuple[str, ...], ...], content: str
) -> None:
    event = KEY.sign(UnsignedEvent(KEY.public_key, created_at, kind, event_tags, content))
    packed = pack(event)
    assert unpack(packed) == event
    assert unpack(packed).compute_id() == packed[:32].hex() == verify(event).id
