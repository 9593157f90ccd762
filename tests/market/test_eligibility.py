"""Who is left for a request, and the one reason for everyone who is not."""

from typing import Any

import pytest
from hypothesis import given

from relaymesh.market.admission import NodeLoad, admit_quote_request
from relaymesh.market.candidate import Candidate
from relaymesh.market.eligibility import BuyerRequest, Ineligibility, examine
from relaymesh.market.pricing import cost
from relaymesh.nostr.event import EventId
from relaymesh.protocol.quote import Quote, QuoteRequest
from relaymesh.units import Timestamp
from tests.market.builders import (
    MODEL,
    NOW,
    buyer_request,
    buyer_requests,
    candidate,
    candidates,
    node,
    prepay,
    row,
    shape,
    signed_offer,
    signed_status,
)

BAD_OFFER: dict[str, Any] = {
    "rows": (row(capabilities=(), context_limit=200, output_limit=100, minimum_msat=10**7, job_types=("embedding",)),),
    "valid_until": NOW,
    "pow_bits": 40,
    "region": "US",
}
IN_ORDER: list[tuple[Ineligibility, dict[str, Any]]] = [
    (Ineligibility.NOT_ALLOWED, {"allow": frozenset({node(2)})}),
    (Ineligibility.IGNORED, {"ignore": frozenset({node(1)})}),
    (Ineligibility.MODEL, {"model": "another"}),
    (Ineligibility.JOB_TYPE, {"job_type": "chat"}),
    (Ineligibility.REGION, {"region": "EU"}),
    (Ineligibility.CAPABILITY, {"capabilities": ("stream",)}),
    (Ineligibility.CONTEXT_LIMIT, {"shape": shape(100, 400)}),
    (Ineligibility.OUTPUT_LIMIT, {"shape": shape(0, 101)}),
    (Ineligibility.SETTLEMENT, {"orders": ("sealed",)}),
    (Ineligibility.PROOF_OF_WORK, {"maximum_pow_bits": 39}),
    (Ineligibility.OVER_BUDGET, {"budget_msat": 10**7 - 1}),
]
SATISFIED: dict[str, Any] = {
    "allow": None,
    "ignore": frozenset(),
    "model": MODEL,
    "job_type": "embedding",
    "region": None,
    "capabilities": (),
    "shape": shape(100, 100),
    "orders": ("prepay",),
    "maximum_pow_bits": 40,
    "budget_msat": 10**7,
}


def reason(one: Candidate, request: BuyerRequest) -> Ineligibility | None:
    """Why a candidate is out now."""
    exclusion = examine(one, request, NOW)
    assert exclusion is None or (exclusion.candidate is one and exclusion.detail)
    return None if exclusion is None else exclusion.reason


def test_a_candidate_that_fits_is_eligible() -> None:
    assert reason(candidate(), buyer_request()) is None
    assert reason(candidate(), buyer_request(model=None)) is None
    assert reason(candidate(), buyer_request(allow=frozenset({node(1)}), ignore=frozenset({node(2)}))) is None


@pytest.mark.parametrize("place", range(len(IN_ORDER)))
def test_the_first_reason_in_the_documented_order_is_the_one_that_is_given(place: int) -> None:
    offer = signed_offer(**BAD_OFFER)
    bad = Candidate(
        offer, offer.offer.rows[0], signed_status(expires_at=NOW, state="draining", labels={"main": (0, 9)})
    )
    asked = dict(SATISFIED)
    for later in reversed(IN_ORDER[place:]):
        asked |= later[1]
    assert reason(bad, buyer_request(**asked)) is IN_ORDER[place][0]


def test_what_waiting_would_change_comes_last() -> None:
    offer = signed_offer(valid_until=NOW)
    full = signed_status(expires_at=NOW, state="draining", labels={"main": (0, 9)})
    assert reason(Candidate(offer, offer.offer.rows[0], full), buyer_request()) is Ineligibility.EXPIRED
    offer = signed_offer()
    assert reason(Candidate(offer, offer.offer.rows[0], full), buyer_request()) is Ineligibility.UNSEEN
    assert reason(candidate(state="draining", free=0), buyer_request()) is Ineligibility.DRAINING
    assert reason(candidate(free=0), buyer_request()) is Ineligibility.BUSY


def test_reasons_are_examined_in_the_order_in_which_they_are_listed() -> None:
    last_four = [Ineligibility.EXPIRED, Ineligibility.UNSEEN, Ineligibility.DRAINING, Ineligibility.BUSY]
    assert list(Ineligibility) == [reason for reason, _ in IN_ORDER] + last_four


