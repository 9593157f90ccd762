"""The last boundary: an error that nobody foresaw ends the job or session it happened in, and never the role.

What a peer or the world can do wrong is a value or one of our own exceptions, and is dealt with where it is known what
it means. What is left is a bug here. It is logged as such, by its type and the places it came through; its message is
not logged, since it may quote a prompt, an output or a key.
"""

import traceback
from pathlib import PurePath
from types import TracebackType
from typing import Any, Final

import structlog

from relaymesh.errors import PortError

INTERNAL_ERROR: Final = "an internal error ended it; the log of whoever had it says where"
_SHOWN_PLACES: Final = 6
_log = structlog.get_logger(__name__)


class Contained:
    """`with` it: an unexpected exception inside is logged and goes no further; cancellation passes.

    Args:
        task: What is being done, as the log names it.

    Attributes:
        error: What was raised; None while all is well.
    """

    def __init__(self, task: str) -> None:
        self.error: Exception | None = None
        self._task = task

    def __enter__(self) -> "Contained":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self._contain(error)
            return True
        if isinstance(error, BaseExceptionGroup):
            unexpected, rest = error.split(Exception)
            if unexpected is not None:
                self._contain(unexpected)
            if unexpected is not None and rest is not None:
                raise rest
        return False

    def met(self, kind: type[Exception]) -> bool:
        """Whether what was raised is such an exception, or has one among its group."""
        if isinstance(self.error, ExceptionGroup):
            return self.error.subgroup(kind) is not None
        return isinstance(self.error, kind)

    def _contain(self, error: Exception) -> None:
        self.error = error
        report(self._task, error)


def report(task: str, error: Exception) -> None:
    """Log an internal error, each one of a group by itself: its type and its places, without any content."""
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            report(task, each)
        return
    if isinstance(error, PortError):  # the world failed, and says how without any content
        _log.error("port_failed", task=task, error=type(error).__name__, reason=str(error))
        return
    places = [_name_place(frame) for frame in traceback.extract_tb(error.__traceback__)]
    _log.error("internal_error", task=task, error=type(error).__name__, places=places[-_SHOWN_PLACES:])


def _name_place(frame: Any) -> str:
    return f"{'/'.join(PurePath(frame.filename).parts[-2:])}:{frame.lineno}"
