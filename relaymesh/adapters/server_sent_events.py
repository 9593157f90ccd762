"""Server-sent events, read incrementally from whatever pieces the network brings.

WHATWG HTML, "Server-sent events". Model servers stream their answers in this shape. Only the `data` field matters
here; comments, `event`, `id` and `retry` are passed over. What a server can make us hold is bounded.
"""

import re
from typing import Final

LINE_END: Final = re.compile(rb"\r\n|\n|\r")
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """One event is larger than the parser was told to hold."""


class EventStreamParser:
    """Turns pieces of an event stream into the `data` of its complete events.

    Args:
        maximum_event_bytes: An event (or an unfinished line) beyond this raises `EventTooLarge`.
    """

    def __init__(self, maximum_event_bytes: int) -> None:
        self._maximum_event_bytes = maximum_event_bytes
        self._unfinished = b""
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._at_start = True
        self._is_overfull = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of every event that `piece` completes, in order; usually one, often none.

        Raises:
            EventTooLarge: What is unfinished is too large; events that were complete before it came are given first.
        """
        self._check()
        text = self._unfinished + piece
        if self._at_start and len(text) >= len(BYTE_ORDER_MARK):
            text = text.removeprefix(BYTE_ORDER_MARK)
            self._at_start = False
        # A carriage return at the very end may be the first half of a line end: it waits for what follows.
        held_back = b"\r" if text.endswith(b"\r") else b""
        *lines, unfinished = LINE_END.split(text[: len(text) - len(held_back)])
        self._unfinished = unfinished + held_back
        events = self._take_lines(lines)
        self._is_overfull |= len(self._unfinished) + self._data_bytes > self._maximum_event_bytes
        if not events:
            self._check()
        return events

    def finish(self) -> list[bytes]:
        """The data of an event whose closing blank line never came, because the stream ended there."""
        self._check()
        lines = [self._unfinished.removesuffix(b"\r"), b""]
        self._unfinished = b""
        return self._take_lines(lines)

    def _check(self) -> None:
        if self._is_overfull:
            raise EventTooLarge(f"expected events of at most {self._maximum_event_bytes} bytes, a larger one came")

    def _take_lines(self, lines: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        for line in lines:
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data, self._data_bytes = [], 0
            elif line.startswith(b"data:"):
                value = line[6:] if line[5:6] == b" " else line[5:]
                self._data_bytes += len(value)
                if self._data_bytes > self._maximum_event_bytes:
                    self._is_overfull = True
                    break
                self._data.append(value)
        return events
