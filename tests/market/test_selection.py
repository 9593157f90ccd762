"""Whom to ask, reproducibly."""

import hashlib
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError
from relaymesh.market.candidate import Candidate
from relaymesh.market.eligibility import examine
from relaymesh.market.policy import BALANCED, Policy
from relaymesh.market.request import BuyerRequest
from relaymesh.market.selection import MAXIMUM_DRAWN, Selection, select
from relaymesh.market.standing import Standing
from tests.market.builders import (
    NOW,
    buyer_request,
    buyer_requests,
    candidate,
    candidates,
    node,
    row,
    signed_offer,
    signed_status,
)

SEED = bytes(32)


PRICE_ALONE = Policy("price", 1_000, 0, 0, 0, 0, 0, 0, 0)


def choose(
    among: list[Candidate],
    request: BuyerRequest | None = None,
    *,
    count: int = 3,
    seed: bytes = SEED,
    policy: Policy = PRICE_ALONE,
) -> Selection:
    """The selection now."""
    return select(among, request or buyer_request(), seed=seed, count=count, now=NOW, policy=policy)


def nodes_chosen(selection: Selection) -> list[str]:
    """The nodes to ask, best first."""
    return [choice.candidate.offer.node for choice in selection.chosen]


def test_the_cheapest_come_first() -> None:
    among = [candidate(number, minimum_msat=price) for number, price in ((1, 3_000), (2, 1_000), (3, 2_000))]
    selection = choose(among)
    assert nodes_chosen(selection) == [node(2), node(3), node(1)]
    assert [(choice.rank, choice.ceiling_msat) for choice in selection.chosen] == [(1, 1_000), (2, 2_000), (3, 3_000)]
    assert selection.runners_up == ()
    assert selection.excluded == ()


def test_who_is_eligible_but_not_wanted_any_more_is_a_runner_up() -> None:
    among = [candidate(number, minimum_msat=1_000 * number) for number in (1, 2, 3)]
    selection = choose(among, count=1)
    assert nodes_chosen(selection) == [node(1)]
    assert [choice.rank for choice in selection.runners_up] == [2, 3]


def test_a_second_offer_of_a_chosen_node_does_not_take_the_place_of_another_node() -> None:
    status = signed_status(labels={"main": (1, 0), "main/2": (1, 0)})
    first, second = (signed_offer(label=label, rows=(row(),)) for label in ("main", "main/2"))
    among = [Candidate(offer, offer.offer.rows[0], status) for offer in (first, second)]
    among.append(candidate(2, minimum_msat=9_000))
    selection = choose(among, count=2)
    assert nodes_chosen(selection) == [node(1), node(2)]
    assert [choice.candidate.offer.node for choice in selection.runners_up] == [node(1)]


def test_a_row_that_its_offer_repeats_is_one_price() -> None:
    offer = signed_offer(rows=(row(), row()))
    selection = choose([Candidate(offer, price, signed_status()) for price in offer.offer.rows])
    assert (len(selection.chosen), selection.runners_up) == (1, ())


def test_nobody_is_chosen_from_nobody_and_less_than_one_cannot_be_wanted() -> None:
    assert choose([]).chosen == ()
    with pytest.raises(LocalProtocolError):
        choose([], count=0)


def test_equals_are_spread_by_the_seed_so_that_a_thousand_buyers_do_not_herd() -> None:
    among = [candidate(number) for number in range(1, 11)]
    first = Counter(nodes_chosen(choose(among, count=1, seed=buyer.to_bytes(32)))[0] for buyer in range(1_000))
    assert len(first) == 10
    assert all(60 <= share <= 140 for share in first.values())


def test_the_draw_never_lifts_a_dearer_node_over_a_cheaper_one() -> None:
    among = [candidate(number, minimum_msat=1_000 if number == 7 else 1_001) for number in range(1, 11)]
    for buyer in range(50):
        assert nodes_chosen(choose(among, count=1, seed=buyer.to_bytes(32))) == [node(7)]


def test_the_draw_is_sha_256_of_the_seed_and_the_offer_id() -> None:
    [choice] = choose([candidate()], seed=b"seed").chosen
    drawn = hashlib.sha256(b"seed" + bytes.fromhex(choice.candidate.offer.event.id)).hexdigest()
    assert choice.draw == drawn


def test_among_equals_the_lowest_draw_comes_first() -> None:
    ranked = choose([candidate(number) for number in range(1, 6)], count=5).chosen
    assert [choice.draw for choice in ranked] == sorted(choice.draw or "" for choice in ranked)


among_some = st.lists(candidates(), max_size=5, unique_by=lambda one: (one.offer.event.id, one.status is None))
seeds = st.binary(min_size=32, max_size=32)


@given(among_some, buyer_requests(), seeds, st.integers(1, 4), st.randoms(use_true_random=False))
def test_the_same_events_request_and_seed_give_the_same_choice_in_any_order(
    among: list[Candidate], request: BuyerRequest, seed: bytes, count: int, chance: Random
) -> None:
    among = list({one.offer.event.id: one for one in among}.values())
    shuffled = list(among)
    chance.shuffle(shuffled)
    assert choose(among, request, count=count, seed=seed) == choose(shuffled, request, count=count, seed=seed)


