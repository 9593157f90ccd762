"""Surge: between its bounds, in steps, growing with load and with nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError
from relaymesh.market.admission import NodeLoad
from relaymesh.market.pricing import cost
from relaymesh.market.surge import SurgeTerms, surge_permille, surged_row
from relaymesh.protocol.offer import PriceRow
from tests.market.builders import row, rows

loads = st.builds(
    lambda places, limit, free, queue: NodeLoad(
        min(free, places), min(queue, limit), False, places=places, queue_limit=limit
    ),
    st.integers(1, 64),
    st.integers(0, 64),
    st.integers(0, 64),
    st.integers(0, 64),
)
terms = st.builds(
    lambda least, more, step: SurgeTerms(least, least + more, step),
    st.integers(1, 2_000),
    st.integers(0, 8_000),
    st.integers(1, 1_000),
)


def load(free: int, queue: int = 0) -> NodeLoad:
    return NodeLoad(free, queue, False, places=4, queue_limit=4)


def test_prices_follow_the_load_from_one_bound_to_the_other_in_steps() -> None:
    surge = SurgeTerms(minimum_permille=800, maximum_permille=2_000, step_permille=100)
    steps = [surge_permille(load(free, queue), surge) for free, queue in ((4, 0), (3, 0), (0, 0), (0, 2), (0, 4))]
    assert steps == [800, 900, 1_400, 1_700, 2_000]


def test_a_price_is_raised_rate_by_rate_and_rounded_up() -> None:
    dear = surged_row(row(input_msat=40, output_msat=3, minimum_msat=1_000), 1_500)
    assert (dear.input_msat, dear.output_msat, dear.minimum_msat) == (60, 5, 1_500)


def test_without_surge_prices_stay_as_they_are() -> None:
    assert SurgeTerms().is_off and surge_permille(load(0, 4), SurgeTerms()) == 1_000
    assert surged_row(row(), 1_000) == row()


@given(loads, terms)
def test_a_price_lies_between_its_bounds_and_on_a_step_but_for_the_last(busy: NodeLoad, surge: SurgeTerms) -> None:
    permille = surge_permille(busy, surge)
    assert surge.minimum_permille <= permille <= surge.maximum_permille
    is_full = busy.free <= 0 and busy.queue >= busy.queue_limit
    assert is_full or (permille - surge.minimum_permille) % surge.step_permille == 0


@given(loads, terms, st.integers(0, 64), st.integers(0, 64))
def test_more_load_never_makes_a_price_lower(busy: NodeLoad, surge: SurgeTerms, started: int, queued: int) -> None:
    busier = NodeLoad(
        max(busy.free - started, 0),
        min(busy.queue + queued, busy.queue_limit),
        False,
        places=busy.places,
        queue_limit=busy.queue_limit,
    )
    assert surge_permille(busier, surge) >= surge_permille(busy, surge)


@given(rows, st.integers(1, 100_000), st.integers(0, 10_000))
def test_a_higher_surge_never_costs_less_and_stays_an_offer_that_can_be_read(
    price: PriceRow, permille: int, more: int
) -> None:
    lower, higher = surged_row(price, permille), surged_row(price, permille + more)
    for given_units, taken in ((0, 0), (1, 1), (1_000, 77)):
        assert cost(lower, given_units, taken) <= cost(higher, given_units, taken)
    assert PriceRow.model_validate(higher.model_dump()) == higher


@pytest.mark.parametrize(
    "wrong",
    [
        {"minimum_permille": 0},
        {"minimum_permille": 2_000, "maximum_permille": 1_000},
        {"maximum_permille": 100_001},
        {"step_permille": 0},
        {"interval_seconds": 0},
    ],
)
def test_terms_that_bound_nothing_are_an_error(wrong: dict[str, int]) -> None:
    with pytest.raises(LocalProtocolError):
        SurgeTerms(**wrong)
