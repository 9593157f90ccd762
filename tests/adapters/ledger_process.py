"""A process that writes to a ledger as fast as it can and says what was acknowledged, until it is killed.

python -m tests.adapters.ledger_process FILE-OR-URL ROUND [MAXIMUM_FILE_BYTES]

One line per acknowledgement: `job NUMBER`, `tranche NUMBER STATE` or `sequence VALUE`. With a limit, no file may grow
beyond it (a disk that is full, as far as the process can see); the first refusal ends the limit and is told as
`refused REASON`.
"""

import os
import resource
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import anyio

from relaymesh.adapters.postgres_ledger import PostgresLedger
from relaymesh.adapters.postgres_ledger_server import is_postgresql
from relaymesh.adapters.sql_ledger import SqlLedger
from relaymesh.errors import LedgerError
from relaymesh.machines.records import JobState, TrancheState
from relaymesh.ports.ledger import Ledger
from relaymesh.units import Timestamp
from tests.conformance.ledger.records import make_job, make_tranche

KEY = b"\x07" * 32
NOW = Timestamp(1_790_000_000)
WRITERS = 12
JOBS_PER_WRITER = 10_000
STATES = (TrancheState.INVOICED, TrancheState.PAYING, TrancheState.PAID, TrancheState.RELEASED)


def acknowledge(line: str) -> None:
    """In one write, so that no line is ever torn."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


async def buy(ledger: Ledger, first: int) -> None:
    """Take job after job through its life, saying each step once it is durable."""
    for number in range(first, first + JOBS_PER_WRITER):
        await ledger.write((make_job(number),))
        acknowledge(f"job {number}")
        for state in STATES:
            job = make_job(number, state=JobState.DONE, body="") if state is TrancheState.RELEASED else make_job(number)
            await ledger.write((job, replace(make_tranche(number), state=state)))
            acknowledge(f"tranche {number} {state.value}")
        acknowledge(f"sequence {await ledger.next_sequence('offer', NOW)}")


def open_ledger(place: str) -> AbstractAsyncContextManager[Ledger]:
    """The ledger in this file, or in PostgreSQL at this URL."""
    if is_postgresql(place):
        return PostgresLedger.open(place, key=KEY)
    return SqlLedger.open(Path(place), key=KEY)


async def run(place: str, first: int, limit: int | None) -> None:
    """Write from many tasks at once; with a limit, one job after another until the disk is full."""
    async with open_ledger(place) as ledger:
        if limit is None:
            async with anyio.create_task_group() as tasks:
                for writer in range(WRITERS):
                    tasks.start_soon(buy, ledger, first + writer * JOBS_PER_WRITER)
            return
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        number = first
        while True:
            try:
                await ledger.write((make_job(number),))
            except LedgerError as error:
                acknowledge(f"refused {error}")
                break
            acknowledge(f"job {number}")
            number += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        await ledger.write((make_job(number),))
        acknowledge(f"job {number}")


def main() -> None:
    """As the module says."""
    place, first, *limit = sys.argv[1:]
    anyio.run(run, place, int(first) * WRITERS * JOBS_PER_WRITER, int(limit[0]) if limit else None)


if __name__ == "__main__":
    main()
