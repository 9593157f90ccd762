"""What a job does not wait for is written beside it, and still before everything that follows."""

import anyio
import pytest

from relaymesh.errors import LedgerError
from relaymesh.machines.records import LedgerRecord, Store
from relaymesh.ports.memory_ledger import MemoryLedger
from relaymesh.roles.ordered_writes import OrderedWrites

pytestmark = pytest.mark.anyio


class SlowWhenEmpty(MemoryLedger):
    """Takes a second to write nothing, and no time for anything else."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    async def write(self, records: tuple[LedgerRecord, ...]) -> None:
        if not records:
            await anyio.sleep(1)
        self.sizes.append(len(records))


class Broken(MemoryLedger):
    """Writes nothing."""

    async def write(self, records: tuple[LedgerRecord, ...]) -> None:
        raise LedgerError("the disk is full")


async def test_what_is_written_ahead_comes_before_what_follows() -> None:
    ledger = SlowWhenEmpty()
    writes = OrderedWrites(ledger)
    async with anyio.create_task_group() as tasks:
        assert writes.is_ahead(Store((), is_awaited=False))
        tasks.start_soon(writes.write_ahead, ())
        await writes.write((None,))  # type: ignore[arg-type]  # only how many records there are matters here
        assert ledger.sizes == [0, 1]


async def test_only_one_write_is_ahead_and_none_that_is_waited_for() -> None:
    writes = OrderedWrites(SlowWhenEmpty())
    assert not writes.is_ahead(Store(()))
    assert writes.is_ahead(Store((), is_awaited=False))
    assert not writes.is_ahead(Store((), is_awaited=False))


async def test_a_write_that_fails_beside_a_job_ends_it() -> None:
    writes = OrderedWrites(Broken())
    assert writes.is_ahead(Store((), is_awaited=False))
    with pytest.raises(BaseExceptionGroup) as raised:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writes.write_ahead, ())
            await writes.write(())
    assert raised.group_contains(LedgerError)
