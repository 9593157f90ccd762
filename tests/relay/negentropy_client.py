"""The asking side of Negentropy as a set of pairs: written apart from the relay's side, too simple to be wrong."""

import hashlib
from dataclasses import dataclass, field

Pair = tuple[int, bytes]
"""(created_at, id)"""
INFINITY = 2**64 - 1
SMALL = 20


@dataclass
class AskingSide:
    """Learns which ids only one side has (NIP-77, "Appendix")."""

    pairs: set[Pair]
    missing_there: set[bytes] = field(default_factory=set)
    missing_here: set[bytes] = field(default_factory=set)

    def first(self) -> bytes:
        """The first message: everything."""
        return b"\x61" + b"".join(self._cut((0, b""), (INFINITY, b""), Writing()))

    def go_on(self, message: bytes) -> bytes | None:
        """What to say to an answer; None when everything is known."""
        reading, writing = Reading(message), Writing()
        assert reading.take(1) == b"\x61"
        below: tuple[int, bytes] = (0, b"")
        said: list[bytes] = []
        has_question = False
        while reading.rest:
            above = reading.bound()
            mode = reading.varint()
            if mode == 1:
                if reading.take(16) == fingerprint(self._within(below, above)):
                    said.append(writing.bound(above) + b"\x00")
                else:
                    said += self._cut(below, above, writing)
                    has_question = True
            else:
                said.append(writing.bound(above) + b"\x00")
            if mode == 2:
                theirs = {reading.take(32) for _ in range(reading.varint())}
                ours = {each[1] for each in self._within(below, above)}
                self.missing_there |= ours - theirs
                self.missing_here |= theirs - ours
            below = above
        return b"\x61" + b"".join(said) if has_question else None

    def _within(self, below: Pair, above: Pair) -> list[Pair]:
        return sorted(each for each in self.pairs if padded(below) <= each < padded(above))

    def _cut(self, below: Pair, above: Pair, writing: "Writing") -> list[bytes]:
        within = self._within(below, above)
        if len(within) < SMALL:
            return [writing.bound(above) + b"\x02" + varint(len(within)) + b"".join(each[1] for each in within)]
        middle = within[len(within) // 2]
        parts = ((middle, within[: len(within) // 2]), (above, within[len(within) // 2 :]))
        return [writing.bound(until) + b"\x01" + fingerprint(part) for until, part in parts]


class Reading:
    def __init__(self, message: bytes) -> None:
        self.rest = message
        self._timestamp = 0

    def take(self, count: int) -> bytes:
        assert len(self.rest) >= count
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def varint(self) -> int:
        value = 0
        while (digit := self.take(1)[0]) >= 128:
            value = value * 128 + digit - 128
        return value * 128 + digit

    def bound(self) -> Pair:
        encoded = self.varint()
        self._timestamp = self._timestamp + encoded - 1 if encoded else INFINITY
        return self._timestamp, self.take(self.varint())


class Writing:
    def __init__(self) -> None:
        self._timestamp = 0

    def bound(self, bound: Pair) -> bytes:
        encoded = 0 if bound[0] == INFINITY else bound[0] - self._timestamp + 1
        self._timestamp = bound[0]
        return varint(encoded) + varint(len(bound[1])) + bound[1]


def padded(bound: Pair) -> Pair:
    return bound[0], bound[1].ljust(32, b"\x00")


def varint(value: int) -> bytes:
    digits = [value >> shift & 127 for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes(128 + digit for digit in digits[:0:-1]) + bytes(digits[:1])


def fingerprint(pairs: list[Pair]) -> bytes:
    total = sum(int.from_bytes(each[1], "little") for each in pairs) % 2**256
    return hashlib.sha256(total.to_bytes(32, "little") + varint(len(pairs))).digest()[:16]
