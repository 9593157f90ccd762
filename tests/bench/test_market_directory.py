"""What the directory's benchmark measures is what was agreed on: a small market, and no look at how fast it was."""

from pathlib import Path

import pytest

from bench.market_directory import measure_directory

PROMISED = {
    "status_update_cpu_us": 120,
    "directory_bytes_per_node": 10_000,
    "late_subscriber_30_s": 5,
}


@pytest.mark.anyio
async def test_every_promised_figure_is_measured_with_its_goal(tmp_path: Path) -> None:
    figures = {figure.name: figure for figure in await measure_directory(tmp_path, 1, nodes=50, late_nodes=30)}
    assert {name: figures[name].goal for name in PROMISED} == PROMISED
    assert all(figure.better == "lower" for figure in figures.values())
