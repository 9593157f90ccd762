"""What the relay's tests share: a relay with the shipped settings, and a client of it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.relay.client import MEMORY, Client, running_relay, settings_in


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """An empty folder, in memory where there is such: what must not survive need not wait for a disk."""
    with TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)


@pytest.fixture
async def relay_url(memory_path: Path) -> AsyncIterator[str]:
    """The URL of a relay as it is shipped, with an empty store."""
    async with running_relay(settings_in(memory_path)) as url:
        yield url


@pytest.fixture
async def client(relay_url: str) -> AsyncIterator[Client]:
    """A client of that relay."""
    async with Client(relay_url) as connected:
        yield connected
