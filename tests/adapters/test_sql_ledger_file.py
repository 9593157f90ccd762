"""The ledger's file: private, one writer, many readers, its own key; and one clear sentence for all that goes wrong."""

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from relaymesh.adapters import sql_ledger_file
from relaymesh.adapters.sql_ledger import SqlLedger
from relaymesh.adapters.sql_ledger_file import explain, migrate, open_for_reading, open_for_writing
from relaymesh.adapters.sql_ledger_schema import MIGRATIONS
from relaymesh.errors import LedgerError
from relaymesh.ports.ledger import JobQuery
from relaymesh.units import Timestamp
from tests.conformance.ledger.first_version import RECORDS, UNDO, check_is_up_to_date
from tests.conformance.ledger.records import BODY, PREIMAGE, make_evidence, make_job, make_sealed, make_tranche

pytestmark = pytest.mark.anyio

KEY = b"\x07" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite"


async def fill(path: Path) -> None:
    async with SqlLedger.open(path, key=KEY) as ledger:
        await ledger.write((make_job(), make_tranche(preimage=PREIMAGE), make_evidence(plaintext="{}"), make_sealed()))


async def read(path: Path, key: bytes = KEY) -> int:
    """How much there is in the ledger."""
    async with SqlLedger.open(path, key=key, read_only=True) as ledger:
        return sum(
            map(len, (await ledger.find_jobs(JobQuery()), await ledger.find_evidence(), await ledger.find_sealed()))
        )


def alter(path: Path, statement: str, *values: object) -> None:
    """Change the file behind the ledger's back."""
    with sqlite3.connect(path) as connection:
        connection.execute(statement, values)
    connection.close()


