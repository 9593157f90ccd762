"""Which ledger the settings name: a file in the data folder, or a schema in a PostgreSQL database."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

from relaymesh.adapters.key_files import load_or_create_ledger_key
from relaymesh.adapters.sql_ledger import SqlLedger
from relaymesh.cli.options import Role
from relaymesh.cli.settings_source import data_directory
from relaymesh.errors import UsageError
from relaymesh.ports.ledger import JobQuery, Ledger
from relaymesh.settings import Settings

ALL_JOBS: Final = JobQuery(limit=2**63 - 1)


def open_ledger(settings: Settings, role: Role, *, read_only: bool = False) -> AbstractAsyncContextManager[Ledger]:
    """The ledger of one role, under the key in the data folder; made where there is none.

    Routers share one in PostgreSQL, since a router has no jobs whose leftovers it could mistake for another's.

    Raises:
        UsageError: The settings name something else than a PostgreSQL database.
    """
    key = load_key(settings)
    if not settings.storage.ledger:
        return SqlLedger.open(ledger_file(settings, role), key=key, read_only=read_only)
    check_url(settings.storage.ledger)
    from relaymesh.adapters.postgres_ledger import PostgresLedger

    return PostgresLedger.open(
        settings.storage.ledger, key=key, part=role, read_only=read_only, shared=role == "router"
    )


@asynccontextmanager
async def open_existing_ledger(settings: Settings, role: Role) -> AsyncIterator[Ledger | None]:
    """The ledger of one role, to be read; None where none has been made."""
    if not await is_made(settings, role):
        yield None
        return
    async with open_ledger(settings, role, read_only=True) as ledger:
        yield ledger


def load_key(settings: Settings) -> bytes:
    """The key that sensitive fields are encrypted under, made where there is none."""
    return load_or_create_ledger_key(data_directory(settings) / "ledger.key")


def ledger_file(settings: Settings, role: Role) -> Path:
    """Where the ledger of one role is, unless the settings name a database."""
    return data_directory(settings) / f"{role}.sqlite3"


def check_url(url: str) -> None:
    """Refuse what names no PostgreSQL database, without repeating it: it may hold a password.

    Raises:
        UsageError: It does not.
    """
    if url.partition("://")[0] not in ("postgresql", "postgres"):
        raise UsageError("storage.ledger must be empty or postgresql://user@host:5432/database")


async def is_made(settings: Settings, role: Role) -> bool:
    """Whether one role has a ledger, of whatever version."""
    if not settings.storage.ledger:
        return ledger_file(settings, role).exists()
    check_url(settings.storage.ledger)
    from relaymesh.adapters import postgres_ledger_schema
    from relaymesh.adapters.postgres_ledger_server import find_server

    return await postgres_ledger_schema.is_made(find_server(settings.storage.ledger, role))
