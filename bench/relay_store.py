"""The relay with much in its store: queries on more than fits its cache beside live delivery, and a late subscriber.

The store is filled through the relay's own writer, since signing millions of events would take longer than reading
them; a relay does not check again what it has stored.
"""

import hashlib
import importlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

from bench.contract import Figure, median
from bench.mesh import serve_relay
from relaymesh.nostr.event import Event, EventId, PublicKey, Tags
from relaymesh.nostr.kinds import Kind
from relaymesh.roles.market_view import MARKET_FILTER
from relaymesh.units import Timestamp
from relaymesh_relay.settings import Storage
from relaymesh_relay.sqlite_store import SqliteStore
from relaymesh_relay.store import Record, to_document

AUTHORS: Final = 20_000
TOPICS: Final = 2_000
BATCH: Final = 5_000
QUERY_SECONDS: Final = 15
LIVE: Final = "1:10:200:2000:0"
"""Kind 1, 10 subscribers, 200 events a second, 2,000 of them, as the shared benchmark writes it."""

shared: Final[Any] = importlib.import_module("bench.relay_bench")


async def measure_large_store(folder: Path, events: int) -> list[Figure]:
    """Queries on a large store, one after the other, while events are delivered live; and live delivery alone."""
    file = folder / "large.sqlite3"
    await anyio.to_thread.run_sync(partial(fill, file, _notes(events)))
    corpus = folder / "none.jsonl"
    corpus.write_text("", encoding="utf-8")
    async with serve_relay(file) as (url, _):
        idle = await _measure_live(url, corpus)
        results: dict[str, Any] = {}

        async def ask() -> None:
            results["queries"] = await anyio.to_thread.run_sync(partial(_ask, url, events))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.sleep(1)
            busy = await _measure_live(url, corpus)
    latencies = [seconds * 1_000 for seconds in results["queries"]["lat"]]
    return [
        Figure("large_store_p99_ms", round(shared.pct(latencies, 0.99), 3), "ms", 25),
        Figure("large_store_p50_ms", round(shared.pct(latencies, 0.5), 3), "ms"),
        Figure("large_store_live_over_idle", round(busy / idle, 3), "times", 2),
        Figure("large_store_live_idle_p50_ms", idle, "ms"),
        Figure("large_store_mb", round(file.stat().st_size / 1e6, 1), "MB"),
    ]


async def measure_late_subscriber(folder: Path, nodes: int, runs: int) -> list[Figure]:
    """How long a client that comes late waits until it has every live offer and status."""
    file = folder / "market.sqlite3"
    await anyio.to_thread.run_sync(partial(fill, file, _market(nodes)))
    async with serve_relay(file) as (url, _):
        taken = [await anyio.to_thread.run_sync(_subscribe, url, 2 * nodes) for _ in range(runs)]
    return [Figure("late_subscriber_s", median(taken), "s", 1.5)]


def fill(file: Path, events: Iterator[Event]) -> None:
    """Store these events, unsigned as they are."""
    writer = SqliteStore(Storage(file=str(file), synchronous="NORMAL")).open_writer()
    batch: list[Record] = []
    for event in events:
        batch.append(Record(event, to_document(event)))
        if len(batch) == BATCH:
            writer.write(batch)
            batch.clear()
    writer.write(batch)
    writer.close()


def _notes(count: int) -> Iterator[Event]:
    drawn = random.Random(7)
    for number in range(count):
        tags = (("t", f"topic{drawn.randrange(TOPICS)}"), ("p", _author(drawn.randrange(AUTHORS))))
        yield _event(number, drawn.randrange(AUTHORS), 1, tags, "n" * drawn.randrange(50, 500), _age(number, count))


def _age(number: int, count: int) -> int:
    return int(time.time()) - (count - number)


def _market(nodes: int) -> Iterator[Event]:
    now = int(time.time())
    for number in range(nodes):
        created_at = now - number % 120
        models = tuple(("m", f"model-{number % 50 + each}") for each in range(2))
        offer: Tags = (("d", "main"), ("t", "relaymesh"), ("alt", "RelayMesh offer"), ("j", "chat"), *models)
        yield _event(2 * number, number, Kind.OFFER, offer, "o" * 900, created_at)
        expiration = ("expiration", str(now + 3_600))
        status: Tags = (("d", "status"), ("t", "relaymesh"), ("alt", "RelayMesh status"), expiration)
        yield _event(2 * number + 1, number, Kind.STATUS, status, "s" * 120, created_at)


def _event(number: int, author: int, kind: int, tags: Tags, content: str, created_at: int) -> Event:
    event_id = EventId(hashlib.sha256(f"event {number}".encode()).hexdigest())
    return Event(PublicKey(_author(author)), Timestamp(created_at), kind, tags, content, event_id, "00" * 64)


def _author(number: int) -> str:
    return hashlib.sha256(f"author {number}".encode()).hexdigest()


def _ask(url: str, events: int) -> Any:
    """The queries of the shared benchmark's kinds, as many as there is time for, on one connection."""
    drawn = random.Random(11)
    newest = int(time.time())

    def author() -> str:
        return _author(drawn.randrange(AUTHORS))

    kinds = (
        lambda: {"ids": [_event(drawn.randrange(events), 0, 1, (), "", 0).id for _ in range(50)]},
        lambda: {"kinds": [1], "authors": [author()], "limit": 100},
        lambda: {"kinds": [1], "authors": [author() for _ in range(20)], "limit": 100},
        lambda: {"#t": [f"topic{drawn.randrange(TOPICS)}"], "limit": 100},
        lambda: {"kinds": [1], "#p": [author()], "limit": 20},
        lambda: {"kinds": [1], "until": newest - drawn.randrange(events), "limit": 100},
        lambda: {"authors": [author()], "#t": [f"topic{drawn.randrange(TOPICS)}"], "limit": 100},
    )
    return shared.run_queries(url, [drawn.choice(kinds)() for _ in range(20_000)], 1, QUERY_SECONDS, None)


async def _measure_live(url: str, corpus: Path) -> float:
    """The median time of a live delivery, in milliseconds."""
    results = corpus.with_suffix(".results")
    results.unlink(missing_ok=True)
    command = [sys.executable, shared.__file__, "run", url, "--corpus", str(corpus), "--out", str(results)]
    await anyio.run_process([*command, "--tests", "fanout", "--fanout", LIVE], stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return next(float(row["p50_ms"]) for row in rows if row["figure"].endswith("_rate"))


def _subscribe(url: str, expected: int) -> float:
    """Ask for the market as every client does, and read until all of it has come."""
    connection = shared.Conn(url)
    poller, _ = shared.poller([connection])
    connection.send(shared.req("market", MARKET_FILTER.to_json()))
    began, got = time.perf_counter(), 0
    while True:
        assert poller.poll(10), f"the relay stopped after {got} events"
        for message in connection.read():
            got += message.startswith(b'["EVENT"')
            if message.startswith(b'["EOSE"'):
                taken = time.perf_counter() - began
                connection.close()
                assert got == expected, f"the relay sent {got} of {expected} events"
                return taken
