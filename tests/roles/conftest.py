"""Roles are tested on trio's virtual clock: it jumps to the next deadline when everybody waits, so nothing sleeps."""

from collections.abc import Callable
from typing import Any

import anyio.to_thread
import pytest
import trio.testing


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Trio, on a clock that starts at an hour so that no deadline lies before zero."""
    clock = trio.testing.MockClock(autojump_threshold=0.0)
    clock.jump(3_600)
    return "trio", {"clock": clock}


@pytest.fixture
def mine_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual clock does not wait for threads, so proof of work is done where it is asked for."""

    async def call(function: Callable[..., object], *arguments: object) -> object:
        return function(*arguments)

    monkeypatch.setattr(anyio.to_thread, "run_sync", call)
