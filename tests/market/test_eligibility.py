"""Who is left for a request, and the one reason for everyone who is not."""

from typing import Any

import pytest
from hypothesis import given

from relaymesh.market.admission import NodeLoad, admit_quote_request
from relaymesh.market.candidate import Candidate
from relaymesh.market.eligibility import Ineligibility, examine
from relaymesh.market.pricing import cost
from relaymesh.market.request import BuyerRequest, PriceCeiling
from relaymesh.market.standing import UNKNOWN, Standing
from relaymesh.nostr.event import EventId
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.protocol.quote import Quote, QuoteRequest
from relaymesh.units import AmountMsat, Timestamp
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
    "rows": (
        row(
            capabilities=(),
            context_limit=200,
            output_limit=100,
            minimum_msat=10**7,
            job_types=("embedding",),
            identity={"quantization": "q4_k_m"},
        ),
    ),
    "valid_until": NOW,
    "pow_bits": 40,
    "region": "US",
}
BAD_STANDING = Standing(trust_milli=99, is_on_probation=True, job_limit_msat=AmountMsat(10**7 - 1))
IN_ORDER: list[tuple[Ineligibility, dict[str, Any]]] = [
    (Ineligibility.NOT_ALLOWED, {"allow": frozenset({node(2)})}),
    (Ineligibility.IGNORED, {"ignore": frozenset({node(1)})}),
    (Ineligibility.MODEL, {"model": "another"}),
    (Ineligibility.JOB_TYPE, {"job_type": "chat"}),
    (Ineligibility.REGION, {"region": "EU"}),
    (Ineligibility.QUANTIZATION, {"quantizations": ("fp16", "unknown")}),
    (Ineligibility.DATA_POLICY, {"data_collection": "deny"}),
    (Ineligibility.CAPABILITY, {"capabilities": ("stream",)}),
    (Ineligibility.SETTLEMENT, {"orders": ("sealed",)}),
    (Ineligibility.PROOF_OF_WORK, {"maximum_pow_bits": 39}),
    (Ineligibility.CONTEXT_LIMIT, {"shape": shape(100, 400)}),
    (Ineligibility.OUTPUT_LIMIT, {"shape": shape(0, 101)}),
    (Ineligibility.OVER_BUDGET, {"budget_msat": 10**7 - 1}),
    (Ineligibility.PRICE_CEILING, {"maximum_price": PriceCeiling(output_msat=119_999)}),
    (Ineligibility.REPUTATION, {"minimum_trust_milli": 100}),
]
SATISFIED: dict[str, Any] = {
    "allow": None,
    "ignore": frozenset(),
    "model": MODEL,
    "job_type": "embedding",
    "region": None,
    "quantizations": (),
    "data_collection": "allow",
    "capabilities": (),
    "orders": ("prepay",),
    "maximum_pow_bits": 40,
    "shape": shape(100, 100),
    "budget_msat": 10**7,
    "maximum_price": PriceCeiling(output_msat=120_000),
    "minimum_trust_milli": 99,
}


def reason(one: Candidate, request: BuyerRequest, standing: Standing = UNKNOWN) -> Ineligibility | None:
    """Why a candidate is out now."""
    exclusion = examine(one, request, NOW, standing)
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
    assert reason(bad, buyer_request(**asked), BAD_STANDING) is IN_ORDER[place][0]


def test_a_price_by_the_second_can_only_be_prepaid_whatever_else_the_offer_has() -> None:
    offer = signed_offer(rows=(row(unit="second"),), settlement=(SettlementTerm(order="sealed"), prepay()))
    timed = Candidate(offer, offer.offer.rows[0], signed_status())
    assert reason(timed, buyer_request(orders=("sealed",))) is Ineligibility.SETTLEMENT
    assert reason(timed, buyer_request(orders=("sealed", "prepay"))) is None


def test_what_waiting_would_change_comes_last() -> None:
    offer = signed_offer(valid_until=NOW)
    full = signed_status(expires_at=NOW, state="draining", labels={"main": (0, 9)})
    assert reason(Candidate(offer, offer.offer.rows[0], full), buyer_request()) is Ineligibility.EXPIRED
    offer = signed_offer()
    assert reason(Candidate(offer, offer.offer.rows[0], full), buyer_request()) is Ineligibility.UNSEEN
    assert reason(candidate(state="draining", free=0), buyer_request()) is Ineligibility.DRAINING
    assert reason(candidate(free=0), buyer_request()) is Ineligibility.BUSY


