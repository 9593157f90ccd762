"""`relaymesh offers`: the live market, from any relay."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relaymesh.cli.options import ConfigOption, JsonOption, RelayOption
from relaymesh.cli.running import run
from relaymesh.cli.terminal import clean_line
from relaymesh.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.table import Table

    from relaymesh.protocol.codec import SignedOffer, SignedStatus
    from relaymesh.protocol.offer import PriceRow
    from relaymesh.roles.market_view import MarketView

LOOK_SECONDS = 1


def offers(
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay, and show every change; with --json a line for each.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    relay: RelayOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who offers which models at which prices, and who has room."""

    async def command() -> int:
        from relaymesh.cli.settings_source import load_settings
        from relaymesh.cli.wiring import open_market

        settings = load_settings(config, {"network": {"relays": relay or None}})
        async with open_market(settings) as (market, _):
            if not await market.wait_complete(settings.client.discovery_seconds) and not market.is_in_view:
                raise RelayError(market.unreachable)
            if watch:
                await _watch(market, model, as_json)
            rows = list_rows(market, model)
            if as_json:
                print(json.dumps(rows))
            elif not rows:
                wanted = f" of {model}" if model else ""
                where = ", ".join(settings.network.relays)
                print(f"No offers{wanted} on {where}; `relaymesh node serve` makes one.")
            else:
                from rich.console import Console

                Console().print(_table(rows))
        return 0 if rows else 1

    run(command)


async def _watch(market: "MarketView", model: str | None, as_json: bool) -> None:
    """Show every change until the command is interrupted."""
    from rich.console import Console
    from rich.live import Live

    if as_json:
        async for rows in _changes(market, model):
            print(json.dumps(rows), flush=True)
    with Live(console=Console(), refresh_per_second=4) as live:
        async for rows in _changes(market, model):
            live.update(_table(rows))


async def _changes(market: "MarketView", model: str | None) -> "AsyncIterator[list[dict[str, Any]]]":
    """The rows now, and whenever they are others; looks by itself too, since what expires sends no event."""
    import anyio

    shown: list[dict[str, Any]] | None = None
    while True:
        rows = list_rows(market, model)
        if rows != shown:
            shown = rows
            yield rows
        with anyio.move_on_after(LOOK_SECONDS):
            await market.wait_changed()


def list_rows(market: "MarketView", model: str | None) -> list[dict[str, Any]]:
    """Every price row in view, with the node's load; cheapest output first."""
    now = market.clock().timestamp
    rows = [
        _describe(signed, row, market.directory.status(signed.node, now))
        for signed in market.directory.offers(now)
        for row in signed.offer.rows
        if model in (None, row.model)
    ]
    return sorted(rows, key=lambda row: (row["model"], row["output_msat"] / row["per"], row["node"]))


def _describe(signed: "SignedOffer", row: "PriceRow", status: "SignedStatus | None") -> dict[str, Any]:
    from relaymesh.nostr.identifiers import encode_public_key

    load = status.status.labels.get(signed.label) if status is not None else None
    return {
        "node": encode_public_key(signed.node),
        "public_key": signed.node,
        "label": signed.label,
        "offer_id": signed.event.id,
        "state": status.status.state if status is not None else "unseen",
        "free": load.free if load is not None else 0,
        "queue": load.queue if load is not None else 0,
        "settlement": [term.model_dump(mode="json") for term in signed.offer.settlement],
        **row.model_dump(mode="json"),
    }


def _table(rows: list[dict[str, Any]]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table("node", "model", "jobs", "price (msat)", "free")
    for row in rows:
        per = "" if row["per"] == 1 else f"{row['per']:,} "
        price = f"{row['input_msat']:,} in, {row['output_msat']:,} out per {per}{row['unit']}s"
        table.add_row(
            f"{row['node'][:12]}…\n{row['label']}",
            escape(clean_line(row["model"])),
            "\n".join(row["job_types"]),
            f"{price}\nat least {row['minimum_msat']:,}",
            str(row["free"]) if row["state"] == "up" else row["state"],
        )
    return table
