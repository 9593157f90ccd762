"""What the market costs: choosing, explaining, keeping the directory, routing: `python -m bench.market --json`."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio.to_thread

from bench.contract import Figure, run_benchmark
from bench.market_directory import measure_directory
from bench.market_router import measure_router
from bench.market_scheduler import measure_scheduler


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured in each run; the figures' goals are meant for the defaults."""

    eligible_nodes: int = 10_000
    choices: int = 200
    directory_nodes: int = 20_000
    late_nodes: int = 10_000
    router_requests: int = 500
    router_nodes: int = 1_000


async def measure(runs: int, scale: Scale | None = None) -> list[Figure]:
    """Every figure, each the median of so many runs."""
    scale = scale or Scale()
    figures = await anyio.to_thread.run_sync(measure_scheduler, runs, scale.eligible_nodes, scale.choices)
    with TemporaryDirectory(prefix="relaymesh-bench-") as folder:
        figures += await measure_directory(Path(folder), runs, scale.directory_nodes, scale.late_nodes)
    figures += await anyio.to_thread.run_sync(measure_router, runs, scale.router_requests, scale.router_nodes)
    return figures


if __name__ == "__main__":
    run_benchmark("market", measure)
