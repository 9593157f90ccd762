"""WebSocket frames: whole text messages are read and written here, everything else is left to `websockets`.

Hardly anything else passes a relay, and there a frame was a fifth of what a duplicate costs. The other machine is given
whole frames only, as they came and in order, so that it always stands between two of them; and from the first that it
would refuse on its header alone, everything.
"""

from collections.abc import Iterator
from typing import Final

from websockets.protocol import State
from websockets.server import ServerProtocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # where websockets was built without a compiler
    from websockets.utils import apply_mask

_WHOLE_TEXT: Final = 0x81
_MASKED: Final = 0x80
_FIRST_BYTES: Final = 2
_MASK_BYTES: Final = 4
_LENGTH_BYTES: Final = {126: 2, 127: 8}


class FrameReader:
    """Splits what a client sends into frames (RFC 6455, section 5.2).

    Args:
        websocket: The machine for all that is not a whole text message; its handshake is done.
    """

    __slots__ = ("_rest", "_wanted", "_websocket")

    def __init__(self, websocket: ServerProtocol) -> None:
        self._websocket = websocket
        self._rest = bytearray()
        self._wanted = 0

    def receive(self, data: bytes) -> Iterator[bytes | None]:
        """The text messages that `data` completes; None each time that the machine has taken something in."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data = bytes(self._rest)
            self._rest.clear()
        start, size = 0, len(data)
        while start < size:
            body, end = self._measure(data, start)
            if end > size:
                self._rest += data[start:]
                self._wanted = end - start
                return
            if data[start] == _WHOLE_TEXT and body and self._websocket.current_size is None:  # no message in pieces
                yield apply_mask(data[body:end], data[body - _MASK_BYTES : body])
            else:
                self._websocket.receive_data(data[start:end])
                yield None
            start = end

    def _measure(self, data: bytes, start: int) -> tuple[int, int]:
        """Where the body of a frame begins and where it ends, or how far it must be read to know.

        The body begins at 0 where the machine is to have all there is.
        """
        header = start + _FIRST_BYTES
        if len(data) < header:
            return 0, header
        second = data[start + 1]
        if second < _MASKED or self._websocket.state is not State.OPEN:
            return 0, len(data)
        length = second - _MASKED
        if length in _LENGTH_BYTES:
            first, header = header, header + _LENGTH_BYTES[length]
            if len(data) < header:
                return 0, header
            length = int.from_bytes(data[first:header])
        if length > self._longest:
            return 0, len(data)
        return header + _MASK_BYTES, header + _MASK_BYTES + length

    @property
    def _longest(self) -> int:
        longest = self._websocket.max_message_size
        assert longest is not None  # the relay always sets one
        return longest


def text_frame(message: bytes) -> bytes:
    """A whole text message in one unmasked frame (RFC 6455, section 5.2); a relay sends hardly anything else."""
    length = len(message)
    if length < 126:
        return b"\x81%c%b" % (length, message)
    if length < 65_536:
        return b"\x81\x7e%b%b" % (length.to_bytes(2), message)
    return b"\x81\x7f%b%b" % (length.to_bytes(8), message)
