"""The scheduler's figures are those that were promised; nothing here looks at how fast anything is."""

from pathlib import Path
from typing import Any

import pytest

import bench.market
from bench.contract import Figure
from bench.market import Scale, measure
from bench.market_scheduler import measure_scheduler


def test_choices_and_explanations_are_measured_beside_the_reference() -> None:
    figures = {figure.name: figure for figure in measure_scheduler(1, nodes=40, choices=2)}
    assert set(figures) == {
        "select_4_p50_us",
        "select_40_p50_us",
        "explain_40_ms",
        "baseline_reference_4_p50_us",
        "baseline_reference_40_p50_us",
    }
    assert sorted(figure.goal for figure in figures.values() if figure.goal) == [100, 200, 1_000]
    assert all(figure.value > 0 and figure.cpu_us is not None for figure in figures.values())


@pytest.mark.anyio
async def test_the_market_s_benchmark_prints_the_figures_of_all_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, tuple[Any, ...]] = {}

    def note(name: str) -> Any:
        def measure_part(*arguments: Any) -> list[Figure]:
            asked[name] = arguments
            return [Figure(name, 1.0, "us")]

        return measure_part

    async def directory(folder: Path, *arguments: Any) -> list[Figure]:
        assert folder.is_dir()
        return [*note("directory")(*arguments)]

    monkeypatch.setattr(bench.market, "measure_scheduler", note("scheduler"))
    monkeypatch.setattr(bench.market, "measure_router", note("router"))
    monkeypatch.setattr(bench.market, "measure_directory", directory)
    assert [figure.name for figure in await measure(3)] == ["scheduler", "directory", "router"]
    scale = Scale()
    assert asked["scheduler"] == (3, 10_000, scale.choices)
    assert asked["directory"] == (3, scale.directory_nodes, 10_000)
    assert asked["router"] == (3, scale.router_requests, 1_000)
