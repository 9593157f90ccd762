"""Roles are tested on trio's virtual clock: it jumps to the next deadline when everybody waits, so nothing sleeps."""

from typing import Any

import pytest
import trio.testing


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Trio, on a clock that starts at an hour so that no deadline lies before zero."""
    clock = trio.testing.MockClock(autojump_threshold=0.0)
    clock.jump(3_600)
    return "trio", {"clock": clock}
