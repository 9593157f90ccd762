"""Traffic: what anybody may know of a message, counted by kind, and nothing of what is sealed."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from relaymesh.cli.traffic import Traffic, market_kinds
from relaymesh.nostr.event import UnsignedEvent, VerifiedEvent
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.relays import Delivered
from relaymesh.units import Timestamp
from tests.cli.processes import Home

KEY = KeyPair(bytes(31) + b"\x07")
URL = "ws://one.example"


def message(kind: Kind, content: str = "sealed words") -> VerifiedEvent:
    tags = (("p", "11" * 32), ("e", "22" * 32))
    return KEY.sign(UnsignedEvent(KEY.public_key, Timestamp(5), int(kind), tags, content))


def test_a_message_is_told_without_its_content() -> None:
    event = message(Kind.QUOTE)
    assert Traffic().take(Delivered(URL, event)) == {
        "kind": 28_771,
        "name": "quote",
        "id": event.id,
        "author": KEY.public_key,
        "created_at": 5,
        "bytes": event.size,
        "to": ["11" * 32],
        "answers": ["22" * 32],
        "relay": URL,
    }


def test_the_table_counts_by_kind_and_fits_any_terminal() -> None:
    passed = Traffic()
    for kind in (Kind.QUOTE, Kind.OFFER, Kind.QUOTE, Kind.RECEIPT):
        passed.take(Delivered(URL, message(kind)))
    for width in (40, 60, 100):
        screen = io.StringIO()
        Console(file=screen, width=width).print(passed.table(30, width))
        lines = screen.getvalue().splitlines()
        assert all(len(line) <= width for line in lines)
        assert "4 messages in 30 s" in lines[-1]
        assert "sealed words" not in screen.getvalue()
    screen = io.StringIO()
    Console(file=screen, width=100).print(passed.table(30, 100))
    [quotes] = [line for line in screen.getvalue().splitlines() if "28771" in line]
    size = message(Kind.QUOTE).size
    assert [cell.strip() for cell in quotes.strip("│ ").split("│")][:6] == [
        "28771",
        "quote",
        "2",
        "4.0",
        f"{2 * size:,}",
        f"{size:,}",
    ]


def test_every_kind_of_the_market_has_a_name_and_no_other_is_listened_to() -> None:
    assert {kind for kind in market_kinds() if kind < 10_000} == set(range(8_770, 8_776))
    assert {kind for kind in market_kinds() if 20_000 < kind < 30_000} == set(range(28_770, 28_776))
    assert {kind for kind in market_kinds() if kind > 30_000} == set(range(38_770, 38_776))


@pytest.mark.timeout(60)
def test_it_ends_by_itself_and_without_a_relay_it_says_so(short_path: Path) -> None:
    home = Home(short_path, {"RELAYMESH_CLIENT_DISCOVERY_SECONDS": "1"})
    refused = home.run("traffic", "--relay", "ws://127.0.0.1:9", "--seconds", "1")
    assert refused.returncode == 1 and "no relay answers" in refused.stderr
    database = str(short_path / "relay.sqlite3")
    with home.serve("relay", "serve", "--port", "0", "--database", database, "--json") as relay:
        url = relay.facts["relay_url"]
        ran = home.run("traffic", "--relay", url, "--seconds", "0.2")
        assert ran.returncode == 0 and "0 messages" in ran.stdout
        ran = home.run("traffic", "--relay", url, "--seconds", "0.2", "--json")
        assert (ran.returncode, ran.stdout) == (0, "")
        offers = home.run("offers", "--relay", url, "--json")
        assert json.loads(offers.stdout) == []
