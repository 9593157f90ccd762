"""The expiry index: what ends when, so that time passing costs only what actually ended."""

import heapq
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from relaymesh.units import Timestamp

KeyT = TypeVar("KeyT", bound=Hashable)

_STALE_ALLOWED: Final = 64


class ExpiryIndex(Generic[KeyT]):
    """Keys by the second in which they end; nothing is ever scanned, however many there are.

    Only the seconds are kept in order, in a heap: a status ends within minutes, so there are few of them, and a call
    costs the same for ten keys as for a hundred thousand. A second that nothing ends in any more leaves its place in
    the heap behind; once such leftovers outnumber the others, the heap is built anew.
    """

    def __init__(self) -> None:
        self._ends: dict[KeyT, Timestamp] = {}
        self._ending: dict[Timestamp, dict[KeyT, None]] = {}
        self._seconds: list[Timestamp] = []

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def heap_size(self) -> int:
        """Places held in the heap, leftovers included."""
        return len(self._seconds)

    def schedule(self, key: KeyT, at: Timestamp) -> None:
        """Let `key` end at `at`, whatever was said about it before."""
        self.cancel(key)
        self._ends[key] = at
        ending = self._ending.get(at)
        if ending is not None:
            ending[key] = None
            return
        self._ending[at] = {key: None}
        heapq.heappush(self._seconds, at)
        if len(self._seconds) > 2 * len(self._ending) + _STALE_ALLOWED:
            self._seconds = sorted(self._ending)

    def cancel(self, key: KeyT) -> None:
        """Forget `key`, if it is known."""
        at = self._ends.pop(key, None)
        if at is None:
            return
        ending = self._ending[at]
        del ending[key]
        if not ending:
            del self._ending[at]

    def pop_ended(self, now: Timestamp) -> list[KeyT]:
        """Remove and return all keys that end at or before `now`, the earliest first."""
        ended: list[KeyT] = []
        while self._seconds and self._seconds[0] <= now:
            for key in self._ending.pop(heapq.heappop(self._seconds), ()):
                del self._ends[key]
                ended.append(key)
        return ended
