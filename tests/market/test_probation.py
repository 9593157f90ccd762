"""Probation: what newcomers are given, nodes and routers."""

from hypothesis import given
from hypothesis import strategies as st

from relaymesh.market.probation import (
    NEWCOMER_MSAT,
    NODE_OUTCOMES,
    ROUTER_DAYS,
    ROUTER_RANKINGS,
    ROUTER_STAKE_UNITS,
    RouterRecord,
    newcomer_limit,
    weigh_router,
)
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat

amounts = st.integers(0, MAXIMUM_INTEGER).map(AmountMsat)
thousandths = st.integers(0, 10**6)


def test_a_limit_doubles_with_what_was_served_and_halves_with_what_was_lost() -> None:
    assert newcomer_limit(NEWCOMER_MSAT, 2_999, 0) == 4 * NEWCOMER_MSAT
    assert newcomer_limit(NEWCOMER_MSAT, 0, 1) == NEWCOMER_MSAT // 2
    assert newcomer_limit(NEWCOMER_MSAT, 1_000, 2_000) == NEWCOMER_MSAT // 2
    assert newcomer_limit(NEWCOMER_MSAT, 0, 10**6) == 0


@given(amounts, thousandths, thousandths, thousandths)
def test_a_limit_never_grows_with_losses_nor_falls_with_service(
    base: AmountMsat, proven: int, one: int, two: int
) -> None:
    low, high = sorted((one, two))
    assert newcomer_limit(base, proven, low) >= newcomer_limit(base, proven, high) >= 0
    assert newcomer_limit(base, low, proven) <= newcomer_limit(base, high, proven)
    assert newcomer_limit(base, proven, 0) <= min(base << NODE_OUTCOMES, MAXIMUM_INTEGER)


def watched(days: int, right: int, wrong: int = 0) -> RouterRecord:
    """A router that was asked on so many days and on the last of them most often."""
    record = RouterRecord()
    for number in range(right + wrong):
        record = record.book_ranking(is_right=number < right, day=100 + min(number, days - 1))
    return record


def test_a_router_weighs_nothing_without_stake_days_and_rankings_that_recompute() -> None:
    proven = watched(ROUTER_DAYS, ROUTER_RANKINGS)
    assert weigh_router(proven, ROUTER_STAKE_UNITS) == 1_000
    assert weigh_router(proven, ROUTER_STAKE_UNITS - 1) == 0
    assert weigh_router(watched(ROUTER_DAYS - 1, ROUTER_RANKINGS), ROUTER_STAKE_UNITS) == 0
    assert weigh_router(watched(ROUTER_DAYS, ROUTER_RANKINGS - 1), ROUTER_STAKE_UNITS) == 0
    assert weigh_router(RouterRecord(), 10**9) == 0


def test_a_ranking_that_recomputes_wrong_takes_twenty_right_ones_to_outweigh() -> None:
    assert weigh_router(watched(9, 19, 1), ROUTER_STAKE_UNITS) == 0
    assert weigh_router(watched(9, 39, 1), ROUTER_STAKE_UNITS) == 475


def test_a_day_counts_once_and_a_clock_that_goes_back_adds_none() -> None:
    record = RouterRecord()
    for day in (5, 5, 6, 4, 5, 7):
        record = record.book_ranking(is_right=True, day=day)
    assert (record.days, record.right, record.last_day) == (3, 6, 7)
