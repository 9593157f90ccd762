"""`relaymesh ledger` with PostgreSQL: a copy that is compared, and everything that works on a file works there."""

import json
from pathlib import Path

import anyio.to_thread
import pytest

from relaymesh.adapters.key_files import load_or_create_ledger_key
from relaymesh.adapters.postgres_ledger import PostgresLedger
from relaymesh.adapters.sql_ledger import SqlLedger
from relaymesh.units import Timestamp
from tests.cli.processes import Home
from tests.cli.test_ledger import fill
from tests.conformance.ledger.records import make_job
from tests.real.postgresql import PostgresServer


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home whose client bought what its node sold."""
    home = Home(tmp_path, {"RELAYMESH_FILES_DIRECTORY": str(tmp_path)})
    fill(home, "client")
    fill(home, "node")
    return home


def test_a_copy_holds_everything_and_may_be_made_again(home: Home, database: PostgresServer) -> None:
    url = database.url()
    first, again = (home.run("ledger", "migrate", "--to", url, "--json") for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    assert json.loads(first.stdout) == json.loads(again.stdout)
    for report in json.loads(first.stdout):
        assert (report["jobs"], report["tranches"], report["sealed"], report["evidence"]) == (2, 2, 1, 1)
        assert report["copied_to"] == f"the ledger in the PostgreSQL database ledgers at {database.directory}"
    there = Home(home.directory, {**home.settings, "RELAYMESH_STORAGE_LEDGER": url})
    for command in (("ledger", "check", "--json"), ("ledger", "export"), ("receipts", "list", "--json")):
        here_ran, there_ran = (
            home.run(*command, *(("--open-hours", "1000000") if "check" in command else ())),
            there.run(*command, *(("--open-hours", "1000000") if "check" in command else ())),
        )
        assert (there_ran.returncode, there_ran.stderr) == (0, "")
        assert there_ran.stdout == here_ran.stdout
    assert "is the one in use" in there.run("ledger", "migrate", "--to", url).stderr


def test_a_copy_never_mixes_with_other_rows(home: Home, database: PostgresServer) -> None:
    url = database.url(schema="mixed")
    assert home.run("ledger", "migrate", "--to", url).returncode == 0
    fill(home, "client", make_job(7))
    assert home.run("ledger", "migrate", "--to", url).returncode == 0
    database.execute("UPDATE mixed_client.job SET charged_msat = 1 WHERE state = 'done'")
    ran = home.run("ledger", "migrate", "--to", url)
    assert ran.returncode == 1 and "holds a ledger with other rows" in ran.stderr


def test_a_database_that_was_broken_by_hand_is_found_out(home: Home, database: PostgresServer) -> None:
    url = database.url(schema="broken")
    assert home.run("ledger", "migrate", "--to", url, "--side", "client").returncode == 0
    there = Home(home.directory, {**home.settings, "RELAYMESH_STORAGE_LEDGER": url})
    assert there.run("ledger", "check").returncode == 0
    database.execute("UPDATE broken_client.tranche SET amount_msat = 900 WHERE tranche = 0")
    ran = there.run("ledger", "check")
    assert ran.returncode == 1
    assert "was charged 1500 msat and paid 1400 msat" in ran.stdout


@pytest.mark.anyio
async def test_sequence_numbers_are_taken_along(home: Home, database: PostgresServer) -> None:
    url, key = database.url(), load_or_create_ledger_key(home.directory / "ledger.key")
    far = Timestamp(2_000_000_000)  # a clock that was wrong once must not lead to the same number twice
    async with SqlLedger.open(home.directory / "client.sqlite3", key=key) as ledger:
        assert await ledger.next_sequence("offer", far) == far
    for _ in range(2):
        ran = await anyio.to_thread.run_sync(home.run, "ledger", "migrate", "--to", url, "--side", "client")
        assert ran.returncode == 0
    async with PostgresLedger.open(url, key=key, part="client") as ledger:
        assert await ledger.sequences() == {"offer": far}
        assert await ledger.next_sequence("offer", Timestamp(1)) == far + 1
