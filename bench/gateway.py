"""What the gateway adds, from HTTP to the runner and back: `python -m bench.gateway --json`.

Client, gateway, both sides of a warm session whose tranche is paid, and a runner that answers at once are one process
on one core, joined by real sockets; whoever asks reads bytes, so that no client library is measured. So the time to the
first output is what is added. Requests for it come one at a time, while other streams are active. LiteLLM is not
compared with yet, and arrivals are not open-loop.
"""

import json
import statistics
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio

from bench.contract import MILLISECONDS, Figure, Sample, Stopwatch, cpu_figure, median, run_benchmark
from bench.mesh import gather, open_market, start_relay, trade_in_memory
from bench.streams import PACE_MS, PACED, tokens, wait_quiet
from relaymesh.gateway.application import Application, Gateway
from relaymesh.gateway.server import open_server
from relaymesh.ports.memory_runner import RunScript
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.roles.session_pool import SessionPool
from relaymesh.settings import Client as BuyingSettings

SHORT: Final = "short"
TRANCHE_MSAT: Final = 1_000_000
MOST_MSAT: Final = 1_000
CHUNK: Final = b'"content"'
ANSWER_SECONDS: Final = 120


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured in each run; the figures' goals are meant for the defaults."""

    requests: int = 200
    active: int = 32
    streams: int = 100
    paced_tokens: int = 150


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer as its reader saw it: how long the first output took, and how many came."""

    first: Sample
    outputs: int


async def ask(port: int, model: str, output_tokens: int, *, is_streamed: bool = True) -> Asked:
    """Ask once, over a connection of its own, and read to the end."""
    said = [{"role": "user", "content": "go"}]
    terms = {"settlement": "session", "max_msat": MOST_MSAT}
    asked = {"model": model, "messages": said, "max_tokens": output_tokens, "stream": is_streamed, "relaymesh": terms}
    body = json.dumps(asked).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    outputs, joined, first = 0, b"", None
    with anyio.fail_after(ANSWER_SECONDS):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            stopwatch = Stopwatch()
            await stream.send(head.encode() + b"connection: close\r\n\r\n" + body)
            async for data in stream:
                joined = joined[-len(CHUNK) + 1 :] + data
                outputs += joined.count(CHUNK)
                first = stopwatch.stop() if outputs and first is None else first
    assert first is not None, f"an answer must have output: {joined.decode(errors='replace')}"
    return Asked(first, outputs)


@asynccontextmanager
async def open_gateway(directory: Path, url: str, scale: Scale) -> AsyncIterator[int]:
    """A gateway whose session is warm and paid; yields its port."""
    scripts = {
        SHORT: RunScript(pieces=tokens(1)),
        PACED: RunScript(pieces=tokens(scale.paced_tokens), pace_ms=PACE_MS),
    }
    terms = (SettlementTerm(order="prepay", scope="session", tranche_units=TRANCHE_MSAT),)
    jobs = max(scale.streams, scale.active + 1)
    async with AsyncExitStack() as stack:
        trade = replace(trade_in_memory(), terms=terms)
        market = await stack.enter_async_context(open_market(directory, url, scripts, maximum_jobs=jobs, trade=trade))
        pool = await stack.enter_async_context(SessionPool(market.client))
        assert await market.client.market.wait_complete(10)
        gateway = Gateway(market.client, pool.buy, BuyingSettings())
        base = await stack.enter_async_context(open_server(Application(gateway), "127.0.0.1", 0))
        port = int(base.removesuffix("/v1").rpartition(":")[2])
        for model in (SHORT, PACED):  # a session each, opened and paid
            await ask(port, model, 1)
        yield port


async def measure(runs: int, scale: Scale | None = None) -> list[Figure]:
    """Every figure, each the median of so many runs."""
    scale = scale or Scale()
    added: list[Asked] = []
    requests: list[Sample] = []
    streamed: list[Sample] = []
    lost = 0
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="relaymesh-bench-")))
        url = await stack.enter_async_context(start_relay(folder))
        port = await stack.enter_async_context(open_gateway(folder, url, scale))
        for _ in range(runs):
            requests.append(await measure_requests(port, scale.requests))
            added += await measure_added(port, scale)
            await wait_quiet()
            sample, missing = await measure_streams(port, scale)
            streamed.append(sample)
            lost += missing
            await wait_quiet()
    firsts = [asked.first.wall_us / MILLISECONDS for asked in added]
    return [
        Figure("added_first_output_p50_ms", median(firsts), "ms", 3),
        Figure("added_first_output_p99_ms", round(statistics.quantiles(firsts, n=100)[98], 3), "ms", 40),
        cpu_figure("request_cpu_us", requests),
        cpu_figure("token_cpu_us_100_streams", streamed, 300),
        Figure("lost_tokens", lost, "tokens", 0, "equal"),
    ]


async def measure_requests(port: int, count: int) -> Sample:
    """Answers of one token that are not streamed, one after the other."""
    stopwatch = Stopwatch()
    for _ in range(count):
        await ask(port, SHORT, 1, is_streamed=False)
    return stopwatch.stop(count)


async def measure_added(port: int, scale: Scale) -> list[Asked]:
    """The time to the first output, one request at a time, while other streams are active."""
    found: list[Asked] = []
    async with anyio.create_task_group() as tasks:

        async def keep_active() -> None:
            while True:
                await ask(port, PACED, scale.paced_tokens)

        for _ in range(scale.active):
            tasks.start_soon(keep_active)
        await anyio.sleep(PACE_MS * 10 / MILLISECONDS)
        for _ in range(scale.requests):
            found.append(await ask(port, SHORT, 1))
            await anyio.sleep(PACE_MS / 4 / MILLISECONDS)
        tasks.cancel_scope.cancel()
    return found


async def measure_streams(port: int, scale: Scale) -> tuple[Sample, int]:
    """Many streams at reading speed: the CPU time of each token, and how many did not arrive."""
    arrived: list[int] = []

    async def read() -> None:
        arrived.append((await ask(port, PACED, scale.paced_tokens)).outputs)

    stopwatch = Stopwatch()
    await gather([partial(read) for _ in range(scale.streams)])
    count = scale.streams * scale.paced_tokens
    return stopwatch.stop(count), count - sum(arrived)


if __name__ == "__main__":
    run_benchmark("gateway", measure)
