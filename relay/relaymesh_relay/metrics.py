"""What `/metrics` says, in Prometheus' text format; `METRICS` names everything, docs/reference/metrics.md lists it."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final, Literal

from relaymesh_relay.counts import Counts, Tally

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Metric:
    """One name.

    Args:
        name: With its unit; a counter ends in `_total`.
        type: How Prometheus treats it.
        meaning: What it counts.
        label: What tells its values apart, or empty; never a key or an address.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    meaning: str
    label: str = ""


CONNECTIONS: Final = Metric("relay_connections", "gauge", "Open WebSocket connections.")
SUBSCRIPTIONS: Final = Metric("relay_subscriptions", "gauge", "Open subscriptions, over all connections.")
EVENTS: Final = Metric(
    "relay_events_total",
    "counter",
    "Events by what became of them: stored, ephemeral (delivered), or the prefix they were answered with.",
    "outcome",
)
DELIVERIES: Final = Metric("relay_deliveries_total", "counter", "Live events sent to subscriptions.")
REQUESTS: Final = Metric("relay_requests_total", "counter", "Questions to the store, by message.", "message")
RECEIVED: Final = Metric("relay_received_bytes_total", "counter", "Bytes read from clients.")
SENT: Final = Metric("relay_sent_bytes_total", "counter", "Bytes written to clients.")
EVENTS_WAITING: Final = Metric("relay_events_waiting", "gauge", "Events that came and are not answered yet.")
READS_WAITING: Final = Metric("relay_reads_waiting", "gauge", "Questions to the store that are not answered yet.")
STORED: Final = Metric("relay_stored_events", "gauge", "Events in the database.")
DATABASE: Final = Metric("relay_database_bytes", "gauge", "Size of the database's file and its log.")
COMMITS: Final = Metric("relay_commit_seconds", "histogram", "How long a transaction of events took until durable.")
BATCHES: Final = Metric("relay_batch_events", "histogram", "Events in one transaction.")
METRICS: Final = (
    CONNECTIONS,
    SUBSCRIPTIONS,
    EVENTS,
    DELIVERIES,
    REQUESTS,
    RECEIVED,
    SENT,
    EVENTS_WAITING,
    READS_WAITING,
    STORED,
    DATABASE,
    COMMITS,
    BATCHES,
)


@dataclass(frozen=True, slots=True)
class Live:
    """How things stand at this moment.

    Args:
        connections: Open WebSockets.
        subscriptions: Open subscriptions.
        events_waiting: Events without an answer.
        reads_waiting: Questions without one.
        stored_events: Events in the database.
        database_bytes: Its file and its log.
    """

    connections: int
    subscriptions: int
    events_waiting: int
    reads_waiting: int
    stored_events: int
    database_bytes: int


_GAUGES: Final = (CONNECTIONS, SUBSCRIPTIONS, EVENTS_WAITING, READS_WAITING, STORED, DATABASE)


def render(counts: Counts, live: Live) -> bytes:
    """Everything in Prometheus' text format, version 0.0.4."""
    lines: list[str] = []
    for metric, entry in zip(_GAUGES, fields(live), strict=True):
        lines += _samples(metric, {"": getattr(live, entry.name)})
    lines += _samples(EVENTS, counts.outcomes)
    lines += _samples(REQUESTS, counts.requests)
    for metric, value in (
        (DELIVERIES, counts.deliveries),
        (RECEIVED, counts.received_bytes),
        (SENT, counts.sent_bytes),
    ):
        lines += _samples(metric, {"": value})
    for metric, tally in ((COMMITS, counts.commit_seconds), (BATCHES, counts.batch_events)):
        lines += _histogram(metric, tally)
    return "".join(f"{line}\n" for line in lines).encode()


def _head(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.meaning}"
    yield f"# TYPE {metric.name} {metric.type}"


def _samples(metric: Metric, values: dict[str, int]) -> Iterator[str]:
    yield from _head(metric)
    for value, count in values.items():
        yield f'{metric.name}{{{metric.label}="{value}"}} {count}' if metric.label else f"{metric.name} {count}"


def _histogram(metric: Metric, tally: Tally) -> Iterator[str]:
    yield from _head(metric)
    counts = tuple(tally.counts)
    so_far = 0
    for bound, count in zip((*(f"{bound:g}" for bound in tally.bounds), "+Inf"), counts, strict=True):
        so_far += count
        yield f'{metric.name}_bucket{{le="{bound}"}} {so_far}'
    yield f"{metric.name}_sum {tally.total}"
    yield f"{metric.name}_count {so_far}"
