"""Whether events can be stored and read right now: tried on the real threads and the real file, when somebody asks."""

from collections.abc import Callable
from typing import Final, Protocol

PROBE_SECONDS: Final = 2.0
"""After this long without an answer the relay is not healthy; less than what probes usually wait."""
FRESH_SECONDS: Final = 1.0
"""A good answer is given again for this long, so that asking often costs no writes."""

Answer = Callable[[str | None], object]
"""Takes why the relay is not healthy, or None when it is."""


class Probed(Protocol):
    """The part of the pipeline that is tried."""

    def probe(self, answer: Answer) -> None:
        """Try to store something durably and then to read it; `answer` takes why it failed, or None."""
        ...

    def why_stuck(self, seconds: float) -> str | None:
        """Which of the threads has ended, or has had one batch in hand for longer than this; None if none has."""
        ...


class Health:
    """Tries to store and to read, once for all who ask at the time.

    Args:
        pipeline: What is tried.
        call_later: Calls a function after so many seconds, in the loop's thread.
        read_seconds: A monotonic clock.
    """

    def __init__(
        self,
        pipeline: Probed,
        call_later: Callable[[float, Callable[[int], object], int], object],
        read_seconds: Callable[[], float],
    ) -> None:
        self._pipeline = pipeline
        self._call_later = call_later
        self._read_seconds = read_seconds
        self._waiting: list[Answer] = []
        self._good_until = 0.0
        self._attempt = 0
        self._is_trying = False
        self._is_late = False

    def ask(self, answer: Answer) -> None:
        """Have `answer` called once, now or within `PROBE_SECONDS`."""
        reason = self._pipeline.why_stuck(PROBE_SECONDS)
        if reason is None and self._is_trying and self._is_late:
            reason = self._lateness()
        if reason is not None:
            answer(reason)
        elif self._read_seconds() < self._good_until:
            answer(None)
        else:
            self._waiting.append(answer)
            if not self._is_trying:
                self._try()

    def _try(self) -> None:
        self._is_trying, self._is_late = True, False
        self._attempt += 1
        self._call_later(PROBE_SECONDS, self._give_up, self._attempt)
        self._pipeline.probe(self._tried)

    def _tried(self, reason: str | None) -> None:
        self._is_trying = False
        if reason is None:
            self._good_until = self._read_seconds() + FRESH_SECONDS
        self._answer(reason)

    def _give_up(self, attempt: int) -> None:
        if self._is_trying and attempt == self._attempt:
            self._is_late = True
            self._answer(self._lateness())

    def _answer(self, reason: str | None) -> None:
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer(reason)

    def _lateness(self) -> str:
        return f"storing and reading back takes longer than {PROBE_SECONDS:g} seconds"
