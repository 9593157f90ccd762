"""What the directory costs: CPU of a status update, memory of a node, and how long a late subscriber waits for it all.

Signatures are real. The market of the late subscriber is signed beforehand and published to the bundled relay, in a
process of its own; what is timed is a `MarketView` over WebSocket, from the connection to the last event in its
directory, every signature checked.
"""

import gc
import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import orjson

from bench.contract import MICROSECONDS, Figure, Sample, Stopwatch, cpu_figure, measure_calls, median
from bench.mesh import serve_relay
from bench.relay_store import fill
from relaymesh.adapters.websocket_relays import WebSocketRelays
from relaymesh.cli.clock import system_clock
from relaymesh.market.directory import Directory
from relaymesh.market.request import BuyerRequest
from relaymesh.nostr.event import PublicKey, UnsignedEvent, VerifiedEvent, parse_event
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.protocol.codec import build_offer, build_status
from relaymesh.protocol.offer import Offer, PriceRow, SettlementTerm
from relaymesh.protocol.quote import JobShape
from relaymesh.protocol.status import LabelLoad, Status
from relaymesh.roles.market_view import MarketView
from relaymesh.units import AmountMsat, Timestamp

MODELS: Final = 50
RELAYS: Final = ("wss://relay-one.example", "wss://relay-two.example")
ALIVE_SECONDS: Final = 3_600
LATE_SECONDS: Final = 120
PAGE_BYTES: Final = 4_096


async def measure_directory(folder: Path, runs: int, nodes: int, late_nodes: int) -> list[Figure]:
    """Every figure of the directory.

    Args:
        folder: Where the relay keeps its store.
        runs: Medians are over so many.
        nodes: In how large a market memory and updates are measured.
        late_nodes: How many nodes the late subscriber finds, each with an offer and a status.
    """
    bytes_per_node, updates, checks = await anyio.to_thread.run_sync(measure_updates, nodes, runs)
    late = await measure_late(folder, late_nodes, runs)
    return [
        cpu_figure("status_update_cpu_us", updates, 120),
        cpu_figure("baseline_signature_check_cpu_us", checks),
        Figure("directory_bytes_per_node", bytes_per_node, "bytes", 10_000),
        Figure(
            f"late_subscriber_{late_nodes}_s",
            median([sample.wall_us / MICROSECONDS for sample in late]),
            "s",
            5,
            "lower",
            median([sample.cpu_us for sample in late]),
        ),
    ]


def measure_updates(nodes: int, runs: int) -> tuple[float, list[Sample], list[Sample]]:
    """Memory of a node, read where the operating system counts it, and a status update in a market of that size."""
    now = system_clock().timestamp
    gc.collect()
    before = _resident_bytes()
    directory = Directory()
    for number in range(nodes):
        for event in _state(number, now):
            assert directory.apply(event, RELAYS[0], now)
    for model in (None, *(f"model-{each}" for each in range(MODELS))):  # so that every column there can be is kept
        assert directory.select(_request(model), seed=b"", count=1, now=now).chosen
    gc.collect()
    bytes_per_node = round((_resident_bytes() - before) / nodes, 1)
    batch = min(nodes, 1_000)
    keys = [KeyPair.generate() for _ in range(batch)]
    for number, key in enumerate(keys):
        directory.apply(key.sign(_offer(number, key.public_key, now)), RELAYS[0], now)
    updates, checks = [], []
    for run in range(runs):
        signed = [key.sign(_status(number, key.public_key, now, now + run)) for number, key in enumerate(keys)]
        checks.append(_measure_checks(signed))
        stopwatch = Stopwatch()
        for event in signed:
            directory.apply(event, RELAYS[0], now)
        updates.append(stopwatch.stop(batch))
    return bytes_per_node, updates, checks


async def measure_late(folder: Path, nodes: int, runs: int) -> list[Sample]:
    """From the connection until everything is in the directory; one whole relay's worth of events."""
    file = folder / "late.sqlite3"
    now = system_clock().timestamp
    await anyio.to_thread.run_sync(partial(fill, file, _signed_market(nodes, now)))
    samples = []
    async with serve_relay(file) as (url, _):
        for _ in range(runs):
            stopwatch = Stopwatch()
            async with WebSocketRelays((url,)) as relays, MarketView(relays, system_clock) as view:
                assert await view.wait_complete(LATE_SECONDS), "the relay did not say that this was all"
                samples.append(stopwatch.stop())
                offers = view.directory.offers(now)
                seen = sum(view.directory.status(offer.node, now) is not None for offer in offers)
                assert (len(offers), seen) == (nodes, nodes), f"{len(offers)} offers and {seen} statuses came"
    return samples


def _request(model: str | None) -> BuyerRequest:
    shape = JobShape(input_tokens=100, input_bytes=400, output_tokens=100, output_bytes=800)
    return BuyerRequest(model=model, job_type="chat", shape=shape, budget_msat=AmountMsat(1_000_000))


def _measure_checks(signed: Sequence[VerifiedEvent]) -> Sample:
    fresh = iter([parse_event(orjson.loads(orjson.dumps(event.to_json()))) for event in signed])
    return measure_calls(lambda: verify(next(fresh)), len(signed))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * PAGE_BYTES


def _signed_market(nodes: int, now: Timestamp) -> Iterator[VerifiedEvent]:
    for number in range(nodes):
        key = KeyPair(_bytes(number))
        yield key.sign(_offer(number, key.public_key, now))
        yield key.sign(_status(number, key.public_key, now))


def _state(number: int, now: Timestamp) -> Iterator[VerifiedEvent]:
    """An offer and a status that count as verified: two hundred thousand signatures would take longer than the rest."""
    author = PublicKey(_bytes(number).hex())
    for unsigned in (_offer(number, author, now), _status(number, author, now)):
        event_id, signature = unsigned.compute_id(), _bytes(number).hex() * 2
        yield VerifiedEvent(author, now, unsigned.kind, unsigned.tags, unsigned.content, event_id, signature)


def _offer(number: int, author: PublicKey, now: Timestamp) -> UnsignedEvent:
    rows = tuple(_row(f"model-{(number + each) % MODELS}", number) for each in range(2))
    offer = Offer(
        seq=now,
        valid_until=Timestamp(now + ALIVE_SECONDS + number % ALIVE_SECONDS),
        ln_pubkey="02" + _bytes(number).hex(),
        relays=RELAYS,
        settlement=(SettlementTerm(order="prepay"), SettlementTerm(order="prepay", tranche_units=512)),
        rows=rows,
    )
    return build_offer(offer, "main", author, now)


def _row(model: str, number: int) -> PriceRow:
    return PriceRow(
        model=model,
        job_types=("chat",),
        unit="token",
        per=1_000,
        input_msat=AmountMsat(number % 97),
        output_msat=AmountMsat(100 + number % 89),
        minimum_msat=AmountMsat(1_000),
        context_limit=131_072,
        output_limit=4_096,
        capabilities=("stream", "tools", "json"),
    )


def _status(number: int, author: PublicKey, now: Timestamp, sequence: int | None = None) -> UnsignedEvent:
    labels = {"main": LabelLoad(free=number % 4, queue=0)}
    status = Status(seq=sequence or now, state="up", labels=labels)
    return build_status(status, author, now, Timestamp(now + ALIVE_SECONDS))


def _bytes(number: int) -> bytes:
    return hashlib.sha256(f"node {number}".encode()).digest()
