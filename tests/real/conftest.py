"""What the tests against other people's programs share: servers that take a while to start."""

from collections.abc import Iterator

import pytest

from tests.real.postgresql import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def database() -> Iterator[PostgresServer]:
    """One PostgreSQL server for all; each test takes a schema of its own."""
    with postgres_server() as server:
        yield server
