"""The API is tested on the roles' virtual clock, but for what is said about asyncio, over a market in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import relaymesh.cli.wiring
from relaymesh.roles.client import Client
from relaymesh.settings import Settings
from tests.roles.conftest import anyio_backend
from tests.roles.market import Market

__all__ = ["anyio_backend"]


@pytest.fixture
async def market(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Market]:
    """A market that every client of the API buys in, whatever its settings say."""
    async with Market().open() as opened:

        @asynccontextmanager
        async def open_client(settings: Settings) -> AsyncIterator[Client]:
            async with opened.client() as role:
                yield role

        monkeypatch.setattr(relaymesh.cli.wiring, "open_client", open_client)
        yield opened
