"""Inside a process of the fault-injection suite: notes every step, and kills the process at the one that was planned.

What it watches it wraps from outside, where production joins its parts: the ledger, the wallet and the runner that
`cli/wiring.py` opens, the driver of the job machines, the session they send through. Production knows nothing of it.
"""

import json
import os
import signal
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum
from functools import partial
from typing import Any, Final

from relaymesh.machines.job_events import JobClosed, ReadInvoice, Received, Send, StartRunner
from relaymesh.machines.job_outcome import JobEnded
from relaymesh.machines.machine import TransitionTable
from relaymesh.machines.records import (
    EvidenceRecord,
    JobRecord,
    LedgerRecord,
    SealedRecord,
    Store,
    TrancheRecord,
    TrancheState,
)
from relaymesh.machines.session_funds import AccountClosed
from relaymesh.machines.settlement import (
    TRANCHE_TRANSITIONS,
    CreateInvoice,
    InvoiceIssued,
    InvoiceResolved,
    LookUpPayment,
    Pay,
    PaymentResolved,
    WatchInvoice,
)
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.ledger import JobQuery, Ledger, LedgerJob
from relaymesh.protocol.session_messages import CommitmentMessage, JobMessage, OutputMessage
from relaymesh.roles.driver import Clock, Driver
from relaymesh.units import Timestamp
from tests.chaos.fault_plan import TABLES, FaultPlan, When, effect_step, transition_step, write_step

DONE_BY_WALLET: Final = (CreateInvoice, WatchInvoice, Pay, LookUpPayment)
"""Effects that are steps of the wallet (`faulty_wallet.py`), whoever asks it."""
DONE_ELSEWHERE: Final = (StartRunner, ReadInvoice)
"""Effects that the driver only starts: they have been carried out when the port has answered."""
LAST: Final = (JobEnded, JobClosed, AccountClosed)
WALLET_ANSWERS: Final = (PaymentResolved, InvoiceIssued, InvoiceResolved)


def replace_part(owner: object, name: str, part: object) -> None:
    """Put a watched part in the place of production's own, in this process alone."""
    setattr(owner, name, part)


