"""The choice among scored columns: bands of near-equals, and what became of every price when somebody asks."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from heapq import nsmallest

import numpy as np
from numpy.typing import NDArray

from relaymesh.market.column_arithmetic import UNITS, Mask, Vector
from relaymesh.market.eligibility import ceiling_of, examine_facts, fits
from relaymesh.market.facts import Facts
from relaymesh.market.policy import Policy
from relaymesh.market.pricing import ceiling_within
from relaymesh.market.request import BuyerRequest
from relaymesh.market.score import Terms
from relaymesh.market.selection import (
    MAXIMUM_DRAWN,
    Examined,
    draw_number,
    identity,
    near_equal_limit,
    ring_start,
)
from relaymesh.nostr.event import PublicKey
from relaymesh.units import Timestamp


@dataclass(frozen=True, slots=True)
class Scored:
    """The eligible rows of some columns.

    Args:
        rows: Which rows.
        terms: Their terms, column by column.
        tiers: Their places in the buyer's own order; None where he has none.
    """

    rows: NDArray[np.intp]
    terms: tuple[Vector, ...]
    tiers: Vector | None

    def scores(self) -> Vector:
        """The score of each."""
        total = self.terms[0].copy()
        for term in self.terms[1:]:
            total += term
        return total

    def examined(self, index: int, facts: list[Facts], request: BuyerRequest) -> Examined:
        """One of them, as a value."""
        one = facts[self.rows[index]]
        tier = 0 if self.tiers is None else int(self.tiers[index])
        return Examined(one, ceiling_of(one, request), tier, Terms(*(int(term[index]) for term in self.terms)))


def best_rows(
    scored: Scored,
    facts: list[Facts],
    rings: NDArray[np.uint64],
    request: BuyerRequest,
    *,
    seed: bytes,
    count: int,
    policy: Policy,
    crowded: Collection[PublicKey],
) -> tuple[list[Examined], int]:
    """The best `count` nodes and the size of the first band, as `relaymesh.market.selection.draw_among` finds them.

    Args:
        rings: The first 8 bytes of each row's offer id.
        crowded: Nodes with several rows; each takes part with its best.
    """
    scores = scored.scores()
    left = np.ones(len(scores), bool)
    if crowded:
        _keep_best_of_each(left, scores, scored, facts, crowded)
    chosen: list[Examined] = []
    near_equal_count = 0
    while len(chosen) < count and left.any():
        band = _band(left, scores, scored.tiers, policy)
        near_equal_count = near_equal_count or len(band)
        drawn = _draw(_nearest_on_ring(band, scored, facts, rings, seed), scored, facts, seed)
        for number, index in drawn[: count - len(chosen)]:
            chosen.append(scored.examined(index, facts, request)._replace(draw=number))
        left[[index for _, index in drawn]] = False
    return chosen, near_equal_count


def _draw(band: NDArray[np.intp], scored: Scored, facts: list[Facts], seed: bytes) -> list[tuple[str, int]]:
    """Each member of a band after its draw, in the order of the draws."""
    drawn = []
    for index in band.tolist():
        one = facts[scored.rows[index]]
        drawn.append((draw_number(seed, one.offer_id), one.offer_id, one.position, index))
    return [(number, index) for number, _, _, index in sorted(drawn)]


def _nearest_on_ring(
    band: NDArray[np.intp], scored: Scored, facts: list[Facts], rings: NDArray[np.uint64], seed: bytes
) -> NDArray[np.intp]:
    """At most `MAXIMUM_DRAWN` of a band."""
    if len(band) <= MAXIMUM_DRAWN:
        return band
    distances = rings[scored.rows[band]] - np.uint64(ring_start(seed))  # wraps around, as the ring does
    near = distances <= np.partition(distances, MAXIMUM_DRAWN - 1)[MAXIMUM_DRAWN - 1]
    band = band[near]
    if len(band) == MAXIMUM_DRAWN:
        return band
    places = zip(distances[near].tolist(), (facts[row] for row in scored.rows[band]), band.tolist(), strict=True)
    ordered = sorted((distance, one.offer_id, one.position, index) for distance, one, index in places)
    return np.array([index for _, _, _, index in ordered[:MAXIMUM_DRAWN]], np.intp)


def _band(left: Mask, scores: Vector, tiers: Vector | None, policy: Policy) -> NDArray[np.intp]:
    """The near-equals of the best that is left."""
    if tiers is None:
        among = left
        best = int(scores.min() if left.all() else scores[left].min())
    else:
        among = left & (tiers == tiers[left].min())
        best = int(scores[among].min())
    return np.flatnonzero(among & (scores <= near_equal_limit(best, policy)))


def _keep_best_of_each(
    left: Mask, scores: Vector, scored: Scored, facts: list[Facts], crowded: Collection[PublicKey]
) -> None:
    best: dict[PublicKey, tuple[tuple[int, int, str, int], int]] = {}
    tiers = [0] * len(scores) if scored.tiers is None else scored.tiers.tolist()
    for index, (row, score, tier) in enumerate(zip(scored.rows.tolist(), scores.tolist(), tiers, strict=True)):
        one = facts[row]
        if one.node not in crowded:
            continue
        place = (tier, score, one.offer_id, one.position)
        other = best.get(one.node)
        if other is None or place < other[0]:
            if other is not None:
                left[other[1]] = False
            best[one.node] = (place, index)
        else:
            left[index] = False


def tell_eligible(
    scored: Scored, facts: list[Facts], chosen: list[Examined], request: BuyerRequest
) -> Iterator[Examined]:
    """The eligible rows: the chosen, then the runners-up."""
    taken = {identity(one) for one in chosen}
    tiers = [0] * len(scored.rows) if scored.tiers is None else scored.tiers.tolist()
    terms = zip(*(term.tolist() for term in scored.terms), strict=True)
    units = {unit: request.shape.units(unit) for unit in UNITS}
    prices = [facts[row] for row in scored.rows.tolist()]
    ranked = sorted(
        (tier, score, one.offer_id, one.position, each, one)
        for tier, score, each, one in zip(tiers, scored.scores().tolist(), terms, prices, strict=True)
    )
    yield from chosen
    for tier, _, offer_id, position, each, one in ranked:
        if (offer_id, position) not in taken:
            ceiling = ceiling_within(one, units[one.unit], request.budget_msat)
            yield Examined(one, ceiling, tier, Terms._make(each))


def tell_excluded(
    scored: Scored, facts: list[Facts], request: BuyerRequest, now: Timestamp, count: int
) -> Iterator[Examined]:
    """The first so many of the excluded rows, by offer id, each with its reason."""
    inside = set(scored.rows.tolist())
    outside = [(one.offer_id, one.position, row) for row, one in enumerate(facts) if row not in inside]
    first = sorted(outside) if count >= len(outside) else nsmallest(count, outside)
    fitting: dict[int, bool] = {}  # by identity: equal traits are one value here
    for _, _, row in first:
        one = facts[row]
        traits_fit = fitting.get(id(one.traits))
        if traits_fit is None:
            traits_fit = fitting[id(one.traits)] = fits(one.traits, request)
        found = examine_facts(one, request, now, traits_fit=traits_fit)
        assert found is not None  # columns and single prices decide the same
        yield Examined(one, reason=found[0], detail=found[1])
