"""Price and charge."""

import json
import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError
from relaymesh.market.pricing import (
    MAXIMUM_TRANCHES,
    TranchePlan,
    affordable_output_units,
    charge,
    cost,
    cost_within,
    estimate,
    planned_units,
    price_ceiling,
    quote_terms,
)
from relaymesh.protocol.fields import Order
from relaymesh.protocol.metering import MeteredUnits
from relaymesh.protocol.offer import PriceRow, SettlementTerm
from relaymesh.protocol.quote import JobShape
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat
from tests.market import charge_vectors
from tests.market.builders import amounts, orders, prepay, quantities, rates, row, rows, shape, shapes, terms

VECTORS = json.loads(charge_vectors.PATH.read_text(encoding="utf-8"))
small_quantities = st.integers(0, 10**4)
cheap_rows = rows.filter(lambda price: price.minimum_msat <= 10**9)


def exact(price: PriceRow, taken: int, given_units: int) -> int:
    """The formula in exact fractions."""
    sum_of_rates = taken * Fraction(price.input_msat, price.per) + given_units * Fraction(price.output_msat, price.per)
    return max(price.minimum_msat, math.ceil(sum_of_rates))


def test_the_published_vectors_are_what_we_compute() -> None:
    assert charge_vectors.PATH.read_text(encoding="utf-8") == charge_vectors.render()


@pytest.mark.parametrize("vector", VECTORS["costs"])
def test_the_published_costs_agree_with_exact_fractions(vector: dict[str, int | str]) -> None:
    price = charge_vectors.row(str(vector["price"]))
    assert exact(price, int(vector["input"]), int(vector["output"])) == vector["cost_msat"]


@pytest.mark.parametrize("vector", VECTORS["refused"])
def test_the_published_impossible_costs_are_refused(vector: dict[str, int | str]) -> None:
    with pytest.raises(LocalProtocolError):
        cost(charge_vectors.row(str(vector["price"])), int(vector["input"]), int(vector["output"]))


def test_a_cost_is_rounded_up_once_and_not_once_for_each_addend() -> None:
    assert cost(row(minimum_msat=0), 1, 1) == 1  # 0.04 + 0.12
    assert cost(row(minimum_msat=0), 25, 0) == 1  # exactly 1
    assert cost(row(minimum_msat=0), 26, 0) == 2


def test_half_a_satoshi_is_five_hundred_millisatoshis() -> None:
    assert cost(row(unit="job", per=2, input_msat=0, output_msat=1_000, minimum_msat=0), 0, 1) == 500


@given(rows, quantities, quantities)
def test_a_cost_is_the_formula_and_stays_within_the_integers_of_json(price: PriceRow, taken: int, given_: int) -> None:
    expected = exact(price, taken, given_)
    if expected > MAXIMUM_INTEGER:
        assert cost_within(price, taken, given_, AmountMsat(MAXIMUM_INTEGER)) is None
        with pytest.raises(LocalProtocolError):
            cost(price, taken, given_)
    else:
        assert cost(price, taken, given_) == expected
        assert cost_within(price, taken, given_, AmountMsat(expected)) == expected
        assert not expected or cost_within(price, taken, given_, AmountMsat(expected - 1)) is None


def test_the_largest_amount_is_still_a_cost() -> None:
    assert cost(row(minimum_msat=MAXIMUM_INTEGER), 0, 0) == MAXIMUM_INTEGER


@pytest.mark.parametrize(("taken", "given_"), [(-1, 0), (0, -1), (10**9 + 1, 0), (0, 10**9 + 1)])
def test_quantities_out_of_range_are_refused(taken: int, given_: int) -> None:
    for question in (
        lambda: cost(row(), taken, given_),
        lambda: cost_within(row(), taken, given_, AmountMsat(MAXIMUM_INTEGER)),
        lambda: affordable_output_units(row(), taken, AmountMsat(0), given_),
        lambda: TranchePlan(row(), taken, given_, None),
    ):
        with pytest.raises(LocalProtocolError):
            question()


@given(cheap_rows, small_quantities, small_quantities, st.sampled_from(["input_msat", "output_msat", "minimum_msat"]))
def test_a_higher_price_never_costs_less(price: PriceRow, taken: int, given_: int, field: str) -> None:
    dearer = price.model_copy(update={field: getattr(price, field) + 1})
    assert cost(dearer, taken, given_) >= cost(price, taken, given_)


@given(cheap_rows, small_quantities, small_quantities)
def test_more_never_costs_less(price: PriceRow, taken: int, given_: int) -> None:
    assert cost(price, taken + 1, given_) >= cost(price, taken, given_)
    assert cost(price, taken, given_ + 1) >= cost(price, taken, given_)


