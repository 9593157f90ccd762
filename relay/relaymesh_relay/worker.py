"""A thread that does in batches what gathers while it is busy."""

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

JobT = TypeVar("JobT")


class Worker(Generic[JobT]):
    """A thread that takes the jobs that have gathered, at most so many at once.

    Args:
        name: The thread's.
        work: Does a batch; called in the thread.
        at_most: Jobs in a batch.
        broken: Called in the thread when `work` raised, which ends the thread.
    """

    def __init__(
        self, name: str, work: Callable[[list[JobT]], None], at_most: int, broken: Callable[[], object]
    ) -> None:
        self._jobs: SimpleQueue[list[JobT] | None] = SimpleQueue()
        self._work = work
        self._at_most = at_most
        self._broken = broken
        self._is_closing = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self) -> None:
        """Begin; `close` must follow."""
        self._thread.start()

    def put(self, jobs: list[JobT]) -> None:
        """More jobs; they stay together, so their number is at most that of a batch."""
        self._jobs.put(jobs)

    def close(self) -> None:
        """Finish the batch in hand, leave what waits undone, and end."""
        self._is_closing = True
        self._jobs.put(None)
        self._thread.join()

    @property
    def name(self) -> str:
        """The thread's."""
        return self._thread.name

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def busy_seconds(self) -> float:
        """For how long it has had the batch in hand; 0 when it waits for one."""
        busy_since = self._busy_since
        return 0.0 if busy_since is None else time.monotonic() - busy_since

    def _run(self) -> None:
        is_closed = False
        try:
            self._work_until_closed()
            is_closed = True
        finally:
            if not is_closed:
                self._broken()

    def _work_until_closed(self) -> None:
        jobs = self._jobs.get()
        while jobs is not None and not self._is_closing:
            batch = list(jobs)
            jobs = self._take_waiting()
            while jobs and len(batch) + len(jobs) <= self._at_most:
                batch += jobs
                jobs = self._take_waiting()
            self._busy_since = time.monotonic()
            self._work(batch)
            self._busy_since = None
            if jobs == []:
                jobs = self._jobs.get()

    def _take_waiting(self) -> list[JobT] | None:
        """What was put next, an empty list when nothing was, None at the end."""
        try:
            return self._jobs.get_nowait()
        except Empty:
            return []
