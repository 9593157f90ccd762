"""The driver: one short loop that joins a machine to the world.

It tells the machine what happened and when, and carries out what the machine wants, one effect after the other in their
order, so that what must be stored first is stored first. What takes long (a payment, a run of the model) the effect
only starts, in the driver's task group; its outcome is told to the machine like everything else.
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
        carry_out: Does what the machine wants; awaited for each effect, in order.
        clock: What time it is.
    """

    def __init__(
        self,
        machine: Machine[InputT, EffectT],
        carry_out: Callable[["Driver[InputT, EffectT]", EffectT], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._machine = machine
        self._carry_out = carry_out
        self._clock = clock
        self._inputs: deque[InputT] = deque()
        self._wake = anyio.Event()
        self._is_stopped = False
        self.tasks: TaskGroup | None = None

    def tell(self, message: InputT) -> None:
        """Hand the machine something that happened; never waits.

        What a peer can cause is bounded where it comes in (a session's credit, a subscription's queue), so this needs
        no bound of its own.
        """
        self._inputs.append(message)
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
            while True:
                for effect in self._machine.effects():
                    await self._carry_out(self, effect)
                if self._is_stopped:
                    break
                await self._wait()
                self._advance()
            tasks.cancel_scope.cancel()

    async def _wait(self) -> None:
        """Wait for an input or for the machine's deadline, whichever comes first."""
        if self._inputs:
            return
        await wait_until(self._wake, self._machine.deadline(), self._clock)
        self._wake = anyio.Event()

    def _advance(self) -> None:
        now = self._clock()
        while self._inputs:
            self._machine.receive(self._inputs.popleft(), now)
        deadline = self._machine.deadline()
        if deadline is not None and deadline <= now.instant:
            self._machine.handle_deadline(now)


async def wait_until(wake: anyio.Event, deadline: Instant | None, clock: Clock) -> None:
    """Return once `wake` is set or the deadline has come; without a deadline, only `wake` (or cancellation) ends it."""
    if deadline is None:
        await wake.wait()
        return
    with anyio.move_on_after(max(deadline - clock().instant, 0) / MICROSECONDS_PER_SECOND):
        await wake.wait()
