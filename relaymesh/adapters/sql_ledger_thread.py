"""The thread that writes a ledger: whatever has gathered while a transaction went to the disk is the next transaction.

A thread of its own, told and answered by the shortest way there is: a job waits for two writes before its first output,
and money must not wait for whatever else keeps the process's threads busy.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from relaymesh.adapters.ledger_changes import MAXIMUM_GROUP, Change, Outcome

Commit = Callable[[Sequence[Change]], list[Outcome]]


@dataclass(frozen=True, slots=True, eq=False)
class _Submitted:
    """A change that some task waits for."""

    change: Change
    outcome: "asyncio.Future[Outcome]"


class CommitThread:
    """Carries changes to a function that commits them, group by group; made within a running event loop.

    Args:
        commit: Called in the thread, with at most `MAXIMUM_GROUP` changes; answers each of them.
    """

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._loop = asyncio.get_running_loop()
        self._submitted: SimpleQueue[_Submitted | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ledger-write", daemon=True)

    def start(self) -> None:
        """Begin; `close` must follow."""
        self._thread.start()

    def submit(self, change: Change) -> "asyncio.Future[Outcome]":
        """Queue a change; the future brings its sequence number, or why it was not written."""
        submitted = _Submitted(change, self._loop.create_future())
        self._submitted.put(submitted)
        return submitted.outcome

    def close(self) -> None:
        """Write what was submitted, then end; blocks until that is done."""
        self._submitted.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._submitted.get()) is not None:
            group, is_last = self._gather(first)
            outcomes: list[Outcome] | Exception
            try:
                outcomes = self._commit([submitted.change for submitted in group])
            except Exception as error:  # noqa: BLE001  # whoever waits for these changes raises it
                outcomes = error
            self._loop.call_soon_threadsafe(_answer, group, outcomes)
            if is_last:
                return

    def _gather(self, first: _Submitted) -> tuple[list[_Submitted], bool]:
        """What has been submitted up to now, and whether nothing will come after it."""
        group = [first]
        while len(group) < MAXIMUM_GROUP:
            try:
                submitted = self._submitted.get_nowait()
            except Empty:
                break
            if submitted is None:
                return group, True
            group.append(submitted)
        return group, False


def _answer(group: list[_Submitted], outcomes: list[Outcome] | Exception) -> None:
    for number, submitted in enumerate(group):
        if submitted.outcome.done():
            continue  # whoever waited was cancelled
        if isinstance(outcomes, Exception):
            submitted.outcome.set_exception(outcomes)
        else:
            submitted.outcome.set_result(outcomes[number])
