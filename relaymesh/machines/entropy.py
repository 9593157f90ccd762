"""Randomness as an argument: one seed in, as many unpredictable bytes out as a machine needs."""

import hashlib

from relaymesh.errors import LocalProtocolError


class Entropy:
    """SHA-256 in counter mode over a secret seed: the same seed gives the same bytes, so a run can be repeated.

    Args:
        seed: At least 32 bytes; in production from the system's randomness, one seed per machine.
    """

    __slots__ = ("_counter", "_seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) < 32:
            raise LocalProtocolError("a seed must be at least 32 bytes")
        self._seed = seed
        self._counter = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        taken = b""
        while len(taken) < count:
            taken += hashlib.sha256(self._seed + self._counter.to_bytes(8)).digest()
            self._counter += 1
        return taken[:count]
