"""Frames: greeting, layout, padding, parts; and that nothing malformed gets through or raises anything else."""

import contextlib

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.protocol.frames import (
    MAXIMUM_JSON_BYTES,
    MAXIMUM_MESSAGE_BYTES,
    MAXIMUM_PLAINTEXT_BYTES,
    PADDING_BYTES,
    Hello,
    PartAssembler,
    Ready,
    encode_parts,
    pack_plaintext,
    parse_hello,
    parse_ready,
    split_into_frames,
    unpack_plaintext,
)
from relaymesh.protocol.session_codec import decode_message, encode_message
from relaymesh.protocol.session_messages import (
    JobId,
    OutputMessage,
    PartMessage,
    PingMessage,
    SessionId,
    SessionMessage,
)
from tests.protocol.session_strategies import messages

JOB = JobId("ab" * 32)


def _plaintext(text: bytes, length: int | None = None, padding: bytes | None = None) -> bytes:
    length = len(text) if length is None else length
    padding = bytes(-(4 + len(text)) % PADDING_BYTES) if padding is None else padding
    return length.to_bytes(4) + text + padding


@given(st.lists(messages, min_size=1, max_size=8))
def test_messages_of_a_frame_come_out_in_order(batch: list[SessionMessage]) -> None:
    plaintexts = split_into_frames(map(encode_message, batch))
    assert len(plaintexts) == 1
    assert len(plaintexts[0]) % PADDING_BYTES == 0
    assert unpack_plaintext(plaintexts[0]) == batch


@settings(max_examples=30)
@given(st.lists(st.integers(1, 30_000), max_size=30))
def test_a_turn_with_more_than_a_frame_holds_takes_several(sizes: list[int]) -> None:
    batch: list[SessionMessage] = [OutputMessage(JOB, number, "x" * size) for number, size in enumerate(sizes)]
    plaintexts = split_into_frames(map(encode_message, batch))
    assert [message for plaintext in plaintexts for message in unpack_plaintext(plaintext)] == batch
    assert all(len(plaintext) <= MAXIMUM_PLAINTEXT_BYTES for plaintext in plaintexts)


def test_a_frame_says_nothing_of_a_short_tokens_length() -> None:
    short, long = (pack_plaintext([encode_message(OutputMessage(JOB, 1, data))]) for data in ("a", "a" * 100))
    assert len(short) == len(long) == PADDING_BYTES


