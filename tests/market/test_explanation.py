"""Why this node and none of the others."""

import json

from hypothesis import given

from relaymesh.market.candidate import Candidate
from relaymesh.market.explanation import Explanation, explain
from relaymesh.market.policy import CHEAPEST
from relaymesh.market.request import BuyerRequest
from relaymesh.market.selection import select
from relaymesh.nostr.identifiers import encode_public_key
from tests.market.builders import MODEL, NOW, buyer_request, buyer_requests, candidate, candidates, node


def tell(*among: Candidate, request: BuyerRequest | None = None) -> Explanation:
    """The explanation of a choice of one."""
    return explain(select(among, request or buyer_request(), seed=b"\x01" * 32, count=1, now=NOW, policy=CHEAPEST))


def test_every_candidate_has_a_row_the_chosen_first_and_the_excluded_last() -> None:
    told = tell(candidate(1, minimum_msat=2_000), candidate(2), candidate(3, free=0, queue=4))
    assert [(row.node, row.rank, row.chosen, row.ceiling_msat, row.reason) for row in told.rows] == [
        (node(2), 1, True, 1_000, None),
        (node(1), 2, False, 2_000, None),
        (node(3), None, False, None, "no free capacity"),
    ]
    assert told.rows[2].detail == "4 jobs wait"
    assert (told.rows[0].label, told.rows[0].model, told.rows[0].unit) == ("main", MODEL, "token")


def test_the_sentence_says_who_at_what_price_and_what_became_of_the_others() -> None:
    name = f"{encode_public_key(node(2))[:12]}…/main"
    assert tell(candidate(2)).sentence() == f"{name} at up to 1000 msat is the only eligible offer."
    among = (candidate(1, minimum_msat=2_000), candidate(2), candidate(3, free=0), candidate(4, free=0))
    assert tell(*among, candidate(5, state="draining")).sentence() == (
        f"{name} at up to 1000 msat is the best of 2 eligible offers (cheapest: score 1181 msat-equivalents, "
        "the next 2363); excluded: no free capacity (2), draining (1)."
    )


def test_the_sentence_says_when_there_is_nobody_and_why() -> None:
    assert tell().sentence() == "No offer for this model and job type is known."
    poor = buyer_request(budget_msat=5)
    assert tell(candidate(1), candidate(2), request=poor).sentence() == "No offer is eligible: over budget (2)."
    assert tell(candidate(1), request=poor).sentence() == (
        "The only offer is not eligible: over budget (may cost more than 5 msat)."
    )


def test_the_explanation_is_json_with_everything_that_went_into_the_choice() -> None:
    told = json.loads(json.dumps(tell(candidate(1)).to_json()))
    assert (told["policy"], told["seed"], told["budget_msat"]) == ("cheapest", "01" * 32, 100_000)
    assert told["rows"][0]["node"] == node(1)
    assert told["rows"][0]["chosen"] is True


@given(candidates(), candidates(), buyer_requests())
def test_a_row_has_a_rank_and_a_cost_or_a_reason_and_a_detail(
    one: Candidate, other: Candidate, request: BuyerRequest
) -> None:
    told = tell(one, other, request=request)
    assert len(told.rows) == len({one.offer.event.id, other.offer.event.id})
    for row in told.rows:
        is_in = row.reason is None
        assert (row.rank is not None) == (row.ceiling_msat is not None) == is_in
        assert (row.detail is None) == is_in
        assert is_in or not row.chosen
    assert told.sentence().endswith(".")
