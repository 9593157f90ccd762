"""A job's output between the task that hears of it and the buyer who reads it: bounded, and cheap for each token."""

from collections import deque
from typing import Final, Self

import anyio

OUTPUTS_BUFFERED: Final = 1_024


class OutputQueue:
    """An iterator over pieces of output, for one reader.

    Args:
        maximum: How many pieces wait at most for a buyer who reads slowly.
    """

    def __init__(self, maximum: int = OUTPUTS_BUFFERED) -> None:
        self._maximum = maximum
        self._pieces: deque[str] = deque()
        self._is_ended = False
        self._arrival: anyio.Event | None = None
        self._room: anyio.Event | None = None

    def put(self, piece: str) -> bool:
        """Queue a piece; False if there is no room, True also when nobody reads any more."""
        if self._is_ended:
            return True
        if len(self._pieces) >= self._maximum:
            return False
        self._pieces.append(piece)
        self._wake_reader()
        return True

    async def wait_room(self) -> None:
        """Wait until the buyer has read something; without a deadline, since how fast to read is his affair."""
        while len(self._pieces) >= self._maximum and not self._is_ended:
            self._room = anyio.Event()
            await self._room.wait()

    def end(self) -> None:
        """There is no more; what waits can still be read."""
        self._is_ended = True
        self._wake_reader()

    def abandon(self) -> None:
        """Nobody reads any more."""
        self._pieces.clear()
        self.end()
        self._wake_writer()

    @property
    def is_read(self) -> bool:
        """Whether there is no more, and everything was read."""
        return self._is_ended and not self._pieces

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not self._pieces:
            if self._is_ended:
                raise StopAsyncIteration
            self._arrival = anyio.Event()
            await self._arrival.wait()  # the job has a deadline for everything, and ends the queue
        piece = self._pieces.popleft()
        self._wake_writer()
        return piece

    def _wake_reader(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.set()

    def _wake_writer(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.set()
