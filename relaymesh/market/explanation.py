"""Explanation: why this node and none of the others, as rows for a table, as JSON and as one sentence."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from relaymesh.market.candidate import Candidate
from relaymesh.market.selection import Choice, Selection
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.nostr.identifiers import encode_public_key
from relaymesh.units import AmountMsat


@dataclass(frozen=True, slots=True)
class ExplanationRow:
    """One candidate and what became of it.

    Args:
        node: Whose offer it is.
        label: Under which label.
        offer_id: Which event says so.
        model: The model of its price row.
        unit: What that row counts.
        cost_msat: The most that the job can cost there; None for who is out.
        rank: Its place among the eligible; None for who is out.
        chosen: Whether it is to be asked.
        reason: Why it is out; None for who is not.
        detail: The figures behind the reason.
    """

    node: PublicKey
    label: str
    offer_id: EventId
    model: str
    unit: str
    cost_msat: AmountMsat | None = None
    rank: int | None = None
    chosen: bool = False
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A selection, told: the chosen, the runners-up and the excluded, in this order.

    Args:
        policy: How the eligible were ordered.
        seed: What the draw among equals was made from, in hex.
        budget_msat: What the job may cost.
        rows: One for each candidate.
    """

    policy: str
    seed: str
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
        others = f"the {self.policy} of {len(eligible)} eligible offers" if eligible[1:] else "the only eligible offer"
        return f"{encode_public_key(best.node)[:12]}…/{best.label} at up to {best.cost_msat} msat is {others}{rest}"

    def to_json(self) -> dict[str, Any]:
        """The explanation as a JSON object, keys in the order of its fields."""
        return {
            "policy": self.policy,
            "seed": self.seed,
            "budget_msat": self.budget_msat,
            "sentence": self.sentence(),
            "rows": [asdict(row) for row in self.rows],
        }


def explain(selection: Selection) -> Explanation:
    """Tell a selection: one row for each candidate that was examined."""
    rows = [_explain_choice(choice, chosen=True) for choice in selection.chosen]
    rows += [_explain_choice(choice, chosen=False) for choice in selection.runners_up]
    rows += [
        _row(exclusion.candidate, reason=exclusion.reason.value, detail=exclusion.detail)
        for exclusion in selection.excluded
    ]
    return Explanation(selection.policy.name, selection.seed.hex(), selection.request.budget_msat, tuple(rows))


def _explain_choice(choice: Choice, *, chosen: bool) -> ExplanationRow:
    return _row(choice.candidate, cost_msat=choice.cost_msat, rank=choice.rank, chosen=chosen)


def _row(
    candidate: Candidate,
    *,
    cost_msat: AmountMsat | None = None,
    rank: int | None = None,
    chosen: bool = False,
    reason: str | None = None,
    detail: str | None = None,
) -> ExplanationRow:
    offer, row = candidate.offer, candidate.row
    return ExplanationRow(
        offer.node, offer.label, offer.event.id, row.model, row.unit, cost_msat, rank, chosen, reason, detail
    )
