"""Negentropy, version 1: which ids has one side that the other has not? (NIP-77, "Appendix")

Both sides cut the time line into ranges and send each other a fingerprint of each; where fingerprints differ the range
is cut again, until it is small enough to send its ids. This is the answering side, without I/O; it learns nothing.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Generator
from enum import IntEnum
from typing import Final

from relaymesh.errors import RemoteProtocolError

PROTOCOL_VERSION: Final = 0x61
FRAME_BYTES_AT_LEAST: Final = 4_096
"""Below it an answer might get no further than the question."""
ID_BYTES: Final = 32
FINGERPRINT_BYTES: Final = 16

_VERSIONS: Final = range(0x60, 0x70)
_KEY_BYTES: Final = 8 + ID_BYTES
_SUMMED_AT_ONCE: Final = 16
_MODULUS: Final = 1 << 256
_DIGITS_AT_MOST: Final = 10
_INFINITY: Final = 2**64 - 1
_INFINITE_BOUND: Final = b"\xff" * 8
_PARTS: Final = 16
_IDS_SENT_AT_ONCE: Final = 2 * _PARTS
_SPLIT_BYTES_AT_MOST: Final = 1_280  # 31 ids or 16 fingerprints with their bounds, a skip before, a fingerprint behind


class Mode(IntEnum):
    """What a range carries."""

    SKIP = 0
    FINGERPRINT = 1
    ID_LIST = 2


class Records:
    """What one side has: 40 bytes for each record, its timestamp and its id, which sort as the records do.

    They are added in the order in which searches find them, newest first and then by lowest id, and are looked at in
    the order of the protocol, oldest first and then by lowest id. Sums of every 16 ids are kept beside, so that the
    fingerprint of any range costs the same.
    """

    def __init__(self) -> None:
        self._keys = bytearray()  # newest first, then by highest id
        self._of_one_time: list[bytes] = []
        self._sums = [0]

    def __len__(self) -> int:
        return len(self._keys) // _KEY_BYTES

    def __getitem__(self, position: int) -> bytes:
        start = len(self._keys) - (position + 1) * _KEY_BYTES
        return bytes(self._keys[start : start + _KEY_BYTES])

    def add(self, created_at: int, event_id: bytes) -> None:
        """One more; it counts once one of another time follows, or the `end`."""
        key = created_at.to_bytes(8) + event_id
        if self._of_one_time and self._of_one_time[-1][:8] != key[:8]:
            self.end()
        self._of_one_time.append(key)

    def end(self) -> None:
        """No more records of the latest time follow."""
        for key in reversed(self._of_one_time):
            self._keys += key
            if len(self) % _SUMMED_AT_ONCE == 0:
                self._sums.append((self._sums[-1] + self._sum_of(len(self) - _SUMMED_AT_ONCE, len(self))) % _MODULUS)
        self._of_one_time.clear()

    def find(self, bound: bytes, lowest: int) -> int:
        """The position of the first record, from `lowest` on, that is not below this bound."""
        return bisect_left(self, bound, lowest)

    def fingerprint(self, lower: int, upper: int) -> bytes:
        """The digest of the records from position `lower` to `upper`, the latter not included."""
        stored = len(self) - upper, len(self) - lower
        total = (self._sum_below(stored[1]) - self._sum_below(stored[0])) % _MODULUS
        return hashlib.sha256(total.to_bytes(32, "little") + encode_varint(upper - lower)).digest()[:FINGERPRINT_BYTES]

    def _sum_below(self, stored: int) -> int:
        block = stored // _SUMMED_AT_ONCE
        return self._sums[block] + self._sum_of(block * _SUMMED_AT_ONCE, stored)

    def _sum_of(self, first: int, end: int) -> int:
        starts = range(first * _KEY_BYTES + 8, end * _KEY_BYTES, _KEY_BYTES)
        return sum(int.from_bytes(self._keys[start : start + ID_BYTES], "little") for start in starts)


class Question:
    """A message of the other side, read piece by piece.

    Every method raises RemoteProtocolError where the message does not go on as it must.

    Args:
        message: As it came, the byte of its version included.
    """

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._position = 1
        self._timestamp = 0

    @property
    def is_read(self) -> bool:
        """Whether nothing follows."""
        return self._position >= len(self._message)

    def read_bytes(self, count: int) -> bytes:
        """The next so many bytes."""
        start, self._position = self._position, self._position + count
        if self._position > len(self._message):
            raise RemoteProtocolError("a Negentropy message must not end within a range")
        return self._message[start : self._position]

    def read_varint(self) -> int:
        """The next number: digits of 7 bits, the first the highest, all but the last marked."""
        value = 0
        for _ in range(_DIGITS_AT_MOST):
            (digit,) = self.read_bytes(1)
            value = value << 7 | digit & 0x7F
            if digit < 0x80:
                return value
        raise RemoteProtocolError(f"a Negentropy number may have at most {_DIGITS_AT_MOST} digits")

    def read_bound(self) -> bytes:
        """The next upper bound: 8 bytes of timestamp and as much of an id as is needed."""
        encoded, length = self.read_varint(), self.read_varint()
        timestamp = self._timestamp + encoded - 1 if encoded else _INFINITY
        if timestamp > _INFINITY or (encoded and timestamp == _INFINITY) or length > ID_BYTES:
            raise RemoteProtocolError("a Negentropy bound must lie below infinity and hold at most 32 bytes of an id")
        self._timestamp = timestamp
        return timestamp.to_bytes(8) + self.read_bytes(length)


class Reply:
    """A message to the other side, written range by range; ranges to skip are joined, and left out at the end."""

    def __init__(self) -> None:
        self._message = bytearray([PROTOCOL_VERSION])
        self._timestamp = 0
        self._skipped: bytes | None = None

    def __len__(self) -> int:
        return len(self._message)

    def __bytes__(self) -> bytes:
        return bytes(self._message)

    def skip(self, bound: bytes) -> None:
        """Nothing more is to be said up to this bound."""
        self._skipped = bound

    def write(self, bound: bytes, mode: Mode, payload: bytes) -> None:
        """One range up to this bound."""
        if self._skipped is not None:
            skipped, self._skipped = self._skipped, None
            self.write(skipped, Mode.SKIP, b"")
        timestamp = int.from_bytes(bound[:8])
        encoded = 0 if timestamp == _INFINITY else 1 + timestamp - self._timestamp
        self._timestamp = timestamp
        self._message += encode_varint(encoded) + encode_varint(len(bound) - 8) + bound[8:]
        self._message += encode_varint(mode) + payload

    def write_ids(self, bound: bytes, keys: list[bytes]) -> None:
        """One range up to this bound, as the ids of its records."""
        self.write(bound, Mode.ID_LIST, encode_varint(len(keys)) + b"".join(key[8:] for key in keys))


def answer(records: Records, message: bytes, frame_bytes: int) -> Generator[None, None, bytes]:
    """What to answer to a message, in steps between which the caller may pause; the answer is what it returns.

    Args:
        records: What our side has.
        message: What the other side sent.
        frame_bytes: Longest answer, at least `FRAME_BYTES_AT_LEAST`; what does not fit is left as one fingerprint.

    Raises:
        RemoteProtocolError: The message does not follow the protocol.
    """
    if not message or message[0] not in _VERSIONS:
        raise RemoteProtocolError("a Negentropy message must begin with the version of its protocol")
    if message[0] != PROTOCOL_VERSION:
        return bytes([PROTOCOL_VERSION])
    question, reply = Question(message), Reply()
    room = max(frame_bytes, FRAME_BYTES_AT_LEAST) - _SPLIT_BYTES_AT_MOST
    lower = 0
    while not question.is_read:
        yield
        bound = question.read_bound()
        upper = records.find(bound, lower)
        end = _answer_range(records, question, reply, (lower, upper, bound), room)
        if end < upper or (len(reply) > room and not question.is_read):
            reply.write(_INFINITE_BOUND, Mode.FINGERPRINT, records.fingerprint(end, len(records)))
            break
        lower = upper
    return bytes(reply)


def _answer_range(records: Records, question: Question, reply: Reply, place: tuple[int, int, bytes], room: int) -> int:
    """Answer one range, as far as there is room; returns the position up to which it was answered."""
    lower, upper, bound = place
    match question.read_varint():
        case Mode.SKIP:
            reply.skip(bound)
        case Mode.FINGERPRINT:
            if question.read_bytes(FINGERPRINT_BYTES) == records.fingerprint(lower, upper):
                reply.skip(bound)
            else:
                _split(records, lower, upper, bound, reply)
        case Mode.ID_LIST:
            question.read_bytes(question.read_varint() * ID_BYTES)  # which of them we lack is for the other side
            end = min(upper, lower + max(1, (room - len(reply)) // ID_BYTES))
            until = bound if end == upper else _bound_between(records[end - 1], records[end])
            reply.write_ids(until, [records[position] for position in range(lower, end)])
            return end
        case _:
            raise RemoteProtocolError("a Negentropy range must have mode 0, 1 or 2")
    return upper


def encode_varint(value: int) -> bytes:
    """A number as digits of 7 bits, the first the highest, all but the last marked."""
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(value & 0x7F | 0x80)
    return bytes(reversed(digits))


def _split(records: Records, lower: int, upper: int, bound: bytes, reply: Reply) -> None:
    """Send the ids of a small range, and the fingerprints of the parts of a larger one."""
    count = upper - lower
    if count < _IDS_SENT_AT_ONCE:
        reply.write_ids(bound, [records[position] for position in range(lower, upper)])
        return
    ends = [lower + count * (number + 1) // _PARTS for number in range(_PARTS)]
    for start, end in zip([lower, *ends], ends, strict=False):
        until = bound if end == upper else _bound_between(records[end - 1], records[end])
        reply.write(until, Mode.FINGERPRINT, records.fingerprint(start, end))


def _bound_between(below: bytes, above: bytes) -> bytes:
    """The shortest bound that parts two records that follow each other: a timestamp and, if need be, part of an id."""
    common = next(position for position in range(_KEY_BYTES) if below[position] != above[position])
    return above[: max(8, common + 1)]
