"""What asking a node costs all in all: every term in one unit, none that overflows, each moving the way it should."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relaymesh.market.column_arithmetic import UNITS
from relaymesh.market.facts import Facts, Load, facts_of
from relaymesh.market.policy import BALANCED, POLICIES, Policy
from relaymesh.market.reliability import failure_ppm
from relaymesh.market.request import BuyerRequest
from relaymesh.market.score import FULL_STAKE_UNITS, MOST_MSAT, Terms, expected_cost, score
from relaymesh.market.standing import UNKNOWN, Standing
from tests.market.builders import amounts, buyer_request, candidate, quantities, rates, shapes

figures = st.integers(0, 10**9) | st.integers(0, 5_000)
weights = st.integers(0, 10**6)
standings = st.builds(
    Standing,
    successes_milli=figures,
    failures_milli=figures,
    first_output_ms=st.none() | figures,
    output_units_per_1000s=st.none() | st.integers(1, 10**9),
    trust_milli=st.integers(0, 1_000),
    stake_units=figures,
)
policies = st.sampled_from(list(POLICIES.values())) | st.builds(
    Policy, st.just("own"), weights, weights, weights, weights, weights, st.integers(0, 1_000), weights, weights
)
requests = st.builds(
    lambda shape, estimate, budget: buyer_request(shape=shape, estimate=estimate, budget_msat=budget),
    shapes,
    st.none() | shapes,
    amounts,
)


@st.composite
def prices(draw: st.DrawFn) -> Facts:
    """Facts with figures from all over their ranges."""
    base = facts_of(candidate(), draw(standings))
    return base._replace(
        unit=draw(st.sampled_from(UNITS)),
        per=draw(st.integers(1, 10**6)),
        input_msat=draw(rates),
        output_msat=draw(rates),
        minimum_msat=draw(amounts),
        load=base.load._replace(free=draw(st.integers(1, 10**9)), queue=draw(quantities)),
    )


def known(price: Facts, **changes: Any) -> Facts:
    """The same price of a node of whom something else is known."""
    return price._replace(standing=replace(price.standing, **changes))


def test_the_terms_of_an_ordinary_choice_are_what_the_formula_gives() -> None:
    standing = Standing(successes_milli=90_000, first_output_ms=500, output_units_per_1000s=40_000, trust_milli=500)
    facts = facts_of(candidate(free=2, queue=1), standing)._replace(input_msat=1_000, output_msat=5_000)
    # 100 in and 400 out: 2,100 msat; 400 tokens at 40 a second: 10 s; (4 × 1 + 1) × 10.5 s // (4 × 2) = 6,562 ms
    # at stake 2,100 + 706 + 1,000 = 3,806; 1 failure in 100, 2 in 101
    expected = Terms(cost=2_100, wait=706, run=1_000, failure=38, uncertainty=37, distrust=95, stake=0)
    assert score(facts, buyer_request(), BALANCED) == expected
    assert expected.score == 3_976


def test_what_nobody_measured_is_reckoned_slow() -> None:
    terms = score(facts_of(candidate(), UNKNOWN), buyer_request(), BALANCED)
    assert (terms.wait, terms.run) == (((4 * 0 + 1) * 29_666 // 4 + 3_000) // 10, 2_666)


def test_the_estimate_is_priced_and_not_the_ceiling() -> None:
    facts = facts_of(candidate(minimum_msat=0, per=1), UNKNOWN)
    request = buyer_request(budget_msat=10**9)
    likely = replace(request, estimate=request.shape.model_copy(update={"output_tokens": 10}))
    assert expected_cost(facts, request) - expected_cost(facts, likely) == 390 * 120


@given(prices(), requests, policies)
def test_every_term_keeps_within_its_bounds(price: Facts, request: BuyerRequest, policy: Policy) -> None:
    terms = score(price, request, policy)
    assert all(0 <= term <= MOST_MSAT for term in terms[:-1])
    assert -terms.uncertainty <= terms.stake <= 0
    assert 0 <= terms.score <= 5 * MOST_MSAT
    assert terms.score * policy.margin_milli < 2**63


@given(prices(), requests, policies, st.sampled_from(["input_msat", "output_msat", "minimum_msat"]), figures)
def test_a_higher_price_never_scores_better(
    price: Facts, request: BuyerRequest, policy: Policy, name: str, more: int
) -> None:
    dearer = price._replace(**{name: min(10**9, getattr(price, name)) + more})
    price = price._replace(**{name: min(10**9, getattr(price, name))})
    assert score(dearer, request, policy).score >= score(price, request, policy).score


@given(prices(), requests, policies, figures, figures)
def test_more_load_never_scores_better(
    price: Facts, request: BuyerRequest, policy: Policy, queue: int, free: int
) -> None:
    load = Load(**price.load._asdict())
    fuller = load._replace(queue=min(10**9, load.queue + queue), free=max(1, (load.free or 0) - free))
    assert score(price._replace(load=fuller), request, policy).score >= score(price, request, policy).score


@given(prices(), requests, policies, figures, figures)
def test_a_more_reliable_node_never_scores_worse(
    price: Facts, request: BuyerRequest, policy: Policy, more: int, fewer: int
) -> None:
    standing = price.standing
    better = known(
        price,
        successes_milli=min(10**9, standing.successes_milli + more),
        failures_milli=max(0, standing.failures_milli - fewer),
    )
    assert score(better, request, policy).score <= score(price, request, policy).score


@given(prices(), requests, policies, standings, st.integers(0, 10**9))
def test_stake_never_lifts_a_failing_node_over_a_sound_one(
    price: Facts, request: BuyerRequest, policy: Policy, other: Standing, stake: int
) -> None:
    one = replace(price.standing, stake_units=0)
    sound, failing = sorted(
        (one, replace(one, successes_milli=other.successes_milli, failures_milli=other.failures_milli)), key=failure_ppm
    )
    if failure_ppm(failing)[0] < failure_ppm(sound)[1]:
        return
    staked = price._replace(standing=replace(failing, stake_units=stake))
    assert score(staked, request, policy).score >= score(price._replace(standing=sound), request, policy).score


@given(prices(), requests, policies, figures, st.integers(0, 1_000))
def test_stake_and_trust_never_score_worse_and_more_than_a_full_stake_is_no_better(
    price: Facts, request: BuyerRequest, policy: Policy, more: int, trust: int
) -> None:
    standing = price.standing
    better = known(
        price,
        stake_units=min(10**9, standing.stake_units + more),
        trust_milli=max(trust, standing.trust_milli),
    )
    assert score(better, request, policy).score <= score(price, request, policy).score
    full, over = (known(price, stake_units=FULL_STAKE_UNITS + extra) for extra in (0, more % 10**8))
    assert score(full, request, policy) == score(over, request, policy)


@given(standings)
def test_the_bound_is_never_below_the_mean_and_comes_down_to_it(standing: Standing) -> None:
    mean, bound = failure_ppm(standing)
    assert 0 <= mean <= bound <= 10**6
    outcomes = 10_000 + standing.successes_milli + standing.failures_milli
    assert bound - mean <= 1 + 10**9 // outcomes
