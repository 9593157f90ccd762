"""The market for a person and for a program: what is in view, what changed, and nothing a terminal would obey."""

import io
from typing import Any

import pytest
from rich.console import Console

from relaymesh.cli.market_screen import show_market
from relaymesh.cli.market_snapshot import MarketSnapshot, take_snapshot
from relaymesh.market.omissions import GRACE_SECONDS
from relaymesh.market.standing import Standing
from relaymesh.nostr.event import UnsignedEvent
from relaymesh.ports.memory_relays import MemoryRelay, MemoryRelays
from relaymesh.ports.relays import Delivered
from relaymesh.roles.market_view import MarketView
from relaymesh.units import Instant, Moment
from tests.market.builders import MODEL, NOW, node, row, sign, signed_offer, signed_status

pytestmark = pytest.mark.anyio

CLIPBOARD = "\x1b]52;c;cm0gLXJmIC8=\x07"
URLS = ("ws://one.example", "ws://two.example")


class StillClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0

    def __call__(self) -> Moment:
        return Moment(Instant(self.seconds * 1_000_000), (NOW + self.seconds) * 1_000)


async def see(*relays: MemoryRelay) -> tuple[MarketView, StillClock]:
    """A view that has everything these relays have; it follows them no longer."""
    clock = StillClock()
    async with MarketView(MemoryRelays(relays), clock) as view:
        assert await view.wait_complete(5)
    return view, clock


def two_relays() -> tuple[MemoryRelay, MemoryRelay]:
    first, second = (MemoryRelay(url) for url in URLS)
    prices = (row(), row(unit="byte", minimum_msat=5), row(model="other"))
    first.accept(signed_offer(node(1), rows=prices, relays=URLS).event)
    first.accept(signed_status(node(1), labels={"main": (2, 3)}).event)
    second.accept(signed_offer(node(2)).event)
    return first, second


def changes(now: MarketSnapshot, earlier: MarketSnapshot | None) -> list[tuple[str, Any]]:
    """What changed, by the words that tell it apart."""
    return [
        (change["change"], change.get("public_key") or change.get("relay") or change["counts"])
        for change in now.changes_since(earlier)
    ]


async def test_it_tells_prices_load_standing_and_carriers() -> None:
    view, _ = await see(*two_relays())
    view.directory.set_standing(node(1), Standing(trust_milli=905, is_on_probation=True, reasons=("paid before",)))
    snapshot = take_snapshot(view)
    assert [(each["model"], each["unit"], each["public_key"]) for each in snapshot.rows] == [
        (MODEL, "token", node(2)),
        (MODEL, "token", node(1)),
        (MODEL, "byte", node(1)),
        ("other", "token", node(1)),
    ]
    unseen, first, *_ = snapshot.rows
    assert (first["state"], first["free"], first["queue"]) == ("up", 2, 3)
    assert first["standing"]["trust_milli"] == 905 and unseen["standing"] is None
    assert (unseen["state"], unseen["relays"], first["relays"]) == ("unseen", [URLS[1]], [URLS[0]])
    assert [(relay["carried"], relay["live"]) for relay in snapshot.relays] == [(2, 3), (1, 3)]
    assert {each["model"] for each in take_snapshot(view, "other").rows} == {"other"}


async def test_only_what_changed_is_told() -> None:
    view, clock = await see(*two_relays())
    before = take_snapshot(view)
    everything = changes(before, None)
    assert [kind for kind, _ in everything] == ["offered"] * 4 + ["relay"] * 2
    assert changes(take_snapshot(view), before) == []
    busy = signed_status(node(1), state="busy", seq=NOW + 1).event
    view.directory.apply(busy, URLS[0], NOW)
    now = take_snapshot(view)
    assert changes(now, before) == [("changed", node(1))] * 3
    view.directory.apply(sign(UnsignedEvent(node(3), NOW, 38_770, (), "{}")), URLS[0], NOW)
    assert [kind for kind, _ in changes(take_snapshot(view), now)] == ["refused"]
    clock.seconds = 3_600
    assert ("gone", node(2)) in changes(take_snapshot(view), now)


async def test_a_withheld_offer_is_told_with_its_relay() -> None:
    view, clock = await see(*two_relays())
    view._omissions.relay_complete(URLS[0], NOW)
    view._omissions.relay_complete(URLS[1], NOW)
    offer = signed_offer(node(1), seq=NOW + 1, created_at=NOW + 1, relays=URLS)
    clock.seconds = 1
    view._deliver(Delivered(URLS[0], offer.event))
    clock.seconds = 1 + GRACE_SECONDS
    snapshot = take_snapshot(view)
    assert next(each for each in snapshot.rows if each["public_key"] == node(1))["withheld_by"] == [URLS[1]]
    assert offer.event.id in snapshot.relays[1]["missing"]
    assert "not 2" in shown(snapshot, 120)


def shown(snapshot: MarketSnapshot, width: int, height: int | None = None) -> str:
    """What a terminal of this size gets."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=width, height=height)
    console.print(show_market(snapshot, width, height))
    return screen.getvalue()


async def test_a_terminal_of_any_size_shows_what_fits_and_says_what_does_not() -> None:
    relay = MemoryRelay(URLS[0])
    for number in range(50):
        relay.accept(signed_offer(node(number)).event)
    view, _ = await see(relay)
    snapshot = take_snapshot(view)
    for width, height in ((40, 24), (60, 24), (80, 30), (120, 60), (200, 12)):
        lines = shown(snapshot, width, height).splitlines()
        assert len(lines) <= height or height == 12
        assert all(len(line) <= width for line in lines)
        assert "more do not fit" in lines[0] and "50 prices" in lines[0]
    assert "more do not fit" not in shown(snapshot, 80)
    assert "relays" in shown(snapshot, 110) and "trust" not in shown(snapshot, 60)


async def test_what_strangers_wrote_is_shown_and_never_obeyed() -> None:
    relay = MemoryRelay(URLS[0])
    relay.accept(signed_offer(node(1), rows=(row(model=f"[bold]m[/bold]{CLIPBOARD}"),)).event)
    status = signed_status(node(2)).event
    content = status.content.replace('"main":{"free":1', '"\\u001b]52;c":{"free":-1')
    relay.accept(sign(UnsignedEvent(status.public_key, status.created_at, status.kind, status.tags, content)))
    view, _ = await see(relay)
    view.directory.set_standing(node(1), Standing(trust_milli=1, reasons=(f"[red]{CLIPBOARD}",)))
    screen = shown(take_snapshot(view), 200)
    assert "[bold]m[/bold]" in screen and "refused: 1 not valid for its kind" in screen
    assert "\x1b]" not in screen
