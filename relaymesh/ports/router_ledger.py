"""What several routers under one key must agree on: sequence numbers, and which fraud was slashed.

Everything else a router knows it hears from relays, and its fee is in its wallet, by the id of the request. So routers
run as many replicas as wanted, over one ledger or, where only one runs, none but its own memory.
"""

from typing import Protocol

from relaymesh.units import Timestamp


class RouterLedger(Protocol):
    """The little that a router keeps."""

    async def next_sequence(self, scope: str, now: Timestamp) -> int:
        """max(last + 1, `now`) for this scope (author, kind and `d`), durable before it is returned (RM-01)."""
        ...

    async def note_slash(self, key: str) -> bool:
        """Note that the fraud with this key is slashed; whether it had not been before."""
        ...


class MemoryRouterLedger:
    """A router's ledger that is gone with it: `seq` then grows by the clock alone."""

    def __init__(self) -> None:
        self._sequences: dict[str, int] = {}
        self._slashes: set[str] = set()

    async def next_sequence(self, scope: str, now: Timestamp) -> int:
        """max(last + 1, `now`) for this scope."""
        self._sequences[scope] = max(self._sequences.get(scope, -1) + 1, now)
        return self._sequences[scope]

    async def note_slash(self, key: str) -> bool:
        """Whether this fraud had not been slashed before."""
        is_new = key not in self._slashes
        self._slashes.add(key)
        return is_new