@pytest.mark.parametrize(("unit", "expected"), [("token", 30), ("byte", 700), ("second", 9), ("job", 1)])
def test_a_charge_counts_what_the_row_is_priced_by(unit: str, expected: int) -> None:
    units = MeteredUnits(input_tokens=10, output_tokens=20, input_bytes=300, output_bytes=400, seconds=9, jobs=1)
    assert charge(row(unit=unit, per=1, input_msat=1, output_msat=1, minimum_msat=0), units) == expected


def test_an_estimate_is_what_the_whole_shape_costs() -> None:
    assert estimate(row(minimum_msat=0), shape(1_000, 500)) == 100
    assert estimate(row(unit="byte", minimum_msat=0), shape(input_bytes=25_000, output_bytes=0)) == 1_000
    assert estimate(row(unit="second", minimum_msat=7), shape()) == 7


@given(rows, shapes, amounts)
def test_a_price_ceiling_is_never_above_the_budget(price: PriceRow, size: JobShape, budget: AmountMsat) -> None:
    ceiling = price_ceiling(price, size, budget)
    least = exact(price, *size.units(price.unit))
    assert (ceiling is None) == (least > budget)
    assert ceiling is None or least <= ceiling <= budget


def test_a_job_priced_by_the_second_is_reckoned_at_the_whole_budget() -> None:
    by_the_second = row(unit="second", input_msat=0, output_msat=1, minimum_msat=0)
    assert price_ceiling(by_the_second, shape(), AmountMsat(5_000)) == 5_000
    assert price_ceiling(row(unit="second", output_msat=0, minimum_msat=9), shape(), AmountMsat(5_000)) == 9


@given(rows, quantities, amounts, quantities)
def test_what_is_affordable_is_the_most_that_fits(
    price: PriceRow, taken: int, maximum: AmountMsat, ceiling: int
) -> None:
    output = affordable_output_units(price, taken, maximum, ceiling)
    if output is None:
        assert exact(price, taken, 0) > maximum
    else:
        assert 0 <= output <= ceiling
        assert exact(price, taken, output) <= maximum
        assert output == ceiling or exact(price, taken, output + 1) > maximum


tranche_sizes = st.none() | st.integers(1, 10**9) | st.integers(1, 300)


@given(rows, quantities, quantities, tranche_sizes)
def test_tranche_prices_add_up_to_the_price_of_the_job(
    price: PriceRow, taken: int, given_: int, size: int | None
) -> None:
    assume(exact(price, taken, given_) <= MAXIMUM_INTEGER)
    plan = TranchePlan(price, taken, given_, size)
    prices = [plan.price(index) for index in range(plan.count)]
    assert 1 <= plan.count <= MAXIMUM_TRANCHES
    assert all(amount >= 0 for amount in prices)
    assert sum(prices) == plan.total_msat == cost(price, taken, given_)
    assert max(prices) <= plan.arrears_msat <= plan.total_msat


@given(quantities, tranche_sizes)
def test_tranches_hold_all_units_and_only_the_last_may_be_smaller(given_: int, size: int | None) -> None:
    plan = TranchePlan(row(output_msat=1), 0, given_, size)
    held = [plan.units(index) for index in range(plan.count)]
    assert sum(held) == given_ == plan.units_through(plan.count - 1)
    assert all(earlier == plan.effective_units for earlier in held[:-1])
    assert not held[:-1] or 0 < held[-1] <= plan.effective_units
    assert all(later <= earlier for earlier, later in pairwise(held))


def test_a_tranche_is_as_large_as_asked_unless_there_would_be_more_than_32() -> None:
    assert TranchePlan(row(), 0, 320, 10).effective_units == 10
    assert TranchePlan(row(), 0, 321, 10).effective_units == 11
    assert TranchePlan(row(), 0, 10**9, 1).count == MAXIMUM_TRANCHES


def test_the_minimum_applies_once_to_a_job_of_several_tranches() -> None:
    plan = TranchePlan(row(minimum_msat=1_000), 100, 30_000, 8_000)
    assert [plan.price(index) for index in range(plan.count)] == [1_000, 924, 960, 720]


def test_tranches_that_the_minimum_has_paid_for_are_free() -> None:
    plan = TranchePlan(row(minimum_msat=1_000), 100, 400, 100)
    assert [plan.price(index) for index in range(plan.count)] == [1_000, 0, 0, 0]


