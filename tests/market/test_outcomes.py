"""Outcomes: what a receipt tells, how it ages, what a window holds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.market.outcomes import (
    FORGOTTEN_AFTER,
    HALF_LIFE_SECONDS,
    JobKey,
    Outcome,
    OutcomeWindow,
    Result,
    Weight,
    age_weight_milli,
    is_blameless,
    measure_speed,
    read_outcome,
    weigh_outcomes,
)
from relaymesh.nostr.event import EventId
from relaymesh.units import AmountMsat, Timestamp
from tests.market.builders import NOW
from tests.market.populations import BAD, GOOD, Job, own

ages = st.integers(-HALF_LIFE_SECONDS, HALF_LIFE_SECONDS * (FORGOTTEN_AFTER + 2))
outcomes = st.builds(
    lambda number, at, result, receipt: Outcome(
        JobKey(b"%16d" % number), Timestamp(at), result, receipt_id=EventId(f"{receipt:064x}")
    ),
    st.integers(0, 9),
    st.integers(NOW - 5, NOW),
    st.sampled_from(Result),
    st.integers(0, 3),
)
weights = st.builds(Weight, st.integers(0, 10**6), st.integers(0, 10**6))


def test_an_outcome_counts_half_after_a_half_life_and_nothing_after_seven() -> None:
    at = [0, HALF_LIFE_SECONDS // 2, HALF_LIFE_SECONDS, 2 * HALF_LIFE_SECONDS, FORGOTTEN_AFTER * HALF_LIFE_SECONDS]
    assert [age_weight_milli(age) for age in at] == [1_000, 750, 500, 250, 0]


@given(ages, ages)
def test_age_never_adds_weight(one: int, other: int) -> None:
    assert age_weight_milli(min(one, other)) >= age_weight_milli(max(one, other)) >= 0


@given(st.lists(outcomes, max_size=30).flatmap(lambda some: st.tuples(st.just(some), st.permutations(some))))
def test_a_window_holds_the_same_whatever_the_order(both: tuple[list[Outcome], list[Outcome]]) -> None:
    held = []
    for order in both:
        window = OutcomeWindow(4)
        for outcome in order:
            window.add(outcome)
        assert len(window) <= 4
        held.append(window.newest())
    assert held[0] == held[1]


@given(st.lists(outcomes, max_size=30))
def test_a_window_holds_the_newest_and_each_job_once(some: list[Outcome]) -> None:
    latest: dict[JobKey, Outcome] = {}
    window = OutcomeWindow(4)
    for outcome in some:
        assert window.add(outcome) == (outcome in window.newest() and latest.get(outcome.job) != outcome)
        if outcome.job not in latest or outcome.precedence > latest[outcome.job].precedence:
            latest[outcome.job] = outcome
    expected = sorted(latest.values(), key=lambda outcome: (outcome.at, outcome.job), reverse=True)[:4]
    assert window.newest() == expected


@given(weights, st.integers(0, 10**6))
def test_a_limit_keeps_the_total_within_it_and_never_flatters(weight: Weight, worth: int) -> None:
    limited = weight.limit_to(worth)
    assert limited.total_milli == min(weight.total_milli, worth)
    assert limited.successes_milli * max(weight.total_milli, 1) <= weight.successes_milli * max(limited.total_milli, 1)


def test_a_partial_outcome_is_half_good_and_half_bad() -> None:
    assert weigh_outcomes([own(Result.PARTIAL)], NOW) == Weight(500, 500)
    assert weigh_outcomes([own(Result.DONE), own(Result.FAILED)], NOW) == Weight(1_000, 1_000)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (GOOD, Result.DONE),
        (BAD, Result.FAILED),
        (replace(BAD, outcome="partial", status="partial"), Result.PARTIAL),
        (replace(GOOD, outcome="partial"), Result.FAILED),
        (replace(BAD, error="cancelled: the buyer cancelled the job"), None),
        (replace(BAD, error="payment-timeout: not paid"), None),
        (replace(BAD, error="busy: no room"), None),
        (
            replace(GOOD, outcome="failed", error="cancelled: says the record of a job that it calls done"),
            Result.FAILED,
        ),
    ],
)
def test_a_receipt_tells_what_its_buyer_may_blame_the_node_for(job: Job, expected: Result | None) -> None:
    outcome = read_outcome(job.receipt())
    assert (None if outcome is None else outcome.result) == expected


def test_a_receipt_tells_speed_and_loss() -> None:
    good, bad = read_outcome(GOOD.receipt()), read_outcome(BAD.receipt())
    assert good is not None and bad is not None
    assert (good.first_output_ms, good.output_bytes_per_1000s, good.lost_msat) == (300, 1_000_000, AmountMsat(0))
    assert (bad.first_output_ms, bad.output_bytes_per_1000s, bad.lost_msat) == (None, None, AmountMsat(1_000))


def test_nobody_can_tell_of_the_job_of_another_client() -> None:
    mine, forged = (replace(GOOD, number=number, job_id="0b" * 32).receipt() for number in (1, 2))
    keys = {outcome.job for each in (mine, forged) if (outcome := read_outcome(each)) is not None}
    assert len(keys) == 2


def test_output_in_one_piece_is_as_fast_as_the_whole_job() -> None:
    assert measure_speed(1_000, 2_000, 2_010) == measure_speed(1_000, 0, 2_010)
    assert measure_speed(1_000, None, 2_010) is measure_speed(0, 5, 2_010) is None
    assert measure_speed(10**9, 0, 1) == 10**9


def test_only_known_words_are_blameless() -> None:
    assert is_blameless("draining: goodbye")
    assert not is_blameless("runner-timeout: no output came in time")
    assert not is_blameless("busybody: what is that") and not is_blameless("")
