"""What a node answers to requests for quotes and to jobs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError
from relaymesh.market.admission import NodeLoad, admit_job, admit_quote_request, refuse_for_load
from relaymesh.market.pricing import cost
from relaymesh.nostr.event import EventId
from relaymesh.protocol.codec import SignedOffer
from relaymesh.protocol.fields import Order
from relaymesh.protocol.offer import PriceRow, SettlementTerm
from relaymesh.protocol.quote import JobShape, Quote, RequestedJob
from relaymesh.protocol.refusal import Refusal, RefusalCode
from relaymesh.units import AmountMsat
from tests.market.builders import (
    NOW,
    amounts,
    node,
    open_request,
    orders,
    prepay,
    quantities,
    quote_request,
    row,
    rows,
    shape,
    shapes,
    signed_offer,
    terms,
)

REQUEST_ID = EventId("11" * 32)
IDLE = NodeLoad(free=1, queue=0, draining=False)


def answer(
    request: RequestedJob, *offers: SignedOffer, load: NodeLoad = IDLE, now_ms: int = NOW * 1_000
) -> Quote | Refusal:
    """The node's answer, its quote valid for a minute and its output coming in 250 ms."""
    return admit_quote_request(
        request,
        {offer.event.id: offer for offer in offers},
        load,
        request_id=REQUEST_ID,
        now_ms=now_ms,
        validity_ms=60_000,
        eta_ms=250,
    )


def refusal_of(answered: Quote | int | Refusal) -> RefusalCode:
    """The code of a refusal; anything else fails the test."""
    assert isinstance(answered, Refusal), answered
    return answered.code


def test_a_quote_repeats_the_row_and_binds_the_node_to_a_price() -> None:
    offer = signed_offer(settlement=(prepay(100),))
    quote = answer(quote_request(offer, budget_msat=2_000), offer)
    assert isinstance(quote, Quote)
    assert quote.request_id == REQUEST_ID
    assert (quote.offer_id, quote.offer_seq) == (offer.event.id, offer.offer.seq)
    assert quote.row == offer.offer.rows[0]
    assert quote.estimated_msat == quote.max_msat == 1_000
    assert [(term.order, term.tranche_units, term.exposure_buyer_msat) for term in quote.settlement] == [
        ("prepay", 100, 1_000)
    ]
    assert quote.valid_until_ms == NOW * 1_000 + 60_000
    assert quote.eta_in_ms == 250


def test_a_quote_never_outlives_its_offer() -> None:
    offer = signed_offer(valid_until=NOW + 10)
    quote = answer(quote_request(offer), offer)
    assert isinstance(quote, Quote)
    assert quote.valid_until_ms == (NOW + 10) * 1_000


def test_an_offer_that_is_not_current_any_more_is_refused_as_changed() -> None:
    old, new = signed_offer(), signed_offer(seq=NOW + 1, rows=(row(output_msat=121),))
    assert refusal_of(answer(quote_request(old), new)) is RefusalCode.OFFER_CHANGED
    assert refusal_of(answer(quote_request(new, offer_seq=NOW), new)) is RefusalCode.OFFER_CHANGED
    assert refusal_of(answer(quote_request(old), old, now_ms=(NOW + 3_600) * 1_000)) is RefusalCode.OFFER_CHANGED
    assert refusal_of(answer(quote_request(old))) is RefusalCode.OFFER_CHANGED


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model": "another"}, RefusalCode.MODEL_NOT_OFFERED),
        ({"job_type": "embedding"}, RefusalCode.MODEL_NOT_OFFERED),
        ({"capabilities": ("stream", "vision")}, RefusalCode.UNSUPPORTED_PARAMETER),
        ({"settlement": ("sealed", "postpay")}, RefusalCode.UNSUPPORTED_PARAMETER),
        ({"shape": shape(131_072, 1)}, RefusalCode.OVER_LIMIT),
        ({"shape": shape(0, 4_097)}, RefusalCode.OVER_LIMIT),
        ({"budget_msat": 999}, RefusalCode.OVER_BUDGET),
        ({"budget_msat": 0}, RefusalCode.OVER_BUDGET),
    ],
)
def test_what_a_row_does_not_offer_is_refused_by_its_code(changes: dict[str, Any], code: RefusalCode) -> None:
    offer = signed_offer()
    refused = answer(quote_request(offer, **changes), offer)
    assert refusal_of(refused) is code
    assert isinstance(refused, Refusal) and not refused.is_retryable


def test_capabilities_that_the_row_offers_are_no_reason_to_refuse() -> None:
    offer = signed_offer()
    assert isinstance(answer(quote_request(offer, capabilities=("stream", "json")), offer), Quote)


def test_a_refused_settlement_says_what_the_node_would_accept() -> None:
    session = prepay(5).model_copy(update={"scope": "session"})
    both, session_only = signed_offer(settlement=(prepay(5), prepay(), session)), signed_offer(settlement=(session,))
    for offer, accepted in ((both, "prepay"), (session_only, "tranches too small for it")):
        refused = answer(quote_request(offer, settlement=("sealed",)), offer)
        assert isinstance(refused, Refusal)
        assert refused.reason == f"this node settles such a job by {accepted} only"


