"""The market at one moment as JSON-ready rows, and what is different from one moment to the next."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relaymesh.market.state import IgnoredEvent
    from relaymesh.protocol.codec import SignedOffer
    from relaymesh.protocol.offer import PriceRow
    from relaymesh.roles.market_view import MarketView

_COUNTED_ALWAYS = "delivered"
"""What a relay delivered grows with every heartbeat; that alone is no change worth a line."""


@dataclass(frozen=True, slots=True)
class MarketSnapshot:
    """What is in view.

    Args:
        rows: Every price with load, standing, and the relays that carry or withhold its offer.
        relays: Every relay with what it carries, and what it withholds now.
        ignored: How many events were ignored, by reason.
        last_invalid: The last one that was not valid, with what was wrong.
    """

    rows: tuple[dict[str, Any], ...]
    relays: tuple[dict[str, Any], ...]
    ignored: dict[str, int]
    last_invalid: "IgnoredEvent | None"

    def changes_since(self, earlier: "MarketSnapshot | None") -> Iterator[dict[str, Any]]:
        """What is to be said about this moment to somebody who knows an earlier one: one object for each change."""
        yield from _row_changes(_by_price(earlier.rows if earlier else ()), _by_price(self.rows))
        known = {relay["relay"]: relay for relay in (earlier.relays if earlier else ())}
        for relay in self.relays:
            if _without_counter(relay) != _without_counter(known.get(relay["relay"], {})):
                yield {"change": "relay", **relay}
        if self.ignored != (earlier.ignored if earlier else dict.fromkeys(self.ignored, 0)):
            detail = "" if self.last_invalid is None else self.last_invalid.detail
            yield {"change": "refused", "counts": self.ignored, "last_invalid": detail}


def take_snapshot(market: "MarketView", model: str | None = None) -> MarketSnapshot:
    """The market now; only one model's prices where that is given."""
    from relaymesh.market.state import Ignored

    directory = market.directory
    reports = {report.relay_url: report for report in market.relay_reports()}
    withheld_by: dict[str, list[str]] = {}
    for report in reports.values():
        for _, event_id in report.missing:
            withheld_by.setdefault(event_id, []).append(report.relay_url)
    now = market.clock().timestamp
    rows = [
        _describe(market, signed, row, withheld_by.get(signed.event.id, []))
        for signed in directory.offers(now)
        for row in signed.offer.rows
        if model in (None, row.model)
    ]
    rows.sort(key=lambda row: (row["model"], row["output_msat"] / row["per"], row["node"], row["label"]))
    relays = []
    for url in market.relay_urls:
        known = reports.get(url)
        relays.append(
            {
                "relay": url,
                "complete": url in market.complete_relays,
                "carried": directory.carried_by(url),
                "live": directory.live_events,
                "delivered": known.delivered if known else 0,
                "withheld": known.withheld if known else 0,
                "late": known.late if known else 0,
                "missing": [event_id for _, event_id in known.missing] if known else [],
            }
        )
    invalid = [ignored for ignored in directory.last_ignored if ignored.reason is Ignored.INVALID]
    counts = {reason.value: count for reason, count in directory.ignored.items()}
    return MarketSnapshot(tuple(rows), tuple(relays), counts, invalid[-1] if invalid else None)


def _describe(market: "MarketView", signed: "SignedOffer", row: "PriceRow", withheld_by: list[str]) -> dict[str, Any]:
    from relaymesh.market.standing import UNKNOWN
    from relaymesh.nostr.identifiers import encode_public_key

    status = market.directory.status(signed.node, market.clock().timestamp)
    load = status.status.labels.get(signed.label) if status is not None else None
    standing = market.directory.standing(signed.node)
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
        "standing": None if standing == UNKNOWN else asdict(standing),
        "relays": list(market.directory.relays_of(signed.event.id)),
        "withheld_by": withheld_by,
    }


def _by_price(rows: tuple[dict[str, Any], ...]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows by what they are the price of; an offer may have several of the same."""
    known: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["public_key"], row["label"], row["model"], tuple(row["job_types"]), row["unit"])
        number = 0
        while (*key, number) in known:
            number += 1
        known[(*key, number)] = row
    return known


def _row_changes(
    earlier: dict[tuple[Any, ...], dict[str, Any]], now: dict[tuple[Any, ...], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    for key, row in now.items():
        if key not in earlier:
            yield {"change": "offered", **row}
        elif earlier[key] != row:
            yield {"change": "changed", **row}
    for key, row in earlier.items():
        if key not in now:
            yield {"change": "gone", **row}


def _without_counter(relay: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in relay.items() if name != _COUNTED_ALWAYS}
