"""What whole processes cost: a command that only says its help, and a node that waits for work."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio

from bench.contract import MICROSECONDS, children_cpu_us
from bench.mesh import start_process
from relaymesh.configuration import format_document

SETTLE_SECONDS: Final = 3
TICKS: Final = os.sysconf("SC_CLK_TCK")


def process_cpu_us(*arguments: str) -> float:
    """CPU time of `python ARGUMENTS`, from its start to its end."""
    before = children_cpu_us()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return children_cpu_us() - before


async def measure_idle_node(directory: Path, url: str, seconds: float, runs: int) -> list[float]:
    """CPU time that `relaymesh node serve` with its embedded engine takes while nobody asks, in percent of one core.

    The relay it is connected to and its wallet are processes of their own and do not count; its engine does.
    """
    wallets = ["-m", "relaymesh.lightning_sim", "--directory", str(directory / "lightning"), "--wallet", "node=1000000"]
    async with start_process(wallets) as (_, facts):
        tables: dict[str, dict[str, object]] = {
            "network": {"relays": [url]},
            "files": {"directory": str(directory / "idle")},
            "wallet": {"lightning_rpc": facts["wallets"]["node"]["rpc_path"]},
            "node": {"port": 0, "runner": "embedded"},
        }
        config = directory / "idle.toml"
        config.write_text(format_document(tables), encoding="utf-8")
        command = ["-m", "relaymesh", "node", "serve", "--config", str(config), "--json"]
        async with start_process(command) as (process, _):
            await anyio.sleep(min(SETTLE_SECONDS, seconds))
            return [await _busy_percent(process.pid, seconds) for _ in range(runs)]


async def _busy_percent(process_id: int, seconds: float) -> float:
    began, before = time.perf_counter(), cpu_us_of(process_id)
    await anyio.sleep(seconds)
    return (cpu_us_of(process_id) - before) / (time.perf_counter() - began) / MICROSECONDS * 100


def cpu_us_of(process_id: int) -> float:
    """What the kernel counted for a process and everything it started, as `/proc/PID/stat` says."""
    return sum(int(field) for each in _family(process_id) for field in _statistics(each)[11:13]) * MICROSECONDS / TICKS


def _family(process_id: int) -> Iterator[int]:
    yield process_id
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _statistics(int(entry.name))[1:2] == [str(process_id)]:
            yield from _family(int(entry.name))


def _statistics(process_id: int) -> list[str]:
    """The fields of `/proc/PID/stat` behind the command's name, from the third on; none if the process is gone."""
    try:
        text = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
