"""Nothing that was acknowledged is lost: not by `kill -9` of the server, nor of the process that writes."""

import threading
from collections.abc import Iterator

import pytest

from relaymesh.adapters.postgres_ledger import PostgresLedger
from relaymesh.machines.records import TrancheState
from relaymesh.ports.ledger import JobQuery
from relaymesh.units import Timestamp
from tests.adapters.ledger_process import KEY, NOW, STATES
from tests.adapters.test_sql_ledger_crash import started
from tests.conformance.ledger.records import make_job
from tests.real.postgresql import PostgresServer, postgres_server

pytestmark = pytest.mark.anyio

LINES = 200


@pytest.fixture
def mortal() -> Iterator[PostgresServer]:
    """A server of one's own to kill."""
    with postgres_server() as server:
        yield server


def write_through_both_deaths(server: PostgresServer, url: str) -> list[str]:
    """Kill the server under a process that writes, start it again, then kill the process: all that it acknowledged."""
    with started(url, 0) as (process, stdout):
        lines = [stdout.readline() for _ in range(LINES)]
        server.kill()
        starting = threading.Thread(target=server.start)  # meanwhile nothing is read, which stops nobody who writes
        starting.start()
        starting.join()
        lines += [stdout.readline() for _ in range(LINES * 4)]
        assert process.poll() is None  # it went on over a new connection, and nobody was told of an error
        process.kill()
        lines += stdout.readlines()
    assert process.returncode == -9
    return [line.strip() for line in lines if line.endswith("\n")]


async def test_nothing_acknowledged_is_lost_when_the_server_and_then_the_client_are_killed(
    mortal: PostgresServer,
) -> None:
    url = mortal.url()
    jobs, steps, sequences = set(), dict[str, int](), []
    for word, number, *state in map(str.split, write_through_both_deaths(mortal, url)):
        if word == "job":
            jobs.add(make_job(int(number)).job_id)
        elif word == "tranche":
            steps[make_job(int(number)).job_id] = STATES.index(TrancheState(state[0]))
        else:
            sequences.append(int(number))
    mortal.kill()
    mortal.start()
    async with PostgresLedger.open(url, key=KEY) as ledger:
        found = {entry.job.job_id: entry for entry in await ledger.find_jobs(JobQuery(limit=100_000))}
        assert jobs <= set(found)
        # One step further than acknowledged may be there as well: it was on the disk when the end came.
        behind = [job_id for job_id, step in steps.items() if STATES.index(found[job_id].tranches[0].state) < step]
        assert not behind
        assert len(steps) > 30
        assert len(set(sequences)) == len(sequences) > 10
        assert await ledger.next_sequence("offer", Timestamp(NOW)) > max(sequences)
