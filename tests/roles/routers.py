"""A router in a market in memory, for tests of whoever deals with it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio

from relaymesh.machines.routing_events import RoutingSettings
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.memory_ledger import MemoryLedger
from relaymesh.ports.memory_lightning import MemoryWallet
from relaymesh.protocol.router_announcement import SignedRouterAnnouncement
from relaymesh.roles.market_view import MarketView
from relaymesh.roles.router import Router, RouterSettings, RouterTools
from tests.roles.market import Market, loop_clock


@dataclass
class RunningRouter:
    """A router that is up, and the handles a test pulls."""

    role: Router
    key: KeyPair
    announcement: SignedRouterAnnouncement
    wallet: MemoryWallet


@asynccontextmanager
async def open_router(market: Market, **routing: Any) -> AsyncIterator[RunningRouter]:
    """A router of this market, with its own view of it."""
    key = KeyPair.generate()
    wallet = market.lightning.wallet(f"router-{key.public_key[:8]}")
    relays = market.connect_relays()
    settings = RouterSettings(
        relay_urls=market.relay_urls,
        routing=replace(RoutingSettings(), **routing),
        lightning_node_id=(await wallet.info()).public_key,
    )
    tools = RouterTools(key, MemoryLedger(), loop_clock, wallet)
    async with MarketView(relays, loop_clock) as view, anyio.create_task_group() as tasks:
        role = Router(settings, relays, view, tools)
        yield RunningRouter(role, key, await tasks.start(role.run), wallet)
        tasks.cancel_scope.cancel()
