"""The vectors of the scheduler, recomputed from the text of RM-04 alone: nothing of ours is imported here."""

import hashlib
import json
from typing import Any

import pytest

from tests.nips.test_files import load

VECTORS = load("vectors/scheduler.json")
C, T = 10**12, 10**9


def units(shape: dict[str, int], unit: str) -> tuple[int, int]:
    sizes = {"token": ("input_tokens", "output_tokens"), "byte": ("input_bytes", "output_bytes")}
    if unit in sizes:
        return shape[sizes[unit][0]], shape[sizes[unit][1]]
    return (0, 1) if unit == "job" else (0, 0)


def cost(row: dict[str, Any], shape: dict[str, int]) -> int:
    taken, given = units(shape, row["unit"])
    amount = taken * row["input_msat"] + given * row["output_msat"]
    return max(int(row["minimum_msat"]), -(-int(amount) // int(row["per"])))


def posterior(standing: dict[str, Any]) -> tuple[int, int]:
    failed = 1_000 + standing.get("failures_milli", 0)
    all_of_them = 10_000 + standing.get("failures_milli", 0) + standing.get("successes_milli", 0)
    return failed * 10**6 // all_of_them, (failed + 1_000) * 10**6 // (all_of_them + 1_000)


class Price:
    """One row of one offer, with its node's status and standing."""

    def __init__(self, event: dict[str, Any], place: int, status: dict[str, Any] | None, standing: dict[str, Any]):
        self.id, self.node, self.place = event["id"], event["pubkey"], place
        self.offer = json.loads(event["content"])
        self.label = next(tag[1] for tag in event["tags"] if tag[0] == "d")
        self.row = self.offer["rows"][place]
        self.status, self.standing = status, standing
        said: dict[str, Any] = json.loads(status["content"]) if status else {"labels": {}, "state": ""}
        self.state, self.load = said["state"], said["labels"].get(self.label)

    def ceiling(self, request: dict[str, Any]) -> int | None:
        amount = cost(self.row, request["shape"])
        if amount > min(request["budget_msat"], 2**53 - 1):
            return None
        return request["budget_msat"] if self.row["unit"] == "second" and self.row["output_msat"] else amount

    def reason(self, request: dict[str, Any], now: int) -> str | None:
        for out, reason in (*self.wishes(request), *self.limits(request), *self.knowledge(request, now)):
            if out:
                return str(reason)
        return None

    def wishes(self, request: dict[str, Any]) -> list[tuple[Any, str]]:
        row, orders = self.row, {each["order"] for each in self.offer["settlement"] if each["scope"] == "job"}
        quantization = row["identity"]["quantization"] or "unknown"
        return [
            (request["allow"] is not None and self.node not in request["allow"], "not allowed"),
            (self.node in request["ignore"], "ignored"),
            (request["model"] not in (None, row["model"]), "model not offered"),
            (request["job_type"] not in row["job_types"], "job type not offered"),
            (request["region"] not in (None, self.offer["region"]), "other region"),
            (request["quantizations"] and quantization not in request["quantizations"], "other quantization"),
            (request["data_collection"] == "deny" != row["data_collection"], "may collect data"),
            (set(request["capabilities"]) - set(row["capabilities"]), "capability missing"),
            (not orders & set(request["orders"]), "no common settlement"),
            (self.offer["pow_bits"] > request["maximum_pow_bits"], "too much proof of work"),
        ]

    def limits(self, request: dict[str, Any]) -> list[tuple[Any, str]]:
        row, shape = self.row, request["shape"]
        tokens = shape["input_tokens"] + shape["output_tokens"]
        return [
            (0 < row["context_limit"] < tokens, "over the context limit"),
            (shape["output_tokens"] > row["output_limit"], "over the output limit"),
            (self.ceiling(request) is None, "over budget"),
            (self.is_dear(request["maximum_price"] or {}), "over the price ceiling"),
        ]

    def is_dear(self, bounds: dict[str, int | None]) -> bool:
        row, tokens = self.row, {"token": 10**6, "byte": 4 * 10**6}.get(self.row["unit"], 0)
        least = row["minimum_msat"]
        if row["unit"] == "job":
            least = max(least, (row["output_msat"] + row["per"] - 1) // row["per"])
        sides = [(least, bounds.get("job_msat"))]
        for side in ("input_msat", "output_msat"):
            bound = bounds.get(side)
            sides.append((row[side] * tokens, None if bound is None else bound * row["per"]))
        return any(bound is not None and figure > bound for figure, bound in sides)

    def knowledge(self, request: dict[str, Any], now: int) -> list[tuple[Any, str]]:
        reliability = (10**6 - posterior(self.standing)[1]) // 1_000
        limit, ceiling = self.standing.get("job_limit_msat"), self.ceiling(request)
        oldest, status = request["maximum_status_age_seconds"], self.status
        ends = int(next(tag[1] for tag in status["tags"] if tag[0] == "expiration")) if status else 0
        return [
            (self.standing.get("trust_milli", 0) < request["minimum_trust_milli"], "below the reputation floor"),
            (reliability < request["minimum_reliability_milli"], "below the reputation floor"),
            (limit is not None and ceiling is not None and ceiling > limit, "on probation"),
            (self.offer["valid_until"] <= now, "offer expired"),
            (ends <= now, "no recent status"),
            (oldest is not None and status is not None and now - status["created_at"] > oldest, "status too old"),
            (self.state == "draining", "draining"),
            (self.load is None or self.load["free"] == 0 or self.state == "busy", "no free capacity"),
        ]

    def terms(self, request: dict[str, Any], policy: dict[str, int]) -> dict[str, int]:
        assert self.load is not None
        likely, known = request["estimate"] or request["shape"], self.standing
        price = min(C, cost(self.row, likely))
        if self.row["unit"] == "second" and self.row["output_msat"]:
            price = min(C, request["budget_msat"])
        first = 3_000 if known.get("first_output_ms") is None else known["first_output_ms"]
        run_ms = min(T, likely["output_tokens"] * 10**6 // (known.get("output_units_per_1000s") or 15_000))
        ahead = 4 * self.load["queue"] + 1
        wait_ms = min(T, ahead * min(T, first + run_ms) // (4 * max(self.load["free"], 1)))
        wait = min(C, (wait_ms + first) * policy["wait_msat_per_second"] // 1_000)
        run = min(C, run_ms * policy["run_msat_per_second"] // 1_000)
        at_stake, (mean, bound) = min(C, price + wait + run), posterior(known)
        failure = min(C, at_stake * mean // 10**6 * policy["failure_milli"] // 1_000)
        doubt = min(C, at_stake * bound // 10**6 * policy["failure_milli"] // 1_000) - failure
        distrust = at_stake * (1_000 - known.get("trust_milli", 0)) // 1_000 * policy["distrust_milli"] // 1_000
        share = min(known.get("stake_units", 0), 100_000) * policy["stake_milli"] // 100_000
        return {
            "cost": min(C, price * policy["cost_milli"] // 1_000),
            "wait": wait,
            "run": run,
            "failure": failure,
            "uncertainty": doubt,
            "distrust": min(C, distrust),
            "stake": -(doubt * share // 1_000),
        }

    def tier(self, request: dict[str, Any]) -> int:
        place = request["order"].index(self.node) if self.node in request["order"] else len(request["order"])
        known, slow = self.standing, 0
        for figure, preferred, sign in (
            ("first_output_ms", "preferred_first_output_ms", 1),
            ("slow_first_output_ms", "preferred_slow_first_output_ms", 1),
            ("output_units_per_1000s", "preferred_units_per_1000s", -1),
            ("slow_output_units_per_1000s", "preferred_slow_units_per_1000s", -1),
        ):
            if known.get(figure) is not None and request[preferred] is not None:
                slow |= sign * known[figure] > sign * request[preferred]
        return 2 * place + slow


def draw(band: list[str], seed: bytes) -> list[str]:
    start = int.from_bytes(hashlib.sha256(seed).digest()[:8], "big")
    if len(band) > 64:
        band = sorted(band, key=lambda each: ((int(each[:16], 16) - start) % 2**64, each))[:64]
    return sorted(band, key=lambda each: (hashlib.sha256(seed + bytes.fromhex(each)).digest(), each))


def choose(case: dict[str, Any], prices: list[Price]) -> list[Price]:
    policy, request = case["policy"], case["request"]
    keys = {
        each: (each.tier(request), sum(each.terms(request, policy).values()), each.id, each.place) for each in prices
    }
    left: list[Price] = []
    for each in sorted(prices, key=lambda each: keys[each]):
        if each.node not in {other.node for other in left}:
            left.append(each)
    chosen: list[Price] = []
    while left and len(chosen) < case["count"]:
        tier, best = keys[left[0]][:2]
        most = best + max(policy["margin_msat"], best * policy["margin_milli"] // 1_000)
        band = {each.id: each for each in left if keys[each][0] == tier and keys[each][1] <= most}
        drawn = [band[each] for each in draw(list(band), bytes.fromhex(case["seed"]))]
        chosen += drawn[: case["count"] - len(chosen)]
        left = [each for each in left if each not in drawn]
    return chosen + sorted((each for each in prices if each not in chosen), key=lambda each: keys[each])


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_every_case_follows_from_the_text(case: dict[str, Any]) -> None:
    statuses = {each["pubkey"]: each for each in case["events"] if each["kind"] == 38771}
    prices = [
        Price(each, place, statuses.get(each["pubkey"]), case["standings"].get(each["pubkey"], {}))
        for each in case["events"]
        if each["kind"] == 38770
        for place in range(len(json.loads(each["content"])["rows"]))
    ]
    eligible = [each for each in prices if each.reason(case["request"], case["now"]) is None]
    ranked = choose(case, eligible)
    stated = case["explanation"]["rows"]
    assert [row["offer_id"] for row in stated if row["reason"] is None] == [each.id for each in ranked]
    for row, each in zip(stated, ranked, strict=False):
        terms = each.terms(case["request"], case["policy"])
        assert row["terms"] == terms and row["score_msat"] == sum(terms.values())
        assert (row["tier"], row["ceiling_msat"]) == (each.tier(case["request"]), each.ceiling(case["request"]))
    assert [row["chosen"] for row in stated] == [
        place < min(case["count"], len(ranked)) for place in range(len(stated))
    ]
    out = {each.id: each.reason(case["request"], case["now"]) for each in prices if each not in ranked}
    assert {row["offer_id"]: row["reason"] for row in stated if row["reason"] is not None} == out


def test_the_cases_show_every_term_and_most_reasons() -> None:
    rows = [row for case in VECTORS["cases"] for row in case["explanation"]["rows"]]
    for term in ("cost", "wait", "run", "failure", "uncertainty", "distrust", "stake"):
        assert len({row["terms"][term] for row in rows if row["terms"]}) > 2
    assert len({row["reason"] for row in rows}) >= 15


@pytest.mark.parametrize("band", VECTORS["bands"], ids=lambda band: str(len(band["offer_ids"])))
def test_bands_are_drawn_as_the_text_says(band: dict[str, Any]) -> None:
    assert draw(band["offer_ids"], bytes.fromhex(band["seed"])) == band["drawn"]
