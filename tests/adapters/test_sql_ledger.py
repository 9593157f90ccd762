"""The ledger in an SQLite file keeps every rule of the port, shares transactions among writers, and ends in order."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event

import anyio
import anyio.lowlevel
import pytest

from relaymesh.adapters import ledger_pages
from relaymesh.adapters.ledger_changes import MAXIMUM_GROUP, Change
from relaymesh.adapters.sql_ledger import SqlLedger
from relaymesh.adapters.sql_ledger_writer import LedgerWriter
from relaymesh.errors import LedgerError
from relaymesh.ports.ledger import JobQuery
from relaymesh.units import Timestamp
from tests.conformance.ledger.records import job_id, make_evidence, make_job, make_tranche
from tests.conformance.ledger.rules import RULES, Rule

pytestmark = pytest.mark.anyio

KEY = b"\x07" * 32
NOW = Timestamp(1_790_000_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@dataclass
class Transactions:
    """What the writer's thread commits, and whether it may begin."""

    sizes: list[int] = field(default_factory=list)
    may_begin: Event = field(default_factory=Event)


@pytest.fixture
def transactions(monkeypatch: pytest.MonkeyPatch) -> Transactions:
    """How many changes each transaction carried, in order; the first waits until all have been submitted."""
    seen = Transactions()
    commit = LedgerWriter.commit

    def counted(writer: LedgerWriter, changes: Sequence[Change]) -> list[int | LedgerError]:
        assert seen.may_begin.wait(20)
        seen.sizes.append(len(changes))
        return commit(writer, changes)

    monkeypatch.setattr(LedgerWriter, "commit", counted)
    return seen


async def write_at_once(path: Path, count: int, transactions: Transactions) -> list[int]:
    """So many writes from as many tasks; how many each transaction carried."""
    async with SqlLedger.open(path, key=KEY) as ledger, anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(ledger.write, (make_job(number),))
        await anyio.wait_all_tasks_blocked()
        transactions.may_begin.set()
    assert sum(transactions.sizes) == count
    return transactions.sizes


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_an_sql_ledger_keeps_the_rule(rule: Rule, path: Path) -> None:
    await rule(partial(SqlLedger.open, path, key=KEY))


async def test_writers_who_wait_share_one_transaction(path: Path, transactions: Transactions) -> None:
    assert len(await write_at_once(path, 100, transactions)) <= 2


async def test_a_transaction_carries_a_bounded_number_of_writes(path: Path, transactions: Transactions) -> None:
    assert max(await write_at_once(path, 2 * MAXIMUM_GROUP + 1, transactions)) == MAXIMUM_GROUP


async def test_a_cancelled_writer_holds_up_nobody(path: Path) -> None:
    async with SqlLedger.open(path, key=KEY) as ledger:
        for turns in range(6):  # cancelled at every stage: before it queued, while it waited, while it was written
            async with anyio.create_task_group() as tasks:
                with anyio.CancelScope() as scope:
                    tasks.start_soon(ledger.write, (make_job(10 * turns),))
                    async with anyio.create_task_group() as doomed:
                        for number in range(1, 5):
                            doomed.start_soon(ledger.write, (make_job(10 * turns + number),))
                        for _ in range(turns):
                            await anyio.lowlevel.checkpoint()
                        scope.cancel()
                tasks.start_soon(ledger.write, (make_job(10 * turns + 5),))
        found = {found.job.job_id for found in await ledger.find_jobs(JobQuery())}
        assert {job_id(10 * turns + number) for turns in range(6) for number in (0, 5)} <= found


async def test_a_writer_cancelled_before_it_began_leaves_nothing_behind(path: Path) -> None:
    async with SqlLedger.open(path, key=KEY) as ledger:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ledger.write((make_job(1),))
        await ledger.write((make_job(2),))
        assert [found.job.job_id for found in await ledger.find_jobs(JobQuery())] == [job_id(2)]


async def test_what_was_acknowledged_before_a_cancellation_is_there(path: Path) -> None:
    with anyio.CancelScope() as scope:
        async with SqlLedger.open(path, key=KEY) as ledger:
            await ledger.write((make_job(),))
            scope.cancel()
            await anyio.sleep_forever()
    async with SqlLedger.open(path, key=KEY) as ledger:
        assert len(await ledger.find_jobs(JobQuery())) == 1


async def test_a_commit_that_fails_in_an_unforeseen_way_is_raised_to_who_waits_and_the_next_one_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SqlLedger.open(path, key=KEY) as ledger:
        with monkeypatch.context() as broken:
            broken.setattr(LedgerWriter, "_apply", lambda writer, change: 1 // 0)
            with anyio.fail_after(10), pytest.raises(ZeroDivisionError):
                await ledger.write((make_job(1),))
        await ledger.write((make_job(2),))
        assert [found.job.job_id for found in await ledger.find_jobs(JobQuery())] == [job_id(2)]


async def test_a_closed_ledger_says_so(path: Path) -> None:
    async with SqlLedger.open(path, key=KEY) as ledger:
        await ledger.write((make_job(),))
    with pytest.raises(LedgerError, match="closed"):
        await ledger.write((make_job(2),))
    with pytest.raises(LedgerError, match="closed"):
        await ledger.next_sequence("offer", NOW)
    with pytest.raises(LedgerError, match="closed"):
        await ledger.find_jobs(JobQuery())


async def test_an_error_inside_comes_out_as_it_is_and_closes_the_ledger(path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with SqlLedger.open(path, key=KEY):
            raise ZeroDivisionError
    async with SqlLedger.open(path, key=KEY) as ledger:
        assert await ledger.find_jobs(JobQuery()) == ()


async def test_long_listings_are_read_page_by_page(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_pages, "PAGE_ROWS", 4)
    jobs = [make_job(number, created_at_ms=1_790_000_000_000 + number // 3) for number in range(13)]
    evidence = [make_evidence(number) for number in range(13)]
    async with SqlLedger.open(path, key=KEY) as ledger:
        await ledger.write((*jobs, *evidence))
        found = await ledger.find_jobs(JobQuery())
        assert [entry.job for entry in found] == jobs[::-1]
        assert await ledger.find_jobs(JobQuery(limit=7)) == found[:7]
        assert await ledger.find_jobs(JobQuery(limit=8, only_unresolved=True, side="client")) == found[:8]
        assert list(await ledger.find_evidence()) == evidence


@pytest.mark.parametrize("spoilt", ["\ud800", "x" * 10 + "\udfff"])
async def test_text_that_is_no_unicode_fails_alone_and_is_not_repeated(path: Path, spoilt: str) -> None:
    async with SqlLedger.open(path, key=KEY) as ledger:
        for record in (make_job(1, body=spoilt), make_job(1, reason=spoilt), make_job(1, job_id=spoilt)):
            with pytest.raises(LedgerError) as refused:
                await ledger.write((make_job(2), record))
            assert "Unicode" in str(refused.value)
            assert refused.value.__cause__ is None
            assert refused.value.__suppress_context__
        assert await ledger.find_jobs(JobQuery()) == ()


async def test_a_number_beyond_64_bits_fails_alone(path: Path) -> None:
    async with SqlLedger.open(path, key=KEY) as ledger:
        with pytest.raises(LedgerError, match="64 bits"):
            await ledger.write((make_job(), make_tranche(units=2**63)))
        with pytest.raises(LedgerError, match="64 bits"):
            await ledger.next_sequence("offer", Timestamp(2**63))
        assert await ledger.find_jobs(JobQuery()) == ()
        assert await ledger.next_sequence("offer", NOW) == NOW
