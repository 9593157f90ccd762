"""Negentropy's answering side: whatever two sides have, the asking one learns exactly what differs."""

import contextlib
import hashlib
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.errors import RemoteProtocolError
from relaymesh_relay.negentropy import FRAME_BYTES_AT_LEAST, Records, answer, encode_varint
from tests.relay.negentropy_client import INFINITY, AskingSide, Pair, fingerprint, varint

A, B, C = (bytes([byte]) * 32 for byte in (0xAA, 0xBB, 0xCC))
ROUNDS_AT_MOST = 200

ids = st.builds(bytes.__add__, st.binary(min_size=2, max_size=2), st.sampled_from([b"\x00" * 30, b"\xff" * 30]))
times = st.sampled_from([0, 1, 5, 2**40]) | st.integers(0, 2**53)
pairs = st.tuples(times, ids)


def records_of(pairs: Iterable[Pair]) -> Records:
    """Added as a search finds them: newest first, then by lowest id."""
    records = Records()
    for created_at, event_id in sorted(pairs, key=lambda each: (-each[0], each[1])):
        records.add(created_at, event_id)
    records.end()
    return records


def ask(records: Records, message: bytes, frame_bytes: int = 60_000) -> bytes:
    with contextlib.closing(answer(records, message, frame_bytes)) as steps:
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return bytes(end.value)


def compare(ours: set[Pair], theirs: set[Pair], frame_bytes: int = 60_000) -> AskingSide:
    """Let the asking side find out; every answer keeps within the frame."""
    asking, records = AskingSide(ours), records_of(theirs)
    message: bytes | None = asking.first()
    rounds = 0
    while message is not None:
        rounds += 1
        assert rounds <= ROUNDS_AT_MOST, "it does not come to an end"
        reply = ask(records, message, frame_bytes)
        assert len(reply) <= frame_bytes
        message = asking.go_on(reply)
    return asking


def many(count: int, start: int = 0, *, times: int = 2**40) -> set[Pair]:
    hashed = (hashlib.sha256(number.to_bytes(4)).digest() for number in range(start, start + count))
    return {(int.from_bytes(each[:5]) % times, each) for each in hashed}


@given(st.dictionaries(ids, st.tuples(times, st.integers(0, 9)), min_size=1, max_size=200))
@settings(max_examples=200)
def test_both_sides_differences_are_found_exactly(everything: dict[bytes, tuple[int, int]]) -> None:
    ours = {(created_at, event_id) for event_id, (created_at, where) in everything.items() if where != 1}
    theirs = {(created_at, event_id) for event_id, (created_at, where) in everything.items() if where != 2}
    asking = compare(ours, theirs)
    assert asking.missing_there == {each[1] for each in ours - theirs}
    assert asking.missing_here == {each[1] for each in theirs - ours}


@pytest.mark.parametrize("times", [1, 7, 2**40])
@pytest.mark.parametrize("frame_bytes", [FRAME_BYTES_AT_LEAST, 60_000])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(3_000, 3_000), (3_000, 2_990), (2_900, 3_000), (0, 3_000), (3_000, 0), (0, 0)]
)
def test_large_sets_are_compared_within_small_frames(ours: int, theirs: int, frame_bytes: int, times: int) -> None:
    here, there = many(ours, times=times), many(theirs, start=5 if ours else 0, times=times)
    asking = compare(here, there, frame_bytes)
    assert asking.missing_there == {each[1] for each in here - there}
    assert asking.missing_here == {each[1] for each in there - here}


@given(st.integers(0, 2**64))
def test_numbers_are_written_as_they_are_read(value: int) -> None:
    assert encode_varint(value) == varint(value)


@given(st.sets(pairs, max_size=100), st.integers(0, 100), st.integers(0, 100))
def test_the_fingerprint_of_any_range_is_the_digest_of_its_records(some: set[Pair], one: int, other: int) -> None:
    lower, upper = sorted(min(each, len(some)) for each in (one, other))
    records = records_of(some)
    assert [records[position] for position in range(len(some))] == [
        created_at.to_bytes(8) + event_id for created_at, event_id in sorted(some)
    ]
    assert records.fingerprint(lower, upper) == fingerprint(sorted(some)[lower:upper])


def test_vectors() -> None:
    """By hand, from the text of NIP-77."""
    records = records_of({(0, A), (1, B)})
    everything = b"\x61" + b"\x00\x00\x02\x00"  # infinity, no id, a list of no ids
    assert ask(records, everything) == b"\x61" + b"\x00\x00\x02\x02" + A + B
    assert ask(records, b"\x61") == b"\x61"
    assert ask(records, b"\x61\x02\x00\x02\x00") == b"\x61\x02\x00\x02\x01" + A  # below time 1
    assert ask(records, b"\x61\x02\x01\xbb\x02\x00\x00\x00\x02\x00") == b"\x61\x02\x01\xbb\x02\x01" + A + (
        b"\x00\x00\x02\x01" + B
    )
    assert ask(records, b"\x61\x02\x00\x00\x00\x00\x02\x00") == b"\x61\x02\x00\x00\x00\x00\x02\x01" + B
    same = bytes.fromhex("61000001") + fingerprint([(0, A), (1, B)])
    assert ask(records, same) == b"\x61"
    assert records_of(set()).fingerprint(0, 0).hex() == "7f9c9e31ac8256ca2f258583df262dbc"  # SHA-256 of 33 zeros


@pytest.mark.parametrize("version", [0x60, 0x62, 0x6F])
def test_another_version_is_answered_with_ours(version: int) -> None:
    assert ask(records_of(set()), bytes([version]) + b"whatever") == b"\x61"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x00",
        b"\x5f",
        b"\x70",
        b"\x61\x00",
        b"\x61\x00\x00",
        b"\x61\x80",
        b"\x61" + b"\x81" * 10 + b"\x00",
        b"\x61\x00\x21" + b"\x00" * 33 + b"\x00",
        b"\x61\x00\x02\x00",
        b"\x61\x00\x00\x03",
        b"\x61\x00\x00\x01" + b"\x00" * 15,
        b"\x61\x00\x00\x02\x02" + b"\x00" * 63,
        b"\x61\x00\x00\x02" + b"\xff" * 9 + b"\x7f",
        b"\x61" + varint(INFINITY + 1) + b"\x00\x00",
        b"\x61\x00\x00\x00\x01\x00\x00" + b"\x02\x00\x00",
    ],
)
def test_what_does_not_follow_the_protocol_is_a_remote_error(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        ask(records_of({(0, A), (1, B), (1, C)}), message)


@given(st.binary(max_size=200), st.sets(pairs, max_size=50))
def test_anything_is_answered_or_a_remote_error(rest: bytes, theirs: set[Pair]) -> None:
    try:
        reply = ask(records_of(theirs), b"\x61" + rest)
    except RemoteProtocolError:
        return
    AskingSide(set()).go_on(reply)


def test_there_is_a_pause_after_every_range() -> None:
    question = b"\x61" + b"\x01\x00\x00" * 50
    assert len(list(answer(records_of({(0, A)}), question, 60_000))) == 50
