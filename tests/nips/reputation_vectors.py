"""The vectors of reputation: ages, evidence and what it comes to, newcomers, routers, claims, as our code has them."""

from itertools import count
from typing import Any, Final

from relaymesh.market.capability import expect_speed
from relaymesh.market.opinion import Evidence, weigh_evidence
from relaymesh.market.outcomes import JobKey, Outcome, Result, age_weight_milli
from relaymesh.market.probation import RouterRecord, newcomer_limit, weigh_router
from relaymesh.market.reputation import FRAUD_HALF_LIFE_SECONDS
from relaymesh.market.standing import BYTES_PER_TOKEN
from relaymesh.protocol.manifest import Benchmark, CapabilityBands, Manifest, to_band
from relaymesh.units import AmountMsat, Timestamp

NOW: Final = Timestamp(1_800_000_000)
DAY: Final = 86_400
_AGES: Final = (-5, 0, 1, DAY, 13 * DAY, 28 * DAY, 30 * DAY, 100 * DAY, 195 * DAY, 196 * DAY, 10**9)

Told = list[tuple[str, int]]
"""Results with ages in seconds."""

_CASES: Final[list[tuple[str, dict[str, Any]]]] = [
    ("nothing is known", {}),
    ("one own job", {"own": [("done", 0)]}),
    ("own jobs of several ages", {"own": [("done", 0), ("partial", DAY), ("failed", 28 * DAY), ("done", 100 * DAY)]}),
    ("a forgotten job", {"own": [("failed", 196 * DAY)]}),
    ("strangers, who count as one", {"strangers": [("done", 0)] * 12 + [("failed", 0)] * 4}),
    ("a trusted key, limited to its worth", {"vouched": [(1_000, [("done", DAY)] * 9)]}),
    ("two trusted keys", {"vouched": [(1_000, [("done", 0)] * 3), (250, [("failed", 0)] * 3)]}),
    (
        "own jobs push the others aside",
        {
            "own": [("failed", 0)] * 5,
            "vouched": [(1_000, [("done", 0)] * 16), (900, [("done", 0)] * 16)],
            "strangers": [("done", 0)] * 16,
        },
    ),
    ("a fraud", {"own": [("done", 0)] * 12, "frauds": [100 * DAY]}),
    ("a fraud of long ago", {"own": [("done", 0)] * 12, "frauds": [7 * 364 * DAY]}),
]


def build() -> dict[str, Any]:
    """The content of nips/vectors/reputation.json."""
    return {
        "bands": [{"size": size, "band": to_band(size)} for size in (0, 1, 2, 3, 4, 63, 64, 800, 2**31 + 5)],
        "ages": [{"age_seconds": age, "weight_milli": age_weight_milli(age)} for age in _AGES],
        "opinions": [{"what": what, "evidence": _shown(case), "opinion": _opinion(case)} for what, case in _CASES],
        "newcomers": [
            {
                "base_msat": base,
                "proven": proven,
                "losses": losses,
                "limit_msat": newcomer_limit(AmountMsat(base), proven, losses),
            }
            for base, proven, losses in (
                (100_000, 0, 0),
                (100_000, 2_999, 0),
                (100_000, 4_000, 1),
                (100_000, 0, 2_500),
                (7, 0, 3_000),
            )
        ],
        "routers": [
            {"stake_units": stake, "days": days, "right": right, "wrong": wrong, "weight_milli": weight}
            for stake, days, right, wrong in (
                (1_000, 7, 20, 0),
                (999, 7, 20, 0),
                (1_000, 6, 20, 0),
                (1_000, 7, 19, 0),
                (1_000, 7, 19, 1),
                (5_000, 9, 97, 3),
            )
            for weight in (weigh_router(RouterRecord(days, right, wrong), stake),)
        ],
        "claims": [_claim(*case) for case in _CLAIMS],
    }


_CLAIMS: Final[tuple[tuple[int | None, bool, list[int]], ...]] = (
    (40_000, True, []),
    (40_000, True, [30_000]),
    (40_000, True, [30_000, 36_000, 25_000]),
    (40_000, True, [30_000, 36_000, 25_000, 9_000]),
    (40_000, True, [10_000, 19_999, 30_000]),
    (500_000, False, []),
    (500_000, True, []),
    (None, False, []),
    (None, True, [8_001]),
)


def _claim(decode: int | None, has_accelerator: bool, speeds: list[int]) -> dict[str, Any]:
    benchmarks: tuple[Benchmark, ...] = ()
    if decode is not None:
        benchmark = Benchmark(model="tiny", prefill_tokens_per_1000s=1, decode_tokens_per_1000s=decode, measured_at=NOW)
        benchmarks = (benchmark,)
    manifest = Manifest(
        seq=1,
        valid_until=NOW,
        role="node",
        bands=CapabilityBands(cpu=4, memory=5, disk=8, gpu=4 if has_accelerator else None, network=9),
        benchmarks=benchmarks,
    )
    observed = [
        Outcome(JobKey(b"%16d" % number), NOW, Result.DONE, output_bytes_per_1000s=speed * BYTES_PER_TOKEN)
        for number, speed in enumerate(speeds)
    ]
    expected = expect_speed(observed, manifest, "tiny")
    return {
        "claimed_tokens_per_1000s": decode,
        "has_accelerator": has_accelerator,
        "observed_tokens_per_1000s": speeds,
        "expected_tokens_per_1000s": expected.output_units_per_1000s,
        "is_contradicted": any("were observed" in reason for reason in expected.reasons),
    }


def _shown(case: dict[str, Any]) -> dict[str, Any]:
    def tell(told: Told) -> list[dict[str, Any]]:
        return [{"result": result, "age_seconds": age} for result, age in told]

    return {
        "own": tell(case.get("own", [])),
        "vouched": [{"weight_milli": weight, "jobs": tell(told)} for weight, told in case.get("vouched", [])],
        "strangers": tell(case.get("strangers", [])),
        "fraud_ages_seconds": case.get("frauds", []),
    }


def _opinion(case: dict[str, Any]) -> dict[str, Any]:
    numbers = count()

    def read(told: Told) -> tuple[Outcome, ...]:
        return tuple(
            Outcome(JobKey(b"%16d" % next(numbers)), Timestamp(NOW - age), Result(result)) for result, age in told
        )

    frauds = tuple(("equivocation", age_weight_milli(age, FRAUD_HALF_LIFE_SECONDS)) for age in case.get("frauds", []))
    vouched = tuple((weight, read(told)) for weight, told in case.get("vouched", []))
    evidence = Evidence(read(case.get("own", [])), vouched, read(case.get("strangers", [])), frauds)
    opinion = weigh_evidence(evidence, NOW)
    return {
        "successes_milli": opinion.weight.successes_milli,
        "failures_milli": opinion.weight.failures_milli,
        "proven": opinion.proven_milli,
        "trust_milli": opinion.trust_milli,
        "is_newcomer": opinion.is_newcomer,
    }
