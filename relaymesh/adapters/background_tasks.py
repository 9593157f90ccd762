"""Tasks beside an adapter's block: they end with it, and the block's own failure is not wrapped on their account."""

from types import TracebackType

import anyio
from anyio.abc import TaskGroup


class BackgroundTasks:
    """A task group for an adapter's own tasks: `async with BackgroundTasks() as tasks`, cancelled when the block ends.

    A plain task group wraps whatever its block raises into a group, so that callers of the adapter could no longer
    catch it by its type.
    """

    def __init__(self) -> None:
        self._tasks = anyio.create_task_group()

    async def __aenter__(self) -> TaskGroup:
        return await self._tasks.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._tasks.cancel_scope.cancel()
        if isinstance(error, Exception):
            await self._tasks.__aexit__(None, None, None)
            return None
        return await self._tasks.__aexit__(kind, error, trace)
