"""Ranking: what a router's rows state, and that they always fit into one message."""

from dataclasses import fields

from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.market.directory import Directory
from relaymesh.market.policy import CHEAPEST
from relaymesh.market.ranking import Ranker, read_standing, state_standing
from relaymesh.market.standing import UNKNOWN, Standing
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.protocol.content import MAXIMUM_PLAINTEXT_BYTES, encode_content
from relaymesh.protocol.ranking import MAXIMUM_RANKED, StatedStanding
from relaymesh.units import AmountMsat
from tests.market.builders import NOW, buyer_request, node, row, signed_offer, signed_status

ROUTER = PublicKey("7c" * 32)
REQUEST_ID = EventId("ab" * 32)
FULL = Standing(
    successes_milli=10**9,
    failures_milli=10**9,
    first_output_ms=10**9,
    output_units_per_1000s=10**9,
    trust_milli=1_000,
    stake_units=10**9,
    is_on_probation=True,
    job_limit_msat=AmountMsat(2**53 - 1),
    slow_first_output_ms=10**9,
    slow_output_units_per_1000s=10**9,
)


def market(nodes: int, label: str = "main") -> Directory:
    directory = Directory()
    for number in range(1, nodes + 1):
        offer = signed_offer(node(number), label, rows=(row(minimum_msat=1_000 * number),))
        for event in (offer.event, signed_status(node(number), labels={label: (1, 0)}).event):
            assert directory.apply(event, "ws://one.test", NOW)
    return directory


def test_a_standing_is_stated_whole_but_for_its_reasons() -> None:
    assert set(StatedStanding.model_fields) == {field.name for field in fields(Standing)} - {"reasons"}
    assert read_standing(state_standing(FULL)) == FULL
    assert state_standing(UNKNOWN) is None and read_standing(None) == UNKNOWN


def test_the_same_request_is_ranked_the_same_and_another_router_draws_otherwise() -> None:
    directory = Directory()
    for number in range(1, 30):
        for event in (signed_offer(node(number)).event, signed_status(node(number)).event):
            assert directory.apply(event, "ws://one.test", NOW)
    rankings = [
        Ranker(directory, router).rank(buyer_request(), REQUEST_ID, policy=CHEAPEST, asks=3, now=NOW).ranking
        for router in (ROUTER, ROUTER, PublicKey("7d" * 32))
    ]
    assert rankings[0] == rankings[1]
    assert [each.node for each in rankings[0].rows] != [each.node for each in rankings[2].rows]
    assert rankings[0].registry_digest == rankings[2].registry_digest


@settings(max_examples=15)
@given(st.integers(0, 12), st.sampled_from([UNKNOWN, FULL]), st.sampled_from(["main", "m" * 29]))
def test_a_ranking_fits_one_message_whatever_is_known(nodes: int, standing: Standing, label: str) -> None:
    directory = market(nodes, label)
    ranker = Ranker(directory, ROUTER)
    for number in range(1, nodes + 1):
        directory.set_standing(node(number), standing)
        ranker.assertions[node(number)] = signed_offer(node(number), "any").event
    ranked = ranker.rank(buyer_request(budget_msat=2**53 - 1), REQUEST_ID, policy=CHEAPEST, asks=3, now=NOW)
    ranking = ranked.ranking
    assert len(encode_content({**ranking.to_fields(), "salt": "00" * 32}).encode()) <= MAXIMUM_PLAINTEXT_BYTES
    assert len(ranking.rows) >= min(nodes, 5) and len(ranking.rows) <= MAXIMUM_RANKED
    assert len(ranked.asked) == sum(each.asked for each in ranking.rows)
    assert ranking.considered == nodes
