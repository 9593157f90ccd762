"""Nothing that was acknowledged is lost: not by `kill -9` in the middle of everything, not by a disk that is full."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from relaymesh.adapters.sql_ledger import SqlLedger
from relaymesh.adapters.sql_ledger_file import open_for_writing
from relaymesh.errors import LedgerError
from relaymesh.machines.records import TrancheState
from relaymesh.ports.ledger import JobQuery
from relaymesh.units import Timestamp
from tests.adapters.ledger_process import KEY, NOW, STATES
from tests.conformance.ledger.records import make_job

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]
ACKNOWLEDGED_BEFORE_THE_KILL = 300


@contextmanager
def started(place: Path | str, *arguments: int) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """The process and what it says; it is gone in the end, whatever happens."""
    command = [sys.executable, "-m", "tests.adapters.ledger_process", str(place), *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.kill()


def kill_in_the_middle(path: Path, round_number: int) -> list[str]:
    """Let a process write, kill it, and hand back every line that it acknowledged."""
    with started(path, round_number) as (process, stdout):
        lines = [stdout.readline() for _ in range(ACKNOWLEDGED_BEFORE_THE_KILL)]
        with pytest.raises(LedgerError, match="in use by another RelayMesh process"):
            open_for_writing(path, KEY)  # and the lock ends with the process: the next round opens it, and so do we
        process.kill()
        lines += stdout.readlines()  # what was on its way when the end came counts as well
    assert process.returncode == -9
    return [line.strip() for line in lines]


async def test_nothing_acknowledged_is_lost_by_kill_9_in_the_middle_of_everything(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    jobs, tranches, sequences = set(), {}, []
    for round_number in range(2):
        for word, number, *state in map(str.split, kill_in_the_middle(path, round_number)):
            if word == "job":
                jobs.add(make_job(int(number)).job_id)
            elif word == "tranche":
                tranches[make_job(int(number)).job_id] = STATES.index(TrancheState(state[0]))
            else:
                sequences.append(int(number))
    async with SqlLedger.open(path, key=KEY) as ledger:
        found = {entry.job.job_id: entry for entry in await ledger.find_jobs(JobQuery(limit=100_000))}
        assert jobs <= set(found)
        # One step further than acknowledged may be there as well: it was on the disk when the end came.
        behind = [job_id for job_id, step in tranches.items() if STATES.index(found[job_id].tranches[0].state) < step]
        assert not behind
        assert len(tranches) > 30
        assert len(set(sequences)) == len(sequences) > 10
        assert await ledger.next_sequence("offer", Timestamp(NOW)) > max(sequences)


async def test_a_full_disk_loses_nothing_and_the_ledger_goes_on_once_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    async with SqlLedger.open(path, key=KEY):
        pass
    with started(path, 0, path.stat().st_size + 200_000) as (process, stdout):
        lines = [line.strip() for line in stdout]
        assert process.wait() == 0
    (refused,) = (line for line in lines if line.startswith("refused"))
    assert refused.startswith(f"refused the ledger {path} cannot be ")
    assert "disk" in refused
    assert lines[-1].startswith("job")
    async with SqlLedger.open(path, key=KEY) as ledger:
        found = {entry.job.job_id for entry in await ledger.find_jobs(JobQuery(limit=100_000))}
    assert found == {make_job(int(line.split()[1])).job_id for line in lines if line.startswith("job")}
