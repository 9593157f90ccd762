"""The driver: one short loop that joins a machine to the world.

It tells the machine what happened and when, and carries out what the machine wants, one effect after the other in their
order, so that what must be stored first is stored first. What takes long (a payment, a run of the model) the effect
only starts, in the driver's task group; its outcome is told to the machine like everything else.

Most of what happens needs no waiting: while the loop stands still, whoever tells the machine something also carries out
what it wants, so that a token costs no change of tasks here. Only what has to be awaited is left to the loop.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from relaymesh.machines.machine import Machine
from relaymesh.units import Instant, Moment

InputT = TypeVar("InputT")
EffectT = TypeVar("EffectT")

Clock = Callable[[], Moment]
"""Says what time it is; the command line names the system's, tests a virtual one."""

MICROSECONDS_PER_SECOND = 1_000_000


class Driver(Generic[InputT, EffectT]):
    """Drives one machine until `stop` is called.

    Args:
        machine: What decides.
        act: Does what the machine wants, if that needs no waiting; False if it does, and then nothing was done yet.
        clock: What time it is.
        carry_out: Awaited for each effect that `act` left, in their order; None where it leaves none.
    """

    def __init__(
        self,
        machine: Machine[InputT, EffectT],
        act: Callable[["Driver[InputT, EffectT]", EffectT], bool],
        clock: Clock,
        carry_out: Callable[[EffectT], Awaitable[None]] | None = None,
    ) -> None:
        self._machine, self._act, self._clock = machine, act, clock
        self._carry_out = carry_out
        self._inputs: deque[InputT] = deque()
        self._effects: deque[EffectT] = deque()
        self._wake = anyio.Event()
        self._waits_until: Instant | None = None
        self._is_waiting = False
        self._is_working = False
        self._is_stopped = False
        self._failure: Exception | None = None
        self.tasks: TaskGroup | None = None

    def tell(self, message: InputT) -> None:
        """Hand the machine something that happened; never waits.

        What a peer can cause is bounded where it comes in (a session's credit, a subscription's queue), so this needs
        no bound of its own.
        """
        self._inputs.append(message)
        if not self._is_waiting or self._is_working:
            return  # the loop comes to it, or whoever works at this moment
        try:
            self._work()
        except Exception as error:  # noqa: BLE001  # whoever told us is not to blame: the loop raises it
            self._failure, self._is_stopped = error, True
        if self._effects or self._is_stopped or self._is_due_sooner():
            self._is_waiting = False
            self._wake.set()

    def stop(self) -> None:
        """End the loop; whatever an effect started in the driver's task group is cancelled."""
        self._is_stopped = True
        self._wake.set()

    def start_soon(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        """Start something that takes long, in this driver's own task group."""
        assert self.tasks is not None
        self.tasks.start_soon(work, *arguments)

    async def run(self) -> None:
        """Run the machine from its start until `stop`."""
        async with anyio.create_task_group() as tasks:
            self.tasks = tasks
            self._machine.start(self._clock())
            self._effects.extend(self._machine.effects())
            while True:
                self._work()
                if self._effects:
                    assert self._carry_out is not None
                    await self._carry_out(self._effects.popleft())
                elif self._is_stopped:
                    break
                else:
                    await self._wait()
                    if self._failure is not None:
                        raise self._failure
                    if not self._is_stopped:
                        self._advance()
            tasks.cancel_scope.cancel()

    def _work(self) -> None:
        """Carry out effects and take in what is told meanwhile, until nothing is left or an effect must be awaited."""
        self._is_working = True
        try:
            while True:
                while self._effects:
                    effect = self._effects.popleft()
                    if not self._act(self, effect):
                        self._effects.appendleft(effect)
                        return
                if self._is_stopped or not self._inputs:
                    return
                self._advance()
        finally:
            self._is_working = False

    async def _wait(self) -> None:
        """Wait until there is something for the loop to do, or for the machine's deadline, whichever comes first."""
        self._wake = anyio.Event()
        self._waits_until = self._machine.deadline()
        self._is_waiting = True
        try:
            await wait_until(self._wake, self._waits_until, self._clock)
        finally:
            self._is_waiting = False

    def _is_due_sooner(self) -> bool:
        deadline = self._machine.deadline()
        return deadline is not None and (self._waits_until is None or deadline < self._waits_until)

    def _advance(self) -> None:
        now = self._clock()
        while self._inputs:
            self._machine.receive(self._inputs.popleft(), now)
        deadline = self._machine.deadline()
        if deadline is not None and deadline <= now.instant:
            self._machine.handle_deadline(now)
        self._effects.extend(self._machine.effects())


async def wait_until(wake: anyio.Event, deadline: Instant | None, clock: Clock) -> None:
    """Return once `wake` is set or the deadline has come; without a deadline, only `wake` (or cancellation) ends it."""
    if deadline is None:
        await wake.wait()
        return
    with anyio.move_on_after(max(deadline - clock().instant, 0) / MICROSECONDS_PER_SECOND):
        await wake.wait()
