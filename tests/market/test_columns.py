"""What columns choose, and tell, is what the reference chooses and tells among the same candidates."""

from dataclasses import replace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from relaymesh.market.candidate import Candidate
from relaymesh.market.columns import MarketColumns
from relaymesh.market.explanation import explain
from relaymesh.market.policy import BALANCED, CHEAPEST, POLICIES, Policy
from relaymesh.market.request import BuyerRequest, PriceCeiling
from relaymesh.market.selection import Selection, select
from relaymesh.market.standing import UNKNOWN, Standing, Standings
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.protocol.codec import SignedOffer, SignedStatus
from relaymesh.units import AmountMsat
from tests.market.builders import (
    MODEL,
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


class Market:
    """Columns, and the candidates that they are fed with."""

    def __init__(self, model: str | None = None) -> None:
        self.offers: dict[EventId, SignedOffer] = {}
        self.statuses: dict[PublicKey, SignedStatus | None] = {}
        self.standings: dict[PublicKey, Standing] = {}
        self.columns = MarketColumns(model, "chat", self.recall)

    def recall(self, offer_id: EventId) -> tuple[SignedOffer, SignedStatus | None]:
        offer = self.offers[offer_id]
        return offer, self.statuses[offer.node]

    def place(self, one: Candidate) -> None:
        offer = one.offer
        self.offers[offer.event.id] = offer
        self.statuses.setdefault(offer.node, one.status)
        standing = self.standings.get(offer.node, UNKNOWN)
        self.columns.place(offer, self.statuses[offer.node], standing)

    def candidates(self) -> list[Candidate]:
        return [
            Candidate(offer, row, self.statuses[offer.node])
            for offer in self.offers.values()
            for row in offer.offer.rows
            if "chat" in row.job_types
        ]

    def check(self, request: BuyerRequest, *, seed: bytes, count: int, policy: Policy) -> Selection:
        fast = self.columns.select(request, seed=seed, count=count, now=NOW, policy=policy)
        reference = select(
            self.candidates(), request, seed=seed, count=count, now=NOW, policy=policy, standings=self.standings
        )
        assert fast == reference
        assert fast.chosen == reference.chosen
        assert explain(fast) == explain(reference)
        assert fast.runners_up == reference.runners_up
        assert fast.excluded == reference.excluded
        return fast


few = st.integers(0, 3_000)
standings_of_nodes: st.SearchStrategy[Standings] = st.dictionaries(
    st.integers(1, 6).map(node),
    st.builds(
        Standing,
        successes_milli=few,
        failures_milli=few,
        first_output_ms=st.none() | few,
        output_units_per_1000s=st.none() | st.integers(1, 10**5),
        slow_first_output_ms=st.none() | few,
        slow_output_units_per_1000s=st.none() | st.integers(1, 10**5),
        trust_milli=st.integers(0, 1_000),
        stake_units=st.integers(0, 10**6),
        job_limit_msat=st.none() | few.map(AmountMsat),
    ),
)
preferences = st.fixed_dictionaries(
    {},
    optional={
        "order": st.lists(st.integers(1, 6).map(node), unique=True, max_size=3).map(tuple),
        "preferred_first_output_ms": few,
        "preferred_slow_first_output_ms": few,
        "preferred_units_per_1000s": st.integers(1, 10**5),
        "preferred_slow_units_per_1000s": st.integers(1, 10**5),
        "maximum_price": st.builds(
            PriceCeiling, st.none() | st.integers(0, 10**5), st.none() | st.integers(0, 10**5), st.none() | few
        ),
        "minimum_trust_milli": st.integers(0, 1_000),
        "minimum_reliability_milli": st.integers(0, 1_000),
        "maximum_status_age_seconds": st.integers(0, 10),
        "quantizations": st.sampled_from([("unknown",), ("q4_k_m",)]),
        "data_collection": st.sampled_from(["allow", "deny"]),
        "budget_msat": st.sampled_from([AmountMsat(2**53 - 1), AmountMsat(5_000)]),
    },
)
policies = st.sampled_from(
    [*POLICIES.values(), Policy("price", 1_000, 0, 0, 0, 0, 0, 0, 0), replace(BALANCED, cost_milli=0)]
)
steps = st.lists(
    st.tuples(st.just("remove"), st.integers(0, 9))
    | st.tuples(st.just("status"), st.integers(1, 6), st.integers(0, 3), st.booleans())
    | st.tuples(st.just("standing"), st.integers(1, 6), standings_of_nodes),
    max_size=6,
)


@given(
    st.lists(candidates(), max_size=9),
    steps,
    buyer_requests(),
    preferences,
    standings_of_nodes,
    policies,
    st.integers(1, 4),
    st.binary(max_size=40),
)
def test_the_fast_choice_is_the_reference_s_for_any_market_and_request(
    among: list[Candidate],
    changes: list[tuple[Any, ...]],
    request: BuyerRequest,
    wished: dict[str, Any],
    standings: dict[PublicKey, Standing],
    policy: Policy,
    count: int,
    seed: bytes,
) -> None:
    market = Market()
    market.standings = dict(standings)
    for one in among:
        market.place(one)
    for change in changes:
        take(market, change)
    market.check(replace(request, **wished), seed=seed, count=count, policy=policy)


def take(market: Market, change: tuple[Any, ...]) -> None:
    match change:
        case "remove", index:
            offer_id = list(market.offers)[index] if index < len(market.offers) else EventId("00" * 32)
            market.offers.pop(offer_id, None)
            market.columns.remove(offer_id)
        case "status", number, free, is_there:
            status = signed_status(node(number), labels={"main": (free, 1)}) if is_there else None
            market.statuses[node(number)] = status
            market.columns.set_status(node(number), status)
        case "standing", number, standings:
            standing = standings.get(node(number), UNKNOWN)
            market.standings[node(number)] = standing
            market.columns.set_standing(node(number), standing)


@example(200, b"seed", 70)
@given(st.integers(60, 140), st.binary(max_size=8), st.integers(1, 70))
def test_bands_of_more_than_are_drawn_among_are_cut_alike(count: int, seed: bytes, wanted: int) -> None:
    market = Market(MODEL)
    for number in range(1, count + 1):
        market.place(candidate(number, minimum_msat=1_000 + number % 3))
    market.check(buyer_request(), seed=seed, count=wanted, policy=CHEAPEST)


def test_columns_grow_and_shrink_without_holes() -> None:
    market = Market(MODEL)
    for number in range(1, 41):
        market.place(candidate(number))
    assert len(market.columns) == 40
    for offer_id in list(market.offers)[::2]:
        del market.offers[offer_id]
        market.columns.remove(offer_id)
    assert len(market.columns) == 20
    assert market.check(buyer_request(), seed=b"seed", count=20, policy=BALANCED).eligible_count == 20


def test_what_is_told_later_is_what_stood_when_it_was_chosen() -> None:
    market = Market(MODEL)
    for number in (1, 2, 3):
        market.place(candidate(number, minimum_msat=1_000 * number))
    selection = market.columns.select(buyer_request(), seed=b"seed", count=1, now=NOW)
    market.columns.set_status(node(2), None)
    market.columns.remove(next(iter(market.offers)))
    assert [row.rank for row in explain(selection).rows] == [1, 2, 3]


def test_a_runner_up_whose_offer_is_gone_since_is_left_out() -> None:
    market = Market(MODEL)
    for number in (1, 2):
        market.place(candidate(number, minimum_msat=1_000 * number))
    selection = market.columns.select(buyer_request(), seed=b"seed", count=1, now=NOW)
    market.offers.clear()
    assert selection.runners_up == () and selection.eligible_count == 2


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 400)), max_size=12, unique_by=lambda it: it[:2]
    ),
    st.integers(1, 5),
    st.binary(max_size=8),
    st.lists(st.integers(1, 4).map(node), unique=True, max_size=2),
)
def test_a_node_with_several_prices_takes_part_with_its_best(
    among: list[tuple[int, int, int]], count: int, seed: bytes, order: list[PublicKey]
) -> None:
    market = Market(MODEL)
    labels = {f"main/{number}": (1, 0) for number in range(4)}
    for number, label, price in among:
        rows = (row(minimum_msat=1_000 + price), row(minimum_msat=1_000 + price // 2, unit="byte"))
        offer = signed_offer(node(number), f"main/{label}", rows=rows)
        market.place(Candidate(offer, offer.offer.rows[0], signed_status(node(number), labels=labels)))
    for offer_id in list(market.offers)[:2]:
        del market.offers[offer_id]
        market.columns.remove(offer_id)
    chosen = market.check(buyer_request(order=tuple(order)), seed=seed, count=count, policy=BALANCED).chosen
    assert len({choice.candidate.offer.node for choice in chosen}) == len(chosen)
