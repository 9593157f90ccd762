"""The driver: effects in their order, at once where nothing has to be awaited, never one past another."""

import anyio
import pytest

from relaymesh.roles.driver import Driver
from relaymesh.units import Instant, Moment

pytestmark = pytest.mark.anyio


class Echo:
    """A machine that wants what it is told; `later N` makes it time something N milliseconds ahead."""

    def __init__(self) -> None:
        self.wanted: list[str] = []
        self.until: Instant | None = None

    def start(self, now: Moment) -> None:
        self.wanted.append("start")

    def receive(self, message: str, now: Moment) -> None:
        if message.startswith("later "):
            self.until = now.after_ms(int(message.removeprefix("later ")))
        else:
            self.wanted.append(message)

    def deadline(self) -> Instant | None:
        return self.until

    def handle_deadline(self, now: Moment) -> None:
        self.until = None
        self.wanted.append("due")

    def effects(self) -> tuple[str, ...]:
        effects, self.wanted = tuple(self.wanted), []
        return effects


class Run:
    """Drives an `Echo`: `wait …` has to be awaited until `go` is set, everything else is done at once."""

    def __init__(self) -> None:
        self.driver: Driver[str, str] = Driver(Echo(), self.act, _clock, self.carry_out)
        self.done: list[str] = []
        self.go = anyio.Event()
        self.reached = anyio.Event()

    def act(self, driver: Driver[str, str], effect: str) -> bool:
        if effect.startswith("wait"):
            return False
        if effect == "again":
            driver.tell("from within")
        self.done.append(effect)
        if effect in ("end", "start", "due"):
            self.reached.set()
        if effect == "end":
            driver.stop()
        return True

    async def carry_out(self, effect: str) -> None:
        self.reached.set()
        await self.go.wait()
        self.done.append(effect)

    async def until_reached(self) -> None:
        with anyio.fail_after(5):
            await self.reached.wait()
            await anyio.wait_all_tasks_blocked()
        self.reached = anyio.Event()


def _clock() -> Moment:
    return Moment(Instant(int(anyio.current_time() * 1_000_000)), 0)


async def test_what_needs_no_waiting_is_done_when_tell_returns() -> None:
    run = Run()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.driver.run)
        await run.until_reached()
        run.driver.tell("one")
        assert run.done == ["start", "one"]
        run.driver.tell("end")
    assert run.done == ["start", "one", "end"]


async def test_nothing_overtakes_what_has_to_be_awaited() -> None:
    run = Run()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.driver.run)
        await run.until_reached()
        for message in ("wait for the disk", "two", "wait again", "three", "end"):
            run.driver.tell(message)
        assert run.done == ["start"]
        await run.until_reached()
        assert run.done == ["start"]
        run.go.set()
    assert run.done == ["start", "wait for the disk", "two", "wait again", "three", "end"]


async def test_what_an_effect_tells_its_own_machine_comes_after_it() -> None:
    run = Run()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.driver.run)
        await run.until_reached()
        run.driver.tell("again")
        assert run.done == ["start", "again", "from within"]
        run.driver.tell("end")


async def test_a_deadline_that_moves_nearer_is_kept() -> None:
    run = Run()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.driver.run)
        await run.until_reached()
        run.driver.tell("later 3600000")
        run.driver.tell("later 1")
        await run.until_reached()
        assert run.done == ["start", "due"]
        run.driver.tell("end")
