"""What can be bought now, model by model: the live market, merged into OpenAI's list of models."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from relaymesh.market.candidate import Candidate
from relaymesh.protocol.fields import JobType
from relaymesh.protocol.offer import PriceRow
from relaymesh.roles.market_view import MarketView
from relaymesh.units import MICROSECONDS_PER_MILLISECOND, Instant

PER: Final = 1_000_000
"""Prices are listed for so many units, so that rows can be compared."""
FRESH_MS: Final = 1_000
JOB_TYPES: Final[tuple[JobType, ...]] = ("chat", "completion", "embedding")


class ModelList:
    """The models of a market; made anew when the market has changed, at most once a second."""

    def __init__(self, market: MarketView) -> None:
        self._market = market
        self._made_at: Instant | None = None
        self._revision = -1
        self._models: dict[str, dict[str, Any]] = {}

    def models(self) -> dict[str, dict[str, Any]]:
        """Every model that is offered now, by name."""
        now = self._market.clock()
        self._market.directory.expire(now.timestamp)
        revision = self._market.directory.revision
        is_old = self._made_at is None or now.instant - self._made_at > FRESH_MS * MICROSECONDS_PER_MILLISECOND
        if revision != self._revision and is_old:
            offered: dict[str, dict[tuple[str, int], Candidate]] = {}
            for job_type in JOB_TYPES:
                for candidate in self._market.directory.candidates(None, job_type, now.timestamp):
                    place = candidate.offer.offer.rows.index(candidate.row)
                    offered.setdefault(candidate.row.model, {})[candidate.offer.event.id, place] = candidate
            self._models = {name: describe(name, tuple(offered[name].values())) for name in sorted(offered)}
            self._made_at, self._revision = now.instant, revision
        return self._models


def describe(name: str, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """A model as OpenAI lists it, with what the mesh knows of it beside that: who has it, at which prices."""
    rows = [candidate.row for candidate in candidates]
    nodes = {candidate.offer.node for candidate in candidates}
    free = {each.offer.node for each in candidates if each.load is not None and each.load.free}
    return {
        "id": name,
        "object": "model",
        "created": min(candidate.offer.event.created_at for candidate in candidates),
        "owned_by": "relaymesh",
        "job_types": sorted({kind for row in rows for kind in row.job_types}),
        "capabilities": sorted({each for row in rows for each in row.capabilities}),
        "context_length": max(row.context_limit for row in rows) or None,
        "max_output_tokens": max(row.output_limit for row in rows) or None,
        "quantizations": sorted({row.identity.quantization or "unknown" for row in rows}),
        "nodes": len(nodes),
        "free_nodes": len(free),
        "pricing": [_prices(*alike) for alike in _alike(rows)],
    }


def _alike(rows: Iterable[PriceRow]) -> list[tuple[tuple[str, ...], str, list[PriceRow]]]:
    """The rows by what they are for and in which unit."""
    found: dict[tuple[tuple[str, ...], str], list[PriceRow]] = {}
    for row in rows:
        found.setdefault((tuple(sorted(row.job_types)), row.unit), []).append(row)
    return [(job_types, unit, found[job_types, unit]) for job_types, unit in sorted(found)]


def _prices(job_types: tuple[str, ...], unit: str, rows: Sequence[PriceRow]) -> dict[str, Any]:
    """Prices of one kind, in msat per million units, rounded up: the lowest, the middle one, nine of ten."""
    return {
        "job_types": list(job_types),
        "unit": unit,
        "per": PER,
        "input_msat": _spread([-(-row.input_msat * PER // row.per) for row in rows]),
        "output_msat": _spread([-(-row.output_msat * PER // row.per) for row in rows]),
        "minimum_msat": _spread([row.minimum_msat for row in rows]),
    }


def _spread(values: Iterable[int]) -> dict[str, int]:
    ordered = sorted(values)
    return {"lowest": ordered[0], "p50": _percentile(ordered, 50), "p90": _percentile(ordered, 90)}


def _percentile(ordered: Sequence[int], percent: int) -> int:
    """The smallest value that so many of a hundred do not exceed."""
    return ordered[-(-len(ordered) * percent // 100) - 1]