def test_every_limit_is_reached_before_it_is_exceeded() -> None:
    offer = signed_offer()
    assert isinstance(answer(quote_request(offer, shape=shape(131_072 - 4_096, 4_096)), offer), Quote)
    assert isinstance(answer(quote_request(offer, budget_msat=1_000), offer), Quote)


def test_a_context_limit_of_zero_is_none_that_the_node_states() -> None:
    offer = signed_offer(rows=(row(context_limit=0),))
    assert isinstance(answer(quote_request(offer, shape=shape(10**6, 1)), offer), Quote)


def test_a_price_that_overflows_is_over_budget_and_not_a_failure() -> None:
    offer = signed_offer(rows=(row(per=1, input_msat=10**9, context_limit=0),))
    request = quote_request(offer, shape=shape(10**9, 0), budget_msat=2**53 - 1)
    assert refusal_of(answer(request, offer)) is RefusalCode.OVER_BUDGET


def test_being_full_or_draining_is_a_retryable_refusal_and_no_failure() -> None:
    offer = signed_offer()
    for load, code in (
        (NodeLoad(free=0, queue=3, draining=False), RefusalCode.BUSY),
        (NodeLoad(free=5, queue=0, draining=True), RefusalCode.DRAINING),
        (NodeLoad(free=0, queue=3, draining=True), RefusalCode.DRAINING),
    ):
        refused = answer(quote_request(offer), offer, load=load)
        assert refusal_of(refused) is code
        assert isinstance(refused, Refusal) and refused.is_retryable
        assert refuse_for_load(load) == refused
    assert refuse_for_load(IDLE) is None


def test_what_waiting_will_not_change_is_said_before_busy() -> None:
    offer = signed_offer()
    full = NodeLoad(free=0, queue=3, draining=False)
    assert refusal_of(answer(quote_request(offer, model="another"), offer, load=full)) is RefusalCode.MODEL_NOT_OFFERED
    assert refusal_of(answer(quote_request(offer, budget_msat=1), offer, load=full)) is RefusalCode.OVER_BUDGET


def test_the_row_that_costs_the_buyer_least_is_quoted() -> None:
    by_token = row(minimum_msat=0)
    by_byte = row(unit="byte", input_msat=1, output_msat=1, minimum_msat=0)
    offer = signed_offer(rows=(by_token, by_byte))
    quote = answer(quote_request(offer), offer)
    assert isinstance(quote, Quote)
    assert (quote.row, quote.max_msat) == (by_byte, 3)


def test_an_open_request_is_answered_from_the_cheapest_current_offer_in_any_order() -> None:
    dear = signed_offer(label="dear", rows=(row(minimum_msat=3_000),))
    cheap = signed_offer(label="cheap", rows=(row(minimum_msat=2_000),))
    over = signed_offer(label="over", rows=(row(minimum_msat=1_000),), valid_until=NOW)
    answers = [answer(open_request(), *offers) for offers in ((dear, cheap, over), (over, cheap, dear))]
    assert answers[0] == answers[1]
    assert isinstance(answers[0], Quote) and answers[0].offer_id == cheap.event.id
    assert refusal_of(answer(open_request(), over)) is RefusalCode.MODEL_NOT_OFFERED


def test_an_open_request_is_answered_from_what_is_offered_now_and_not_from_what_that_replaced() -> None:
    before = signed_offer(seq=NOW - 60, rows=(row(minimum_msat=1_000),))
    now = signed_offer(seq=NOW, rows=(row(minimum_msat=3_000),))
    for offers in ((before, now), (now, before)):
        quote = answer(open_request(), *offers)
        assert isinstance(quote, Quote) and quote.offer_id == now.event.id
        relied_on = answer(quote_request(before), *offers)
        assert isinstance(relied_on, Quote) and relied_on.offer_id == before.event.id


def test_an_open_request_is_refused_by_what_came_nearest_to_a_quote() -> None:
    small = signed_offer(label="small", rows=(row(output_limit=10),))
    dear = signed_offer(label="dear", rows=(row(minimum_msat=10**6),))
    for offers in ((small, dear), (dear, small)):
        assert refusal_of(answer(open_request(), *offers)) is RefusalCode.OVER_BUDGET


def test_a_job_priced_by_the_second_may_cost_the_budget_and_no_more() -> None:
    offer = signed_offer(rows=(row(unit="second", per=1, input_msat=0, output_msat=250, minimum_msat=100),))
    quote = answer(quote_request(offer, budget_msat=5_000), offer)
    assert isinstance(quote, Quote)
    assert (quote.estimated_msat, quote.max_msat) == (100, 5_000)
    assert quote.settlement[0].exposure_buyer_msat == 5_000


