"""From a stranger's first word to the first token, and what a token costs: `python -m bench.handshake --json`."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.contract import MILLISECONDS, Figure, Sample, cpu_figure, median, run_benchmark, wall_figure
from bench.mesh import open_market, start_relay
from bench.openings import count_lost, measure_cold, measure_cryptography, measure_handshake, measure_warm
from bench.processes import measure_idle_node, process_cpu_us
from bench.streams import (
    FAST,
    measure_echo,
    measure_frame,
    measure_runner,
    measure_stream,
    measure_streams,
    open_stream_market,
    wait_quiet,
)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured in each run; the figures' goals are meant for the defaults."""

    openings: int = 30
    tokens: int = 20_000
    streams: int = 100
    paced_tokens: int = 150
    jobs: int = 1_000
    calls: int = 2_000
    idle_seconds: float = 10.0


async def measure(runs: int, scale: Scale | None = None) -> list[Figure]:
    """Every figure, each the median of so many runs."""
    scale = scale or Scale()
    figures: list[Figure] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="relaymesh-bench-")))
        url = await stack.enter_async_context(start_relay(folder))
        for part in (measure_openings, measure_tokens, measure_concurrency, measure_processes):
            directory = folder / part.__name__
            directory.mkdir()
            figures += await part(directory, url, runs, scale)
    return figures


async def measure_openings(directory: Path, url: str, runs: int, scale: Scale) -> list[Figure]:
    """To the first output, cold by a quote and at the posted price, and warm; the handshake alone."""
    cold: list[Sample] = []
    posted: list[Sample] = []
    warm: list[Sample] = []
    handshake: list[Sample] = []
    cryptography: list[Sample] = []
    async with open_market(directory, url) as market:
        await measure_cold(market, 2)
        for _ in range(runs):
            cold.append(await measure_cold(market, scale.openings))
            posted.append(await measure_cold(market, scale.openings, "posted"))
            warm.append(await measure_warm(market, scale.openings))
            await wait_quiet()
            handshake.append(await measure_handshake(market, scale.openings))
            cryptography.append(measure_cryptography(scale.openings))
            await wait_quiet()
    return [
        wall_figure("cold_first_output_p50_ms", cold, 40),
        wall_figure("cold_posted_first_output_p50_ms", posted),
        wall_figure("warm_first_output_overhead_p50_ms", warm, 2),
        cpu_figure("handshake_cpu_us", handshake, 4_500),
        cpu_figure("baseline_handshake_curve_cpu_us", cryptography),
    ]


async def measure_tokens(directory: Path, url: str, runs: int, scale: Scale) -> list[Figure]:
    """What a token costs."""
    stream: list[Sample] = []
    streams: list[Sample] = []
    shared: list[Sample] = []
    runner: list[Sample] = []
    async with open_stream_market(directory, url, scale.tokens, scale.paced_tokens, scale.streams) as market:
        for _ in range(runs):
            runner.append(await measure_runner(market.runner, FAST))
            stream.append(await measure_stream(market, scale.tokens))
            await wait_quiet()
            streams.append(await measure_streams(market, scale.paced_tokens, scale.streams, scale.streams))
            await wait_quiet()
            shared.append(await measure_streams(market, scale.paced_tokens, scale.streams, 1))
            await wait_quiet()
    echo = [await measure_echo(scale.calls) for _ in range(runs)]
    return [
        cpu_figure("token_cpu_us", stream, 80),
        cpu_figure("token_cpu_us_100_streams", streams, 180),
        cpu_figure("token_cpu_us_100_streams_one_session", shared),
        cpu_figure("baseline_runner_token_cpu_us", runner),
        cpu_figure("baseline_websockets_message_cpu_us", echo),
        cpu_figure("baseline_json_and_cipher_cpu_us", [measure_frame(scale.calls) for _ in range(runs)]),
    ]


async def measure_concurrency(directory: Path, url: str, runs: int, scale: Scale) -> list[Figure]:
    """Jobs lost among many at once; the worst run counts, since one lost job is too many."""
    lost: list[int] = []
    samples: list[Sample] = []
    async with open_market(directory, url, maximum_jobs=scale.jobs) as market:
        for _ in range(runs):
            number, sample = await count_lost(market, scale.jobs)
            lost.append(number)
            samples.append(sample)
            await wait_quiet()
    return [Figure("concurrent_jobs_lost", max(lost), "jobs", 0, "equal", median([each.cpu_us for each in samples]))]


async def measure_processes(directory: Path, url: str, runs: int, scale: Scale) -> list[Figure]:
    """A node that waits, and a command that says its help."""
    python: list[float] = []
    over: list[float] = []
    for _ in range(runs + 1):
        python.append(process_cpu_us("-c", "pass"))
        over.append(process_cpu_us("-m", "relaymesh", "--help") - python[-1])
    idle = await measure_idle_node(directory, url, scale.idle_seconds, runs)
    bare, help_over = median(python[1:]), median(over[1:])  # the first one only fills the caches
    return [
        Figure("idle_node_cpu_percent", median(idle), "percent", 1),
        Figure("help_over_python_cpu_ms", round(help_over / MILLISECONDS, 3), "ms", 250, "lower", help_over),
        Figure("baseline_python_cpu_ms", round(bare / MILLISECONDS, 3), "ms", None, "lower", bare),
    ]


if __name__ == "__main__":
    run_benchmark("handshake", measure)
