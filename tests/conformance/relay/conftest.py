"""The relay under test: the one that RELAY_URL names, or else our own, started as a process."""

import os
from collections.abc import AsyncIterator, Iterator
from tempfile import TemporaryDirectory

import pytest

from tests.conformance.relay.subject import RelayClient, RelayUnderTest
from tests.relay.client import MEMORY
from tests.relay.processes import complaints, relay_process


@pytest.fixture(scope="session")
def relay() -> Iterator[RelayUnderTest]:
    """The relay, with whatever it holds already."""
    url = os.environ.get("RELAY_URL")
    if url is not None:
        yield RelayUnderTest(url, is_ours=False)
        return
    with TemporaryDirectory(dir=MEMORY) as directory, relay_process(f"{directory}/relay.sqlite3") as (process, url):
        yield RelayUnderTest(url, is_ours=True)
        process.terminate()
        assert complaints(process) == ""


@pytest.fixture
async def client(relay: RelayUnderTest) -> AsyncIterator[RelayClient]:
    """A client of that relay."""
    async with relay.connect() as connected:
        yield connected
