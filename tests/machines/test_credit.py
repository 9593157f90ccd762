"""Credit: a node works on it only for a session key that a long-term key it knows vouches for, here and now."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from relaymesh.machines.entropy import Entropy
from relaymesh.machines.guaranteeing import MAXIMUM_RELAYS_BESIDE, Guarantor
from relaymesh.machines.opening import Opening
from relaymesh.machines.opening_events import EventArrived, OpeningFailed, Publish
from relaymesh.market.bids import Way
from relaymesh.market.unpaid_work import Reservation, UnpaidWork
from relaymesh.nostr.event import UnsignedEvent, VerifiedEvent
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.protocol.codec import build_offer, open_message, read_offer, seal_message
from relaymesh.protocol.fields import Order
from relaymesh.protocol.guarantee import Guarantee, build_guarantee
from relaymesh.protocol.handshake import SessionRequest
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.protocol.quote import MAXIMUM_QUOTE_EVENT_BYTES, Quote, QuoteRequest, RefusalMessage
from relaymesh.protocol.refusal import RefusalCode
from relaymesh.units import AmountMsat, Timestamp
from tests.machines.pair import CLIENT, moment
from tests.machines.sellers import EPHEMERAL, NOW, RELAYS, Seller, agreed_in, converse, selection_of, seller

BUYER: Final = KeyPair(b"\x21" * 32)
STRANGER: Final = KeyPair(b"\x22" * 32)


def lender(secret: int = 3, credit_msat: int = 1_000_000, unknown_msat: int = 1_000_000) -> Seller:
    """A node that offers every order, and gives this much credit to the buyer alone."""
    one = seller(secret)
    terms = tuple(SettlementTerm(order=order, tranche_units=16) for order in ("postpay", "sealed", "prepay"))
    offer = one.offer.offer.model_copy(update={"settlement": terms})
    one.offer = read_offer(one.key.sign(build_offer(offer, "main", one.key.public_key, NOW)))
    work = UnpaidWork(AmountMsat(unknown_msat), {BUYER.public_key: AmountMsat(credit_msat)})
    return replace(one, unpaid=work)


def opening_of(node: Seller, *orders: Order, guarantor: KeyPair | None = BUYER, way: Way = "directed") -> Opening:
    selection = selection_of(node)
    opening = Opening(
        replace(selection, request=replace(selection.request, orders=orders)),
        signer=CLIENT,
        verify=verify,
        ephemeral_key=EPHEMERAL.public_key,
        relay_urls=RELAYS,
        entropy=Entropy(b"c" * 32),
        way=way,
        guarantor=None if guarantor is None else Guarantor(guarantor, CLIENT.public_key),
    )
    opening.start(moment())
    return opening


def why_not(node: Seller, *orders: Order, guarantor: KeyPair | None = BUYER) -> str:
    said = converse(opening_of(node, *orders, guarantor=guarantor), node)
    (failed,) = [each for each in said if isinstance(each, OpeningFailed)]
    ((_, refusal),) = failed.refusals
    assert refusal.code is RefusalCode.PAYMENT_REQUIRED
    return refusal.reason


@pytest.mark.parametrize("way", ["directed", "posted"])
def test_a_known_key_vouches_for_the_session_and_the_node_works_on_credit(way: Way) -> None:
    node = lender()
    agreed = agreed_in(converse(opening_of(node, "postpay", way=way), node))
    (awaited,) = node.awaited
    assert agreed.contract.term.order == awaited.contract.term.order == "postpay"
    assert awaited.contract.guarantee is not None
    assert awaited.contract.guarantee.guarantor == BUYER.public_key
    assert awaited.contract.guarantee.guarantee.client == CLIENT.public_key


def test_a_stranger_is_told_what_credit_takes() -> None:
    assert "only to keys it knows" in why_not(lender(), "postpay", guarantor=STRANGER)
    assert "only to keys it knows" in why_not(lender(), "postpay", guarantor=None)


def test_a_stranger_who_would_also_pay_beforehand_is_quoted_that() -> None:
    node = lender()
    agreed = agreed_in(converse(opening_of(node, "postpay", "prepay", guarantor=STRANGER), node))
    assert agreed.contract.term.order == "prepay"
    assert [term.order for term in agreed.contract.quote.settlement] == ["prepay"]


def test_a_line_that_is_used_up_gives_no_more_credit() -> None:
    node = lender()
    exposure_msat = agreed_in(converse(opening_of(node, "postpay"), node)).contract.term.exposure_node_msat
    assert exposure_msat > 0
    assert "msat are left" in why_not(lender(credit_msat=exposure_msat - 1), "postpay")
    exact = lender(credit_msat=exposure_msat)
    assert agreed_in(converse(opening_of(exact, "postpay"), exact)).contract.term.order == "postpay"


def test_beyond_what_it_risks_for_strangers_a_node_quotes_prepay_only() -> None:
    node = lender(unknown_msat=0)
    agreed = agreed_in(converse(opening_of(node, "sealed", "prepay"), node))
    assert [term.order for term in agreed.contract.quote.settlement] == ["prepay"]
    assert "as much unpaid work" in why_not(node, "sealed")


def test_room_that_was_taken_between_quote_and_session_is_not_given_twice() -> None:
    node = lender()
    opening = opening_of(node, "postpay")
    session_request = after_quote(node, opening)
    taken = node.unpaid.reserve(CLIENT.public_key, BUYER.public_key, "postpay", AmountMsat(1_000_000))
    assert isinstance(taken, Reservation)
    assert "msat are left" in refusal_of(node, session_request)
    assert not node.awaited


def test_a_guarantee_is_shown_only_where_credit_is_asked_for() -> None:
    node = lender()
    (publish,) = opening_of(node, "sealed", "prepay").effects()
    assert isinstance(publish, Publish)
    request = open_message(publish.event, node.key)
    assert isinstance(request, QuoteRequest) and request.guarantee is None


def test_a_guarantee_is_not_shown_to_a_node_that_lends_to_nobody() -> None:
    node = seller(3)
    (publish,) = opening_of(node, "postpay", "prepay").effects()
    assert isinstance(publish, Publish)
    request = open_message(publish.event, node.key)
    assert isinstance(request, QuoteRequest) and "postpay" in request.settlement and request.guarantee is None


def test_a_session_on_credit_is_not_opened_without_its_guarantee() -> None:
    node = lender()
    session_request = after_quote(node, opening_of(node, "postpay"))
    assert "only to keys it knows" in refusal_of(node, with_guarantee(node, session_request, None))
    assert not node.awaited


# ── hostile guarantees, in the request for a quote and in the one for a session ──────────────────────────────────────


def after_quote(node: Seller, opening: Opening) -> VerifiedEvent:
    (publish,) = opening.effects()
    assert isinstance(publish, Publish)
    for answer in node.hear(publish.event):
        opening.receive(EventArrived(answer), moment())
    return next(effect.event for effect in opening.effects() if isinstance(effect, Publish))


def guarantee(node: Seller, author: KeyPair = BUYER, **changes: Any) -> dict[str, Any]:
    fields = {"client": CLIENT.public_key, "valid_until": NOW + 3_600, **changes}
    created_at, to = Timestamp(fields.pop("created_at", NOW)), fields.pop("to", node.key.public_key)
    built = build_guarantee(Guarantee.model_validate(fields), author=author.public_key, node=to, created_at=created_at)
    return in_json(author.sign(built))


def in_json(event: VerifiedEvent) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(json.dumps(event.to_json()))
    return fields


def forged(node: Seller) -> dict[str, Any]:
    return {**guarantee(node, STRANGER), "pubkey": BUYER.public_key}


HOSTILE: Final[dict[str, tuple[Callable[[Seller], dict[str, Any]], str]]] = {
    "for another node": (lambda node: guarantee(node, to=STRANGER.public_key), "another node"),
    "for another session key": (lambda node: guarantee(node, client=STRANGER.public_key), "another session key"),
    "expired": (lambda node: guarantee(node, valid_until=NOW), "expired"),
    "of the future": (lambda node: guarantee(node, created_at=NOW + 61), "future"),
    "for ever": (lambda node: guarantee(node, valid_until=NOW + 90_000), "at most"),
    "of a stranger": (lambda node: guarantee(node, STRANGER), "only to keys it knows"),
    "with another's signature": (forged, "not valid"),
    "that is another event": (lambda node: in_json(node.offer.event), "not valid"),
    "that is no event": (lambda node: {"guarantee": True}, "not valid"),
}


def refusal_of(node: Seller, request: VerifiedEvent) -> str:
    (answer,) = node.hear(request)
    message = open_message(answer, CLIENT)
    assert isinstance(message, RefusalMessage)
    return message.refusal


def with_guarantee(
    node: Seller, event: VerifiedEvent, brought: dict[str, Any] | None, signer: KeyPair = CLIENT
) -> VerifiedEvent:
    message = open_message(event, CLIENT)
    assert isinstance(message, QuoteRequest | SessionRequest)
    draft: UnsignedEvent = seal_message(
        message.model_copy(update={"guarantee": brought}),
        author=signer.public_key,
        signer=signer,
        recipient=node.key.public_key,
        answers=None,
        created_at=NOW,
        entropy=b"h" * 64,
    )
    return signer.sign(draft)


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_guarantee_gives_no_credit_with_a_reason(how: str) -> None:
    make, reason = HOSTILE[how]
    node = lender()
    (publish,) = opening_of(node, "postpay").effects()
    assert isinstance(publish, Publish)
    assert reason in refusal_of(node, with_guarantee(node, publish.event, make(node)))
    session_request = after_quote(node, opening_of(node, "postpay"))
    assert reason in refusal_of(node, with_guarantee(node, session_request, make(node)))
    assert not node.awaited


def test_a_guarantee_that_another_session_key_brings_is_of_no_use_to_it() -> None:
    node = lender()
    (publish,) = opening_of(node, "postpay").effects()
    assert isinstance(publish, Publish)
    request = open_message(publish.event, CLIENT)
    assert isinstance(request, QuoteRequest) and request.guarantee is not None
    replayed = with_guarantee(node, publish.event, request.guarantee, STRANGER)
    (answer,) = node.hear(replayed)
    message = open_message(answer, STRANGER)
    assert isinstance(message, RefusalMessage) and "another session key" in message.refusal


def test_with_the_largest_quote_and_the_longest_relay_a_session_request_still_fits() -> None:
    node = lender()
    guarantor = Guarantor(BUYER, CLIENT.public_key)
    asked = open_message(next(e.event for e in opening_of(node, "postpay").effects() if isinstance(e, Publish)), CLIENT)
    assert isinstance(asked, QuoteRequest)
    guarantor.attach(asked, node.key.public_key, moment())
    tags = (("p", CLIENT.public_key), ("e", "0" * 64), ("x", "0" * 64))
    quote = UnsignedEvent(node.key.public_key, NOW, 28_771, tags, "")
    room = MAXIMUM_QUOTE_EVENT_BYTES - node.key.sign(quote).size
    event = node.key.sign(replace(quote, content="q" * room))
    assert event.size == MAXIMUM_QUOTE_EVENT_BYTES
    relays = tuple(f"wss://{number}{'r' * 199}" for number in range(3))
    request = SessionRequest(quote=event.to_json(), term=0, ephemeral_key=EPHEMERAL.public_key, relays=relays)
    brought = guarantor.attach(request, node.key.public_key, moment())
    assert isinstance(brought, SessionRequest) and brought.guarantee is not None
    assert len(brought.relays) == MAXIMUM_RELAYS_BESIDE
    with_guarantee_event = seal_message(
        brought,
        author=CLIENT.public_key,
        signer=CLIENT,
        recipient=node.key.public_key,
        answers=None,
        created_at=NOW,
        entropy=b"h" * 64,
    )
    assert isinstance(open_message(CLIENT.sign(with_guarantee_event), node.key), SessionRequest)


def test_a_quote_is_never_refused_for_a_term_that_nobody_asked_for() -> None:
    quote = open_message(lender_answer("prepay"), CLIENT)
    assert isinstance(quote, Quote) and [term.order for term in quote.settlement] == ["prepay"]


def lender_answer(*orders: Order) -> VerifiedEvent:
    node = lender(credit_msat=0, unknown_msat=0)
    (publish,) = opening_of(node, *orders).effects()
    assert isinstance(publish, Publish)
    (answer,) = node.hear(publish.event)
    return answer
