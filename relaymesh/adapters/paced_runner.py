"""A runner slowed down on purpose: an operator who shares the machine sells only so many pieces of output a second."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio

from relaymesh.ports.runners import RunItem, Runner, RunnerModel, RunOutput, RunRequest


class PacedRunner:
    """Passes everything on to another runner, and lets at most so many outputs of each job through per second.

    Args:
        runner: Who computes.
        outputs_per_second: At least 1; a piece of streamed text usually is one token.
    """

    def __init__(self, runner: Runner, outputs_per_second: int) -> None:
        self._runner = runner
        self._pause_seconds = 1 / outputs_per_second

    async def models(self) -> tuple[RunnerModel, ...]:
        """What the runner behind serves."""
        return await self._runner.models()

    def run(self, request: RunRequest) -> AbstractAsyncContextManager[AsyncIterator[RunItem]]:
        """Run one job at this pace."""
        return self._run(request)

    @asynccontextmanager
    async def _run(self, request: RunRequest) -> AsyncIterator[AsyncIterator[RunItem]]:
        async with self._runner.run(request) as items:
            yield self._pace(items)

    async def _pace(self, items: AsyncIterator[RunItem]) -> AsyncIterator[RunItem]:
        due = anyio.current_time()
        async for item in items:
            if isinstance(item, RunOutput):
                await anyio.sleep(max(due - anyio.current_time(), 0))
                due = max(due, anyio.current_time() - self._pause_seconds) + self._pause_seconds
            yield item

    async def count_input_tokens(self, request: RunRequest) -> int | None:
        """What the runner behind counts."""
        return await self._runner.count_input_tokens(request)