@given(
    st.lists(rows, min_size=1, max_size=3),
    shapes,
    amounts,
    st.lists(orders, min_size=1, max_size=3),
    st.lists(terms, min_size=1, max_size=3),
    st.booleans(),
)
def test_every_quote_keeps_to_the_offer_the_limits_and_the_budget(
    prices: list[PriceRow],
    size: JobShape,
    budget: AmountMsat,
    accepted: list[Order],
    offered: list[SettlementTerm],
    is_open: bool,
) -> None:
    offer = signed_offer(node(1), rows=tuple(prices), settlement=tuple(offered))
    asked = {"shape": size, "budget_msat": budget, "settlement": tuple(accepted)}
    request = open_request(**asked) if is_open else quote_request(offer, **asked)
    quote = answer(request, offer)
    if isinstance(quote, Refusal):
        assert quote.code in (RefusalCode.OVER_LIMIT, RefusalCode.OVER_BUDGET, RefusalCode.UNSUPPORTED_PARAMETER)
        return
    assert quote.row in offer.offer.rows
    assert quote.max_msat is not None
    assert quote.estimated_msat == cost(quote.row, *size.units(quote.row.unit)) <= quote.max_msat <= budget
    assert size.output_tokens <= quote.row.output_limit
    assert quote.row.context_limit == 0 or size.input_tokens + size.output_tokens <= quote.row.context_limit
    assert {term.order for term in quote.settlement} <= set(accepted)
    assert all(term.exposure_buyer_msat <= quote.max_msat for term in quote.settlement if term.scope == "job")


def admit(price: PriceRow, taken: int, wanted: int, maximum: int = 10**6) -> int | Refusal:
    """The units granted to a job."""
    return admit_job(price, input_units=taken, maximum_output_units=wanted, maximum_msat=AmountMsat(maximum))


def test_a_job_is_granted_what_it_asks_for_within_every_limit() -> None:
    price = row(minimum_msat=0, context_limit=1_000, output_limit=400)
    assert admit(price, 100, 300) == 300
    assert admit(price, 100, 500) == 400  # the output limit
    assert admit(price, 700, 400) == 300  # the room left in the context
    assert admit(price, 100, 400, maximum=16) == 100  # what the money buys: (100 × 40 + 100 × 120) / 1000
    assert admit(price, 999, 2) == 1
    assert admit(price, 1_000, 0) == 0
    assert admit(row(output_limit=0), 100, 0) == 0  # embeddings have no output tokens


def test_a_job_that_does_not_fit_is_refused_before_it_starts() -> None:
    price = row(minimum_msat=0, context_limit=1_000, output_limit=400)
    assert refusal_of(admit(price, 1_000, 1)) is RefusalCode.OVER_LIMIT
    assert refusal_of(admit(price, 1_001, 0)) is RefusalCode.OVER_LIMIT
    assert refusal_of(admit(row(output_limit=0), 1, 1)) is RefusalCode.OVER_LIMIT


def test_a_job_that_cannot_pay_for_its_first_unit_is_refused_before_it_starts() -> None:
    assert refusal_of(admit(row(), 100, 1, maximum=999)) is RefusalCode.OVER_BUDGET
    assert refusal_of(admit(row(minimum_msat=0), 100, 1, maximum=3)) is RefusalCode.OVER_BUDGET
    assert refusal_of(admit(row(per=1, minimum_msat=0), 1, 1, maximum=40)) is RefusalCode.OVER_BUDGET
    assert refusal_of(admit(row(unit="job", per=1, minimum_msat=0), 0, 1, maximum=119)) is RefusalCode.OVER_BUDGET
    assert admit(row(minimum_msat=0), 100, 0, maximum=4) == 0
    assert admit(row(per=1, input_msat=0, output_msat=0, minimum_msat=0), 10, 20, maximum=0) == 20


def test_limits_in_tokens_do_not_cut_a_job_priced_by_the_byte() -> None:
    assert admit(row(unit="byte", context_limit=100, output_limit=100), 5_000, 5_000) == 5_000


def test_a_job_with_quantities_that_nobody_parsed_is_a_bug_here() -> None:
    for taken, wanted in ((-1, 0), (0, 10**9 + 1)):
        with pytest.raises(LocalProtocolError):
            admit(row(unit="byte"), taken, wanted)


@given(rows, quantities, quantities, amounts)
def test_what_is_granted_never_costs_more_than_the_job_may(
    price: PriceRow, taken: int, wanted: int, maximum: AmountMsat
) -> None:
    granted = admit_job(price, input_units=taken, maximum_output_units=wanted, maximum_msat=maximum)
    if isinstance(granted, Refusal):
        assert granted.code in (RefusalCode.OVER_BUDGET, RefusalCode.OVER_LIMIT)
        return
    assert 0 <= granted <= wanted
    assert granted > 0 or wanted == 0
    assert cost(price, taken, granted) <= maximum
    if price.unit == "token":
        assert granted <= price.output_limit
        assert price.context_limit == 0 or taken + granted <= price.context_limit
