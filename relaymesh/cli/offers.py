"""`relaymesh offers`: the live market, from any relay."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from relaymesh.cli.options import ConfigOption, JsonOption, RelayOption
from relaymesh.cli.running import run
from relaymesh.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relaymesh.cli.market_snapshot import MarketSnapshot
    from relaymesh.roles.market_view import MarketView

LOOK_SECONDS = 1
REST_SECONDS = 0.25


def offers(
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Stay, and show every change; with --json a line for each."),
    ] = False,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    relay: RelayOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who offers which models at which prices, and who has room."""

    async def command() -> int:
        from relaymesh.cli.market_screen import show_market
        from relaymesh.cli.market_snapshot import take_snapshot
        from relaymesh.cli.settings_source import load_settings
        from relaymesh.cli.wiring import open_market

        settings = load_settings(config, {"network": {"relays": relay or None}})
        async with open_market(settings) as (market, _):
            if not await market.wait_complete(settings.client.discovery_seconds) and not market.is_in_view:
                raise RelayError(market.unreachable)
            if watch:
                await _watch(market, model, as_json)
            snapshot = take_snapshot(market, model)
            if as_json:
                print(json.dumps(snapshot.rows))
            elif not snapshot.rows:
                wanted = f" of {model}" if model else ""
                where = ", ".join(settings.network.relays)
                print(f"No offers{wanted} on {where}; `relaymesh node serve` makes one.")
            else:
                from rich.console import Console

                console = Console()
                console.print(show_market(snapshot, console.width))
        return 0 if snapshot.rows else 1

    run(command)


async def _watch(market: "MarketView", model: str | None, as_json: bool) -> None:
    """Show every change until the command is interrupted."""
    from rich.console import Console
    from rich.live import Live

    from relaymesh.cli.market_screen import show_market

    if as_json:
        earlier: MarketSnapshot | None = None
        async for snapshot in _snapshots(market, model):
            for change in snapshot.changes_since(earlier):
                print(json.dumps(change), flush=True)
            earlier = snapshot
    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        async for snapshot in _snapshots(market, model):
            live.update(show_market(snapshot, console.width, console.height), refresh=True)


async def _snapshots(market: "MarketView", model: str | None) -> "AsyncIterator[MarketSnapshot]":
    """The market now and again and again; looks by itself too, since what ends sends no event.

    It rests at least `REST_SECONDS`, and four times as long as looking took: a large market must not take a processor.
    """
    import anyio

    from relaymesh.cli.market_snapshot import take_snapshot

    while True:
        began = anyio.current_time()
        yield take_snapshot(market, model)
        await anyio.sleep(max(REST_SECONDS, 4 * (anyio.current_time() - began)))
        with anyio.move_on_after(LOOK_SECONDS):
            await market.wait_changed()
