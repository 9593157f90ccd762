"""Token buckets: so many a second, and so many at once."""

from collections.abc import Hashable
from typing import Final

from relaymesh.units import Instant

_MICROSECONDS_PER_SECOND: Final = 1_000_000
_BUCKETS_AT_MOST: Final = 100_000


class Bucket:
    """Holds up to `burst` tokens and regains `per_second` of them each second; 0 a second means no limit.

    Args:
        per_second: Tokens regained each second.
        burst: Tokens there are at most, and at first.
        now: When it was made.
    """

    __slots__ = ("_burst", "_filled_at", "_per_second", "_tokens")

    def __init__(self, per_second: int, burst: int, now: Instant) -> None:
        self._per_second = per_second
        self._burst = max(burst, 1)
        self._tokens = float(self._burst)
        self._filled_at = now

    def take(self, now: Instant) -> bool:
        """Take one token, if there is one."""
        if not self._per_second:
            return True
        self._fill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def is_full(self, now: Instant) -> bool:
        """Whether nothing was taken lately: such a bucket may be forgotten."""
        self._fill(now)
        return self._tokens >= self._burst

    def _fill(self, now: Instant) -> None:
        regained = (now - self._filled_at) * self._per_second / _MICROSECONDS_PER_SECOND
        self._tokens = min(self._burst, self._tokens + regained)
        self._filled_at = now


class Buckets:
    """One bucket for each key (an address, a public key); full ones are forgotten, so that memory stays bounded.

    Args:
        per_second: For each bucket.
        burst: For each bucket.
    """

    def __init__(self, per_second: int, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._buckets: dict[Hashable, Bucket] = {}

    def take(self, key: Hashable, now: Instant) -> bool:
        """Take one token from this key's bucket, if there is one."""
        if not self._per_second:
            return True
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= _BUCKETS_AT_MOST:
                self._forget(now)
            bucket = self._buckets[key] = Bucket(self._per_second, self._burst, now)
        return bucket.take(now)

    def _forget(self, now: Instant) -> None:
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if not bucket.is_full(now)}
        if len(self._buckets) >= _BUCKETS_AT_MOST:  # all of them busy: the oldest half starts anew
            keys = list(self._buckets)
            for key in keys[: len(keys) // 2]:
                del self._buckets[key]
