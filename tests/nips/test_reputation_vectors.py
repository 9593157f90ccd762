"""The vectors of reputation, recomputed from the text of RM-05 alone: nothing of ours is imported here."""

import math
from typing import Any

import pytest

from tests.nips.test_files import load

VECTORS = load("vectors/reputation.json")
HALF_LIFE, FRAUD_HALF_LIFE = 2_419_200, 364 * 86_400
GOOD = {"done": 2, "partial": 1, "failed": 0}


def weight(age: int, half_life: int = HALF_LIFE) -> int:
    halvings, rest = divmod(max(age, 0), half_life)
    whole = 1_000 >> halvings if halvings < 7 else 0
    return whole - whole * rest // (2 * half_life)


def weigh(jobs: list[dict[str, Any]]) -> tuple[int, int]:
    weights = [(GOOD[job["result"]] * (w := weight(job["age_seconds"])) // 2, w) for job in jobs]
    good = sum(good for good, _ in weights)
    return good, sum(w for _, w in weights) - good


def limit(pair: tuple[int, int], worth: int) -> tuple[int, int]:
    total = sum(pair)
    if total <= worth:
        return pair
    good = pair[0] * worth // total
    return good, worth - good


def add(*pairs: tuple[int, int]) -> tuple[int, int]:
    return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


@pytest.mark.parametrize("case", VECTORS["ages"], ids=lambda case: str(case["age_seconds"]))
def test_ages(case: dict[str, int]) -> None:
    assert weight(case["age_seconds"]) == case["weight_milli"]


def test_bands() -> None:
    for case in VECTORS["bands"]:
        assert case["band"] == (min(int(math.log2(case["size"])), 30) if case["size"] > 1 else 0)


@pytest.mark.parametrize("case", VECTORS["opinions"], ids=lambda case: case["what"])
def test_opinions(case: dict[str, Any]) -> None:
    evidence = case["evidence"]
    own = weigh(evidence["own"])
    vouched = add(*(limit(weigh(key["jobs"]), 4_000 * key["weight_milli"] // 1_000) for key in evidence["vouched"]))
    strangers = limit(weigh(evidence["strangers"]), 1_000)
    room = 8_000 * 8_000 // (8_000 + sum(own))
    fraud = sum(16_000 * weight(age, FRAUD_HALF_LIFE) // 1_000 for age in evidence["fraud_ages_seconds"])
    everybody = add(own, limit(add(vouched, strangers), room), (0, fraud))
    believed = add(own, limit(vouched, room))
    proven = 0 if fraud else max(believed[0] - 2 * believed[1], 0)
    trust = 0 if fraud else 1_000 * believed[0] // (sum(believed) + 4_000)
    assert case["opinion"] == {
        "successes_milli": everybody[0],
        "failures_milli": everybody[1],
        "proven": proven,
        "trust_milli": trust,
        "is_newcomer": proven < 5_000,
    }


def test_newcomers() -> None:
    for case in VECTORS["newcomers"]:
        grown = case["base_msat"] * 2 ** min(case["proven"] // 1_000, 5)
        assert case["limit_msat"] == grown // 2 ** math.ceil(case["losses"] / 1_000)


def test_routers() -> None:
    for case in VECTORS["routers"]:
        seen = case["right"] + case["wrong"]
        counts = case["stake_units"] >= 1_000 and case["days"] >= 7 and seen >= 20
        earned = max(case["right"] - 20 * case["wrong"], 0) * 1_000 // seen
        assert case["weight_milli"] == (earned if counts else 0)


def test_claims() -> None:
    for case in VECTORS["claims"]:
        has_accelerator, observed = case["has_accelerator"], sorted(case["observed_tokens_per_1000s"])
        claimed = case["claimed_tokens_per_1000s"]
        if claimed is None:
            claimed = 20_000 if has_accelerator else 5_000
        claimed = min(claimed, 2_000_000 if has_accelerator else 200_000)
        median = observed[(len(observed) - 1) // 2] if observed else 0
        is_contradicted = len(observed) >= 3 and claimed > 2 * median
        n = len(observed)
        expected = median if n >= 4 or is_contradicted else (claimed * (4 - n) + median * n) // 4
        assert (case["expected_tokens_per_1000s"], case["is_contradicted"]) == (expected, is_contradicted)