def test_a_job_without_output_is_one_tranche_that_pays_for_its_input() -> None:
    plan = TranchePlan(row(minimum_msat=0), 1_000, 0, 50)
    assert (plan.count, plan.units(0), plan.price(0)) == (1, 0, 40)


def test_tranches_that_are_not_there_have_no_price() -> None:
    plan = TranchePlan(row(), 0, 100, 50)
    for index in (-1, 2):
        with pytest.raises(LocalProtocolError):
            plan.price(index)
    with pytest.raises(LocalProtocolError):
        TranchePlan(row(), 0, 100, 0)


def test_terms_come_in_the_buyers_order_with_what_each_side_can_lose() -> None:
    offered = (
        prepay(tranche_units=100),
        SettlementTerm(order="sealed", tranche_units=200),
        SettlementTerm(order="postpay"),
        prepay(),
    )
    price = row(minimum_msat=0, per=1, input_msat=1, output_msat=2)
    quoted = quote_terms(price, shape(100, 400), offered, ("sealed", "prepay", "postpay"))
    assert [(term.order, term.tranche_units, term.exposure_buyer_msat, term.exposure_node_msat) for term in quoted] == [
        ("sealed", 200, 500, 500),
        ("prepay", 100, 500, 0),
        ("prepay", None, 900, 0),
        ("postpay", None, 0, 900),
    ]


def test_terms_that_the_buyer_does_not_accept_or_that_are_too_small_are_left_out() -> None:
    offered = (SettlementTerm(order="prepay", scope="session", tranche_units=10), SettlementTerm(order="postpay"))
    assert quote_terms(row(), shape(), offered, ("prepay", "sealed")) == ()


@given(rows, shapes, st.lists(terms, max_size=8), st.lists(orders, min_size=1, max_size=3), amounts)
def test_no_one_can_lose_more_than_the_whole_job(
    price: PriceRow, size: JobShape, offered: list[SettlementTerm], accepted: list[Order], budget: AmountMsat
) -> None:
    ceiling = price_ceiling(price, size, budget)
    assume(ceiling is not None)
    assert ceiling is not None
    for term in quote_terms(price, size, tuple(offered), tuple(accepted), ceiling):
        assert term.order in accepted
        if term.scope == "job":
            assert max(term.exposure_buyer_msat, term.exposure_node_msat) <= ceiling
        assert term.exposure_node_msat == 0 or term.order != "prepay"
        assert term.exposure_buyer_msat == 0 or term.order != "postpay"


@given(rates.filter(bool), amounts)
def test_seconds_are_planned_for_as_far_as_the_money_goes(rate: int, budget: AmountMsat) -> None:
    price = row(unit="second", per=1, input_msat=0, output_msat=rate, minimum_msat=0)
    taken, seconds = planned_units(price, shape(), budget)
    assert taken == 0
    assert exact(price, 0, seconds) <= budget
    assert seconds == 10**9 or exact(price, 0, seconds + 1) > budget
    assert planned_units(row(), shape(), budget) == (100, 400)


def test_a_session_tranche_is_quoted_where_the_job_fits_into_it() -> None:
    price = row(minimum_msat=0, per=1, input_msat=1, output_msat=2)
    session = SettlementTerm(order="prepay", scope="session", tranche_units=900)
    (quoted,) = quote_terms(price, shape(100, 400), (session,), ("session",))
    assert (quoted.exposure_buyer_msat, quoted.exposure_node_msat) == (1_125, 0)
    assert quote_terms(price, shape(101, 400), (session,), ("session",)) == ()
    assert quote_terms(price, shape(100, 400), (session,), ("prepay",)) == (), "the buyer did not ask for it"


def test_a_price_by_the_second_is_prepaid_only() -> None:
    offered = (SettlementTerm(order="sealed"), prepay(), SettlementTerm(order="postpay"))
    quoted = quote_terms(
        row(unit="second"), shape(100, 400), offered, ("sealed", "prepay", "postpay"), AmountMsat(9_000)
    )
    assert [term.order for term in quoted] == ["prepay"]


@given(rows, quantities, st.integers(0, 5_000), st.integers(1, 700))
def test_no_two_tranches_that_are_paid_and_not_delivered_exceed_the_exposure(
    price: PriceRow, input_units: int, output_units: int, tranche_units: int
) -> None:
    plan = TranchePlan(price, input_units, output_units, tranche_units)
    prices = [plan.price(index) for index in range(plan.count)]
    at_stake = [sum(prices[max(index - 1, 0) : index + 1]) for index in range(plan.count)]
    assert max(at_stake) == plan.prepaid_msat
