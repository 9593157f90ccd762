"""Which term a buyer takes: never another than was required, never above the limit, and always for a stated reason."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.market.explanation import explain
from relaymesh.market.pricing import price_ceiling, quote_terms
from relaymesh.market.request import BuyerRequest, SettlementPolicy
from relaymesh.market.selection import select
from relaymesh.market.settlement_choice import ChosenTerm, NoTerm, accepted_terms, choose_term, foresee_term
from relaymesh.market.standing import UNKNOWN, Standing
from relaymesh.protocol.fields import SETTLEMENT_FORMS, SettlementForm, form_of, forms_of
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.protocol.quote import QuotedTerm
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat
from tests.market.builders import NOW, buyer_request, candidate, node, prepay, signed_offer

KNOWN = Standing(successes_milli=5_000)
CEILING = AmountMsat(5_000)
POLICIES: tuple[SettlementPolicy, ...] = ("auto", *SETTLEMENT_FORMS)


def quoted(form: SettlementForm, buyer: int = 2_000, seller: int = 0, units: int | None = 100) -> QuotedTerm:
    """A term as a node might quote it."""
    return QuotedTerm(
        order="prepay" if form == "session" else form,
        scope="session" if form == "session" else "job",
        tranche_units=units,
        exposure_buyer_msat=AmountMsat(buyer),
        exposure_node_msat=AmountMsat(seller),
    )


PREPAY, SEALED, POSTPAY = quoted("prepay"), quoted("sealed", 1_500, 1_500), quoted("postpay", 0, 1_500)
SESSION, WHOLE = quoted("session", 25_000, 0, 20_000), quoted("prepay", 5_000, 0, None)
EVERY = (PREPAY, SEALED, POSTPAY, SESSION)


def asking(settlement: SettlementPolicy = "auto", *, streamed: bool = False, **says: Any) -> BuyerRequest:
    """A request by somebody who says this about settlement."""
    limit = says.pop("limit", 0)
    orders, scopes = accepted_terms(settlement, is_streamed=streamed, **says)
    return buyer_request(
        orders=orders, scopes=scopes, settlement=settlement, is_streamed=streamed, maximum_exposure_msat=limit
    )


def chosen(request: BuyerRequest, *terms: QuotedTerm, standing: Standing = UNKNOWN, ceiling: int = CEILING) -> str:
    """The form that is taken."""
    choice = choose_term(request, terms, standing, AmountMsat(ceiling))
    assert isinstance(choice, ChosenTerm)
    assert choice.term == terms[choice.index]
    return str(choice.term.form)


def test_order_and_scope_together_are_a_form() -> None:
    assert [form_of(term.order, term.scope) for term in EVERY] == ["prepay", "sealed", "postpay", "session"]
    assert form_of("sealed", "session") is None and form_of("postpay", "session") is None
    assert forms_of(("sealed", "prepay"), ("session", "job")) == ("sealed", "session", "prepay")


def test_strangers_settle_sealed_and_whoever_reads_along_prepays_in_tranches() -> None:
    assert chosen(asking(), *EVERY) == "sealed"
    assert chosen(asking(streamed=True), *EVERY) == "prepay"
    assert chosen(asking(streamed=True), WHOLE, SEALED) == "sealed", "the whole job ahead is not what a stranger gets"
    assert chosen(asking(streamed=True), WHOLE) == "prepay", "there is nothing else"
    assert chosen(asking(), WHOLE, PREPAY) == "prepay", "nobody seals here"


def test_a_node_that_has_served_well_is_prepaid() -> None:
    assert chosen(asking(), *EVERY, standing=KNOWN) == "prepay"
    assert chosen(asking(), SEALED, standing=KNOWN) == "sealed"
    assert chosen(asking(), *EVERY, standing=Standing(successes_milli=999)) == "sealed", "hardly known"
    assert chosen(asking(), *EVERY, standing=Standing(successes_milli=5_000, failures_milli=501)) == "sealed"
    vouched_by_strangers = Standing(successes_milli=5_000, is_on_probation=True)
    assert chosen(asking(), *EVERY, standing=vouched_by_strangers) == "sealed", "anybody can make strangers"


def test_a_session_prepays_for_small_jobs_where_more_of_them_follow() -> None:
    kept = asking(keeps_session=True)
    assert chosen(kept, *EVERY, standing=KNOWN, ceiling=5_000) == "session"
    assert chosen(kept, *EVERY, standing=KNOWN, ceiling=5_001) == "prepay", "more than a quarter of the tranche"
    assert chosen(kept, *EVERY) == "sealed", "nobody prepays a stranger for jobs to come"
    assert chosen(asking(), *EVERY, standing=KNOWN) == "prepay", "one job needs no session's tranche"
    assert chosen(kept, SESSION, ceiling=20_000) == "session", "there is nothing else"
    assert isinstance(choose_term(kept, (SESSION,), KNOWN, AmountMsat(20_001)), NoTerm)


def test_credit_is_taken_where_there_is_some() -> None:
    for streamed in (False, True):
        assert chosen(asking(streamed=streamed, has_credit=True), *EVERY) == "postpay"
        assert chosen(asking(streamed=streamed, has_credit=True), *EVERY, standing=KNOWN) == "postpay"
    assert chosen(asking(), POSTPAY, PREPAY) == "prepay", "nobody lends without a key"


@pytest.mark.parametrize("form", SETTLEMENT_FORMS)
def test_what_is_required_is_taken_and_nothing_else(form: SettlementForm) -> None:
    request = asking(form)
    assert chosen(request, *EVERY) == chosen(request, *EVERY, standing=KNOWN) == form
    others = tuple(term for term in EVERY if term.form != form)
    refused = choose_term(request, others, UNKNOWN, CEILING)
    assert isinstance(refused, NoTerm) and form in refused.sentence


def test_a_stranger_gets_the_term_with_the_least_at_stake_and_a_known_node_the_one_it_prefers() -> None:
    dear, cheap = quoted("sealed", 3_000, 3_000, 500), quoted("sealed", 700, 700, 50)
    taken = choose_term(asking("sealed"), (dear, cheap), UNKNOWN, CEILING)
    assert isinstance(taken, ChosenTerm) and taken.index == 1
    taken = choose_term(asking("sealed"), (dear, cheap), KNOWN, CEILING)
    assert isinstance(taken, ChosenTerm) and taken.index == 0


def test_what_puts_more_at_stake_than_the_buyer_allows_is_passed_over() -> None:
    assert chosen(asking(streamed=True, limit=1_999), PREPAY, SEALED) == "sealed"
    assert chosen(asking(streamed=True, limit=2_000), PREPAY, SEALED) == "prepay"
    refused = choose_term(asking(limit=1_499), EVERY, UNKNOWN, CEILING)
    assert isinstance(refused, NoTerm)
    assert refused.sentence == "Every term puts 1500 msat or more of ours at stake, over the limit of 1499 msat."


def test_the_sentence_says_the_form_the_reason_and_what_both_have_at_stake() -> None:
    taken = choose_term(asking(), (PREPAY, SEALED), UNKNOWN, CEILING)
    assert isinstance(taken, ChosenTerm)
    assert taken.sentence == (
        "sealed: the node is not known, and sealed output is there before it is paid for; "
        "at stake at most 1500 msat of ours and 1500 msat of the node's."
    )
    assert taken.to_json()["exposure_node_msat"] == 1_500


quoted_terms = st.builds(
    quoted,
    st.sampled_from(SETTLEMENT_FORMS),
    st.integers(0, 9_000),
    st.integers(0, 9_000),
    st.none() | st.integers(1, 50_000),
)
standings = st.builds(
    Standing, successes_milli=st.integers(0, 3_000), failures_milli=st.integers(0, 300), is_on_probation=st.booleans()
)


@given(
    st.sampled_from(POLICIES),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 9_000),
    st.lists(quoted_terms, max_size=8),
    standings,
    st.integers(0, 60_000),
)
def test_no_choice_leaves_what_the_buyer_said(
    policy: SettlementPolicy,
    streamed: bool,
    has_credit: bool,
    keeps_session: bool,
    limit: int,
    terms: list[QuotedTerm],
    standing: Standing,
    ceiling: int,
) -> None:
    request = asking(policy, streamed=streamed, has_credit=has_credit, keeps_session=keeps_session, limit=limit)
    taken = choose_term(request, terms, standing, AmountMsat(ceiling))
    assert taken == choose_term(request, tuple(terms), standing, AmountMsat(ceiling)), "it is a pure function"
    fitting = [term for term in terms if term.form in request.forms]
    within = [term for term in fitting if not limit or term.exposure_buyer_msat <= limit]
    if isinstance(taken, NoTerm):
        assert all(term.form == "session" for term in within), "there was something to take"
        assert policy == "auto" or not within
        return
    term = terms[taken.index]
    assert term == taken.term and term in within
    assert policy in ("auto", term.form)
    assert has_credit or policy == "postpay" or term.form != "postpay"
    assert keeps_session or policy == "session" or term.form != "session"
    assert f"at most {term.exposure_buyer_msat} msat of ours" in taken.sentence
    assert f"{term.exposure_node_msat} msat of the node's" in taken.sentence
    is_known = standing.is_known and not standing.is_on_probation
    if policy == "auto" and not streamed and not is_known and any(each.form == "sealed" for each in within):
        assert term.form in ("sealed", "postpay"), "sealed is how strangers settle"


@given(st.lists(quoted_terms, min_size=1, max_size=8), standings, st.randoms())
def test_nothing_is_left_to_chance_among_terms_that_differ(
    terms: list[QuotedTerm], standing: Standing, random: Any
) -> None:
    """The order in which an unknown node lists its terms changes nothing about what the buyer has at stake."""
    if standing.is_known and not standing.is_on_probation:
        return
    taken = choose_term(asking(), terms, standing, CEILING)
    shuffled = list(terms)
    random.shuffle(shuffled)
    again = choose_term(asking(), shuffled, standing, CEILING)
    assert type(taken) is type(again)
    if isinstance(taken, ChosenTerm) and isinstance(again, ChosenTerm):
        assert taken.term.exposure_buyer_msat == again.term.exposure_buyer_msat and taken.reason == again.reason


def test_what_is_foreseen_from_the_posted_terms_is_what_the_quote_says() -> None:
    terms = (prepay(100), SettlementTerm(order="sealed", tranche_units=200))
    one, offer = candidate(1), signed_offer(node(1), settlement=terms)
    request = asking()
    ceiling = price_ceiling(one.row, request.shape, request.budget_msat)
    assert ceiling is not None
    told = foresee_term(request, offer.offer, one.row, UNKNOWN)
    terms_quoted = quote_terms(one.row, request.shape, terms, request.forms, ceiling)
    assert isinstance(told, ChosenTerm) and told.term in terms_quoted and told.term.form == "sealed"
    poor = buyer_request(budget_msat=AmountMsat(1))
    assert isinstance(foresee_term(poor, offer.offer, one.row, UNKNOWN), NoTerm)


def test_an_explanation_says_how_the_chosen_would_be_paid_and_nothing_of_the_others() -> None:
    told = explain(select([candidate(1), candidate(2, free=0)], asking(), seed=b"s" * 32, count=1, now=NOW))
    assert told.settlement is not None and told.settlement == told.rows[0].settlement
    assert told.settlement.startswith("prepay: ") and "msat of ours" in told.settlement
    assert told.rows[1].settlement is None
    standings = {node(1): KNOWN}
    known = select([candidate(1)], asking(), seed=b"s" * 32, count=1, now=NOW, standings=standings)
    assert "the node has served well" in str(explain(known).settlement)
    assert told.to_json()["settlement"] == told.settlement


def test_the_largest_amounts_are_no_exception() -> None:
    huge = quoted("sealed", MAXIMUM_INTEGER, MAXIMUM_INTEGER, 10**9)
    assert chosen(asking("sealed"), huge, ceiling=MAXIMUM_INTEGER) == "sealed"
