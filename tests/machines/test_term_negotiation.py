"""From what a buyer says about settlement to the term that both sides name, over every way to a session."""

from dataclasses import replace

import pytest

from relaymesh.machines.entropy import Entropy
from relaymesh.machines.opening import Opening
from relaymesh.machines.opening_events import OpeningFailed, QuoteArrived, SessionAgreed
from relaymesh.market.bids import Way
from relaymesh.market.request import SettlementPolicy
from relaymesh.market.settlement_choice import accepted_terms
from relaymesh.market.standing import Standing
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.protocol.refusal import Refusal, RefusalCode
from tests.machines.pair import CLIENT, moment
from tests.machines.sellers import EPHEMERAL, RELAYS, Seller, agreed_in, converse, offer_of, selection_of

PREPAY = SettlementTerm(order="prepay", tranche_units=16)
SEALED = SettlementTerm(order="sealed", tranche_units=32)
SESSION = SettlementTerm(order="prepay", scope="session", tranche_units=20_000)
WAYS: tuple[Way, ...] = ("directed", "open", "posted")


def seller_with(*terms: SettlementTerm) -> Seller:
    """A node that offers these terms."""
    key = KeyPair(b"\x03" * 32)
    return Seller(key, offer_of(key, settlement=terms))


def negotiate(
    node: Seller,
    way: Way,
    settlement: SettlementPolicy = "auto",
    *,
    streamed: bool = False,
    limit: int = 0,
    standing: Standing | None = None,
    has_credit: bool = False,
) -> list[object]:
    """Let a buyer who says this about settlement talk to a node; returns what the opening wants besides publishing."""
    orders, scopes = accepted_terms(settlement, is_streamed=streamed, has_credit=has_credit)
    selection = selection_of(node)
    request = replace(
        selection.request,
        orders=orders,
        scopes=scopes,
        settlement=settlement,
        is_streamed=streamed,
        maximum_exposure_msat=limit,
    )
    opening = Opening(
        replace(selection, request=request),
        signer=CLIENT,
        verify=verify,
        ephemeral_key=EPHEMERAL.public_key,
        relay_urls=RELAYS,
        entropy=Entropy(b"c" * 32),
        way=way,
        standings={} if standing is None else {node.key.public_key: standing},
    )
    opening.start(moment())
    said = converse(opening, node)
    if not any(isinstance(each, SessionAgreed | OpeningFailed) for each in said):
        opening.handle_deadline(moment(8_000))
        said += converse(opening, node)
    return said


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("settlement", "streamed", "expected"),
    [
        ("auto", False, ("sealed", "job")),
        ("auto", True, ("prepay", "job")),
        ("prepay", False, ("prepay", "job")),
        ("sealed", True, ("sealed", "job")),
        ("session", False, ("prepay", "session")),
    ],
)
@pytest.mark.parametrize("terms", [(PREPAY, SEALED, SESSION), (SESSION, SEALED, PREPAY)])
def test_both_sides_name_the_term_that_the_buyer_takes(
    way: Way,
    settlement: SettlementPolicy,
    streamed: bool,
    expected: tuple[str, str],
    terms: tuple[SettlementTerm, ...],
) -> None:
    node = seller_with(*terms)
    agreed = agreed_in(negotiate(node, way, settlement, streamed=streamed))
    assert (agreed.contract.term.order, agreed.contract.term.scope) == expected
    assert node.awaited[-1].contract.term == agreed.contract.term == agreed.chosen_term.term
    assert agreed.chosen_term.term == agreed.contract.quote.settlement[agreed.accept.term]


@pytest.mark.parametrize("way", WAYS)
def test_who_requires_sealed_delivery_never_falls_back(way: Way) -> None:
    node = seller_with(PREPAY, SESSION)
    said = negotiate(node, way, "sealed")
    assert isinstance(said[-1], OpeningFailed) and not node.awaited


@pytest.mark.parametrize("way", WAYS)
def test_a_limit_on_what_is_at_stake_ends_it_with_a_sentence(way: Way) -> None:
    failed = negotiate(seller_with(PREPAY), way, limit=1)[-1]
    assert isinstance(failed, OpeningFailed)
    ((_, refusal),) = failed.refusals
    assert "over the limit of 1 msat" in refusal.reason


def test_a_known_node_is_asked_at_its_posted_price_for_the_one_form_that_is_wanted() -> None:
    node = seller_with(SEALED, PREPAY)
    agreed = agreed_in(negotiate(node, "posted", standing=Standing(successes_milli=5_000)))
    assert [term.form for term in agreed.contract.quote.settlement] == ["prepay"]
    assert agreed.chosen_term.reason.startswith("the node has served well")


def test_at_a_posted_price_the_first_term_of_the_form_is_taken_since_nothing_is_chosen_afterwards() -> None:
    small = SettlementTerm(order="prepay", tranche_units=1)
    node = seller_with(PREPAY, small)
    assert agreed_in(negotiate(node, "directed", streamed=True)).contract.term.tranche_units == 1
    agreed = agreed_in(negotiate(seller_with(PREPAY, small), "posted", streamed=True))
    assert (agreed.chosen_term.index, agreed.contract.term.tranche_units) == (0, 16)


def test_who_gets_no_credit_at_a_posted_price_is_quoted_what_is_paid_beforehand() -> None:
    node = seller_with(SettlementTerm(order="postpay", tranche_units=16), PREPAY)
    said = negotiate(node, "posted", standing=Standing(successes_milli=5_000), has_credit=True)
    refused = [each.answer for each in said if isinstance(each, QuoteArrived) and isinstance(each.answer, Refusal)]
    assert [each.code for each in refused] == [RefusalCode.PAYMENT_REQUIRED]
    assert agreed_in(said).contract.term.form == "prepay"
