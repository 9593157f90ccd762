"""What a token costs in CPU time, both sides together: one stream as fast as it goes, and a hundred at reading speed.

Each piece of output is one token. Measured is from a stream's first output on, so that the payment before it and the
record after it do not count; the runner that makes the tokens, and the buyer's loop that takes them, do.
"""

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from bench.contract import Sample, Stopwatch, measure_calls
from bench.mesh import LoopbackMarket, gather, open_market, start_job, wanted_job
from relaymesh.machines.records import JobState
from relaymesh.ports.memory_runner import MemoryRunner, RunScript
from relaymesh.ports.runners import RunOutput, RunRequest
from relaymesh.roles.client_jobs import OpenSession, RunningJob

FAST: Final = "fast"
PACED: Final = "paced"
PACE_MS: Final = 20
"""50 tokens a second."""


def tokens(count: int) -> tuple[str, ...]:
    """So many pieces of about the length of a token, no two neighbours the same."""
    return tuple(f" w{number % 1_000}" for number in range(count))


@asynccontextmanager
async def open_stream_market(
    directory: Path, url: str, fast: int, paced: int, streams: int
) -> AsyncIterator[LoopbackMarket]:
    """A market whose node sells one model that is unpaced and one that makes 50 tokens a second."""
    scripts = {FAST: RunScript(pieces=tokens(fast)), PACED: RunScript(pieces=tokens(paced), pace_ms=PACE_MS)}
    async with open_market(directory, url, scripts, maximum_jobs=streams) as market:
        yield market


async def measure_stream(market: LoopbackMarket, count: int) -> Sample:
    """One unpaced stream: the CPU time of each token after the first."""
    wanted = wanted_job(FAST, "go", count)
    session = await market.open_session(wanted)
    await market.dialer.wait_open()
    async with start_job(session, wanted) as job:
        outputs = job.outputs()
        pieces = [await anext(outputs)]
        stopwatch = Stopwatch()
        pieces += [piece async for piece in outputs]
        sample = stopwatch.stop(len(pieces) - 1)
        await _check(job, pieces, tokens(count))
    await session.aclose()
    return sample


async def measure_streams(market: LoopbackMarket, count: int, streams: int, sessions: int) -> Sample:
    """So many streams at 50 tokens a second: the CPU time of each token while all of them run.

    Args:
        market: Where they run.
        count: How many tokens each stream has.
        streams: How many streams run at the same time.
        sessions: Over how many sessions, each with a connection of its own, they are spread.
    """
    wanted = wanted_job(PACED, "go", count)
    selection = await market.choose(wanted)
    opened: list[OpenSession] = []
    for _ in range(sessions):
        opened.append(await market.open_session(wanted, selection))
        await market.dialer.wait_open()
    window = _Window(streams)

    async def stream(session: OpenSession) -> None:
        pieces: list[str] = []
        async with start_job(session, wanted) as job:
            async for piece in job.outputs():
                pieces.append(piece)
                window.note(is_first=len(pieces) == 1)
            window.close()
            await _check(job, pieces, tokens(count))

    await gather([partial(stream, opened[number % sessions]) for number in range(streams)])
    for session in opened:
        await session.aclose()
    assert window.sample is not None
    return window.sample


class _Window:
    """Counts tokens from when every stream has begun until the first one ends."""

    def __init__(self, streams: int) -> None:
        self._waiting = streams
        self._stopwatch: Stopwatch | None = None
        self._counted = 0
        self.sample: Sample | None = None

    def note(self, *, is_first: bool) -> None:
        """A token came."""
        self._counted += 1
        self._waiting -= is_first
        if self._waiting == 0 and self._stopwatch is None:
            self._stopwatch, self._counted = Stopwatch(), 0

    def close(self) -> None:
        """A stream has ended."""
        if self._stopwatch is not None and self.sample is None:
            self.sample = self._stopwatch.stop(self._counted)


async def _check(job: RunningJob, pieces: Sequence[str], expected: Sequence[str]) -> None:
    outcome = await job.wait_outcome()
    assert outcome.state is JobState.DONE, f"the job must be done: {outcome.refusal}"
    assert outcome.paid_msat and "".join(pieces) == "".join(expected), "the whole stream must arrive, paid for"


# ── to compare with ───────────────────────────────────────────────────────────────────────────────────────────────────


async def measure_runner(runner: MemoryRunner, model: str) -> Sample:
    """What the runner and a loop over its output cost for each token, with nothing of ours between."""
    body = json.dumps({"messages": [{"role": "user", "content": "go"}]})
    counted = 0
    async with runner.run(RunRequest(model, "chat", body, 10**6)) as items:
        stopwatch = Stopwatch()
        async for item in items:
            counted += isinstance(item, RunOutput)
        return stopwatch.stop(max(counted, 1))


async def measure_echo(messages: int) -> Sample:
    """A small message through the websockets library and back, one at a time, both sides."""
    payload = os.urandom(272)

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, compression=None) as server:
        host, port = next(iter(server.sockets)).getsockname()
        async with connect(f"ws://{host}:{port}", compression=None) as connection:
            stopwatch = Stopwatch()
            for _ in range(messages):
                await connection.send(payload)
                await connection.recv()
            return stopwatch.stop(2 * messages)


def measure_frame(calls: int) -> Sample:
    """JSON and ChaCha20-Poly1305 for one token in a frame of its own, both sides."""
    cipher, nonce = ChaCha20Poly1305(os.urandom(32)), bytes(12)
    message: list[Any] = [["OUTPUT", os.urandom(32).hex(), 1, " token"]]

    def there_and_back() -> None:
        frame = cipher.encrypt(nonce, json.dumps(message).encode().ljust(256, b"\0"), None)
        json.loads(cipher.decrypt(nonce, frame, None).rstrip(b"\0"))

    return measure_calls(there_and_back, calls)


async def wait_quiet() -> None:
    """Let what the last measurement left behind end before the next begins."""
    for _ in range(10):
        await anyio.sleep(0.01)
