"""The event stream parser gives the same events however the network cuts the stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.adapters.server_sent_events import EventStreamParser, EventTooLarge

STREAM = (
    b"\xef\xbb\xbfdata: zero\n\n"
    b": a comment\r\n"
    b"event: message\ndata: one\nid: 7\n\n"
    b"data:two\r\ndata: lines\r\n\r\n"
    b"data: \xc3\xa9\xe2\x82\xac\r\r"
    b"retry: 10\n\n"
    b"data\n\n"
    b"data: three"
)
EVENTS = [b"zero", b"one", b"two\nlines", b"\xc3\xa9\xe2\x82\xac", b"three"]


@given(st.lists(st.integers(min_value=0, max_value=len(STREAM)), max_size=12).map(sorted))
def test_events_do_not_depend_on_where_the_stream_is_cut(cuts: list[int]) -> None:
    parser = EventStreamParser(1_000)
    events: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(STREAM)], strict=True):
        events += parser.feed(STREAM[start:end])
    assert events + parser.finish() == EVENTS


@given(st.lists(st.binary(max_size=64), max_size=20))
def test_no_bytes_raise_anything_but_too_large(pieces: list[bytes]) -> None:
    parser = EventStreamParser(100)
    try:
        for piece in pieces:
            parser.feed(piece)
        parser.finish()
    except EventTooLarge:
        pass


def test_a_stream_of_single_bytes_is_read() -> None:
    parser = EventStreamParser(1_000)
    events = [event for byte in STREAM for event in parser.feed(bytes([byte]))]
    assert events + parser.finish() == EVENTS


@pytest.mark.parametrize("piece", [b"x" * 40, b"data: y\n" * 8], ids=["one long line", "many data lines"])
def test_an_event_beyond_the_limit_is_refused_before_it_is_complete(piece: bytes) -> None:
    parser = EventStreamParser(100)
    with pytest.raises(EventTooLarge):
        for _ in range(16):
            parser.feed(piece)


def test_many_small_events_may_exceed_the_limit_together() -> None:
    parser = EventStreamParser(20)
    assert parser.feed(b"data: hello\n\n" * 100) == [b"hello"] * 100
