"""Explanation: why this node and none of the others, as rows for a table, as JSON and as one sentence."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from relaymesh.market.score import Terms
from relaymesh.market.selection import Examined, Selection
from relaymesh.market.settlement_choice import foresee_term
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.nostr.identifiers import encode_public_key
from relaymesh.units import AmountMsat


class ExplanationRow(NamedTuple):
    """One price and what became of it."""

    node: PublicKey
    label: str
    offer_id: EventId
    position: int
    """Which of the offer's rows, from 0."""
    model: str
    unit: str
    rank: int | None
    """Its place among the eligible; None for who is out, as for all that follows but the reason."""
    chosen: bool
    ceiling_msat: AmountMsat | None
    """The most that the job can cost there."""
    tier: int | None
    """Its place in the buyer's own order."""
    score_msat: int | None
    """The sum of the terms, in msat-equivalents: the lower, the better."""
    terms: Terms | None
    draw: str | None
    """What ordered it among near-equals."""
    standing: tuple[str, ...]
    """What its node's standing rests on, in short words."""
    reason: str | None
    """Why it is out; None for who is not."""
    detail: str | None
    """The figures behind the reason."""
    settlement: str | None = None
    """How it would be paid on the terms posted, why, and what both sides have at stake; None for who was not chosen."""

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object, keys in the order of its fields."""
        told: dict[str, Any] = dict(zip(self._fields, self, strict=True))
        if self.terms is not None:
            told["terms"] = dict(zip(self.terms._fields, self.terms, strict=True))
        return told


@dataclass(frozen=True, slots=True)
class Explanation:
    """A selection, told: the chosen, the runners-up and the excluded, in this order.

    Args:
        policy: How the eligible were ordered.
        seed: What the draw among near-equals was made from, in hex.
        now: When it was chosen, in Unix seconds.
        budget_msat: What the job may cost.
        rows: One for each price.
    """

    policy: str
    seed: str
    now: int
    budget_msat: AmountMsat
    rows: tuple[ExplanationRow, ...]

    def sentence(self) -> str:
        """The outcome in one sentence, reasons counted."""
        eligible = [row for row in self.rows if row.rank is not None]
        counted = Counter(row.reason for row in self.rows if row.reason is not None).most_common()
        excluded = ", ".join(f"{reason} ({count})" for reason, count in counted)
        if not self.rows:
            return "No offer for this model and job type is known."
        if not eligible and len(self.rows) == 1:
            return f"The only offer is not eligible: {self.rows[0].reason} ({self.rows[0].detail})."
        if not eligible:
            return f"No offer is eligible: {excluded}."
        best, rest = eligible[0], f"; excluded: {excluded}." if excluded else "."
        name = f"{encode_public_key(best.node)[:12]}…/{best.label} at up to {best.ceiling_msat} msat"
        if not eligible[1:]:
            return f"{name} is the only eligible offer{rest}"
        return f"{name} is the best of {len(eligible)} eligible offers ({self.policy}: {self._compare(eligible)}){rest}"

    @property
    def settlement(self) -> str | None:
        """How the best would be paid on the terms it posts, in one sentence; None where nobody was chosen."""
        return self.rows[0].settlement if self.rows else None

    def _compare(self, eligible: list[ExplanationRow]) -> str:
        best, second = eligible[0], eligible[1]
        weighed = f"score {best.score_msat} msat-equivalents"
        if best.tier != second.tier:
            return f"{weighed}, first in the buyer's own order"
        drawn = best.draw is not None and best.score_msat is not None and second.score_msat is not None
        if (
            drawn
            and second.score_msat is not None
            and best.score_msat is not None
            and best.score_msat > second.score_msat
        ):
            return f"{weighed}, drawn among near-equals"
        return f"{weighed}, the next {second.score_msat}"

    def to_json(self) -> dict[str, Any]:
        """The explanation as a JSON object, keys in the order of its fields."""
        return {
            "policy": self.policy,
            "seed": self.seed,
            "now": self.now,
            "budget_msat": self.budget_msat,
            "sentence": self.sentence(),
            "settlement": self.settlement,
            "rows": [row.to_json() for row in self.rows],
        }


def explain(selection: Selection) -> Explanation:
    """Tell a selection: one row for each price that was examined."""
    chosen, eligible = len(selection.chosen), selection.eligible_count
    rows = [
        _row(one, place if place <= eligible else None, _settlement(selection, one) if place <= chosen else None)
        for place, one in enumerate(selection.examined, start=1)
    ]
    return Explanation(
        selection.policy.name, selection.seed.hex(), selection.now, selection.request.budget_msat, tuple(rows)
    )


def _settlement(selection: Selection, one: Examined) -> str:
    candidate = selection.recall(one.facts)
    if candidate is None:
        return "The offer is gone."
    return foresee_term(selection.request, candidate.offer.offer, candidate.row, one.facts.standing).sentence


def _row(one: Examined, rank: int | None, settlement: str | None) -> ExplanationRow:
    facts, terms = one.facts, one.terms
    return ExplanationRow(
        facts.node,
        facts.label,
        facts.offer_id,
        facts.position,
        facts.traits.model,
        facts.unit,
        rank,
        settlement is not None,
        one.ceiling_msat,
        None if terms is None else one.tier,
        None if terms is None else terms.score,
        terms,
        one.draw,
        facts.standing.reasons,
        None if one.reason is None else one.reason.value,
        one.detail,
        settlement,
    )