@given(among_some, buyer_requests(), seeds, st.integers(1, 4))
def test_every_candidate_is_chosen_or_runner_up_or_excluded_for_one_reason(
    among: list[Candidate], request: BuyerRequest, seed: bytes, count: int
) -> None:
    selection = choose(among, request, count=count, seed=seed)
    ranked = [*selection.chosen, *selection.runners_up]
    told = [choice.candidate for choice in ranked] + [exclusion.candidate for exclusion in selection.excluded]
    assert sorted(map(id, told)) == sorted(map(id, among))
    assert sorted(choice.rank for choice in ranked) == list(range(1, len(ranked) + 1))
    assert all(examine(choice.candidate, request, NOW) is None for choice in ranked)
    assert len(selection.chosen) <= count
    assert len(set(nodes_chosen(selection))) == len(selection.chosen)


@given(among_some, buyer_requests(), seeds)
def test_nobody_is_chosen_over_the_budget_or_without_free_capacity(
    among: list[Candidate], request: BuyerRequest, seed: bytes
) -> None:
    for choice in choose(among, request, count=8, seed=seed).chosen:
        assert choice.ceiling_msat <= request.budget_msat
        assert choice.candidate.load is not None and choice.candidate.load.free > 0


@given(st.lists(st.integers(0, 5), min_size=2, max_size=6), st.data(), seeds)
def test_a_node_that_lowers_its_price_never_falls_behind_anyone(
    prices: list[int], data: st.DataObject, seed: bytes
) -> None:
    lowered = data.draw(st.integers(0, len(prices) - 1))
    among = [candidate(number, minimum_msat=1_000 * price) for number, price in enumerate(prices)]
    request = buyer_request(budget_msat=10_000)
    before = nodes_chosen(choose(among, request, count=6, seed=seed))
    if not prices[lowered]:
        return
    among[lowered] = candidate(lowered, minimum_msat=1_000 * prices[lowered] - 1)
    after = nodes_chosen(choose(among, request, count=6, seed=seed))
    assert after.index(node(lowered)) <= before.index(node(lowered))


def nearly_equal(count: int) -> list[Candidate]:
    """Nodes whose scores lie within the margin of `balanced`."""
    return [candidate(number, minimum_msat=1_000 + number) for number in range(1, count + 1)]


def test_a_thousand_buyers_spread_over_twenty_near_equals() -> None:
    among = nearly_equal(20)
    first = Counter(
        nodes_chosen(choose(among, count=1, seed=buyer.to_bytes(32), policy=BALANCED))[0] for buyer in range(1_000)
    )
    assert len(first) == 20
    assert all(25 <= share <= 80 for share in first.values()), first


def test_buyers_reach_all_of_more_near_equals_than_are_drawn_among() -> None:
    among = nearly_equal(100)
    first = Counter(
        nodes_chosen(choose(among, count=1, seed=buyer.to_bytes(32), policy=BALANCED))[0] for buyer in range(600)
    )
    assert len(first) >= 90
    assert max(first.values()) <= 30, first


def test_the_draw_is_among_those_whose_ids_follow_the_seed_on_the_ring() -> None:
    among = nearly_equal(100)
    start = int.from_bytes(hashlib.sha256(SEED).digest()[:8])
    ring = sorted(among, key=lambda one: (int(one.offer.event.id[:16], 16) - start) % 2**64)
    nearest = {one.offer.node for one in ring[:MAXIMUM_DRAWN]}
    chosen = nodes_chosen(choose(among, count=MAXIMUM_DRAWN, policy=BALANCED))
    assert set(chosen) == nearest


def test_a_node_with_many_offers_is_drawn_no_more_often_than_one_with_a_single_one() -> None:
    status = signed_status(node(1), labels={f"main/{number}": (1, 0) for number in range(30)})
    offers = [signed_offer(node(1), f"main/{number}") for number in range(30)]
    among = [Candidate(offer, offer.offer.rows[0], status) for offer in offers] + [candidate(2)]
    first = Counter(nodes_chosen(choose(among, count=1, seed=buyer.to_bytes(32)))[0] for buyer in range(200))
    assert 70 <= first[node(2)] <= 130


def test_the_buyer_s_own_order_comes_before_any_score() -> None:
    among = [candidate(number, minimum_msat=1_000 * number) for number in (1, 2, 3, 4)]
    request = buyer_request(order=(node(3), node(2)))
    assert nodes_chosen(choose(among, request, count=4)) == [node(3), node(2), node(1), node(4)]


def test_who_is_known_to_be_slower_than_preferred_comes_after_the_others() -> None:
    among = [candidate(number, minimum_msat=1_000 * number) for number in (1, 2, 3)]
    standings = {node(1): Standing(first_output_ms=901), node(2): Standing(first_output_ms=900)}
    request = buyer_request(preferred_first_output_ms=900)
    chosen = select(among, request, seed=SEED, count=3, now=NOW, policy=PRICE_ALONE, standings=standings)
    assert nodes_chosen(chosen) == [node(2), node(3), node(1)]
