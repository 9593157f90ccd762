"""What every benchmark prints and how it measures: medians over several runs, CPU time first, baselines beside them.

`python -m bench.NAME --json` prints one object: `bench`, `machine` and `figures`, each figure with `name`, `value`,
`unit`, `goal` (null where it is a baseline or a by-product), `better` (`higher`, `lower`, `equal`) and `cpu_us`, the
CPU time of one operation, which says more than the clock where others work on the same machine. Without `--json` the
same is a table. A benchmark never fails for being slow: whoever reads it compares value and goal.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import anyio

MICROSECONDS: Final = 1_000_000
MILLISECONDS: Final = 1_000
GIBIBYTE: Final = 2**30

Better = Literal["higher", "lower", "equal"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    Args:
        name: What was measured, unit included where the name is not clear without.
        value: The median over the runs.
        unit: `ms`, `us`, `percent`, `jobs`, …
        goal: What it should be; None for what is only there to compare with.
        better: Which way is good.
        cpu_us: CPU time of one operation, both sides together; None where it says nothing.
    """

    name: str
    value: float
    unit: str
    goal: float | None = None
    better: Better = "lower"
    cpu_us: float | None = None

    @property
    def is_reached(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        if self.better == "equal":
            return self.value == self.goal
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of something cost, for each operation."""

    wall_us: float
    cpu_us: float


class Stopwatch:
    """Wall and CPU time (all threads of this process) since it was made."""

    __slots__ = ("_cpu", "_wall")

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self, operations: int = 1) -> Sample:
        """The time of one of so many operations."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return Sample(wall * MICROSECONDS / operations, cpu * MICROSECONDS / operations)


def measure_calls(call: Callable[[], object], calls: int) -> Sample:
    """What one call costs, the loop around it included."""
    stopwatch = Stopwatch()
    for _ in range(calls):
        call()
    return stopwatch.stop(calls)


def median(values: Sequence[float]) -> float:
    """The median, rounded to what is worth reading."""
    return round(statistics.median(values), 3)


def median_cpu(samples: Sequence[Sample]) -> float:
    """The median of what the samples cost in CPU time, in microseconds."""
    return median([sample.cpu_us for sample in samples])


def cpu_figure(name: str, samples: Sequence[Sample], goal: float | None = None) -> Figure:
    """A figure whose value is CPU time in microseconds."""
    value = median_cpu(samples)
    return Figure(name, value, "us", goal, "lower", value)


def wall_figure(name: str, samples: Sequence[Sample], goal: float | None = None) -> Figure:
    """A figure whose value is elapsed time in milliseconds."""
    value = median([sample.wall_us / MILLISECONDS for sample in samples])
    return Figure(name, value, "ms", goal, "lower", median_cpu(samples))


def children_cpu_us() -> float:
    """CPU time of all child processes that have ended, in microseconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (usage.ru_utime + usage.ru_stime) * MICROSECONDS


def describe_machine() -> dict[str, Any]:
    """What the figures were measured on; nothing that says whose machine it is or where."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIBIBYTE, 1),
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def to_json(name: str, machine: dict[str, Any], figures: Sequence[Figure]) -> str:
    """The one object that `--json` prints."""
    return json.dumps({"bench": name, "machine": machine, "figures": [asdict(figure) for figure in figures]})


def to_table(name: str, machine: dict[str, Any], figures: Sequence[Figure]) -> str:
    """The same for a person."""
    signs = {"lower": "≤", "higher": "≥", "equal": "="}
    words = {True: "reached", False: "missed", None: ""}
    lines = [f"{name} on {', '.join(f'{key} {value}' for key, value in machine.items())}", ""]
    for figure in figures:
        goal = "" if figure.goal is None else f"{signs[figure.better]} {figure.goal:g}"
        cpu = "" if figure.cpu_us is None else f"{figure.cpu_us:,.1f} us of CPU"
        value = f"{figure.value:,.3f} {figure.unit}"
        lines.append(f"{figure.name:<38}{value:>18}  {goal:<8}{words[figure.is_reached]:<9}{cpu}".rstrip())
    return "\n".join(lines)


def run_benchmark(
    name: str,
    measure: Callable[..., Awaitable[list[Figure]]],
    *,
    runs: int = 5,
    options: argparse.ArgumentParser | None = None,
) -> None:
    """The command of a benchmark: measure on the event loop that production runs on, and print.

    Args:
        name: The module's name below `bench`.
        measure: Takes the number of runs, and what `options` read by their names; returns the figures.
        runs: How many runs the medians are over, unless the command line says otherwise.
        options: Options of this benchmark's own (made with `add_help=False`).
    """
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", parents=[] if options is None else [options])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=runs, help=f"medians are over so many runs (default {runs})")
    arguments = vars(parser.parse_args())
    show = to_json if arguments.pop("json") else to_table
    machine = describe_machine()
    figures = anyio.run(partial(measure, arguments.pop("runs"), **arguments), backend_options={"use_uvloop": True})
    machine["load_1m_after"] = round(os.getloadavg()[0], 2)
    print(show(name, machine, figures))
