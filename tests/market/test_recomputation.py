"""A ranking computed again: an honest one comes out, and whatever a router bends is found (RM-04, "Ranking")."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.market.directory import Directory
from relaymesh.market.policy import POLICIES as POLICIES_BY_NAME
from relaymesh.market.ranking import Ranker
from relaymesh.market.recomputation import Cited, Recomputation, SignedRanking, compare, recompute
from relaymesh.market.selection import Selection
from relaymesh.market.standing import NOBODY_KNOWN, Standing
from relaymesh.nostr.event import EventId, PublicKey, UnsignedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.ranking import MAXIMUM_RANKED, RankedRow, StatedStanding, registry_digest
from relaymesh.units import AmountMsat, Timestamp
from tests.machines.routers import (
    RELAY,
    Desk,
    call,
    cited_by,
    make_market,
    node_key,
    node_offer,
    node_status,
    rank_once,
    reseal,
)
from tests.market.builders import MODEL, NOW, buyer_request, node, row, sign, signed_offer, signed_status

POLICIES = ("cheapest", "fastest", "balanced", "trusted")
KNOWN = Standing(successes_milli=40_000, failures_milli=1_000, trust_milli=700, stake_units=500)


def honest(policy: str = "cheapest") -> tuple[SignedRanking, Cited]:
    market = make_market(6, busy=(2, 5))
    market.set_standing(node_key(3).public_key, KNOWN)
    return rank_once(Desk(market), policy=policy), cited_by(market)


@pytest.mark.parametrize("policy", POLICIES)
def test_an_honest_ranking_comes_out_again(policy: str) -> None:
    signed, cited = honest(policy)
    assert recompute(signed, cited).is_right
    assert len(signed.ranking.rows) == 6
    assert any(row.standing is not None for row in signed.ranking.rows)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_best_eight_of_many_near_equals_come_out_again(policy: str) -> None:
    market = Directory()
    for number in range(1, 41):
        for event in (node_offer(number, minimum_msat=10_000 + number % 3), node_status(number)):
            assert market.apply(event, RELAY, NOW)
    for salt in (b"1", b"2", b"3"):
        signed = rank_once(Desk(market), policy=policy, salt=salt * 64)
        assert len(signed.ranking.rows) == MAXIMUM_RANKED
        assert recompute(signed, cited_by(market)).is_right


def test_an_event_that_nobody_can_show_leaves_the_ranking_undecided() -> None:
    signed, cited = honest()
    offers = dict(cited.offers)
    del offers[signed.ranking.rows[0].offer_id]
    found = recompute(signed, Cited(offers, cited.statuses))
    assert found.missing == (signed.ranking.rows[0].offer_id,) and not found.faults and not found.is_right


# ── a lying router ────────────────────────────────────────────────────────────────────────────────────────────────


def _rows(signed: SignedRanking, place: int, **changes: Any) -> tuple[RankedRow, ...]:
    rows = list(signed.ranking.rows)
    rows[place] = rows[place].model_copy(update=changes)
    return tuple(rows)


def _swap(signed: SignedRanking) -> tuple[RankedRow, ...]:
    first, second, *rest = signed.ranking.rows
    return (second, first, *rest)


LIES: dict[str, Callable[[SignedRanking], dict[str, Any]]] = {
    "a friend first": lambda signed: {"rows": _swap(signed)},
    "a better score": lambda signed: {"rows": _rows(signed, 2, score_msat=1)},
    "another term": lambda signed: {"rows": _rows(signed, 0, terms={"cost": 0, "favour": -9})},
    "a lower price": lambda signed: {"rows": _rows(signed, 0, estimated_msat=1)},
    "a rival put out": lambda signed: {"rows": _rows(signed, 0, excluded="draining", score_msat=None, terms={})},
    "a busy node let in": lambda signed: {"rows": _rows(signed, 4, excluded=None), "eligible": 5},
    "another reason": lambda signed: {"rows": _rows(signed, 4, excluded="draining")},
    "a standing that its score does not show": lambda signed: {
        "rows": _rows(signed, 0, standing=StatedStanding(failures_milli=50_000_000))
    },
    "somebody else's offer": lambda signed: {
        "rows": _rows(signed, 0, offer_address=signed.ranking.rows[1].offer_address)
    },
    "a price that the offer does not have": lambda signed: {"rows": _rows(signed, 0, row=5)},
    "somebody else's status": lambda signed: {"rows": _rows(signed, 0, status_id=signed.ranking.rows[1].status_id)},
    "no status": lambda signed: {"rows": _rows(signed, 0, status_id=None)},
    "a row twice": lambda signed: {"rows": (*signed.ranking.rows, signed.ranking.rows[0])},
    "two standings of one node": lambda signed: {
        "rows": (
            *signed.ranking.rows,
            signed.ranking.rows[0].model_copy(update={"standing": StatedStanding(), "row": 1}),
        )
    },
    "a seed of its choice": lambda signed: {"seed": "00" * 32},
    "another time": lambda signed: {"ranked_at": signed.ranking.ranked_at - 60},
    "a policy nobody knows": lambda signed: {"policy": "friendly"},
    "a formula nobody knows": lambda signed: {"formula": "secret/1"},
    "more eligible than considered": lambda signed: {"eligible": 7},
    "fewer than listed": lambda signed: {"considered": 1, "eligible": 1},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_router_that_bends_its_ranking_is_found_out(lie: str) -> None:
    signed, cited = honest()
    bent = reseal(signed, **LIES[lie](signed))
    assert bent.ranking != signed.ranking
    assert recompute(bent, cited).faults, lie


def test_a_ranking_for_another_request_is_found_out() -> None:
    signed, cited = honest()
    cheaper = replace(signed, request=replace(signed.request, budget_msat=AmountMsat(1_500)))
    assert recompute(cheaper, cited).faults


# ── beside one's own view ─────────────────────────────────────────────────────────────────────────────────────────


def own_choice(signed: SignedRanking, market: Directory) -> tuple[Selection, str]:
    seed = bytes.fromhex(signed.ranking.seed)
    selection = market.select(
        signed.request, seed=seed, count=MAXIMUM_RANKED, policy=POLICIES_BY_NAME[signed.ranking.policy], now=NOW
    )
    return selection, registry_digest(market.considered_ids(MODEL, "chat", NOW))


def test_who_sees_the_same_agrees_wholly() -> None:
    market = make_market(6)
    signed = rank_once(Desk(market), policy="cheapest")
    compared = compare(signed, *own_choice(signed, market), NOBODY_KNOWN)
    assert (compared.agreement_milli, compared.is_same_registry, compared.differences) == (1_000, True, ())


def test_what_two_see_differently_is_told_with_its_reason() -> None:
    theirs, ours = make_market(5), make_market(5)
    assert theirs.apply(node_offer(6), RELAY, NOW) and theirs.apply(node_status(6), RELAY, NOW)
    assert ours.apply(node_status(4, free=0, seq=NOW + 1), RELAY, Timestamp(NOW + 1))
    signed = rank_once(Desk(theirs), call(), policy="cheapest")
    compared = compare(signed, *own_choice(signed, ours), NOBODY_KNOWN)
    told = {
        difference.node: (difference.theirs, difference.ours, difference.reason) for difference in compared.differences
    }
    assert told == {
        node_key(4).public_key: (4, None, "out in our view: no free capacity (0 jobs wait)"),
        node_key(5).public_key: (5, 4, "the places of others moved it"),
        node_key(6).public_key: (6, None, "we know no such offer"),
    }
    assert compared.agreement_milli == 4_000 // 6 and not compared.is_same_registry


def test_an_older_offer_and_another_trust_are_told() -> None:
    theirs, ours = make_market(3), make_market(3)
    assert ours.apply(node_offer(1, minimum_msat=2_500, seq=NOW + 1), RELAY, Timestamp(NOW + 1))
    signed = rank_once(Desk(theirs), policy="cheapest")
    compared = compare(signed, *own_choice(signed, ours), NOBODY_KNOWN)
    assert compared.differences[0].reason == "the router looked at another version of the offer"
    assert [(each.theirs, each.ours) for each in compared.differences] == [(1, 2), (2, 1)]
    row = signed.ranking.rows[1].model_copy(update={"standing": StatedStanding(trust_milli=900)})
    trusting = reseal(signed, rows=(signed.ranking.rows[0], row, signed.ranking.rows[2]))
    reasons = [each.reason for each in compare(trusting, *own_choice(trusting, ours), NOBODY_KNOWN).differences]
    assert reasons[1] == "the router trusts it by 900 of 1,000, we by 0"


def test_a_node_that_the_router_leaves_out_is_told() -> None:
    market = make_market(3)
    signed = rank_once(Desk(market), policy="cheapest")
    silent = reseal(signed, rows=signed.ranking.rows[1:], eligible=2, considered=2)
    compared = compare(silent, *own_choice(silent, market), NOBODY_KNOWN)
    assert (compared.differences[-1].theirs, compared.differences[-1].ours) == (None, 1)
    assert compared.differences[-1].reason == "the router does not list it"


# ── an honest router is never found wrong ─────────────────────────────────────────────────────────────────────────

standings = st.builds(
    Standing,
    successes_milli=st.integers(0, 60_000),
    failures_milli=st.integers(0, 30_000),
    first_output_ms=st.none() | st.integers(0, 20_000),
    output_units_per_1000s=st.none() | st.integers(1, 10**6),
    trust_milli=st.integers(0, 1_000),
    stake_units=st.integers(0, 2_000),
    is_on_probation=st.booleans(),
    job_limit_msat=st.none() | st.integers(0, 20_000).map(AmountMsat),
)


@st.composite
def crowds(draw: st.DrawFn) -> Directory:
    """A market of up to ninety nodes, many of them alike, of which the router knows some."""
    directory = Directory()
    prices = draw(st.lists(st.sampled_from([1_000, 1_001, 1_050, 5_000]), max_size=90))
    rows = draw(st.sampled_from([(), (0, 1)]))
    for number, minimum_msat in enumerate(prices, start=1):
        offered = (row(minimum_msat=minimum_msat), row(minimum_msat=minimum_msat + 1, unit="byte"))
        offer = signed_offer(node(number), rows=offered if rows else offered[:1], pow_bits=number % 7 // 6)
        free = 0 if number % 11 == 0 else 1 + number % 3
        status = signed_status(node(number), labels={"main": (free, number % 2)})
        assert directory.apply(offer.event, RELAY, NOW)
        if number % 13:
            assert directory.apply(status.event, RELAY, NOW)
    for number in draw(st.sets(st.integers(1, max(len(prices), 1)), max_size=6)):
        directory.set_standing(node(number), draw(standings))
    return directory


@settings(max_examples=60)
@given(crowds(), st.sampled_from(POLICIES), st.binary(min_size=32, max_size=32))
def test_whatever_the_market_an_honest_ranking_comes_out_again(market: Directory, policy: str, seed: bytes) -> None:
    router, request = PublicKey("7c" * 32), buyer_request(maximum_pow_bits=0)
    ranked = Ranker(market, router).rank(request, EventId(seed.hex()), policy=POLICIES_BY_NAME[policy], asks=3, now=NOW)
    answer = sign(UnsignedEvent(router, NOW, Kind.RANKING, (), ""))
    assert recompute(SignedRanking(answer, ranked.ranking, request), cited_by(market)) == Recomputation((), ())
