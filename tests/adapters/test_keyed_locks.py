"""Turns by name: one at a time for one name, at once for two, and nothing kept afterwards."""

import anyio
import pytest

from relaymesh.adapters.keyed_locks import KeyedLocks

pytestmark = pytest.mark.anyio


async def test_one_name_takes_turns_and_another_does_not_wait() -> None:
    locks, steps, gate = KeyedLocks(), [], anyio.Event()

    async def work(name: str, number: int) -> None:
        async with locks.hold(name):
            steps.append((name, number, "in"))
            if (name, number) == ("a", 1):
                await gate.wait()
            steps.append((name, number, "out"))

    async with anyio.create_task_group() as tasks:
        for name, number in (("a", 1), ("a", 2), ("b", 1)):
            tasks.start_soon(work, name, number)
        await anyio.wait_all_tasks_blocked()
        assert ("b", 1, "out") in steps and ("a", 2, "in") not in steps
        assert len(locks) == 1
        gate.set()
    assert steps.index(("a", 1, "out")) < steps.index(("a", 2, "in"))
    assert len(locks) == 0


async def test_who_gives_up_waiting_or_fails_leaves_the_lock_to_others() -> None:
    locks = KeyedLocks()

    async def hold_twice() -> None:
        async with locks.hold("a"):
            pytest.fail("held twice")

    async with anyio.create_task_group() as tasks, locks.hold("a"):
        tasks.start_soon(hold_twice)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    with pytest.raises(ValueError, match="no"):
        async with locks.hold("a"):
            raise ValueError("no")
    async with locks.hold("a"):
        assert len(locks) == 1
    assert len(locks) == 0
