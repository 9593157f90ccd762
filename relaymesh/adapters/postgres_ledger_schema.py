"""The ledger's tables in PostgreSQL: made, brought up to date, and proved to belong to the key."""

from typing import Any, Final

from relaymesh.adapters.ledger_encryption import LedgerCipher, bind_to_key, unlock
from relaymesh.adapters.postgres_ledger_server import Server
from relaymesh.adapters.sql_ledger_schema import MIGRATIONS, in_postgresql
from relaymesh.errors import LedgerError

_ONE_AT_A_TIME: Final = "SELECT pg_advisory_xact_lock(hashtextextended('relaymesh schema ' || $1, 0))"
_TABLES: Final = "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'v', 'p')"
_HAS_VERSION: Final = "SELECT to_regclass($1 || '.schema_version') IS NOT NULL"


async def prepare(connection: Any, server: Server, key: bytes) -> LedgerCipher:
    """Make the tables or bring them up to date, all or nothing, and hand back the cipher of their sensitive fields.

    Raises:
        LedgerError: They are another program's or a newer RelayMesh's, the key is another, or the server refuses.
    """
    with server.explained():
        async with connection.transaction():
            await connection.execute(_ONE_AT_A_TIME, server.schema)
            version = await read_version(connection, server)
            if version > len(MIGRATIONS):
                raise _wrong_version(server, version)
            if version == 0:
                if await connection.fetchval("SELECT to_regnamespace($1) IS NULL", server.schema):
                    await connection.execute(f"CREATE SCHEMA {server.schema}")
                await connection.execute("CREATE TABLE schema_version (version BIGINT PRIMARY KEY)")
            for number, migration in enumerate(MIGRATIONS[version:], version + 1):
                await connection.execute(in_postgresql(migration))
                await connection.execute("INSERT INTO schema_version (version) VALUES ($1)", number)
            if await connection.fetchval("SELECT NOT EXISTS (SELECT FROM seal)"):
                insert = "INSERT INTO seal (only_row, salt, proof) VALUES (1, $1, $2)"
                await connection.execute(insert, *bind_to_key(key))
            return await _unlock(connection, server, key)


async def open_prepared(connection: Any, server: Server, key: bytes) -> LedgerCipher:
    """The cipher of a ledger that is there and up to date.

    Raises:
        LedgerError: There is none, its version or its key is another, or the server refuses.
    """
    with server.explained():
        version = await read_version(connection, server)
        if version == 0:
            raise LedgerError(f"{server.name} has not been made; it is when a job is first bought or sold")
        if version != len(MIGRATIONS):
            raise _wrong_version(server, version)
        return await _unlock(connection, server, key)


async def is_made(server: Server) -> bool:
    """Whether the ledger is there, of whatever version.

    Raises:
        LedgerError: The schema is another program's, or the server cannot be reached or refuses.
    """
    connection = await server.connect(read_only=True)
    try:
        with server.explained():
            return await read_version(connection, server) > 0
    finally:
        connection.terminate()


async def read_version(connection: Any, server: Server) -> int:
    """Which version of the tables is there; 0 where there are none.

    Raises:
        LedgerError: The schema is another program's.
    """
    if not await connection.fetchval(_HAS_VERSION, server.schema):
        if await connection.fetchval(_TABLES, server.schema):
            raise LedgerError(f"{server.name} would lie among another program's tables; name another search_path")
        return 0
    version: int = await connection.fetchval("SELECT coalesce(max(version), 0) FROM schema_version")
    return version


async def _unlock(connection: Any, server: Server, key: bytes) -> LedgerCipher:
    row = await connection.fetchrow("SELECT salt, proof FROM seal")
    if row is None:
        raise _wrong_version(server, 0)
    return unlock(key, row["salt"], row["proof"], server.name)


def _wrong_version(server: Server, version: int) -> LedgerError:
    if version > len(MIGRATIONS):
        return LedgerError(f"{server.name} was written by a newer RelayMesh; use that one")
    return LedgerError(f"{server.name} is of an older RelayMesh or unfinished; run `relaymesh ledger migrate`")
