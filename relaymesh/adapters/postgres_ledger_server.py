"""A connection to the PostgreSQL database that a ledger lies in: found, asked whether it can be trusted, explained.

The URL may hold a password. It goes to asyncpg and nowhere else: what is said names the database and its host.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg

from relaymesh.errors import LedgerError

SCHEMES: Final = ("postgresql", "postgres")
DEFAULT_SCHEMA: Final = "relaymesh"
COMMAND_SECONDS: Final = 15.0
_CONNECT_SECONDS: Final = 5.0
_SCHEMA_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")

# A client whose machine is gone must not hold up the others: the server lets go of what it held within half a minute.
_SERVER_SETTINGS: Final = {
    "application_name": "relaymesh",
    "idle_in_transaction_session_timeout": "15s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_LOST: Final = (
    OSError,  # TimeoutError too
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InternalClientError,  # how asyncpg calls the state in which it meets a server that just died
)
_MEANINGS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (asyncpg.InvalidAuthorizationSpecificationError, "refuses this user or password; check both in the URL"),
    (asyncpg.InvalidCatalogNameError, "is not there; create it with createdb, or name another"),
    (asyncpg.InsufficientPrivilegeError, "may not be used so by this user; make it the owner of the database"),
    (asyncpg.ReadOnlySQLTransactionError, "takes no writes: it is a standby; name the primary"),
    (asyncpg.DiskFullError, "cannot be written: the server's disk is full; free some space"),
    (asyncpg.InsufficientResourcesError, "is short of memory or connections; give the server more"),
    (asyncpg.DataCorruptedError, "is damaged; restore it from a backup"),
    (asyncpg.IndexCorruptedError, "is damaged; restore it from a backup"),
    (asyncpg.IdleInTransactionSessionTimeoutError, "was kept waiting by this process for too long; try again"),
    (asyncpg.DeadlockDetectedError, "is locked by another program; close that program"),
    (asyncpg.LockNotAvailableError, "is locked by another program; close that program"),
)


@dataclass(frozen=True, slots=True)
class Server:
    """Where a ledger lies.

    Args:
        url: Sensitive, since it may hold a password.
        schema: The ledger's tables have it to themselves.
        name: What the ledger is called in sentences.
    """

    url: str = field(repr=False)
    schema: str
    name: str

    async def connect(self, *, read_only: bool = False) -> Any:
        """A new connection, in which every write is durable once it is committed.

        Raises:
            LedgerError: It cannot be made, or the server does not keep what it acknowledges.
        """
        settings = {**_SERVER_SETTINGS, "search_path": self.schema}
        if read_only:
            settings["default_transaction_read_only"] = "on"
        with self.explained():
            try:
                connection = await asyncpg.connect(
                    self.url, timeout=_CONNECT_SECONDS, command_timeout=COMMAND_SECONDS, server_settings=settings
                )
            except ValueError:  # without its cause, which may hold the URL
                raise self.unusable() from None
            try:
                await self._check(connection)
            except BaseException:
                connection.terminate()
                raise
            return connection

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say what PostgreSQL's errors mean; `LedgerError.retryable` says whether the connection was lost."""
        try:
            yield
        except (*_LOST, asyncpg.PostgresError) as error:
            raise self._explain(error) from error

    def unusable(self) -> LedgerError:
        """What a URL is refused with that PostgreSQL's client does not understand."""
        return LedgerError(f"{self.name} cannot be found by its URL; write postgresql://user@host:5432/database")

    def _explain(self, error: BaseException) -> LedgerError:
        for kind, meaning in _MEANINGS:
            if isinstance(error, kind):
                return LedgerError(f"{self.name} {meaning}")
        if isinstance(error, _LOST):
            return LedgerError(f"{self.name} does not answer; see that its server runs", retryable=True)
        code = getattr(error, "sqlstate", None) or type(error).__name__
        return LedgerError(f"{self.name} could not be read or written (PostgreSQL's code {code})")

    async def _check(self, connection: Any) -> None:
        row = await connection.fetchrow(
            "SELECT current_setting('fsync') AS fsync, current_setting('server_encoding') AS encoding,"
            " set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')"
            " THEN 'on' ELSE current_setting('synchronous_commit') END, false)"
        )
        if row["fsync"] != "on":
            raise LedgerError(f"{self.name} is on a server with fsync = off, which forgets money; turn it on")
        if row["encoding"] != "UTF8":
            raise LedgerError(f"{self.name} is encoded in {row['encoding']}; create a database with --encoding=UTF8")


def is_postgresql(url: str) -> bool:
    """Whether a setting names a PostgreSQL database."""
    return url.partition("://")[0] in SCHEMES


def find_server(url: str, part: str = "") -> Server:
    """The server that a URL names; nothing is asked yet.

    Args:
        url: `?search_path=` names another schema than `relaymesh`.
        part: Where several ledgers share a database, the schema of this one ends so.

    Raises:
        LedgerError: It is no URL of a PostgreSQL database, or its schema is no plain name.
    """
    try:
        parts = urlsplit(url)
        options = parse_qs(parts.query)
        host = parts.hostname or options.get("host", ["this machine"])[0]
    except ValueError:  # without its cause, which may hold the URL
        raise Server("", "", "the ledger in PostgreSQL").unusable() from None
    database = parts.path.strip("/") or options.get("dbname", ["of the user's name"])[0]
    name = f"the ledger in the PostgreSQL database {database} at {host}"
    schema = "_".join(filter(None, (options.get("search_path", [DEFAULT_SCHEMA])[0], part)))
    if not is_postgresql(url):
        raise Server("", "", "the ledger in PostgreSQL").unusable()
    if not _SCHEMA_NAME.fullmatch(schema):
        raise LedgerError(f"{name} has no usable schema: search_path must be one name of a-z, 0-9 and _")
    return Server(url, schema, name)
