"""Settings into a router, and into the routers that a client asks."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relaymesh.cli.clock import system_clock
from relaymesh.errors import UsageError
from relaymesh.nostr.event import PublicKey
from relaymesh.nostr.identifiers import decode_public_key
from relaymesh.settings import Settings
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat

if TYPE_CHECKING:
    from relaymesh.market.probation import RouterRecord
    from relaymesh.nostr.keys import KeyPair
    from relaymesh.protocol.router_announcement import SignedRouterAnnouncement
    from relaymesh.roles.router import Router

RECORDS_FILE: Final = "routers.json"
SECONDS_PER_HOUR: Final = 3_600
MAXIMUM_POW_BITS: Final = 40


@dataclass(frozen=True, slots=True)
class ServingRouter:
    """A router that is up: the role, and what it announced."""

    role: "Router"
    announcement: "SignedRouterAnnouncement"


def read_routers(names: Iterable[str]) -> tuple[PublicKey, ...]:
    """Routers by npub, or by public key in hex, each once.

    Raises:
        UsageError: One is neither.
    """
    return tuple(dict.fromkeys(map(decode_public_key, names)))


@asynccontextmanager
async def open_router_records(directory: Path) -> "AsyncIterator[dict[PublicKey, RouterRecord]]":
    """What was seen of routers, kept when the block ends."""
    from relaymesh.adapters.router_records import read_router_records, write_router_records

    path = directory / RECORDS_FILE
    records = read_router_records(path)
    before = dict(records)
    try:
        yield records
    finally:
        if records != before:
            write_router_records(path, records)


@asynccontextmanager
async def open_router(settings: Settings, key: "KeyPair") -> AsyncIterator[ServingRouter]:
    """A router with this identity that answers while the block lasts."""
    import anyio

    async with open_silent_router(settings, key) as role, anyio.create_task_group() as tasks:
        yield ServingRouter(role, await tasks.start(role.run))
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def open_silent_router(settings: Settings, key: "KeyPair") -> "AsyncIterator[Router]":
    """A router that has said nothing yet, with relays, a view of the market, a ledger and, for a fee, a wallet."""
    from relaymesh.adapters.websocket_relays import WebSocketRelays
    from relaymesh.cli.ledgers import open_ledger
    from relaymesh.cli.wallet_wiring import open_wallet
    from relaymesh.cli.wiring import experience_settings
    from relaymesh.machines.routing_events import RoutingSettings
    from relaymesh.market.policy import POLICIES
    from relaymesh.roles.experience import Experience
    from relaymesh.roles.market_view import MarketView
    from relaymesh.roles.router import Router, RouterSettings, RouterTools
    from relaymesh.roles.router_evidence import ROUTER_EXPERIENCE

    chosen = settings.router
    _check(settings)
    default = POLICIES[chosen.policy]
    routing = RoutingSettings(
        policies=(default, *(policy for policy in POLICIES.values() if policy is not default)),
        pow_bits=chosen.pow_bits,
        fee_msat=AmountMsat(chosen.fee_msat),
        maximum_asks=chosen.maximum_asks,
        requests_per_second=chosen.requests_per_second,
    )
    async with AsyncExitStack() as stack:
        wallet = await stack.enter_async_context(open_wallet(settings.wallet)) if chosen.fee_msat else None
        ledger = await stack.enter_async_context(open_ledger(settings, "router"))
        relays = await stack.enter_async_context(WebSocketRelays(settings.network.relays, clock=system_clock))
        believed = replace(ROUTER_EXPERIENCE, trusted=experience_settings(settings).trusted)
        view = MarketView(relays, system_clock, experience=Experience(believed))
        market = await stack.enter_async_context(view)
        presented = RouterSettings(
            relay_urls=settings.network.relays,
            routing=routing,
            lightning_node_id=None if wallet is None else (await wallet.info()).public_key,
            announcement_seconds=chosen.announcement_hours * SECONDS_PER_HOUR,
        )
        yield Router(presented, relays, market, RouterTools(key, ledger, system_clock, wallet))


def _check(settings: Settings) -> None:
    """Refuse numbers that no announcement can hold.

    Raises:
        UsageError: One is out of range.
    """
    from relaymesh.protocol.quote import MAXIMUM_ASKS

    router = settings.router
    for name, number, least, most in (
        ("fee_msat", router.fee_msat, 0, MAXIMUM_INTEGER),
        ("pow_bits", router.pow_bits, 0, MAXIMUM_POW_BITS),
        ("maximum_asks", router.maximum_asks, 0, MAXIMUM_ASKS),
        ("requests_per_second", router.requests_per_second, 1, 10**6),
        ("announcement_hours", router.announcement_hours, 1, 24 * 365),
    ):
        if not least <= number <= most:
            raise UsageError(f"router.{name} must be {least} … {most}, not {number}")
