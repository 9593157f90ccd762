"""What each of the gateway's keys has spent, in a file: SQLite, synced before money can follow, in a thread.

A request sets aside the most that it may cost, and counts what it did cost when it is over. What was set aside by a
process that died stays counted. Sums and insertion are one transaction that locks the file, so that no number of
requests at once, of any number of processes, goes beyond a budget.
"""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from relaymesh.errors import LedgerError
from relaymesh.market.spending import DAY_MS, UNLIMITED
from relaymesh.units import AmountMsat

_BUSY_SECONDS: Final = 5
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS spent (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL, model TEXT NOT NULL, at_ms INTEGER NOT NULL, msat INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS spent_by_name ON spent (name, at_ms, model, msat);
"""
_SUM: Final = "SELECT coalesce(sum(msat), 0) FROM spent WHERE name = ? AND at_ms > ?"
_SUM_OF_MODEL: Final = f"{_SUM} AND model = ?"

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Budget:
    """What one key may spend, routing included; 0 is no limit.

    Args:
        total_msat: Ever.
        day_msat: In any 24 hours.
        model_day_msat: In any 24 hours, on the model in question.
    """

    total_msat: int = UNLIMITED
    day_msat: int = UNLIMITED
    model_day_msat: int = UNLIMITED


@dataclass(frozen=True, slots=True)
class Reserved:
    """What was set aside, under which number."""

    number: int
    msat: AmountMsat


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Nothing could be set aside: the limit that is reached, and what of it is spent or set aside."""

    limit: str
    limit_msat: int
    spent_msat: int


class BudgetFile:
    """The file, open."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._limiter = anyio.CapacityLimiter(1)

    async def reserve(
        self, name: str, model: str, most_msat: AmountMsat, budget: Budget, now_ms: int
    ) -> Reserved | Exhausted:
        """Set aside as much of `most_msat` as every limit leaves.

        Raises:
            LedgerError: The file cannot be written.
        """
        return await self._call(self._reserve, name, model, most_msat, budget, now_ms)

    async def settle(self, number: int, msat: AmountMsat) -> None:
        """Count what a request did cost instead of what was set aside for it; LedgerError as above."""
        await self._call(self._settle, number, msat)

    async def spent(self, name: str, after_ms: int) -> AmountMsat:
        """What a key has spent or set aside since then; LedgerError as above."""
        return await self._call(self._sum, _SUM, name, after_ms)

    async def _call(self, function: Callable[..., ResultT], *arguments: object) -> ResultT:
        try:
            return await anyio.to_thread.run_sync(function, *arguments, limiter=self._limiter)
        except sqlite3.Error as error:
            raise LedgerError(f"the budgets cannot be written: {error}") from error

    def _sum(self, query: str, *values: str | int) -> AmountMsat:
        return AmountMsat(self._connection.execute(query, values).fetchone()[0])

    def _reserve(
        self, name: str, model: str, most_msat: AmountMsat, budget: Budget, now_ms: int
    ) -> Reserved | Exhausted:
        yesterday = now_ms - DAY_MS
        sums = (
            ("total_msat", budget.total_msat, (_SUM, name, -1)),
            ("day_msat", budget.day_msat, (_SUM, name, yesterday)),
            (f"models.{model}", budget.model_day_msat, (_SUM_OF_MODEL, name, yesterday, model)),
        )
        granted = int(most_msat)
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            for limit, limit_msat, query in sums:
                if limit_msat == UNLIMITED:
                    continue
                spent_msat = self._sum(*query)
                granted = min(granted, limit_msat - spent_msat)
                if granted <= 0:
                    return Exhausted(limit, limit_msat, spent_msat)
            inserted = self._connection.execute(
                "INSERT INTO spent (name, model, at_ms, msat) VALUES (?, ?, ?, ?)", (name, model, now_ms, granted)
            )
            assert inserted.lastrowid is not None
        return Reserved(inserted.lastrowid, AmountMsat(granted))

    def _settle(self, number: int, msat: AmountMsat) -> None:
        with self._connection:
            if msat:
                self._connection.execute("UPDATE spent SET msat = ? WHERE number = ?", (msat, number))
            else:
                self._connection.execute("DELETE FROM spent WHERE number = ?", (number,))


@asynccontextmanager
async def open_budget_file(path: Path) -> AsyncIterator[BudgetFile]:
    """The budgets in this file, which is made where it is not there; LedgerError if it cannot be."""
    try:
        connection = await anyio.to_thread.run_sync(_connect, path)
    except (OSError, sqlite3.Error) as error:
        raise LedgerError(f"the budgets in {path} cannot be opened: {error}") from error
    with closing(connection):
        yield BudgetFile(connection)


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(_SCHEMA)
    return connection
