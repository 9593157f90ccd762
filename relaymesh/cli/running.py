"""How every command runs: in one event loop, ended by Ctrl-C or SIGTERM, its failures said in one sentence."""

import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NoReturn, ParamSpec

from relaymesh.cli.terminal import clean_text, give_up_output
from relaymesh.errors import RelayMeshError

INTERRUPTED = 130
ParametersT = ParamSpec("ParametersT")


def run(command: Callable[[], Awaitable[int | None]]) -> None:
    """Run an async command to its end and exit with its code.

    A RelayMeshError becomes one sentence on standard error and exit code 1; Ctrl-C and SIGTERM cancel the command,
    which then has its own time to say goodbye, and exit with 130.
    """
    import anyio
    import structlog

    # Standard output is for what was asked for, often JSON: whatever is logged goes beside it.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with _output_told():
        code = anyio.run(_supervise, command, backend_options={"use_uvloop": _has_uvloop()})
        if code:
            raise SystemExit(code)


async def _supervise(command: Callable[[], Awaitable[int | None]]) -> int:
    import anyio

    code = 0
    failures: list[RelayMeshError] = []
    # Signals are heard from before the command's first step until after its last: one more does not cut it short.
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:

            async def stop_on_signal() -> None:
                nonlocal code
                async for _ in signals:
                    code = INTERRUPTED
                    tasks.cancel_scope.cancel()

            tasks.start_soon(stop_on_signal)
            try:
                code = await command() or 0
            except* RelayMeshError as group:
                failures.extend(_leaves(group))
            tasks.cancel_scope.cancel()
    if failures:
        print(f"relaymesh: {clean_text(str(failures[0]))}", file=sys.stderr)
        return 1
    return code


def guarded(command: Callable[ParametersT, None]) -> Callable[ParametersT, None]:
    """Say a synchronous command's RelayMeshError in one sentence, with exit code 1."""

    @wraps(command)
    def guard(*arguments: ParametersT.args, **options: ParametersT.kwargs) -> None:
        try:
            with _output_told():
                command(*arguments, **options)
        except RelayMeshError as error:
            fail(str(error))

    return guard


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command with one sentence on standard error."""
    print(f"relaymesh: {clean_text(message)}", file=sys.stderr)
    raise SystemExit(code)


@contextmanager
def _output_told() -> Iterator[None]:
    """Say in one sentence that the output cannot be written, or nothing where nobody reads on (`| head`)."""
    failures: list[BaseException] = []
    try:
        yield
        sys.stdout.flush()
    except* OSError as group:
        failures.extend(_leaves(group))
    if failures:
        give_up_output()
        if all(isinstance(failure, BrokenPipeError) for failure in failures):
            raise SystemExit(1)
        fail(f"the operating system refused: {failures[0]}")


def _leaves(group: BaseExceptionGroup[Any]) -> list[Any]:
    leaves: list[Any] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


def _has_uvloop() -> bool:
    try:
        import uvloop
    except ImportError:
        return False
    return bool(uvloop)
