"""`relaymesh traffic`: the market's messages as they pass on the relays, by kind; what is sealed stays sealed."""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from relaymesh.cli.options import ConfigOption, JsonOption, RelayOption
from relaymesh.cli.running import run
from relaymesh.cli.terminal import short_npub
from relaymesh.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.table import Table

    from relaymesh.nostr.filters import Filter
    from relaymesh.ports.relays import Delivered, Delivery, Relays

REDRAWN_PER_SECOND: Final = 4
MEDIUM_WIDTH: Final = 80
"""From so many columns on there is room for sizes and authors."""
_SECONDS_PER_MINUTE: Final = 60
_TENS: Final = (877, 2_877, 3_877)
"""Evidence is 877x, conversation 2877x, state 3877x."""


@dataclass(slots=True)
class KindTraffic:
    """What passed of one kind."""

    messages: int = 0
    bytes: int = 0
    last_author: str = ""


@dataclass(slots=True)
class Traffic:
    """What passed, by kind; each message once, however many relays pass it on."""

    kinds: dict[int, KindTraffic] = field(default_factory=dict)
    messages: int = 0

    def take(self, delivered: "Delivered") -> dict[str, Any]:
        """Count a message, and tell of it what anybody may know."""
        event = delivered.event
        kind = self.kinds.setdefault(event.kind, KindTraffic())
        kind.messages += 1
        kind.bytes += event.size
        kind.last_author = short_npub(event.public_key)
        self.messages += 1
        return {
            "kind": event.kind,
            "name": market_kinds()[event.kind],
            "id": event.id,
            "author": event.public_key,
            "created_at": event.created_at,
            "bytes": event.size,
            "to": list(event.tag_values("p")),
            "answers": list(event.tag_values("e")),
            "relay": delivered.relay_url,
        }

    def table(self, seconds: float, width: int) -> "Table":
        """The counts, and the rates over so many seconds."""
        from rich.table import Table

        is_wide = width >= MEDIUM_WIDTH
        caption = f"{self.messages:,} messages in {seconds:,.0f} s"
        table = Table("kind", "message", caption=caption, caption_justify="left")
        for name in ("messages", "a minute", *(("bytes", "each") if is_wide else ())):
            table.add_column(name, justify="right")
        if is_wide:
            table.add_column("last from")
        for kind, passed in sorted(self.kinds.items()):
            rate = passed.messages * _SECONDS_PER_MINUTE / max(seconds, 1)
            cells = [str(kind), market_kinds()[kind], f"{passed.messages:,}", f"{rate:,.1f}"]
            if is_wide:
                cells += [f"{passed.bytes:,}", f"{passed.bytes // passed.messages:,}", passed.last_author]
            table.add_row(*cells)
        return table


def market_kinds() -> dict[int, str]:
    """The market's own kinds, and what each is called."""
    from relaymesh.nostr.kinds import Kind

    return {int(kind): kind.name.lower().replace("_", " ") for kind in Kind if kind // 10 in _TENS}


def traffic(
    count: Annotated[int | None, typer.Option("--count", help="End after so many messages.", min=1)] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="End after so many seconds.", min=0)] = None,
    relay: RelayOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the market's messages as they pass: kinds, sizes, rates, authors; with --json a line for each."""

    async def command() -> None:
        from relaymesh.adapters.websocket_relays import WebSocketRelays
        from relaymesh.cli.settings_source import load_settings

        settings = load_settings(config, {"network": {"relays": relay or None}})
        async with WebSocketRelays(settings.network.relays) as relays, relays.subscribe((_live(),)) as deliveries:
            passed = Traffic()
            early = await _wait_followed(relays, deliveries, settings.client.discovery_seconds)
            show = _print_lines if as_json else _show_table
            await show(passed, _messages(early, deliveries, passed, count), seconds)

    run(command)


def _live() -> "Filter":
    """Every message of the market from now on."""
    from relaymesh.nostr.filters import Filter

    return Filter(kinds=tuple(market_kinds()), limit=0)


async def _wait_followed(
    relays: "Relays", deliveries: "AsyncIterator[Delivery]", patience_seconds: float
) -> "tuple[Delivered, ...]":
    """Wait until a relay is followed; returns what passed before it said so.

    Raises:
        RelayError: None of them answers.
    """
    import anyio

    from relaymesh.ports.relays import Delivered, StoredEventsEnd

    early: list[Delivered] = []
    with anyio.move_on_after(patience_seconds):
        async for delivery in deliveries:
            if isinstance(delivery, StoredEventsEnd):
                return tuple(early)
            if isinstance(delivery, Delivered):
                early.append(delivery)
    raise RelayError(f"no relay answers at {', '.join(relays.urls)}; `relaymesh relay serve` starts one")


async def _messages(
    early: "tuple[Delivered, ...]", deliveries: "AsyncIterator[Delivery]", passed: Traffic, count: int | None
) -> "AsyncIterator[dict[str, Any]]":
    """Every message as it is counted, until there are as many as were wanted."""
    from relaymesh.ports.relays import Delivered

    for delivered in early:
        yield passed.take(delivered)
        if passed.messages == count:
            return
    async for delivery in deliveries:
        if isinstance(delivery, Delivered):
            yield passed.take(delivery)
            if passed.messages == count:
                return


async def _print_lines(passed: Traffic, messages: "AsyncIterator[dict[str, Any]]", seconds: float | None) -> None:
    import anyio

    with anyio.move_on_after(seconds):
        async for message in messages:
            print(json.dumps(message), flush=True)


async def _show_table(passed: Traffic, messages: "AsyncIterator[dict[str, Any]]", seconds: float | None) -> None:
    import anyio
    from rich.console import Console
    from rich.live import Live

    console, began = Console(), anyio.current_time()

    async def redraw_for_ever() -> None:
        while True:
            live.update(passed.table(anyio.current_time() - began, console.width), refresh=True)
            await anyio.sleep(1 / REDRAWN_PER_SECOND)

    with Live(console=console, auto_refresh=False) as live:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(redraw_for_ever)
            with anyio.move_on_after(seconds):
                async for _ in messages:
                    pass  # counting is all there is to do; the table is drawn beside it
            tasks.cancel_scope.cancel()
        live.update(passed.table(anyio.current_time() - began, console.width), refresh=True)
