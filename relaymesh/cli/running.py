"""How every command runs: in one event loop, ended by Ctrl-C or SIGTERM, its failures said in one sentence."""

import signal
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, NoReturn, ParamSpec

from relaymesh.errors import RelayMeshError

INTERRUPTED = 130
ParametersT = ParamSpec("ParametersT")


def run(command: Callable[[], Awaitable[int | None]]) -> None:
    """Run an async command to its end and exit with its code.

    A RelayMeshError becomes one sentence on standard error and exit code 1; Ctrl-C and SIGTERM cancel the command,
    which then has its own time to say goodbye, and exit with 130.
    """
    import anyio

    code = anyio.run(_supervise, command, backend_options={"use_uvloop": _has_uvloop()})
    if code:
        raise SystemExit(code)


async def _supervise(command: Callable[[], Awaitable[int | None]]) -> int:
    import anyio

    code = 0
    failures: list[RelayMeshError] = []
    async with anyio.create_task_group() as tasks:

        async def stop_on_signal() -> None:
            nonlocal code
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    code = INTERRUPTED
                    tasks.cancel_scope.cancel()
                    return

        tasks.start_soon(stop_on_signal)
        try:
            code = await command() or 0
        except* RelayMeshError as group:
            failures.extend(_leaves(group))
        tasks.cancel_scope.cancel()
    if failures:
        print(f"relaymesh: {failures[0]}", file=sys.stderr)
        return 1
    return code


def guarded(command: Callable[ParametersT, None]) -> Callable[ParametersT, None]:
    """Say a synchronous command's RelayMeshError in one sentence, with exit code 1."""

    @wraps(command)
    def guard(*arguments: ParametersT.args, **options: ParametersT.kwargs) -> None:
        try:
            command(*arguments, **options)
        except RelayMeshError as error:
            fail(str(error))

    return guard


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command with one sentence on standard error."""
    print(f"relaymesh: {message}", file=sys.stderr)
    raise SystemExit(code)


def _leaves(group: BaseExceptionGroup[Any]) -> list[RelayMeshError]:
    leaves: list[RelayMeshError] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


def _has_uvloop() -> bool:
    try:
        import uvloop
    except ImportError:
        return False
    return bool(uvloop)