def test_a_node_that_nobody_has_heard_of_lately_is_out() -> None:
    offer = signed_offer()
    assert reason(Candidate(offer, offer.offer.rows[0], None), buyer_request()) is Ineligibility.UNSEEN
    assert reason(candidate(), buyer_request()) is None
    assert examine(candidate(), buyer_request(), Timestamp(NOW + 360)) is not None


def test_a_node_without_free_capacity_is_out_whatever_else_it_says() -> None:
    assert reason(candidate(free=0, queue=0), buyer_request()) is Ineligibility.BUSY
    assert reason(candidate(free=3, state="busy"), buyer_request()) is Ineligibility.BUSY
    offer = signed_offer(label="main/2")
    elsewhere = Candidate(offer, offer.offer.rows[0], signed_status(labels={"main": (5, 0)}))
    assert reason(elsewhere, buyer_request()) is Ineligibility.BUSY


def test_limits_and_budgets_are_reached_before_they_are_exceeded() -> None:
    exact = candidate(context_limit=500, output_limit=400, minimum_msat=100_000)
    assert reason(exact, buyer_request(shape=shape(100, 400), budget_msat=100_000)) is None
    assert reason(exact, buyer_request(shape=shape(101, 400))) is Ineligibility.CONTEXT_LIMIT
    assert reason(exact, buyer_request(budget_msat=99_999)) is Ineligibility.OVER_BUDGET
    assert reason(candidate(context_limit=0), buyer_request(shape=shape(10**9, 1), budget_msat=10**9)) is None


def test_a_price_beyond_all_amounts_is_over_any_budget() -> None:
    absurd = candidate(per=1, input_msat=10**9, output_msat=10**9, context_limit=0, output_limit=10**9)
    request = buyer_request(shape=shape(10**9, 10**9), budget_msat=2**53 - 1)
    assert reason(absurd, request) is Ineligibility.OVER_BUDGET


def test_session_tranches_are_no_settlement_for_a_job() -> None:
    offer = signed_offer(settlement=(prepay().model_copy(update={"scope": "session"}),))
    one = Candidate(offer, offer.offer.rows[0], signed_status())
    assert reason(one, buyer_request()) is Ineligibility.SETTLEMENT


@given(candidates(), buyer_requests())
def test_every_constraint_of_a_request_is_enforced(one: Candidate, request: BuyerRequest) -> None:
    if examine(one, request, NOW) is not None:
        return
    offer, price, size = one.offer.offer, one.row, request.shape
    assert request.allow is None or one.offer.node in request.allow
    assert one.offer.node not in request.ignore
    assert request.model in (None, price.model) and request.job_type in price.job_types
    assert request.region in (None, offer.region)
    assert set(request.capabilities) <= set(price.capabilities)
    assert price.context_limit == 0 or size.input_tokens + size.output_tokens <= price.context_limit
    assert size.output_tokens <= price.output_limit
    assert {term.order for term in offer.settlement} & set(request.orders)
    assert offer.pow_bits <= request.maximum_pow_bits
    assert cost(price, *size.units(price.unit)) <= request.budget_msat
    assert offer.valid_until > NOW
    assert one.status is not None and one.status.expires_at > NOW and one.status.status.state == "up"
    assert one.load is not None and one.load.free > 0


@given(candidates(), buyer_requests())
def test_a_buyer_finds_eligible_exactly_what_the_node_would_quote(one: Candidate, request: BuyerRequest) -> None:
    exclusion = examine(one, request, NOW)
    buyers_own = (Ineligibility.NOT_ALLOWED, Ineligibility.IGNORED, Ineligibility.REGION, Ineligibility.PROOF_OF_WORK)
    if exclusion is not None and exclusion.reason in (*buyers_own, Ineligibility.UNSEEN):
        return
    asked = QuoteRequest(
        offer_id=one.offer.event.id,
        offer_seq=one.offer.offer.seq,
        model=request.model or one.row.model,
        job_type=request.job_type,
        shape=request.shape,
        capabilities=request.capabilities,
        budget_msat=request.budget_msat,
        settlement=request.orders,
    )
    draining = one.status is not None and one.status.status.state == "draining"
    busy = one.status is not None and one.status.status.state == "busy"
    load = NodeLoad(0 if busy or one.load is None else one.load.free, 0, draining)
    quote = admit_quote_request(
        asked,
        {one.offer.event.id: one.offer},
        load,
        request_id=EventId("11" * 32),
        now_ms=NOW * 1_000,
        validity_ms=1_000,
        eta_ms=0,
    )
    assert isinstance(quote, Quote) == (exclusion is None)