class Watch:
    """Counts steps, notes them, and dies when it is time."""

    def __init__(self, plan: FaultPlan) -> None:
        self.plan = plan
        self._journal = os.open(plan.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._counts: Counter[tuple[str, When]] = Counter()
        self._unsent: list[str] = []

    def note(self, what: str, **facts: object) -> None:
        """Write a line that survives the process."""
        os.write(self._journal, json.dumps({"what": what, **facts}).encode() + b"\n")

    def reach(self, step: str, when: When) -> None:
        """The process is at this step."""
        self._counts[step, when] += 1
        is_end = (step, when, self._counts[step, when]) == (self.plan.step, self.plan.when, self.plan.occurrence)
        self.note("step", step=step, when=when, is_end=is_end)
        if is_end:
            os.kill(os.getpid(), signal.SIGKILL)

    def send_later(self, step: str) -> None:
        """What was handed to the session is not on its way before the session has written."""
        self._unsent.append(step)

    def written(self) -> None:
        """The session has written all it had."""
        unsent, self._unsent = self._unsent, []
        for step in unsent:
            self.reach(step, "after")


class WatchedTables:
    """Sees every move of the job machines: before it has any effect, and when its effects have been carried out."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._names = {id(table): name for name, (table, _) in TABLES.items() if name != "tranche"}
        self._moved: deque[str] = deque()

    def install(self) -> None:
        """From now on."""
        move, tables = TransitionTable.move, self

        def watched(table: TransitionTable[Any], source: Enum, trigger: str, target: Enum) -> Any:
            tables.note_move(table, source, trigger, target)
            return move(table, source, trigger, target)

        replace_part(TransitionTable, "move", watched)

    def note_move(self, table: TransitionTable[Any], source: Enum, trigger: str, target: Enum) -> None:
        """A machine moves."""
        name = self._names.get(id(table))
        for row in table.rows if name is not None else ():
            if (row.source, row.trigger, row.target) == (source, trigger, target):
                step = transition_step(name or "", row)
                self._moved.append(step)
                self._watch.reach(step, "before")

    def effects_done(self) -> None:
        """A driver has nothing left to do."""
        while self._moved:
            self._watch.reach(self._moved.popleft(), "after")


class WatchedDriver(Driver[Any, Any]):
    """The driver of a job machine, watched at every effect."""

    watch: Watch
    tables: WatchedTables
    after_output: Callable[[Driver[Any, Any]], None] | None = None

    def __init__(
        self,
        machine: Any,
        act: Callable[[Driver[Any, Any], Any], bool],
        clock: Clock,
        carry_out: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(machine, partial(self._act_watched, act), clock, carry_out)
        self._job_id = getattr(machine, "job_id", "")

    def tell(self, message: Any) -> None:
        """What the wallet says is said twice where the plan says so; what output comes in is noted."""
        if isinstance(message, Received) and isinstance(message.message, OutputMessage):
            came = message.message
            self.watch.note("received", job=came.job_id, number=came.number, data=came.data)
        if self.watch.plan.wallet == "twice" and isinstance(message, WALLET_ANSWERS):
            super().tell(message)
        super().tell(message)

    def _act_watched(
        self, act: Callable[[Driver[Any, Any], Any], bool], driver: Driver[Any, Any], effect: object
    ) -> bool:
        if isinstance(effect, (Store, *DONE_BY_WALLET)):
            return act(driver, effect)  # ledger and wallet are watched by themselves
        step = effect_step(type(effect).__name__, type(effect.message).__name__ if isinstance(effect, Send) else "")
        self.watch.reach(step, "before")
        if isinstance(effect, Send) and isinstance(effect.message, OutputMessage):
            message = effect.message
            self.watch.note("output", job=message.job_id, number=message.number, data=message.data)
        if isinstance(effect, Send) and isinstance(effect.message, CommitmentMessage):
            content = json.loads(effect.message.event.content)
            self.watch.note("sealed", job=content["job"], tranche=content["tranche"], msat=content["msat"])
        if isinstance(effect, Send) and isinstance(effect.message, JobMessage):
            self.watch.note("job", job=effect.message.job_id, input_bytes=str(len(effect.message.body.encode())))
        is_done = act(driver, effect)
        if isinstance(effect, Send):
            self.watch.send_later(step)
        elif not isinstance(effect, DONE_ELSEWHERE):
            self.watch.reach(step, "after")
        if type(effect).__name__ == "Deliver":
            self.watch.note("delivered", job=self._job_id, data=getattr(effect, "data", ""))
            if self.after_output is not None:
                self.after_output(self)
        if isinstance(effect, LAST):
            self.tables.effects_done()
        return is_done

    def _advance(self) -> None:
        self.tables.effects_done()
        super()._advance()

    async def _wait(self) -> None:
        self.tables.effects_done()
        await super()._wait()


class WatchedLedger:
    """A ledger whose writes are steps: the tranches that move, the jobs and the evidence."""

    def __init__(self, inner: Ledger, watch: Watch) -> None:
        self._inner, self._watch = inner, watch
        self._states: dict[tuple[str, str, str, int], TrancheState] = {}

    async def write(self, records: tuple[LedgerRecord, ...]) -> None:
        steps = [step for record in records for step in self._steps(record)]
        for step in steps:
            self._watch.reach(step, "before")
        await self._inner.write(records)
        for step in steps:
            self._watch.reach(step, "after")
        self._remember(records)

    async def find_jobs(self, query: JobQuery) -> tuple[LedgerJob, ...]:
        found = await self._inner.find_jobs(query)
        for job in found:
            self._remember(job.tranches)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # what it is asked is no step

    async def next_sequence(self, scope: str, now: Timestamp) -> int:
        return await self._inner.next_sequence(scope, now)

    def _remember(self, records: Sequence[LedgerRecord]) -> None:
        for record in records:
            if isinstance(record, TrancheRecord):
                self._states[_key(record)] = record.state

    def _steps(self, record: object) -> list[str]:
        if isinstance(record, TrancheRecord):
            return [transition_step("tranche", row) for row in path(self._states.get(_key(record)), record.state)] or [
                write_step("TrancheRecord", record.state.name)
            ]
        if isinstance(record, JobRecord):
            return [write_step("JobRecord", record.state.name)]
        if isinstance(record, EvidenceRecord):
            return [write_step("EvidenceRecord", Kind(record.event.kind).name)]
        if isinstance(record, SealedRecord):
            return [write_step("SealedRecord", "kept" if record.leaves else "erased")]
        return [write_step(type(record).__name__)]


def _key(tranche: TrancheRecord) -> tuple[str, str, str, int]:
    return tranche.side, tranche.client, tranche.job_id, tranche.tranche


def path(source: TrancheState | None, target: TrancheState) -> list[Any]:
    """The rows of the table that lead from a stored state (None: none is stored) to the next; the shortest way."""
    start = TRANCHE_TRANSITIONS.initial if source is None else source
    ways: deque[tuple[TrancheState, list[Any]]] = deque([(start, [])])
    while ways:
        state, way = ways.popleft()
        if state is target:
            return way
        ways.extend((row.target, [*way, row]) for row in TRANCHE_TRANSITIONS.rows if row.source is state)
    raise AssertionError(f"no way leads from {start.name} to {target.name}")


def watched_context(
    opened: Callable[..., AbstractAsyncContextManager[Any]], wrap: Callable[[Any], Any]
) -> Callable[..., AbstractAsyncContextManager[Any]]:
    """The same context manager, with what it yields wrapped."""

    @asynccontextmanager
    async def open_wrapped(*arguments: Any, **options: Any) -> Any:
        async with opened(*arguments, **options) as inner:
            yield wrap(inner)

    return open_wrapped
