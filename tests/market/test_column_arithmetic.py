"""The arithmetic over columns is that of single prices, to the last integer, all over the ranges: nothing overflows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.market.column_arithmetic import (
    Column,
    Integers,
    compute_terms,
    find_eligible,
    find_tiers,
    write_load,
    write_price,
    write_standing,
)
from relaymesh.market.eligibility import examine_facts
from relaymesh.market.facts import Facts
from relaymesh.market.policy import Policy
from relaymesh.market.request import BuyerRequest
from relaymesh.market.score import Terms, is_slow, score
from tests.market.builders import NOW
from tests.market.test_score import policies, prices, requests


def columns_of(some: list[Facts]) -> Integers:
    integers = np.zeros((len(Column), len(some)), np.int64)
    for row, facts in enumerate(some):
        write_price(integers, row, facts, 0)
        write_load(integers, row, facts)
        write_standing(integers, row, facts)
    return integers


@given(st.lists(prices(), min_size=1, max_size=5), requests, policies)
def test_the_terms_of_columns_are_those_of_each_price(some: list[Facts], request: BuyerRequest, policy: Policy) -> None:
    computed = compute_terms(columns_of(some), request, policy)
    told = [Terms(*(int(term) for term in terms)) for terms in zip(*computed, strict=True)]
    assert told == [score(facts, request, policy) for facts in some]


@given(st.lists(prices(), min_size=1, max_size=5), requests)
def test_who_passes_the_tests_of_numbers_is_who_passes_them_alone(some: list[Facts], request: BuyerRequest) -> None:
    passed = find_eligible(columns_of(some), request, NOW).tolist()
    assert passed == [examine_facts(facts, request, NOW) is None for facts in some]
    tiers = find_tiers(columns_of(some), request)
    assert tiers is None or tiers.tolist() == [is_slow(facts, request) for facts in some]
