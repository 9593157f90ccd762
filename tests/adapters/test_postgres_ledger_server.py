"""A database is named in sentences without its user or password, and each error says what to do."""

import traceback

import asyncpg
import pytest

from relaymesh.adapters.postgres_ledger import PostgresLedger
from relaymesh.adapters.postgres_ledger_server import find_server, is_postgresql
from relaymesh.errors import LedgerError

KEY = b"\x07" * 32
SECRET = "correct-horse"


@pytest.mark.parametrize(
    ("url", "name", "schema"),
    [
        (f"postgresql://me:{SECRET}@db.example:5433/mesh", "database mesh at db.example", "relaymesh"),
        (f"postgres://me:{SECRET}@/mesh?host=/run/pg", "database mesh at /run/pg", "relaymesh"),
        ("postgresql:///mesh?search_path=second", "database mesh at this machine", "second"),
        (f"postgresql://me:{SECRET}@[::1]", "database of the user's name at ::1", "relaymesh"),
    ],
)
def test_a_ledger_is_called_by_its_database_and_host_alone(url: str, name: str, schema: str) -> None:
    server = find_server(url)
    assert server.name == f"the ledger in the PostgreSQL {name}"
    assert server.schema == schema
    assert SECRET not in repr(server)


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://me:{SECRET}@host/mesh",
        f"postgresql://me:{SECRET}@[host/mesh",
        f"postgresql://me:{SECRET}@host/mesh?search_path=a;b",
        f"postgresql://me:{SECRET}@host/mesh?search_path=Public",
        "",
    ],
)
def test_a_url_that_names_no_database_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(LedgerError) as refused:
        find_server(url)
    assert SECRET not in "".join(traceback.format_exception(refused.value))


@pytest.mark.anyio
@pytest.mark.parametrize("rest", ["host:port/mesh", "host/mesh?sslmode=perhaps", "host/mesh?target_session_attrs=x"])
async def test_a_url_that_the_client_does_not_understand_is_refused_without_repeating_it(rest: str) -> None:
    with pytest.raises(LedgerError, match="write postgresql://user@host:5432/database") as refused:
        async with PostgresLedger.open(f"postgresql://me:{SECRET}@{rest}", key=KEY):
            pass
    assert SECRET not in "".join(traceback.format_exception(refused.value))


@pytest.mark.anyio
async def test_a_server_that_is_not_there_is_said_and_may_be_tried_again() -> None:
    with pytest.raises(LedgerError, match=r"database mesh at 127\.0\.0\.1 does not answer") as refused:
        async with PostgresLedger.open(f"postgresql://me:{SECRET}@127.0.0.1:9/mesh", key=KEY):
            pass
    assert refused.value.retryable
    assert SECRET not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    ("error", "said", "is_lost"),
    [
        (asyncpg.InvalidPasswordError(SECRET), "refuses this user or password", False),
        (asyncpg.InvalidCatalogNameError(SECRET), "create it with createdb", False),
        (asyncpg.DiskFullError(SECRET), "disk is full", False),
        (asyncpg.TooManyConnectionsError(SECRET), "short of memory or connections", False),
        (asyncpg.ReadOnlySQLTransactionError(SECRET), "it is a standby", False),
        (asyncpg.InsufficientPrivilegeError(SECRET), "make it the owner", False),
        (asyncpg.CannotConnectNowError(SECRET), "does not answer", True),
        (asyncpg.AdminShutdownError(SECRET), "does not answer", True),
        (asyncpg.ConnectionDoesNotExistError(SECRET), "does not answer", True),
        (TimeoutError(), "does not answer", True),
        (ConnectionResetError(), "does not answer", True),
        (asyncpg.UndefinedTableError(SECRET), "could not be read or written (PostgreSQL's code 42P01)", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_error_is_one_sentence_that_says_what_to_do(error: Exception, said: str, is_lost: bool) -> None:
    with pytest.raises(LedgerError) as explained, find_server("postgresql://host/mesh").explained():
        raise error
    assert said in str(explained.value)
    assert SECRET not in str(explained.value)
    assert explained.value.retryable == is_lost


def test_which_settings_name_a_database() -> None:
    assert is_postgresql("postgresql://x") and is_postgresql("postgres://x")
    assert not is_postgresql("/var/lib/postgresql") and not is_postgresql("") and not is_postgresql("sqlite://x")
