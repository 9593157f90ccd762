"""A runner in memory that does what its script says: for tests, for the simulator, for whoever builds on the port.

RM-02, "Jobs". It paces itself with the event loop's clock, so on a virtual clock an hour of output takes no time.
"""

import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from typing import Final

import anyio
import anyio.lowlevel

from relaymesh.errors import RunnerError, RunnerRefused
from relaymesh.ports.runners import RunFinished, RunItem, RunnerModel, RunOutput, RunRequest
from relaymesh.units import MILLISECONDS_PER_SECOND

EMBEDDING_WIDTH: Final = 8
ECHO_MODEL: Final = RunnerModel(
    name="echo", job_types=("chat", "completion", "embedding"), context_limit=4_096, engine="memory"
)


@dataclass(frozen=True, slots=True)
class RunScript:
    """How every job goes.

    Args:
        pieces: What is said; None echoes the prompt word by word.
        first_output_ms: From the start of a run to its first output.
        pace_ms: Between two outputs.
        fails_after: Fail with RunnerError after so many outputs; 0 fails before the first, None never.
        refuses: Refuse every body with RunnerRefused.
        counts_input: Whether the engine can count input tokens before a run; it counts words.
    """

    pieces: tuple[str, ...] | None = None
    first_output_ms: int = 0
    pace_ms: int = 0
    fails_after: int | None = None
    refuses: bool = False
    counts_input: bool = True


@dataclass(slots=True)
class RunCounts:
    """What became of the runs so far; a run that is `stopped` was left before it had finished or failed."""

    started: int = 0
    finished: int = 0
    failed: int = 0
    stopped: int = 0

    @property
    def running(self) -> int:
        """Runs that have begun and not ended."""
        return self.started - self.finished - self.failed - self.stopped


@dataclass(slots=True)
class MemoryRunner:
    """A runner that follows a script.

    Args:
        script: How jobs go; may be replaced between runs.
        served: The models it names.
        scripts: Scripts of particular models, by name.
        counts: What became of the runs so far.
    """

    script: RunScript = RunScript()
    served: tuple[RunnerModel, ...] = (ECHO_MODEL,)
    scripts: Mapping[str, RunScript] = field(default_factory=dict)
    counts: RunCounts = field(default_factory=RunCounts)

    async def models(self) -> tuple[RunnerModel, ...]:
        """The models it was given."""
        await anyio.lowlevel.checkpoint()
        return self.served

    def run(self, request: RunRequest) -> AbstractAsyncContextManager[AsyncIterator[RunItem]]:
        """Run one job as its model's script says."""
        return aclosing(self._run_items(request))

    async def count_input_tokens(self, request: RunRequest) -> int | None:
        """The words of the prompt, or None if the script says that it cannot count."""
        await anyio.lowlevel.checkpoint()
        script = self._script(request)
        return len(_words(_texts(request))) if script.counts_input else None

    def _script(self, request: RunRequest) -> RunScript:
        for model in self.served:
            if model.name == request.model and request.job_type in model.job_types:
                return self.scripts.get(request.model, self.script)
        raise RunnerError(f"this runner has no model {request.model!r} for a {request.job_type!r} job; name another")

    async def _run_items(self, request: RunRequest) -> AsyncGenerator[RunItem, None]:
        self.counts.started += 1
        ended = False
        try:
            async with aclosing(self._scripted_items(request)) as items:
                async for item in items:
                    if isinstance(item, RunFinished):
                        self.counts.finished += 1
                        ended = True
                    yield item
        except RunnerError:
            self.counts.failed += 1
            ended = True
            raise
        finally:
            if not ended:
                self.counts.stopped += 1

    async def _scripted_items(self, request: RunRequest) -> AsyncGenerator[RunItem, None]:
        script = self._script(request)
        texts = _texts(request)
        if script.refuses:
            raise RunnerRefused("the script refuses every body")
        pieces = _pieces(request, script, texts)
        limit = len(pieces) if request.job_type == "embedding" else request.maximum_output_tokens
        await anyio.sleep(script.first_output_ms / MILLISECONDS_PER_SECOND)
        for number, piece in enumerate(pieces[:limit]):
            if number == script.fails_after:
                raise RunnerError("the script fails here", retryable=True)
            if number:
                await anyio.sleep(script.pace_ms / MILLISECONDS_PER_SECOND)
            yield RunOutput(piece)
        if script.fails_after is not None and script.fails_after >= len(pieces[:limit]):
            raise RunnerError("the script fails at its end", retryable=True)
        yield RunFinished(
            input_tokens=len(_words(texts)),
            output_tokens=0 if request.job_type == "embedding" else len(pieces[:limit]),
            finish_reason="length" if len(pieces) > limit else "stop",
        )


def _pieces(request: RunRequest, script: RunScript, texts: tuple[str, ...]) -> tuple[str, ...]:
    if request.job_type == "embedding":
        return tuple(_embedding(index, text) for index, text in enumerate(texts))
    if script.pieces is not None:
        return script.pieces
    words = _words(texts[-1:])
    return tuple(word if number == 0 else f" {word}" for number, word in enumerate(words))


def _embedding(index: int, text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()[:EMBEDDING_WIDTH]
    vector = [byte / 255 for byte in digest]
    return json.dumps({"object": "embedding", "index": index, "embedding": vector}, separators=(",", ":"))


def _words(texts: tuple[str, ...]) -> list[str]:
    return [word for text in texts for word in text.split()]


def _texts(request: RunRequest) -> tuple[str, ...]:
    """The texts of a body: its messages' contents, its prompt, or its inputs; RunnerRefused if it has none."""
    try:
        body = json.loads(request.body)
        if request.job_type == "chat":
            values = [message["content"] for message in body["messages"]]
        else:
            value = body["prompt" if request.job_type == "completion" else "input"]
            values = value if isinstance(value, list) else [value]
    except (ValueError, KeyError, TypeError, RecursionError):
        # Not chained: the decoder's error carries the whole body.
        raise RunnerRefused(f"expected the body of a {request.job_type} job; send the OpenAI API's fields") from None
    if not values or not all(isinstance(value, str) and value for value in values):
        raise RunnerRefused(f"expected the body of a {request.job_type} job to hold texts; send non-empty ones")
    return tuple(values)
