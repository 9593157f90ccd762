"""What a benchmark prints is what was agreed on, whatever it measured: nothing here looks at how fast anything is."""

import json
import os
import time
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from bench.contract import Better, Figure, describe_machine, to_json, to_table
from bench.handshake import Scale, measure
from bench.processes import cpu_us_of, process_cpu_us

TINY = Scale(openings=1, tokens=20, streams=2, paced_tokens=4, jobs=5, calls=5, idle_seconds=0.05)
PROMISED = {
    "cold_first_output_p50_ms": (40, "lower"),
    "warm_first_output_overhead_p50_ms": (2, "lower"),
    "token_cpu_us": (80, "lower"),
    "token_cpu_us_100_streams": (180, "lower"),
    "handshake_cpu_us": (4_500, "lower"),
    "concurrent_jobs_lost": (0, "equal"),
    "idle_node_cpu_percent": (1, "lower"),
    "help_over_python_cpu_ms": (250, "lower"),
}
SCHEMA = {
    "type": "object",
    "required": ["bench", "machine", "figures"],
    "additionalProperties": False,
    "properties": {
        "bench": {"type": "string"},
        "machine": {"type": "object", "required": ["system", "processor", "cores", "python", "load_1m"]},
        "figures": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "value", "unit", "goal", "better", "cpu_us"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string"},
                    "value": {"type": "number"},
                    "unit": {"type": "string", "minLength": 1},
                    "goal": {"type": ["number", "null"]},
                    "better": {"enum": list(get_args(Better))},
                    "cpu_us": {"type": ["number", "null"]},
                },
            },
        },
    },
}


async def _idle(directory: Path, url: str, seconds: float, runs: int) -> list[float]:
    return [0.1] * runs


@pytest.mark.anyio
async def test_the_handshake_benchmark_prints_every_promised_figure_with_its_goal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whole processes take seconds to start; how they are measured has a test of its own below.
    monkeypatch.setattr("bench.handshake.measure_idle_node", _idle)
    monkeypatch.setattr("bench.handshake.process_cpu_us", lambda *arguments: float(len(arguments)))
    printed = json.loads(to_json("handshake", describe_machine(), await measure(1, TINY)))
    jsonschema.validate(printed, SCHEMA)
    figures = {figure["name"]: figure for figure in printed["figures"]}
    assert {name: (figures[name]["goal"], figures[name]["better"]) for name in PROMISED} == PROMISED
    assert figures["concurrent_jobs_lost"]["value"] == 0
    assert len(figures) == len(printed["figures"]), "every name stands for one figure"


@pytest.mark.parametrize(
    ("better", "value", "reached"),
    [("lower", 2.0, True), ("lower", 2.1, False), ("higher", 1.9, False), ("equal", 2.0, True), ("equal", 1.0, False)],
)
def test_a_goal_is_reached_on_its_better_side(better: Better, value: float, reached: bool) -> None:
    assert Figure("something", value, "ms", 2, better).is_reached is reached


def test_the_table_names_every_figure_and_says_which_goals_are_missed() -> None:
    machine: dict[str, Any] = {"cores": 2}
    table = to_table("something", machine, [Figure("first_ms", 3.0, "ms", 2), Figure("second_us", 1.0, "us", cpu_us=1)])
    lines = table.splitlines()
    assert "missed" in next(line for line in lines if line.startswith("first_ms"))
    assert "missed" not in next(line for line in lines if line.startswith("second_us"))


def test_a_process_is_measured_by_its_own_cpu_time_and_that_of_what_it_started() -> None:
    spin = "import time\nwhile time.process_time() < 0.1: pass"
    assert process_cpu_us("-c", spin) >= 100_000
    before = cpu_us_of(os.getpid())
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert cpu_us_of(os.getpid()) - before >= 80_000
