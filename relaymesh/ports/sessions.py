"""The port to peer-to-peer connections: any transport that carries whole frames in order (RM-02, "Transport")."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Connection(Protocol):
    """One open connection. A text frame is a `str`, a binary frame `bytes`."""

    async def send(self, *frames: bytes | str) -> None:
        """Send frames in order, in one write where the transport can; SessionError once the connection is gone.

        A peer that takes nothing in makes the sender wait, but for 10 s at most: then the connection is given up.
        """
        ...

    async def receive(self) -> bytes | str:
        """The next frame; SessionError once the connection is gone."""
        ...

    async def aclose(self) -> None:
        """Close; never fails, never waits for a dead peer longer than a second."""
        ...


class Dialer(Protocol):
    """What a client needs."""

    async def dial(self, endpoint: str) -> Connection:
        """Connect to an endpoint that a peer named (`ws://` or `wss://`).

        The name is resolved once; loopback, private, link-local, shared (CGNAT) and mapped addresses are refused
        unless allowed; the address dialled is the address checked.

        Raises:
            SessionError: The endpoint is malformed, not allowed, or does not answer.
        """
        ...


class Listener(Protocol):
    """What a node needs."""

    def listen(self, handle: Callable[[Connection], Awaitable[None]]) -> AbstractAsyncContextManager[tuple[str, ...]]:
        """Accept connections while the block runs; yields the endpoints to announce. Each runs `handle` in a task."""
        ...
