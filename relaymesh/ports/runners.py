"""The port to whatever computes: a model server, an embedded engine (RM-02, "Jobs").

A runner takes the JOB's body (JSON text in the shape of the OpenAI API for that job type) and yields output data as the
engine produces it: text deltas for `chat` and `completion`, compact JSON otherwise; one `RunFinished` comes last.
Leaving the `async with` block stops the engine at once. Prompts and outputs are never logged.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RunnerModel:
    """A model the runner serves.

    Args:
        name: The name requests use.
        job_types: What it can do: `chat`, `completion`, `embedding`, …
        context_limit: Tokens of prompt and output together; None where the server does not say.
        quantization: For example `q8_0`; None where unknown.
        engine: For example `llama.cpp b5000`; None where unknown.
        weights_sha256: Of the weights file, where it can be read.
    """

    name: str
    job_types: tuple[str, ...]
    context_limit: int | None = None
    quantization: str | None = None
    engine: str | None = None
    weights_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One job for the engine.

    Args:
        model: A name from `Runner.models`.
        job_type: `chat`, `completion` or `embedding`.
        body: The JSON text of the job, as the buyer sent it; `model` and `stream` inside it are ignored.
        maximum_output_tokens: The engine must stop there, whatever the body asks for.
    """

    model: str
    job_type: str
    body: str
    maximum_output_tokens: int


@dataclass(frozen=True, slots=True)
class RunOutput:
    """A piece of output, never empty."""

    data: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The engine is done; counts are the engine's own, chat template included.

    Args:
        input_tokens: At least 0.
        output_tokens: At least 0.
        finish_reason: `stop` or `length`.
    """

    input_tokens: int
    output_tokens: int
    finish_reason: str


RunItem = RunOutput | RunFinished


class Runner(Protocol):
    """An engine that serves models."""

    async def models(self) -> tuple[RunnerModel, ...]:
        """What can be served now; RunnerError if the engine cannot be asked."""
        ...

    def run(self, request: RunRequest) -> AbstractAsyncContextManager[AsyncIterator[RunItem]]:
        """Run one job; the iterator raises RunnerError when the engine fails, before or after its first output.

        A body the engine refuses (its 4xx) raises RunnerRefused instead, which no other engine would accept either.
        """
        ...

    async def count_input_tokens(self, request: RunRequest) -> int | None:
        """How many tokens the engine would count as input, chat template included; None where it cannot say."""
        ...
