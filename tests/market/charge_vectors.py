"""The vectors of the price formula, for implementations in any language.

`python -m tests.market.charge_vectors` writes them to `nips/vectors/charge.json`; test_pricing.py compares the file
with what this module computes, and every figure in it with exact fractions.
"""

import json
from pathlib import Path
from typing import Any, Final

from relaymesh.market.pricing import TranchePlan, affordable_output_units, cost
from relaymesh.protocol.offer import PriceRow
from relaymesh.units import AmountMsat
from tests.market import builders

PATH: Final = Path(__file__).resolve().parents[2] / "nips" / "vectors" / "charge.json"

PRICES: Final[dict[str, dict[str, Any]]] = {
    "specification": {"unit": "token", "per": 1_000, "input_msat": 40, "output_msat": 120, "minimum_msat": 1_000},
    "without minimum": {"unit": "token", "per": 1_000, "input_msat": 40, "output_msat": 120, "minimum_msat": 0},
    "by the byte": {"unit": "byte", "per": 1_000_000, "input_msat": 7, "output_msat": 999_999, "minimum_msat": 0},
    "by the second": {"unit": "second", "per": 1, "input_msat": 0, "output_msat": 250, "minimum_msat": 100},
    "by the job": {"unit": "job", "per": 1, "input_msat": 0, "output_msat": 2_500, "minimum_msat": 0},
    "free": {"unit": "token", "per": 1, "input_msat": 0, "output_msat": 0, "minimum_msat": 0},
    "dearest": {"unit": "token", "per": 1, "input_msat": 10**9, "output_msat": 10**9, "minimum_msat": 0},
}

COSTS: Final = (
    ("specification", 0, 0),
    ("specification", 100, 400),
    ("specification", 10_000, 5_001),
    ("without minimum", 0, 0),
    ("without minimum", 1, 1),  # 0.16 rounds up once, to 1; rounding both addends would give 2
    ("without minimum", 25, 0),  # exactly 1
    ("without minimum", 26, 0),
    ("without minimum", 10**9, 10**9),
    ("by the byte", 1_800, 4_321),
    ("by the byte", 0, 1),
    ("by the second", 0, 0),
    ("by the second", 0, 61),
    ("by the job", 0, 1),
    ("free", 10**9, 10**9),
    ("dearest", 0, 9_007_199),
)
REFUSED: Final = (
    ("specification", -1, 0, "a quantity is below 0"),
    ("specification", 0, 10**9 + 1, "a quantity is above 10^9"),
    ("dearest", 0, 9_007_200, "the result is above 2^53 − 1"),
)
TRANCHES: Final = (
    ("specification", 100, 400, None),
    ("specification", 100, 400, 100),
    ("specification", 100, 30_000, 8_000),
    ("without minimum", 100, 400, 150),
    ("without minimum", 100, 1_000, 1),  # 1,000 tranches would be too many: 32 units each
    ("without minimum", 100, 0, 50),
    ("by the byte", 450, 20, 7),
)
AFFORDABLE: Final = (
    ("specification", 100, 999, 4_096),
    ("specification", 100, 1_000, 4_096),
    ("specification", 100, 100_000, 4_096),
    ("without minimum", 100, 3, 4_096),
    ("without minimum", 100, 4, 4_096),
    ("without minimum", 100, 5, 4_096),
    ("free", 100, 0, 4_096),
)


def row(name: str) -> PriceRow:
    """The price row called `name` in the vectors."""
    return builders.row(**PRICES[name])


def build() -> dict[str, Any]:
    """The vectors, computed."""
    plans = [TranchePlan(row(name), *figures) for name, *figures in TRANCHES]
    return {
        "formula": "max(minimum_msat, ceil((input * input_msat + output * output_msat) / per)), one division",
        "prices": PRICES,
        "costs": [
            {"price": name, "input": taken, "output": given, "cost_msat": cost(row(name), taken, given)}
            for name, taken, given in COSTS
        ],
        "refused": [
            {"price": name, "input": taken, "output": given, "because": reason}
            for name, taken, given, reason in REFUSED
        ],
        "tranches": [
            {
                "price": name,
                "input": plan.input_units,
                "output": plan.output_units,
                "tranche_units": plan.tranche_units,
                "units": [plan.units(index) for index in range(plan.count)],
                "prices_msat": [plan.price(index) for index in range(plan.count)],
            }
            for (name, *_), plan in zip(TRANCHES, plans, strict=True)
        ],
        "affordable": [
            {
                "price": name,
                "input": taken,
                "maximum_msat": maximum,
                "ceiling": ceiling,
                "output": affordable_output_units(row(name), taken, AmountMsat(maximum), ceiling),
            }
            for name, taken, maximum, ceiling in AFFORDABLE
        ],
    }


def render() -> str:
    """The vectors as the file holds them."""
    return json.dumps(build(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(render(), encoding="utf-8")
