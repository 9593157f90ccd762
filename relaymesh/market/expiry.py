"""The expiry index: what ends when, so that time passing costs only what actually ended."""

import heapq
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from relaymesh.units import Timestamp

KeyT = TypeVar("KeyT", bound=Hashable)

_STALE_ALLOWED: Final = 64


class ExpiryIndex(Generic[KeyT]):
    """Keys by the time at which they end; nothing is ever scanned.

    Moving a key leaves its old place in the heap behind. Once such leftovers outnumber the keys, the heap is built
    anew, so that a peer who moves his own key for ever makes it no larger; a call costs O(log n) on average.
    """

    def __init__(self) -> None:
        self._ends: dict[KeyT, tuple[Timestamp, int]] = {}
        self._heap: list[tuple[Timestamp, int, KeyT]] = []
        self._ticket = 0

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def heap_size(self) -> int:
        """Places held in the heap, leftovers included."""
        return len(self._heap)

    def schedule(self, key: KeyT, at: Timestamp) -> None:
        """Let `key` end at `at`, whatever was said about it before."""
        self._ticket += 1  # tells a key's place from its leftovers, and keeps keys from ever being compared
        self._ends[key] = (at, self._ticket)
        heapq.heappush(self._heap, (at, self._ticket, key))
        if len(self._heap) > 2 * len(self._ends) + _STALE_ALLOWED:
            self._heap = [(at, ticket, key) for key, (at, ticket) in self._ends.items()]
            heapq.heapify(self._heap)

    def cancel(self, key: KeyT) -> None:
        """Forget `key`, if it is known."""
        self._ends.pop(key, None)

    def pop_ended(self, now: Timestamp) -> list[KeyT]:
        """Remove and return all keys that end at or before `now`, the earliest first."""
        ended: list[KeyT] = []
        while self._heap and self._heap[0][0] <= now:
            at, ticket, key = heapq.heappop(self._heap)
            if self._ends.get(key) == (at, ticket):
                del self._ends[key]
                ended.append(key)
        return ended
