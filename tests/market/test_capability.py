"""What a manifest is worth: something while nobody has seen the node work, then nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.market.capability import (
    CEILING_TOKENS_PER_1000S,
    CLAIM_WEIGHT,
    USUAL_TOKENS_PER_1000S,
    expect_speed,
)
from relaymesh.market.outcomes import Outcome, Result
from relaymesh.protocol.manifest import Benchmark, CapabilityBands, Manifest
from relaymesh.units import Timestamp
from tests.market.builders import NOW
from tests.market.populations import own


def manifest(decode: int | None = 40_000, *, gpu: int | None = 4, first: int | None = 200) -> Manifest:
    benchmarks: tuple[Benchmark, ...] = ()
    if decode is not None:
        benchmarks = (
            Benchmark(
                model="tiny",
                prefill_tokens_per_1000s=900_000,
                decode_tokens_per_1000s=decode,
                first_output_ms=first,
                measured_at=Timestamp(NOW),
            ),
        )
    return Manifest(
        seq=1,
        valid_until=Timestamp(NOW + 3_600),
        role="node",
        bands=CapabilityBands(cpu=4, memory=5, disk=8, gpu=gpu, network=9),
        benchmarks=benchmarks,
    )


def observed(*tokens_per_1000s: int, first_output_ms: int = 500) -> list[Outcome]:
    return [
        own(Result.DONE, number, first_output_ms=first_output_ms, output_bytes_per_1000s=4 * speed)
        for number, speed in enumerate(tokens_per_1000s)
    ]


def test_nothing_known_is_expected_to_be_nothing_known() -> None:
    expected = expect_speed([], None, "tiny")
    assert (expected.first_output_ms, expected.output_units_per_1000s, expected.reasons) == (None, None, ())


def test_a_claim_stands_in_while_nothing_was_observed() -> None:
    expected = expect_speed([], manifest(), "tiny")
    assert (expected.first_output_ms, expected.output_units_per_1000s) == (200, 40_000)
    assert expected.slow_output_units_per_1000s is None
    assert expected.reasons == ("speed as its manifest claims",)


def test_a_claim_decays_to_nothing_as_outcomes_gather() -> None:
    speeds = [
        expect_speed(observed(*[30_000] * count), manifest(), "tiny").output_units_per_1000s
        for count in range(CLAIM_WEIGHT + 2)
    ]
    assert speeds == [40_000, 37_500, 35_000, 32_500, 30_000, 30_000]
    assert expect_speed(observed(*[30_000] * 9), manifest(), "tiny") == expect_speed(
        observed(*[30_000] * 9), manifest(90), "tiny"
    )


def test_a_claim_that_observation_contradicts_is_marked_and_dropped() -> None:
    expected = expect_speed(observed(10_000, 10_000, 10_000), manifest(), "tiny")
    assert expected.output_units_per_1000s == 10_000
    assert expected.reasons == ("its manifest claims 40000 tokens per 1000 s, 10000 were observed",)
    assert expect_speed(observed(10_000, 10_000), manifest(), "tiny").output_units_per_1000s == 25_000
    assert expect_speed(observed(*[20_000] * 3), manifest(), "tiny").reasons == ("speed as its manifest claims",)


@pytest.mark.parametrize(("gpu", "has_accelerator"), [(None, False), (4, True)])
def test_bands_bound_what_is_believed_and_stand_in_for_a_benchmark(gpu: int | None, has_accelerator: bool) -> None:
    boast = expect_speed([], manifest(10**9, gpu=gpu), "tiny")
    assert boast.output_units_per_1000s == CEILING_TOKENS_PER_1000S[has_accelerator]
    assert boast.reasons == ("claims more speed than its machine can have",)
    silent = expect_speed([], manifest(None, gpu=gpu), "tiny")
    assert silent.output_units_per_1000s == USUAL_TOKENS_PER_1000S[has_accelerator]


def test_a_slow_tenth_is_told_and_one_job_is_its_own_tenth() -> None:
    expected = expect_speed(observed(*range(1_000, 11_000, 1_000)), None, None)
    assert (expected.output_units_per_1000s, expected.slow_output_units_per_1000s) == (5_000, 2_000)
    single = expect_speed(observed(7_000), None, None)
    assert (single.output_units_per_1000s, single.slow_output_units_per_1000s) == (7_000, 7_000)
    assert (single.first_output_ms, single.slow_first_output_ms) == (500, 500)


@given(st.lists(st.integers(1, 10**7), max_size=20), st.integers(0, 10**9), st.none() | st.integers(0, 9))
def test_what_is_expected_lies_between_what_is_claimed_and_what_was_observed(
    speeds: list[int], decode: int, gpu: int | None
) -> None:
    expected = expect_speed(observed(*speeds), manifest(decode, gpu=gpu), "tiny").output_units_per_1000s
    claimed = min(max(decode, 1), CEILING_TOKENS_PER_1000S[gpu is not None])
    figures: list[Any] = [*speeds, claimed]
    assert expected is not None and min(figures) <= expected <= max(figures)
