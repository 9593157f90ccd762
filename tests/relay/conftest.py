"""What the relay's tests share: a relay with the shipped settings, and a client of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.relay.client import Client, running_relay, settings_in


@pytest.fixture
async def relay_url(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a relay as it is shipped, with an empty store."""
    async with running_relay(settings_in(tmp_path)) as url:
        yield url


@pytest.fixture
async def client(relay_url: str) -> AsyncIterator[Client]:
    """A client of that relay."""
    async with Client(relay_url) as connected:
        yield connected