def test_reasons_are_examined_in_the_order_in_which_they_are_listed() -> None:
    last = ["PROBATION", "EXPIRED", "UNSEEN", "STALE", "DRAINING", "BUSY"]
    assert [each.name for each in Ineligibility] == [reason.name for reason, _ in IN_ORDER] + last


def test_a_node_on_probation_gets_small_jobs_only() -> None:
    newcomer = Standing(is_on_probation=True, job_limit_msat=AmountMsat(5_000))
    assert reason(candidate(minimum_msat=5_000), buyer_request(), newcomer) is None
    assert reason(candidate(minimum_msat=5_001), buyer_request(), newcomer) is Ineligibility.PROBATION
    by_second = candidate(unit="second", per=1, output_msat=1)
    assert reason(by_second, buyer_request(budget_msat=5_001), newcomer) is Ineligibility.PROBATION


def test_a_status_may_be_too_old_for_a_buyer_though_it_still_lives() -> None:
    old = Candidate(candidate().offer, candidate().row, signed_status(seq=NOW - 61, created_at=NOW - 61))
    assert reason(old, buyer_request(maximum_status_age_seconds=61)) is None
    assert reason(old, buyer_request(maximum_status_age_seconds=60)) is Ineligibility.STALE


def test_a_floor_of_reliability_counts_the_doubt_that_is_left() -> None:
    # 1 failure in 10 by the prior; one more failure would make it 2 in 11
    assert reason(candidate(), buyer_request(minimum_reliability_milli=818)) is None
    assert reason(candidate(), buyer_request(minimum_reliability_milli=819)) is Ineligibility.REPUTATION
    proven = Standing(successes_milli=990_000)  # 2 in 1,001
    assert reason(candidate(), buyer_request(minimum_reliability_milli=998), proven) is None


def test_a_quantization_that_is_not_stated_is_called_unknown() -> None:
    assert reason(candidate(), buyer_request(quantizations=("q4_k_m", "unknown"))) is None
    assert reason(candidate(), buyer_request(quantizations=("q4_k_m",))) is Ineligibility.QUANTIZATION
    assert reason(candidate(data_collection="deny"), buyer_request(data_collection="deny")) is None


@pytest.mark.parametrize(
    ("price", "ceiling"),
    [
        ({"input_msat": 40}, {"input_msat": 40_000}),
        ({"output_msat": 120}, {"output_msat": 120_000}),
        ({"unit": "byte", "input_msat": 40}, {"input_msat": 160_000}),  # a token has four bytes
        ({"unit": "byte", "per": 3, "output_msat": 1}, {"output_msat": 1_333_334}),
        ({"minimum_msat": 77}, {"job_msat": 77}),
        ({"unit": "job", "per": 1, "output_msat": 2_500}, {"job_msat": 2_500}),
    ],
)
def test_a_price_ceiling_is_reached_before_it_is_exceeded(price: dict[str, Any], ceiling: dict[str, int]) -> None:
    one = candidate(**price)
    [(name, limit)] = ceiling.items()
    assert reason(one, buyer_request(maximum_price=PriceCeiling(**{name: limit}))) is None
    assert reason(one, buyer_request(maximum_price=PriceCeiling(**{name: limit - 1}))) is Ineligibility.PRICE_CEILING


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
    assert {term.form for term in offer.settlement} & set(request.forms)
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
    if {term.form for term in one.offer.offer.settlement} & set(request.forms) == {"session"}:
        return  # whether the job fits into the session's tranche is for the quote to say
    asked = QuoteRequest(
        offer_id=one.offer.event.id,
        offer_seq=one.offer.offer.seq,
        model=request.model or one.row.model,
        job_type=request.job_type,
        shape=request.shape,
        capabilities=request.capabilities,
        budget_msat=request.budget_msat,
        settlement=request.orders,
        scopes=request.scopes,
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
