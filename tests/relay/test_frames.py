"""Frames are read and written as `websockets` alone would read and write them, however the bytes are cut."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from relaymesh_relay.frames import FrameReader, text_frame

LIMIT: Final = 300
HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
short = st.binary(max_size=20)
bodies = short | short | st.binary(min_size=120, max_size=130) | st.binary(min_size=LIMIT - 2, max_size=LIMIT + 2)
whole_texts = st.builds(Frame, st.just(Opcode.TEXT), bodies)
pieces = st.builds(Frame, st.sampled_from([Opcode.TEXT, Opcode.CONT, Opcode.BINARY]), bodies, st.booleans())
controls = st.builds(Frame, st.sampled_from([Opcode.PING, Opcode.PONG]), st.binary(max_size=10))
closes = st.just(Frame(Opcode.CLOSE, Close(CloseCode.NORMAL_CLOSURE, "").serialize()))
frames = st.builds(lambda frame: frame.serialize(mask=True), whole_texts | whole_texts | pieces | controls | closes)
unmasked = whole_texts.map(lambda frame: frame.serialize(mask=False))
whole = st.lists(frames | frames | frames | frames | unmasked, min_size=1, max_size=8).map(b"".join)
# What is malformed is noticed once it is whole, so something must follow.
malformed = st.tuples(whole, st.binary(max_size=20), whole, st.just(bytes(2 * LIMIT))).map(b"".join)
streams = whole | malformed


def open_websocket(limit: int = LIMIT) -> ServerProtocol:
    websocket = ServerProtocol(max_size=limit)
    websocket.receive_data(HANDSHAKE)
    (request,) = websocket.events_received()
    websocket.send_response(websocket.accept(request))  # type: ignore[arg-type]  # the only event there can be
    websocket.data_to_send()
    return websocket


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in pairwise(edges)]


@settings(max_examples=1_000)
@given(streams, st.lists(st.integers(0, 2_000), max_size=6))
def test_whatever_comes_is_read_as_the_machine_alone_would_read_it(stream: bytes, places: list[int]) -> None:
    alone, helped = open_websocket(), open_websocket()
    reader = FrameReader(helped)
    read: list[tuple[Opcode, bytes, bool]] = []
    for data in cut(stream, places):
        for text in reader.receive(data):
            if text is None:
                read += [_tell(frame) for frame in helped.events_received() if isinstance(frame, Frame)]
            else:
                read.append((Opcode.TEXT, text, True))
    alone.receive_data(stream)
    assert read == [_tell(frame) for frame in alone.events_received() if isinstance(frame, Frame)]
    assert helped.state is alone.state
    assert helped.data_to_send() == alone.data_to_send()


def _tell(frame: Frame) -> tuple[Opcode, bytes, bool]:
    return frame.opcode, bytes(frame.data), frame.fin


def test_the_machine_has_no_part_in_whole_text_messages_of_any_length() -> None:
    websocket, lengths = open_websocket(70_000), (0, 1, 125, 126, 127, 65_535, 65_536, 70_000)
    stream = b"".join(Frame(Opcode.TEXT, b"x" * length).serialize(mask=True) for length in lengths)
    assert list(FrameReader(websocket).receive(stream)) == [b"x" * length for length in lengths]
    assert websocket.state is State.OPEN and not websocket.events_received()


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
def test_frames_are_those_of_the_standard(length: int) -> None:
    message = b"x" * length
    assert text_frame(message) == Frame(Opcode.TEXT, message).serialize(mask=False)
