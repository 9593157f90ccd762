"""What the relay's benchmark makes of the shared benchmark's words, and what it does itself, on next to nothing."""

from pathlib import Path
from typing import Any

import pytest

from bench.relay import QUERIES_OF_UP_TO_100_ROWS, to_figures
from bench.relay_store import measure_late_subscriber

pytestmark = pytest.mark.anyio

PROMISED = {
    "stored_cpu_us": 130,
    "ephemeral_cpu_us": 95,
    "duplicate_cpu_us": 12,
    "bad_id_cpu_us": 15,
    "ok_p50_ms": 1.3,
    "live_10_p50_ms": 1,
    "live_100_p50_ms": 4,
    "live_1000_p50_ms": 20,
    "targeted_p50_ms": 0.6,
    "targeted_per_s": 8_000,
    "fanout_per_s": 150_000,
    "query_100_p50_ms": 0.8,
    "query_authors_p50_ms": 1.5,
    "idle_mb_per_1000": 15,
}
ROWS = (
    "ingest_kind1",
    "ingest_ephemeral",
    "duplicate_kind1",
    "reject_badid",
    "reject_badsig",
    "latency_event_ok",
    "fanout_k1_s10_rate",
    "fanout_k1_s100_rate",
    "fanout_k1_s1000_rate",
    "fanout_k1_s100_max",
    "targeted_k20001_s1000_rate",
    "targeted_k20001_s1000_max",
    "targeted_k1_s1000_max",
    "query_authors20_kind_100_c1",
    "idle_1000",
    *(f"query_{name}_c1" for name in QUERIES_OF_UP_TO_100_ROWS),
)


def rounds(*values: float) -> list[dict[str, Any]]:
    """What the shared benchmark prints in as many rounds."""
    return [
        {"figure": name, "value": value, "p50_ms": value / 10, "relay_cpu_us": value * 10}
        for value in values
        for name in ROWS
    ]


def test_every_promised_figure_comes_from_the_shared_benchmark_with_its_goal() -> None:
    figures = {figure.name: figure for figure in to_figures(rounds(1.0, 9.0, 2.0), "")}
    assert {name: figures[name].goal for name in PROMISED} == PROMISED
    assert figures["stored_cpu_us"].value == 20 and figures["stored_per_s"].value == 2
    assert figures["live_10_p50_ms"].value == 0.2 and figures["live_10_p50_ms"].cpu_us == 20
    assert figures["targeted_per_s"].better == figures["fanout_per_s"].better == "higher"


def test_the_slowest_kind_of_query_counts_and_what_was_not_measured_is_left_out() -> None:
    rows = [*rounds(1.0), {"figure": "query_ids_50_c1", "value": 1.0, "p50_ms": 7.0}]
    rows = [row for row in rows if row["figure"] != "idle_1000"]
    figures = {figure.name: figure for figure in to_figures(rows, "other_1_")}
    assert figures["other_1_query_100_p50_ms"].value == pytest.approx(3.55)
    assert "other_1_idle_mb_per_1000" not in figures


async def test_a_late_subscriber_gets_the_whole_market_or_the_measurement_fails(tmp_path: Path) -> None:
    (figure,) = await measure_late_subscriber(tmp_path, 20, 1)
    assert figure.name == "late_subscriber_s" and figure.goal == 1.5 and figure.value > 0
