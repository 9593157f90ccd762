"""Bids: a quote may be lower than the offer and never higher, and the best is the scheduler's, at the prices quoted."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from relaymesh.market.bids import Bid, Bidders, choose_way, find_offered_row, rank_bids
from relaymesh.market.candidate import Candidate
from relaymesh.market.pricing import cost
from relaymesh.market.selection import Selection, select
from relaymesh.market.settlement_choice import ChosenTerm, choose_term
from relaymesh.market.standing import NOBODY_KNOWN, UNKNOWN, Standing, Standings
from relaymesh.nostr.event import UnsignedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.offer import PriceRow
from relaymesh.protocol.quote import Quote
from relaymesh.units import AmountMsat
from tests.market.builders import NOW, buyer_request, candidate, quote_request, row, rows, sign, signed_offer
from tests.market.test_admission import answer

RATES = st.integers(0, 10**9) | st.integers(0, 500)


@given(rows, st.integers(1, 10**6) | st.just(1_000), RATES, RATES, RATES)
def test_what_is_taken_for_an_offered_row_never_costs_more_than_that_row(
    offered: PriceRow, per: int, input_msat: int, output_msat: int, minimum_msat: int
) -> None:
    prices = {"per": per, "input_msat": input_msat, "output_msat": output_msat, "minimum_msat": minimum_msat}
    quoted = offered.model_copy(update=prices)
    found = find_offered_row(quoted, signed_offer(rows=(offered,)).offer)
    is_dearer = (
        input_msat * offered.per > offered.input_msat * per
        or output_msat * offered.per > offered.output_msat * per
        or minimum_msat > offered.minimum_msat
    )
    assert found == (None if is_dearer else offered)
    for given_units, taken in ((0, 0), (1, 0), (0, 1), (999, 1), (7, 12_345), (1_000, 1_000)):
        assert is_dearer or cost(quoted, given_units, taken) <= cost(offered, given_units, taken)


def test_a_row_that_differs_in_anything_but_its_price_is_not_the_one_offered() -> None:
    offer = signed_offer().offer
    for changes in ({"model": "other"}, {"unit": "byte"}, {"output_limit": 1}, {"capabilities": ()}):
        assert find_offered_row(row(**changes), offer) is None
    assert find_offered_row(row(identity={"quantization": "q2_k"}), offer) is None


def quote_of(one: Candidate) -> Quote:
    quote = answer(quote_request(one.offer), one.offer)
    assert isinstance(quote, Quote)
    return quote


def selection_of(*candidates: Candidate, count: int = 3) -> Selection:
    return select(candidates, buyer_request(), seed=b"s" * 32, count=count, now=NOW)


def bid(selection: Selection, one: Candidate, **prices: int) -> Bid:
    quote = quote_of(one)
    quote = quote.model_copy(update={"row": quote.row.model_copy(update=prices)})
    choice = Bidders(selection).find(one.offer.node, quote)
    assert choice is not None
    event = sign(UnsignedEvent(one.offer.node, NOW, Kind.QUOTE, (), one.offer.event.id))
    chosen = choose_term(selection.request, quote.settlement, UNKNOWN, quote.max_msat or AmountMsat(0))
    assert isinstance(chosen, ChosenTerm)
    return Bid(choice, event, quote, chosen)


def test_a_bid_is_for_a_row_of_its_own_nodes_offer() -> None:
    one, other = candidate(1), candidate(2)
    selection = selection_of(one, other, count=1)
    for each in (one, other):
        choice = Bidders(selection).find(each.offer.node, quote_of(each))
        assert choice is not None and choice.candidate == each
    assert Bidders(selection).find(other.offer.node, quote_of(one)) is None
    assert Bidders(selection_of(one)).find(other.offer.node, quote_of(other)) is None
    assert len(Bidders(selection)) == 2


def test_one_answer_of_each_bidder_is_opened_and_none_of_a_stranger() -> None:
    one, other = candidate(1), candidate(2)
    bidders = Bidders(selection_of(one))
    assert [bidders.hear(each.offer.node) for each in (one, one, other)] == [True, False, False]


def test_bids_are_ranked_by_what_they_say_and_not_by_what_was_posted() -> None:
    cheap, dear = candidate(1, minimum_msat=2_000), candidate(2, minimum_msat=9_000)
    selection = selection_of(cheap, dear)
    posted, lower = bid(selection, cheap), bid(selection, dear, minimum_msat=AmountMsat(500))
    assert rank_bids((posted, bid(selection, dear)), selection, NOBODY_KNOWN, NOW)[0] == posted
    assert rank_bids((posted, lower), selection, NOBODY_KNOWN, NOW) == (lower, posted)


def test_a_bid_whose_node_seems_gone_by_now_comes_last_and_is_not_lost() -> None:
    here, gone = candidate(1, minimum_msat=9_000), candidate(2, minimum_msat=2_000)
    selection = selection_of(here, gone)
    later = Candidate(gone.offer, gone.row, None)
    bids = [bid(selection, gone), bid(selection, here)]
    bids[0] = Bid(replace(bids[0].choice, candidate=later), bids[0].event, bids[0].quote, bids[0].chosen)
    assert [each.choice.candidate for each in rank_bids(bids, selection, NOBODY_KNOWN, NOW)] == [here, later]


def known(one: Candidate, successes_milli: int = 5_000, failures_milli: int = 0) -> Standings:
    return {one.offer.node: Standing(successes_milli=successes_milli, failures_milli=failures_milli)}


def test_a_posted_price_is_for_the_best_node_where_it_is_known_and_clearly_the_best() -> None:
    best, other, rival = (
        candidate(number, minimum_msat=price) for number, price in ((1, 2_000), (2, 9_000), (3, 2_001))
    )
    assert choose_way(selection_of(best, other), known(best)) == "posted"
    assert choose_way(selection_of(best), known(best)) == "posted"
    assert choose_way(selection_of(best, other), {}) == "directed", "nobody knows it"
    assert choose_way(selection_of(best, other), known(best, 999)) == "directed", "hardly anybody knows it"
    assert choose_way(selection_of(best, other), known(best, 5_000, 501)) == "directed", "it is known to fail"
    assert choose_way(selection_of(best, other), known(other)) == "directed", "another is known"
    assert choose_way(selection_of(best, rival, count=1), known(best)) == "directed", "another comes near"
    assert choose_way(selection_of(candidate(1, free=0)), {}) == "directed"


def test_a_bid_of_a_node_that_keeps_failing_is_not_worth_its_price() -> None:
    reliable, failing = candidate(1, minimum_msat=10_000), candidate(2, minimum_msat=9_000)
    selection = selection_of(reliable, failing)
    bids = bid(selection, failing), bid(selection, reliable)
    known = {
        failing.offer.node: Standing(failures_milli=50_000),
        reliable.offer.node: Standing(successes_milli=50_000),
    }
    assert [each.choice.candidate for each in rank_bids(bids, selection, known, NOW)] == [reliable, failing]