def test_a_frame_holds_no_more_than_its_limit() -> None:
    with pytest.raises(LocalProtocolError):
        pack_plaintext([b"x" * (MAXIMUM_JSON_BYTES - 1)])
    assert len(pack_plaintext([b"x" * (MAXIMUM_JSON_BYTES - 2)])) == MAXIMUM_PLAINTEXT_BYTES


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        bytes(PADDING_BYTES - 1),
        bytes(PADDING_BYTES),
        _plaintext(b"[]"),
        _plaintext(b'{"PING":1}'),
        _plaintext(b'[["PING",1]]', length=11),
        _plaintext(b'[["PING",1]]', length=13),
        _plaintext(b'[["PING",1]]', length=10_000),
        _plaintext(b'[["PING",1]]', padding=b"\x01" + bytes(239)),
        _plaintext(b'[["PING",1]]', padding=bytes(239) + b"\x01"),
        _plaintext(b'[["PING",1],["NOTHING"]]'),
        _plaintext(b'[["PING",1],1]'),
        _plaintext(b"[" + b" " * MAXIMUM_PLAINTEXT_BYTES + b"]"),
    ],
    ids=range(13),
)
def test_a_malformed_frame_is_refused_whole(plaintext: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack_plaintext(plaintext)


@given(st.binary(max_size=300) | st.binary(max_size=600).map(_plaintext))
@example(_plaintext(b'[["PING",1]]'))
def test_random_plaintexts_are_read_or_refused(plaintext: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert unpack_plaintext(plaintext)


def test_more_padding_than_needed_is_allowed() -> None:
    padded = _plaintext(b'[["PING",1]]') + bytes(PADDING_BYTES)
    assert unpack_plaintext(padded) == [PingMessage(1)]


@settings(max_examples=30)
@given(st.text(min_size=1, max_size=50), st.integers(1, 12_000))
@example("\\", 600_000)
@example("𝄞\n", 150_000)
def test_a_long_message_travels_in_parts_and_comes_out_whole(text: str, times: int) -> None:
    data = text.encode(errors="replace").decode() * times
    message = OutputMessage(JOB, 0, data)
    parts = encode_parts(encode_message(message), 7)
    assert all(len(part) <= MAXIMUM_JSON_BYTES - 2 for part in parts)
    if len(parts) == 1:
        assert decode_message(parts[0]) == message
        return
    assembler = PartAssembler()
    whole: SessionMessage | None = None
    for part in map(decode_message, parts):
        assert whole is None
        assert isinstance(part, PartMessage)
        whole = assembler.add(part)
    assert whole == message


def test_a_message_beyond_two_mebibytes_or_64_parts_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError):
        encode_parts(b"x" * (MAXIMUM_MESSAGE_BYTES + 1), 0)
    # Quotes double inside a PART: what is short enough alone may still need too many of them.
    with pytest.raises(LocalProtocolError):
        encode_parts(b'"' * MAXIMUM_MESSAGE_BYTES, 0)


def _slices(total: int) -> list[PartMessage]:
    text = encode_message(PingMessage(123_456)).decode()
    size = -(-len(text) // total)
    return [PartMessage(1, index, total, text[index * size : (index + 1) * size]) for index in range(total)]


def test_parts_of_several_messages_may_be_interleaved() -> None:
    assembler = PartAssembler()
    first, second = _slices(2)
    other = PartMessage(2, 0, 2, '["BYE",')
    assert assembler.add(first) is None
    assert assembler.add(other) is None
    assert assembler.add(second) == PingMessage(123_456)


def test_parts_out_of_order_are_refused() -> None:
    first, second, third = _slices(3)
    for wrong in ([second], [first, first], [first, third], [first, PartMessage(1, 1, 2, second.text)]):
        assembler = PartAssembler()
        with pytest.raises(RemoteProtocolError):
            for part in wrong:
                assembler.add(part)


def test_parts_are_bounded_in_number_and_size() -> None:
    assembler = PartAssembler(maximum_incomplete=2)
    assembler.add(PartMessage(1, 0, 2, "x"))
    assembler.add(PartMessage(2, 0, 2, "x"))
    with pytest.raises(RemoteProtocolError):
        assembler.add(PartMessage(3, 0, 2, "x"))
    assembler = PartAssembler()
    with pytest.raises(RemoteProtocolError):
        for index in range(63):  # before the last one, so that it is its size that is refused
            assembler.add(PartMessage(1, index, 64, "x" * 60_000))


def test_a_part_holds_no_part() -> None:
    inner = encode_message(PartMessage(9, 0, 2, "x")).decode()
    assembler = PartAssembler()
    assembler.add(PartMessage(1, 0, 2, inner[:5]))
    with pytest.raises(RemoteProtocolError):
        assembler.add(PartMessage(1, 1, 2, inner[5:]))


def test_greetings_survive_the_wire() -> None:
    hello = Hello(SessionId("01" * 32), b"\x02" * 32, b"\x03" * 32)
    ready = Ready(b"\x04" * 32, b"\x05" * 32)
    assert hello.to_text() == '["HELLO","' + "01" * 32 + '","' + "02" * 32 + '","' + "03" * 32 + '"]'
    assert parse_hello(hello.to_text()) == hello
    assert ready.to_text() == '["READY","' + "04" * 32 + '","' + "05" * 32 + '"]'
    assert parse_ready(ready.to_text()) == ready


@pytest.mark.parametrize(
    "frame",
    [
        b'["HELLO"]',
        "",
        "[]",
        "HELLO",
        '["HELLO"]',
        '["READY","00","00"]',
        orjson.dumps(["HELLO", "01" * 32, "02" * 32, "03" * 31]).decode(),
        orjson.dumps(["HELLO", "01" * 32, "02" * 32, "0G" * 32]).decode(),
        orjson.dumps(["HELLO", "01" * 32, "02" * 32, 3]).decode(),
        orjson.dumps(["HELLO", "01" * 32, "02" * 32, "03" * 32, "04" * 32]).decode(),
        orjson.dumps(["hello", "01" * 32, "02" * 32, "03" * 32]).decode(),
        orjson.dumps(["HELLO", "01" * 32, "02" * 32, "03" * 32]).decode() + " " * 600,
        "[" * 400,
        '["HELLO","\\ud800"]',
    ],
    ids=range(14),
)
def test_a_connection_that_does_not_begin_with_its_greeting_is_refused(frame: bytes | str) -> None:
    for parse in (parse_hello, parse_ready):
        with pytest.raises(RemoteProtocolError):
            parse(frame)


@given(st.text(max_size=200) | st.binary(max_size=100))
def test_a_random_first_frame_is_refused(frame: bytes | str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_hello(frame)
