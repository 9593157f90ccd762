"""A gateway over real HTTP, in front of a market that is all in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx

from relaymesh.gateway.api_keys import KeyRing
from relaymesh.gateway.application import Application, Gateway
from relaymesh.gateway.server import open_server
from relaymesh.roles.client import Client, ClientSettings
from relaymesh.roles.session_pool import SessionPool
from relaymesh.settings import Client as BuyingSettings
from tests.roles.market import Market

BUYING = BuyingSettings(max_msat=100_000, output_tokens=32)


def chat(prompt: str = "one two three", **fields: Any) -> dict[str, Any]:
    """A chat request's body."""
    return {"model": "echo", "messages": [{"role": "user", "content": prompt}], **fields}


@asynccontextmanager
async def gateway_to(
    market: Market, keys: KeyRing | None = None, settings: ClientSettings | None = None, **changes: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A program's HTTP client whose base URL is a gateway's, which buys in this market."""
    async with market.client(settings or ClientSettings(discovery_seconds=1)) as client:
        assert await client.market.wait_complete(5)
        async with open_gateway(client, keys, **changes) as url, httpx.AsyncClient(base_url=url, timeout=20) as http:
            yield http


@asynccontextmanager
async def open_gateway(client: Client, keys: KeyRing | None = None, **changes: Any) -> AsyncIterator[str]:
    """The URL of a gateway that buys with this client."""
    async with SessionPool(client) as pool:
        gateway = replace(Gateway(client, pool.buy, BUYING, keys), **changes)
        async with open_server(Application(gateway), "127.0.0.1", 0) as url:
            yield url
