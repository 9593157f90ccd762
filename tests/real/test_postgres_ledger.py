"""The ledger in PostgreSQL, on a real server: every rule of the port, several processes at once, what goes wrong."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

import anyio
import pytest

from relaymesh.adapters.ledger_changes import MAXIMUM_GROUP, Change, Outcome
from relaymesh.adapters.postgres_ledger import PostgresLedger
from relaymesh.adapters.postgres_ledger_server import find_server
from relaymesh.adapters.postgres_ledger_writer import PostgresWriter
from relaymesh.errors import LedgerError
from relaymesh.machines.records import TERMINAL_TRANCHE_STATES, TrancheState
from relaymesh.ports.ledger import JobQuery
from relaymesh.units import Timestamp
from tests.conformance.ledger.first_version import RECORDS, UNDO, check_is_up_to_date
from tests.conformance.ledger.records import (
    BODY,
    PLAINTEXT,
    PREIMAGE,
    job_id,
    make_evidence,
    make_job,
    make_tranche,
)
from tests.conformance.ledger.rules import RULES, Rule
from tests.real.postgresql import PASSWORD, PostgresServer

pytestmark = pytest.mark.anyio

KEY = b"\x07" * 32
NOW = Timestamp(1_790_000_000)
TERMINAL = sorted(TERMINAL_TRANCHE_STATES, key=lambda state: state.value)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_a_ledger_in_postgresql_keeps_the_rule(rule: Rule, database: PostgresServer) -> None:
    await rule(partial(PostgresLedger.open, database.url(), key=KEY))


# ── several at once ───────────────────────────────────────────────────────────────────────────────────────────────


async def wins(write: Callable[[], Awaitable[object]]) -> bool:
    """Whether a write was not refused."""
    try:
        await write()
    except LedgerError:
        return False
    return True


async def all_at_once(writes: Sequence[Callable[[], Awaitable[object]]]) -> int:
    """How many of these were not refused."""
    won = []

    async def attempt(write: Callable[[], Awaitable[object]]) -> None:
        won.append(await wins(write))

    async with anyio.create_task_group() as tasks:
        for write in writes:
            tasks.start_soon(attempt, write)
    return sum(won)


async def test_rules_hold_between_writers_over_several_connections(database: PostgresServer) -> None:
    url = database.url()
    async with AsyncExitStack() as stack:
        ledgers = [await stack.enter_async_context(PostgresLedger.open(url, key=KEY, shared=True)) for _ in range(3)]
        await ledgers[0].write(tuple(make_job(number) for number in range(1, 21)))
        for number in range(1, 21):
            ends = [
                partial(ledger.write, (make_tranche(number, state=state),))
                for ledger, state in zip(ledgers, TERMINAL, strict=True)
            ]
            assert await all_at_once(ends) == 1
            payments = [
                partial(ledger.write, (make_tranche(number, place, payment_hash=f"{number:02x}" * 32),))
                for place, ledger in enumerate(ledgers, 1)
            ]
            assert await all_at_once(payments) == 1
        found = await ledgers[0].find_jobs(JobQuery())
        assert [len(entry.tranches) for entry in found] == [2] * 20


async def test_no_sequence_number_is_drawn_twice_over_several_connections(database: PostgresServer) -> None:
    url, drawn = database.url(), []

    async def draw(ledger: PostgresLedger) -> None:
        drawn.append(await ledger.next_sequence("offer", NOW))

    async with AsyncExitStack() as stack:
        ledgers = [await stack.enter_async_context(PostgresLedger.open(url, key=KEY, shared=True)) for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            for ledger in ledgers * 20:
                tasks.start_soon(draw, ledger)
    assert sorted(drawn) == list(range(NOW, NOW + 60))


async def test_one_process_writes_while_others_may_read_or_write_another_part(database: PostgresServer) -> None:
    url = database.url()
    async with PostgresLedger.open(url, key=KEY, part="client") as ledger:
        await ledger.write((make_job(),))
        with pytest.raises(LedgerError, match="in use by another RelayMesh process; stop that one or name another"):
            async with PostgresLedger.open(url, key=KEY, part="client"):
                pass
        async with PostgresLedger.open(url, key=KEY, part="node") as other:
            assert await other.find_jobs(JobQuery()) == ()
        async with PostgresLedger.open(url, key=KEY, part="client", read_only=True) as reader:
            assert len(await reader.find_jobs(JobQuery())) == 1
            with pytest.raises(LedgerError, match="only to be read"):
                await reader.write((make_job(2),))
    async with PostgresLedger.open(url, key=KEY, part="client") as ledger:
        await ledger.write((make_job(2),))


async def test_writers_who_wait_share_one_transaction(
    database: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    commit = PostgresWriter.commit

    async def counted(writer: PostgresWriter, changes: Sequence[Change]) -> list[Outcome]:
        groups.append(len(changes))
        return await commit(writer, changes)

    monkeypatch.setattr(PostgresWriter, "commit", counted)
    async with PostgresLedger.open(database.url(), key=KEY) as ledger, anyio.create_task_group() as tasks:
        for number in range(MAXIMUM_GROUP + 10):
            tasks.start_soon(ledger.write, (make_job(number),))
    assert sum(groups) == MAXIMUM_GROUP + 10
    assert len(groups) <= 3 and max(groups) <= MAXIMUM_GROUP


async def test_a_cancelled_writer_holds_up_nobody(database: PostgresServer) -> None:
    async with PostgresLedger.open(database.url(), key=KEY) as ledger:
        for turns in range(6):  # cancelled at every stage: before it queued, while it waited, while it was written
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as doomed:
                    for number in range(5):
                        doomed.start_soon(ledger.write, (make_job(10 * turns + number),))
                        doomed.start_soon(ledger.find_jobs, JobQuery())
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
            await ledger.write((make_job(10 * turns + 9),))
        found = {found.job.job_id for found in await ledger.find_jobs(JobQuery())}
        assert {job_id(10 * turns + 9) for turns in range(6)} <= found


# ── what goes wrong ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_text_that_is_no_unicode_and_a_number_beyond_64_bits_fail_alone(database: PostgresServer) -> None:
    async with PostgresLedger.open(database.url(), key=KEY) as ledger:
        for record in (make_job(1, body="\ud800"), make_job(1, reason="\ud800"), make_job(1, job_id="\ud800")):
            with pytest.raises(LedgerError, match="valid Unicode, its numbers within 64 bits"):
                await ledger.write((make_job(2), record))
        with pytest.raises(LedgerError, match="64 bits"):
            await ledger.write((make_job(), make_tranche(units=2**63)))
        with pytest.raises(LedgerError, match="64 bits"):
            await ledger.next_sequence("offer", Timestamp(2**63))
        assert await ledger.find_jobs(JobQuery()) == ()
        assert await ledger.next_sequence("offer", NOW) == NOW


async def test_another_key_opens_nothing_and_says_so(database: PostgresServer) -> None:
    url = database.url()
    async with PostgresLedger.open(url, key=KEY):
        pass
    for read_only in (True, False):
        with pytest.raises(LedgerError, match="made with another key; give the key file"):
            async with PostgresLedger.open(url, key=b"\x08" * 32, read_only=read_only):
                pass


async def test_tables_that_are_not_there_another_programs_or_newer_are_left_alone(database: PostgresServer) -> None:
    url = database.url(schema="recipes")
    with pytest.raises(LedgerError, match="has not been made"):
        async with PostgresLedger.open(url, key=KEY, read_only=True):
            pass
    database.execute("CREATE SCHEMA recipes; CREATE TABLE recipes.job (name TEXT)")
    with pytest.raises(LedgerError, match="another program's tables; name another search_path"):
        async with PostgresLedger.open(url, key=KEY):
            pass
    url = database.url(schema="newer")
    async with PostgresLedger.open(url, key=KEY):
        pass
    database.execute("INSERT INTO newer.schema_version VALUES (99)")
    for read_only in (True, False):
        with pytest.raises(LedgerError, match="newer RelayMesh"):
            async with PostgresLedger.open(url, key=KEY, read_only=read_only):
                pass


async def test_tables_of_the_first_version_are_brought_up_to_date_with_all_that_is_in_them(
    database: PostgresServer,
) -> None:
    url = database.url(schema="first_version")
    async with PostgresLedger.open(url, key=KEY) as ledger:
        await ledger.write(RECORDS)
    for statement in UNDO:
        database.execute(f"SET search_path = first_version; {statement}")
    with pytest.raises(LedgerError, match="is of an older RelayMesh or unfinished; run `relaymesh ledger migrate`"):
        async with PostgresLedger.open(url, key=KEY, read_only=True):
            pass
    async with PostgresLedger.open(url, key=KEY) as ledger:
        await check_is_up_to_date(ledger)
    async with PostgresLedger.open(url, key=KEY, read_only=True) as ledger:
        assert len(await ledger.find_sealed()) == 1


async def test_a_wrong_password_or_database_is_said_without_the_password(database: PostgresServer) -> None:
    for url, said in (
        (database.url(user="guest:wrong-horse"), "refuses this user or password"),
        (database.url(user="guest:" + PASSWORD.replace(" ", "%20")), "may not be used so by this user"),
        (database.url(database="nowhere"), "create it with createdb"),
    ):
        with pytest.raises(LedgerError, match=said) as refused:
            async with PostgresLedger.open(url, key=KEY):
                pass
        assert "horse" not in str(refused.value)


async def test_a_database_that_is_not_utf_8_is_refused(database: PostgresServer) -> None:
    database.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    with pytest.raises(LedgerError, match="LATIN1; create a database with --encoding=UTF8"):
        async with PostgresLedger.open(database.url(database="latin"), key=KEY):
            pass


async def test_a_write_is_durable_also_where_that_is_not_the_servers_habit(database: PostgresServer) -> None:
    database.execute("ALTER ROLE mesh SET synchronous_commit = off")
    try:
        connection = await find_server(database.url()).connect()
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
        connection.terminate()
    finally:
        database.execute("ALTER ROLE mesh RESET synchronous_commit")


async def test_a_server_that_does_not_flush_to_the_disk_is_refused(database: PostgresServer) -> None:
    try:
        database.configure("fsync", "off")
        with pytest.raises(LedgerError, match="fsync = off, which forgets money; turn it on"):
            async with PostgresLedger.open(database.url(), key=KEY):
                pass
    finally:
        database.configure("fsync", "on")


async def test_a_row_that_somebody_altered_fails_the_write_that_meets_it_alone(database: PostgresServer) -> None:
    url = database.url(schema="altered")
    outcomes: dict[int, bool] = {}
    async with PostgresLedger.open(url, key=KEY) as ledger:
        await ledger.write((make_job(1), make_tranche(1, preimage=PREIMAGE)))
        database.execute("UPDATE altered.tranche SET preimage = 'money'")

        async def use(number: int) -> None:
            outcomes[number] = await wins(partial(ledger.write, (make_job(number), make_tranche(number))))

        async with anyio.create_task_group() as tasks:
            for number in (1, 2, 3):
                tasks.start_soon(use, number)
        assert outcomes == {1: False, 2: True, 3: True}
        with pytest.raises(LedgerError, match="altered"):
            await ledger.find_jobs(JobQuery())


async def test_nothing_sensitive_is_readable_in_the_database(database: PostgresServer) -> None:
    url = database.url(schema="secret")
    async with PostgresLedger.open(url, key=KEY) as ledger:
        await ledger.write((make_job(), make_tranche(preimage=PREIMAGE), make_evidence(plaintext=PLAINTEXT)))
    tables = ("job", "tranche", "evidence", "seal")
    rows = "\n".join(database.execute(f"SELECT * FROM secret.{table}") for table in tables)
    assert make_job().model in rows
    for secret in (BODY, BODY.encode().hex(), PREIMAGE.hex(), PLAINTEXT.encode().hex(), KEY.hex()):
        assert secret not in rows


async def test_a_connection_that_is_cut_is_made_anew_and_others_are_still_kept_out(database: PostgresServer) -> None:
    url = database.url()
    cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'relaymesh'"
    async with PostgresLedger.open(url, key=KEY) as ledger:
        for number in range(3):
            await ledger.write((make_job(number), make_tranche(number, state=TrancheState.PAID)))
            assert int(database.execute(cut)) >= 1
            assert len(await ledger.find_jobs(JobQuery())) == number + 1
        await ledger.write((make_job(9),))
        with pytest.raises(LedgerError, match="in use"):
            async with PostgresLedger.open(url, key=KEY):
                pass
