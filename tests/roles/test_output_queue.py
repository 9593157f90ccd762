"""The output queue: everything in order, bounded, and ended for both sides whichever of them goes first."""

import anyio
import pytest

from relaymesh.roles.output_queue import OutputQueue

pytestmark = pytest.mark.anyio


async def test_what_waits_can_still_be_read_after_the_end() -> None:
    queue = OutputQueue()
    assert queue.put("one") and queue.put("two")
    queue.end()
    assert [piece async for piece in queue] == ["one", "two"]


async def test_a_reader_who_waits_gets_what_comes_then() -> None:
    queue = OutputQueue()
    read: list[str] = []

    async def reader() -> None:
        read.append(await anext(queue))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader)
        await anyio.wait_all_tasks_blocked()
        assert read == []
        queue.put("late")
    assert read == ["late"]


async def test_a_full_queue_makes_its_writer_wait_until_something_is_read() -> None:
    queue = OutputQueue(maximum=2)
    assert queue.put("one") and queue.put("two")
    assert not queue.put("three")
    has_room = anyio.Event()

    async def writer() -> None:
        await queue.wait_room()
        has_room.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer)
        await anyio.wait_all_tasks_blocked()
        assert not has_room.is_set()
        assert await anext(queue) == "one"
        await anyio.wait_all_tasks_blocked()
        assert has_room.is_set()
    assert queue.put("three")


async def test_a_reader_who_leaves_frees_the_writer_and_everything_after_goes_nowhere() -> None:
    queue = OutputQueue(maximum=1)
    assert queue.put("one")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(queue.wait_room)
        await anyio.wait_all_tasks_blocked()
        queue.abandon()
    assert queue.put("two")
    assert [piece async for piece in queue] == []
