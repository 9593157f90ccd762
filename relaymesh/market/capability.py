"""What a node's manifest is worth: how fast it may be expected to be while nobody has seen it work (RM-05).

A claim stands in for `CLAIM_WEIGHT` observed outcomes, one less with each that is observed, and then for none. A claim
that observation contradicts stands for nothing at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from relaymesh.market.outcomes import Outcome
from relaymesh.market.standing import BYTES_PER_TOKEN, MAXIMUM_OBSERVED_MS
from relaymesh.protocol.manifest import Manifest

CLAIM_WEIGHT: Final = 4
CONTRADICTED_AFTER: Final = 3
"""So many outcomes tell whether a claim is true."""
CONTRADICTION_FACTOR: Final = 2
"""A machine so many times slower than its manifest says is not the one described there."""
CEILING_TOKENS_PER_1000S: Final = {False: 200_000, True: 2_000_000}
"""No claim above this is believed of a machine without and with an accelerator: 200 and 2,000 tokens a second."""
USUAL_TOKENS_PER_1000S: Final = {False: 5_000, True: 20_000}
"""What is expected of a machine, without and with an accelerator, that states no benchmark of the model."""


_TENTHS: Final = 10
_SLOW_TENTHS: Final = 9
"""Nine of ten jobs were at least as fast as what is called slow."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """How fast a node is expected to be; every figure is None where there is nothing to go by.

    Args:
        first_output_ms: From JOB to first output, half of the jobs.
        output_units_per_1000s: Output tokens in 1,000 seconds, half of the jobs; at least 1.
        slow_first_output_ms: What nine of ten jobs did not exceed; never claimed, only observed.
        slow_output_units_per_1000s: What nine of ten jobs reached; likewise.
        reasons: In a few words, what it rests on.
    """

    first_output_ms: int | None = None
    output_units_per_1000s: int | None = None
    slow_first_output_ms: int | None = None
    slow_output_units_per_1000s: int | None = None
    reasons: tuple[str, ...] = ()


def expect_speed(observed: Sequence[Outcome], manifest: Manifest | None, model: str | None) -> Expectation:
    """Blend what was observed with what the manifest claims for this model.

    Args:
        observed: Outcomes of this model, of those who are believed.
        manifest: The node's live manifest, if any.
        model: The model wanted; None for any, of which the slowest benchmark counts.
    """
    seen = _measure(observed)
    if manifest is None:
        return seen
    claim, speed = _claim(manifest, model), seen.output_units_per_1000s
    samples = sum(each.output_bytes_per_1000s is not None for each in observed)
    if _is_contradicted(claim, speed, samples):
        told = f"its manifest claims {claim.output_units_per_1000s} tokens per 1000 s, {speed} were observed"
        return replace(seen, reasons=(told,))
    if samples >= CLAIM_WEIGHT:
        return seen
    return replace(
        seen,
        first_output_ms=_blend(claim.first_output_ms, seen.first_output_ms, samples),
        output_units_per_1000s=_blend(claim.output_units_per_1000s, speed, samples),
        reasons=claim.reasons,
    )


def _is_contradicted(claim: Expectation, observed: int | None, samples: int) -> bool:
    claimed = claim.output_units_per_1000s or 0
    return samples >= CONTRADICTED_AFTER and observed is not None and observed * CONTRADICTION_FACTOR < claimed


def _measure(observed: Sequence[Outcome]) -> Expectation:
    firsts = sorted(each.first_output_ms for each in observed if each.first_output_ms is not None)
    speeds = sorted(
        max(each.output_bytes_per_1000s // BYTES_PER_TOKEN, 1)
        for each in observed
        if each.output_bytes_per_1000s is not None
    )
    firsts = [min(first, MAXIMUM_OBSERVED_MS) for first in firsts]
    return Expectation(
        firsts[(len(firsts) - 1) // 2] if firsts else None,
        speeds[(len(speeds) - 1) // 2] if speeds else None,
        firsts[(len(firsts) * _SLOW_TENTHS - 1) // _TENTHS] if firsts else None,
        speeds[-((len(speeds) * _SLOW_TENTHS - 1) // _TENTHS) - 1] if speeds else None,
    )


def slowest_claim(manifest: Manifest) -> int:
    """The slowest output of any model that a manifest states, in tokens per 1,000 seconds."""
    return _claim(manifest, None).output_units_per_1000s or 0


def _claim(manifest: Manifest, model: str | None) -> Expectation:
    has_accelerator = manifest.bands.gpu is not None
    benchmark = manifest.slowest_benchmark if model is None else manifest.find_benchmark(model)
    if benchmark is None:
        usual = USUAL_TOKENS_PER_1000S[has_accelerator]
        return Expectation(None, usual, reasons=("speed guessed from the size of its machine",))
    claimed = max(benchmark.decode_tokens_per_1000s, 1)
    believed = min(claimed, CEILING_TOKENS_PER_1000S[has_accelerator])
    reason = "speed as its manifest claims" if believed == claimed else "claims more speed than its machine can have"
    return Expectation(benchmark.first_output_ms, believed, reasons=(reason,))


def _blend(claimed: int | None, observed: int | None, samples: int) -> int | None:
    if claimed is None or observed is None:
        return claimed if observed is None else observed
    return (claimed * (CLAIM_WEIGHT - samples) + observed * samples) // CLAIM_WEIGHT