def use_in_another_process(path: Path) -> tuple[str, str]:
    """Open the ledger in another process, to read and then to write: how many jobs it holds, or what the error says."""
    program = f"""
import anyio, pathlib
from relaymesh.adapters.sql_ledger import SqlLedger
from relaymesh.errors import LedgerError
from relaymesh.ports.ledger import JobQuery
async def main(read_only):
    async with SqlLedger.open(pathlib.Path({str(path)!r}), key={KEY!r}, read_only=read_only) as ledger:
        print(len(await ledger.find_jobs(JobQuery())))
for read_only in True, False:
    try:
        anyio.run(main, read_only)
    except LedgerError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    read_outcome, write_outcome = done.stdout.splitlines()
    return read_outcome, write_outcome


# ── who may use it ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_all_of_its_files_are_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        async with SqlLedger.open(path, key=KEY) as ledger:
            await ledger.write((make_job(),))
            files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {path.name, path.name + "-wal", path.name + ".lock"} <= set(files)
    assert set(files.values()) == {0o600}


async def test_a_file_that_others_could_read_is_made_private(path: Path) -> None:
    await fill(path)
    path.chmod(0o644)
    await fill(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_another_process_may_read_but_not_write_while_one_writes(path: Path) -> None:
    refusal = f"the ledger {path} is in use by another RelayMesh process; stop that one or name another ledger"
    async with SqlLedger.open(path, key=KEY) as ledger:
        await ledger.write((make_job(1), make_job(2)))
        assert use_in_another_process(path) == ("2", refusal)
        await ledger.write((make_job(3),))


async def test_the_same_process_may_not_write_twice_either_but_read(path: Path) -> None:
    async with SqlLedger.open(path, key=KEY) as ledger:
        with pytest.raises(LedgerError, match="in use"):
            async with SqlLedger.open(path, key=KEY):
                pass
        async with SqlLedger.open(path, key=KEY, read_only=True) as reader:
            await ledger.write((make_job(),))
            assert len(await reader.find_jobs(JobQuery())) == 1


async def test_a_ledger_opened_for_reading_refuses_to_write(path: Path) -> None:
    await fill(path)
    async with SqlLedger.open(path, key=KEY, read_only=True) as ledger:
        with pytest.raises(LedgerError, match="only to be read"):
            await ledger.write((make_job(2),))
        with pytest.raises(LedgerError, match="only to be read"):
            await ledger.next_sequence("offer", Timestamp(1))
    assert await read(path) == 3


# ── the wrong key, the wrong file ─────────────────────────────────────────────────────────────────────────────────


async def test_another_key_opens_nothing_and_says_so(path: Path) -> None:
    await fill(path)
    for open_file in (open_for_writing, open_for_reading):
        with pytest.raises(LedgerError, match="made with another key; give the key file"):
            open_file(path, b"\x08" * 32)
    assert await read(path) == 3


async def test_there_is_nothing_to_read_where_no_ledger_is(path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger at"):
        await read(path)
    assert not path.parent.exists()


async def test_another_programs_database_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    alter(path, "CREATE TABLE recipe (name)")
    path.chmod(0o644)
    content = path.read_bytes()
    for open_file in (open_for_writing, open_for_reading):
        with pytest.raises(LedgerError, match="database of another program"):
            open_file(path, KEY)
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


async def test_a_file_that_is_no_database_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("to be or not to be, that is the question" * 100)
    for open_file in (open_for_writing, open_for_reading):
        with pytest.raises(LedgerError, match="is no ledger, or is damaged"):
            open_file(path, KEY)
    assert path.read_text().startswith("to be")


async def test_a_newer_ledger_is_not_touched(path: Path) -> None:
    await fill(path)
    alter(path, "INSERT INTO schema_version VALUES (99)")
    for open_file in (open_for_writing, open_for_reading):
        with pytest.raises(LedgerError, match="newer RelayMesh"):
            open_file(path, KEY)


async def test_a_ledger_that_was_never_finished_is_finished_by_its_next_writer(path: Path) -> None:
    await fill(path)
    alter(path, "DELETE FROM seal")
    with pytest.raises(LedgerError, match="unfinished; run `relaymesh ledger migrate`"):
        await read(path)
    async with SqlLedger.open(path, key=b"\x09" * 32) as ledger:
        await ledger.write((make_job(2),))


@pytest.mark.parametrize("place", ["folder", "below a file"])
async def test_a_place_where_no_file_can_be_is_named_in_one_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    path = {"folder": tmp_path, "below a file": tmp_path / "file" / "ledger.sqlite"}[place]
    with pytest.raises(LedgerError) as refused:
        open_for_writing(path, KEY)
    assert str(refused.value).startswith(f"the ledger {path} cannot be opened: ")


# ── damage ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_damaged_file_is_told_in_one_sentence(path: Path) -> None:
    await fill(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    with pytest.raises(LedgerError, match=r"is damaged; restore it from a backup$"):
        await read(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE job SET body = (SELECT preimage FROM tranche)",
        "UPDATE job SET body = x'00'",
        "UPDATE job SET body = 7",
        "UPDATE tranche SET preimage = zeroblob(60)",
        "UPDATE job SET state = 'excellent'",
        "UPDATE job SET side = 'neither', body = NULL",
        "UPDATE tranche SET state = 'free'",
        "UPDATE evidence SET event = '{}'",
        "UPDATE evidence SET event = 'nothing'",
        'UPDATE evidence SET event = replace(event, \'"content":"{}"\', \'"content":"[]"\')',
        "UPDATE evidence SET plaintext = x'11'",
        'UPDATE sealed SET commitment = replace(commitment, \'"content":"{}"\', \'"content":"[]"\')',
        "UPDATE sealed SET leaves = substr(leaves, 1, length(leaves) - 1)",
        "UPDATE sealed SET leaves = 7",
    ],
)
async def test_a_row_that_was_altered_is_told_and_not_believed(path: Path, statement: str) -> None:
    await fill(path)
    alter(path, "PRAGMA foreign_keys = OFF")
    alter(path, statement)
    with pytest.raises(LedgerError, match="altered") as refused:
        await read(path)
    assert BODY not in str(refused.value)


# ── versions ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_migrations_are_carried_out_in_order_and_once() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE schema_version (version INTEGER PRIMARY KEY)")
    first, second = "CREATE TABLE a (x); INSERT INTO a VALUES (1);", "INSERT INTO a SELECT x + 1 FROM a;"
    migrate(connection, (first,))
    migrate(connection, (first, second))
    migrate(connection, (first, second))
    assert connection.execute("SELECT x FROM a ORDER BY x").fetchall() == [(1,), (2,)]
    assert connection.execute("SELECT version FROM schema_version").fetchall() == [(1,), (2,)]
    connection.close()


def test_a_migration_that_fails_leaves_nothing_of_itself() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE schema_version (version INTEGER PRIMARY KEY)")
    with pytest.raises(sqlite3.Error):
        migrate(connection, ("CREATE TABLE a (x); INSERT INTO nowhere VALUES (1);",))
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("schema_version",)]
    assert not connection.in_transaction
    connection.close()


async def test_an_older_ledger_is_brought_up_to_date_by_whoever_writes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(path)
    monkeypatch.setattr(sql_ledger_file, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE later (x);"))
    with pytest.raises(LedgerError, match="older RelayMesh"):
        await read(path)
    async with SqlLedger.open(path, key=KEY) as ledger:
        assert len(await ledger.find_jobs(JobQuery())) == 1
    assert await read(path) == 3


def schema_of(path: Path) -> set[tuple[str, str]]:
    """What the tables and indexes of a ledger are, by name."""
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {(name, sql) for name, sql in found}


async def test_a_ledger_of_the_first_version_is_brought_up_to_date_with_all_that_is_in_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SqlLedger.open(path, key=KEY) as ledger:
        await ledger.write(RECORDS)
    for statement in UNDO:
        alter(path, statement)
    with monkeypatch.context() as older:
        older.setattr(sql_ledger_file, "MIGRATIONS", MIGRATIONS[:1])
        open_for_writing(tmp_path / "first.sqlite", KEY).close()
    assert schema_of(path) == schema_of(tmp_path / "first.sqlite")
    async with SqlLedger.open(path, key=KEY) as ledger:
        await check_is_up_to_date(ledger)
    async with SqlLedger.open(path, key=KEY, read_only=True) as ledger:
        assert len(await ledger.find_sealed()) == 1


# ── what SQLite says ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (sqlite3.SQLITE_FULL, "the disk is full; free some space"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "read-only"),
        (sqlite3.SQLITE_IOERR_FSYNC, "the disk failed"),
        (sqlite3.SQLITE_CANTOPEN_ISDIR, "cannot be opened"),
        (sqlite3.SQLITE_CORRUPT_INDEX, "damaged"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "locked by another program"),
        (sqlite3.SQLITE_MISUSE, "could not be read or written (SQLITE_MISUSE)"),
    ],
)
def test_each_failure_has_its_sentence(code: int, said: str) -> None:
    error = sqlite3.OperationalError("no such prompt: garden")
    error.sqlite_errorcode = code
    error.sqlite_errorname = "SQLITE_MISUSE"
    explained = explain(error, Path("ledger.sqlite"))
    assert said in str(explained)
    assert "garden" not in str(explained)
    assert explained.retryable == ("locked" in said)


def test_an_error_without_a_code_has_a_sentence_too() -> None:
    assert "(ProgrammingError)" in str(explain(sqlite3.ProgrammingError("closed"), Path("ledger.sqlite")))
