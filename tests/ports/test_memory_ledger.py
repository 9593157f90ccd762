"""The ledger in memory keeps every rule of the port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from relaymesh.ports.ledger import JobQuery, Ledger
from relaymesh.ports.memory_ledger import MemoryLedger
from tests.conformance.ledger.records import make_job
from tests.conformance.ledger.rules import RULES, Rule

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_a_memory_ledger_keeps_the_rule(rule: Rule) -> None:
    kept = MemoryLedger()

    @asynccontextmanager
    async def opener() -> AsyncIterator[Ledger]:
        yield kept

    await rule(opener)


async def test_a_cancelled_write_is_not_written() -> None:
    ledger = MemoryLedger()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await ledger.write((make_job(),))
    assert await ledger.find_jobs(JobQuery()) == ()
