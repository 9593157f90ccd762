"""How fast the bundled relay is, measured with the benchmark that others are measured with: `python -m bench.relay`.

`bench/relay_bench.py` runs once a round against a relay of ours that is fresh and as shipped, then against each relay
named with `--against`, then (events alone) against a server that acknowledges unread, which shows the benchmark's own
ceiling. What it does not measure, a large store and a late subscriber, is in `bench.relay_store`.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import anyio

from bench.contract import Better, Figure, median
from bench.mesh import serve_relay
from bench.relay_store import measure_large_store, measure_late_subscriber

SHARED: Final = str(Path(__file__).with_name("relay_bench.py"))
STEADY_TESTS: Final = "latency,ingest,duplicate,address,ephemeral,reject,query,fanout,targeted"
LARGE_STORE_EVENTS: Final = 2_000_000
NODES: Final = 10_000
QUERIES_OF_UP_TO_100_ROWS: Final = (
    "id_1",
    "ids_50",
    "author_kind_100",
    "tag_t_100",
    "tag_p_kind_20",
    "kind_window_100",
    "coordinate_1",
    "nothing_0",
)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """Where a figure stands in what the shared benchmark prints.

    Args:
        name: Ours.
        row: Its name there.
        field: The field of that row.
    """

    name: str
    row: str
    field: str
    unit: str
    goal: float | None = None
    better: Better = "lower"


FIGURES: Final = (
    Measured("stored_cpu_us", "ingest_kind1", "relay_cpu_us", "us", 130),
    Measured("stored_per_s", "ingest_kind1", "value", "events/s", None, "higher"),
    Measured("ephemeral_cpu_us", "ingest_ephemeral", "relay_cpu_us", "us", 95),
    Measured("duplicate_cpu_us", "duplicate_kind1", "relay_cpu_us", "us", 12),
    Measured("bad_id_cpu_us", "reject_badid", "relay_cpu_us", "us", 15),
    Measured("bad_signature_cpu_us", "reject_badsig", "relay_cpu_us", "us"),
    Measured("ok_p50_ms", "latency_event_ok", "value", "ms", 1.3),
    Measured("live_10_p50_ms", "fanout_k1_s10_rate", "p50_ms", "ms", 1),
    Measured("live_100_p50_ms", "fanout_k1_s100_rate", "p50_ms", "ms", 4),
    Measured("live_1000_p50_ms", "fanout_k1_s1000_rate", "p50_ms", "ms", 20),
    Measured("targeted_p50_ms", "targeted_k20001_s1000_rate", "p50_ms", "ms", 0.6),
    Measured("targeted_per_s", "targeted_k20001_s1000_max", "value", "events/s", 8_000, "higher"),
    Measured("targeted_stored_per_s", "targeted_k1_s1000_max", "value", "events/s", None, "higher"),
    Measured("fanout_per_s", "fanout_k1_s100_max", "value", "deliveries/s", 150_000, "higher"),
    Measured("query_authors_p50_ms", "query_authors20_kind_100_c1", "p50_ms", "ms", 1.5),
    Measured("idle_mb_per_1000", "idle_1000", "value", "MB", 15),
)


async def measure(
    runs: int, *, against: Sequence[str] = (), large_events: int = LARGE_STORE_EVENTS, nodes: int = NODES
) -> list[Figure]:
    """Every figure, each the median of so many rounds.

    Args:
        against: Other relays' `ws://` URLs on this machine, with `=PID` where their CPU time is to be measured.
        large_events: How many events the large store holds.
        nodes: How many offers, and as many statuses, the late subscriber finds.
    """
    rows: dict[str, list[Row]] = defaultdict(list)
    with TemporaryDirectory(prefix="relaymesh-bench-") as name:
        folder = Path(name)
        corpus = folder / "corpus.jsonl"
        await _run_shared("gen", "--out", str(corpus))
        for number in range(runs):
            rows["ours"] += await _measure_ours(folder / f"{number}", corpus)
            for other in against:
                url, _, process_id = other.partition("=")
                rows[other] += await _run_tests(url, process_id, corpus, f"{STEADY_TESTS},idle")
            rows["ceiling"] += await _measure_ceiling(corpus)
        figures = to_figures(rows["ours"], "")
        for number, other in enumerate(against, 1):
            figures += [_without_goal(figure) for figure in to_figures(rows[other], f"other_{number}_")]
        figures.append(_without_goal(to_figures(rows["ceiling"], "ceiling_", only="stored_per_s")[0]))
        figures += await measure_large_store(folder, large_events)
        figures += await measure_late_subscriber(folder, nodes, runs)
    return figures


def to_figures(rows: Sequence[Row], prefix: str, only: str | None = None) -> list[Figure]:
    """The figures in what the shared benchmark printed, each the median of its rows; those it lacks are left out."""
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_name[row["figure"]].append(row)
    figures = [
        Figure(
            prefix + each.name,
            median([row[each.field] for row in by_name[each.row]]),
            each.unit,
            each.goal,
            each.better,
            _cpu_us(by_name[each.row]),
        )
        for each in FIGURES
        if only in (None, each.name) and all(each.field in row for row in by_name[each.row]) and by_name[each.row]
    ]
    queries = [by_name[f"query_{name}_c1"] for name in QUERIES_OF_UP_TO_100_ROWS if by_name[f"query_{name}_c1"]]
    if queries and only is None:
        slowest = max(queries, key=lambda rows: median([row["p50_ms"] for row in rows]))
        value = median([row["p50_ms"] for row in slowest])
        figures.append(Figure(f"{prefix}query_100_p50_ms", value, "ms", 0.8, "lower", _cpu_us(slowest)))
    return figures


def _cpu_us(rows: Sequence[Row]) -> float | None:
    measured = [row["relay_cpu_us"] for row in rows if row.get("relay_cpu_us") is not None]
    return median(measured) if measured else None


def _without_goal(figure: Figure) -> Figure:
    return Figure(figure.name, figure.value, figure.unit, None, figure.better, figure.cpu_us)


async def _measure_ours(folder: Path, corpus: Path) -> list[Row]:
    async with serve_relay(folder.with_suffix(".sqlite3")) as (url, process_id):
        rows = await _run_tests(url, str(process_id), corpus, STEADY_TESTS)
    async with serve_relay(folder.with_suffix(".idle.sqlite3")) as (
        url,
        process_id,
    ):  # fresh: nothing left to fill again
        return rows + await _run_tests(url, str(process_id), corpus, "idle")


async def _measure_ceiling(corpus: Path) -> list[Row]:
    port = 7_999
    process = await anyio.open_process([sys.executable, SHARED, "ack", "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        await anyio.sleep(1)
        return await _run_tests(f"ws://127.0.0.1:{port}", "", corpus, "ingest")
    finally:
        process.kill()
        await process.aclose()


async def _run_tests(url: str, process_id: str, corpus: Path, tests: str) -> list[Row]:
    results = corpus.with_suffix(".results")
    results.unlink(missing_ok=True)
    watched = ["--pid", process_id] if process_id else []
    await _run_shared("run", url, "--corpus", str(corpus), "--out", str(results), "--tests", tests, *watched)
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        is_sound = not row["figure"].endswith("_failed") and "wrong_counts" not in row
        if not is_sound or (row["figure"] == "reject_stored" and row["value"]):
            print(f"bench.relay: {url} was wrong: {row}", file=sys.stderr)
    return rows


async def _run_shared(*arguments: str) -> None:
    await anyio.run_process([sys.executable, SHARED, *arguments], stdout=subprocess.DEVNULL)


def _read_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--against", action="append", default=[], metavar="URL[=PID]", help="another relay, too")
    options.add_argument("--large-events", type=int, default=LARGE_STORE_EVENTS, help="events in the large store")
    options.add_argument("--nodes", type=int, default=NODES, help="live nodes that the late subscriber finds")
    return options


if __name__ == "__main__":
    from bench.contract import run_benchmark

    run_benchmark("relay", measure, options=_read_options())
