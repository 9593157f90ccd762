"""The ways to a session beside directed quotes: auctions, and posted prices, each with what is tried after it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.machines.opening import Opening, OpeningState
from relaymesh.machines.opening_events import (
    EventArrived,
    Mine,
    Mined,
    OpeningFailed,
    Publish,
    QuoteArrived,
    QuotesCollected,
    RelayAnswered,
    SessionAgreed,
)
from relaymesh.market.admission import NodeLoad
from relaymesh.market.bids import Way
from relaymesh.nostr.event import VerifiedEvent, parse_event
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.proof_of_work import has_proof_of_work, mine
from relaymesh.protocol.codec import MarketMessage, open_message, seal_message
from relaymesh.protocol.handshake import PostedAccept, PostedRequest, SessionAccept
from relaymesh.protocol.open_request import OPEN_REQUEST_POW_BITS, read_open_request
from relaymesh.protocol.quote import Quote, RefusalMessage
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.units import AmountMsat, Moment
from tests.machines.pair import CLIENT, START_MS, moment, price_row
from tests.machines.sellers import (
    NOW,
    RELAYS,
    Seller,
    agreed_in,
    converse,
    opening_for,
    seller,
)

BUSY = NodeLoad(free=0, queue=0, draining=False)


def seal(message: MarketMessage, author: KeyPair, request: VerifiedEvent) -> VerifiedEvent:
    draft = seal_message(
        message,
        author=author.public_key,
        signer=author,
        recipient=CLIENT.public_key,
        answers=request.id,
        created_at=NOW,
        entropy=b"f" * 64,
    )
    return author.sign(draft)


def published(opening: Opening) -> list[VerifiedEvent]:
    return [effect.event for effect in opening.effects() if isinstance(effect, Publish)]


def call(opening: Opening) -> VerifiedEvent:
    """The open request, once its work is done."""
    (work,) = opening.effects()
    assert isinstance(work, Mine)
    opening.receive(Mined(work.draft, mine(work.draft, work.bits)), moment())
    on = [effect for effect in opening.effects() if isinstance(effect, Publish)]
    assert [effect.relay_url for effect in on] == list(RELAYS), "each relay reaches others"
    assert len({effect.event.id for effect in on}) == 1
    return on[0].event


# ── auctions ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_open_request_carries_the_shape_of_the_job_its_work_and_no_recipient() -> None:
    opening = opening_for(seller(3), way="open")
    opening.start(moment())
    event = call(opening)
    request = read_open_request(event)
    assert has_proof_of_work(event, OPEN_REQUEST_POW_BITS) and event.tag_values("p") == ()
    assert request.model == "tiny" and request.budget_msat == 100_000 and request.relays == RELAYS


def test_an_auction_is_won_by_the_best_bid_also_of_a_node_that_would_not_have_been_asked() -> None:
    nodes = [seller(number, output_msat=90_000 - number * 10_000) for number in range(3, 8)]
    opening = opening_for(*nodes, way="open", count=1)
    opening.start(moment())
    agreed = agreed_in(converse(opening, *nodes))
    assert agreed.contract.node == nodes[-1].key.public_key
    assert [len(node.awaited) for node in nodes] == [0, 0, 0, 0, 1]


def test_an_auction_ends_a_while_after_the_first_bid_when_others_keep_silent() -> None:
    silent, quick = seller(3, output_msat=100), seller(4)
    opening = opening_for(silent, quick, way="open")
    opening.start(moment())
    assert not [each for each in converse(opening, quick) if isinstance(each, OpeningFailed)]
    assert opening.state is OpeningState.QUOTING
    opening.handle_deadline(moment(999))
    assert opening.state is OpeningState.QUOTING
    opening.handle_deadline(moment(1_000))
    assert agreed_in(converse(opening, quick)).contract.node == quick.key.public_key


def test_an_auction_that_nobody_bids_in_is_followed_by_asking_the_best_nodes() -> None:
    node = seller(3)
    opening = opening_for(node, way="open")
    opening.start(moment())
    call(opening)
    opening.handle_deadline(moment(8_000))
    (asked, *_) = published(opening)
    assert asked.tag_value("p") == node.key.public_key
    for answer in node.hear(asked):
        opening.receive(EventArrived(answer), moment(8_001))
    assert agreed_in(converse(opening, node)).contract.node == node.key.public_key


def test_a_winner_that_says_no_is_followed_by_the_next_bid() -> None:
    first, second = seller(3, output_msat=100), seller(4)
    opening = opening_for(first, second, way="open")
    opening.start(moment())
    request = call(opening)
    for node in (first, second):
        for bid in node.hear(request):
            opening.receive(EventArrived(bid), moment())
    first.load = BUSY
    said = converse(opening, first, second)
    assert agreed_in(said).contract.node == second.key.public_key


def test_an_auction_for_quotes_alone_collects_the_bids_and_buys_nothing() -> None:
    nodes = seller(3, output_msat=9_000), seller(4)
    opening = opening_for(*nodes, way="open", wants_session=False)
    opening.start(moment())
    collected = converse(opening, *nodes)[-1]
    assert isinstance(collected, QuotesCollected)
    assert [bid.choice.candidate.offer.node for bid in collected.quotes] == [
        nodes[1].key.public_key,
        nodes[0].key.public_key,
    ]
    assert not nodes[0].awaited and not nodes[1].awaited


def test_an_open_request_is_sent_again_on_every_relay_until_it_is_decided() -> None:
    opening = opening_for(seller(3), way="open")
    opening.start(moment())
    request = call(opening)
    opening.handle_deadline(moment(1_000))
    again = [effect for effect in opening.effects() if isinstance(effect, Publish)]
    assert [(effect.event, effect.relay_url) for effect in again] == [(request, url) for url in RELAYS]
    opening.receive(RelayAnswered(RELAYS[0], request.id, False, "rate-limited: slow down"), moment(1_001))
    opening.handle_deadline(moment(3_000))
    assert [effect.relay_url for effect in opening.effects() if isinstance(effect, Publish)] == [RELAYS[1]]


def bid_of(node: Seller, request: VerifiedEvent) -> Quote:
    (answer,) = node.hear(request)
    quote = open_message(answer, CLIENT)
    assert isinstance(quote, Quote)
    return quote


def lower(quote: Quote, **changes: Any) -> Quote:
    return quote.model_copy(update={"row": quote.row.model_copy(update=changes)})


def test_a_bid_below_the_posted_price_beats_a_lower_posted_price() -> None:
    dear, cheap = seller(3, output_msat=9_000), seller(4, output_msat=2_000)
    opening = opening_for(dear, cheap, way="open")
    opening.start(moment())
    request = call(opening)
    bid = lower(bid_of(dear, request), output_msat=AmountMsat(100), input_msat=AmountMsat(1))
    opening.receive(EventArrived(seal(bid, dear.key, request)), moment())
    opening.receive(EventArrived(seal(bid_of(cheap, request), cheap.key, request)), moment())
    (asked,) = published(opening)
    assert asked.tag_value("p") == dear.key.public_key


NO_BIDS: dict[str, Callable[[Quote], Quote]] = {
    "dearer than the offer": lambda bid: lower(bid, output_msat=AmountMsat(2_001)),
    "dearer by a smaller unit": lambda bid: lower(bid, per=999),
    "another quantization": lambda bid: bid.model_copy(update={"row": price_row(identity={"quantization": "q2_k"})}),
    "another offer": lambda bid: bid.model_copy(update={"offer_id": "77" * 32}),
    "another request": lambda bid: bid.model_copy(update={"request_id": "77" * 32}),
    "no limit": lambda bid: bid.model_copy(update={"max_msat": None}),
    "over budget": lambda bid: bid.model_copy(update={"max_msat": AmountMsat(100_001)}),
    "expired": lambda bid: bid.model_copy(update={"valid_until_ms": START_MS}),
}


@pytest.mark.parametrize("lie", NO_BIDS)
def test_what_cannot_be_relied_on_is_no_bid(lie: str) -> None:
    node = seller(3)
    opening = opening_for(node, way="open")
    opening.start(moment())
    request = call(opening)
    opening.receive(EventArrived(seal(NO_BIDS[lie](bid_of(node, request)), node.key, request)), moment())
    assert published(opening) == [] and opening.state is OpeningState.QUOTING


def test_strangers_cannot_bid_and_their_refusals_mean_nothing() -> None:
    node, stranger = seller(3), KeyPair(b"\x0a" * 32)
    opening = opening_for(node, way="open")
    opening.start(moment())
    request = call(opening)
    for message in (bid_of(node, request), RefusalMessage.of(refuse(RefusalCode.BUSY, "so there"))):
        opening.receive(EventArrived(seal(message, stranger, request)), moment())
    assert opening.effects() == () and opening.state is OpeningState.QUOTING


def test_a_node_whose_bid_was_no_good_does_not_get_to_bid_again() -> None:
    node, other = seller(3), seller(4)
    opening = opening_for(node, other, way="open")
    opening.start(moment())
    request = call(opening)
    bid = bid_of(node, request)
    for each in (lower(bid, output_msat=AmountMsat(9_999)), bid, lower(bid, output_msat=AmountMsat(9_998))):
        opening.receive(EventArrived(seal(each, node.key, request)), moment())
    assert opening.effects() == () and opening.state is OpeningState.QUOTING


def test_a_node_bids_once() -> None:
    first, other = seller(3), seller(4)
    opening = opening_for(first, other, way="open")
    opening.start(moment())
    request = call(opening)
    for _ in range(20):
        opening.receive(EventArrived(seal(bid_of(first, request), first.key, request)), moment())
    arrived = [effect for effect in opening.effects() if isinstance(effect, QuoteArrived)]
    assert len(arrived) == 1 and opening.state is OpeningState.QUOTING


def test_a_buyer_who_does_less_work_than_an_auction_takes_asks_the_best_nodes() -> None:
    node = seller(3)
    opening = opening_for(node, way="open", maximum_pow_bits=OPEN_REQUEST_POW_BITS - 1)
    opening.start(moment())
    (asked,) = published(opening)
    assert asked.tag_value("p") == node.key.public_key


# ── posted prices ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_posted_price_leads_to_the_same_contract_on_both_sides_in_one_round_trip() -> None:
    node = seller(3)
    opening = opening_for(node, way="posted")
    opening.start(moment())
    (request,) = published(opening)
    assert request.kind == Kind.SESSION_REQUEST and isinstance(open_message(request, node.key), PostedRequest)
    (accept,) = node.hear(request)
    opening.receive(EventArrived(accept), moment())
    agreed = agreed_in(list(opening.effects()))
    assert agreed.contract == node.awaited[0].contract
    assert agreed.contract.quote.max_msat is None and agreed.contract.quote_plaintext
    assert opening.deadline() is None


def test_a_posted_price_that_is_refused_is_followed_by_quotes_of_the_others() -> None:
    best, other = seller(3, output_msat=100), seller(4)
    best.load = BUSY
    opening = opening_for(best, other, way="posted")
    opening.start(moment())
    said = converse(opening, best, other)
    assert agreed_in(said).contract.node == other.key.public_key
    assert [
        each.answer.code for each in said if isinstance(each, QuoteArrived) and isinstance(each.answer, Refusal)
    ] == [RefusalCode.BUSY]


def test_a_posted_price_that_is_not_answered_is_followed_by_quotes_of_the_others() -> None:
    best, other = seller(3, output_msat=100), seller(4)
    opening = opening_for(best, other, way="posted")
    opening.start(moment())
    converse(opening, other)
    opening.handle_deadline(moment(8_000))
    (asked,) = published(opening)
    assert asked.tag_value("p") == other.key.public_key and asked.kind == Kind.QUOTE_REQUEST


def test_a_posted_price_of_the_only_node_that_is_refused_ends_there() -> None:
    node = seller(3)
    node.load = BUSY
    opening = opening_for(node, way="posted")
    opening.start(moment())
    failed = converse(opening, node)[-1]
    assert isinstance(failed, OpeningFailed) and failed.refusals[0][1].code is RefusalCode.BUSY


@dataclass
class Liar:
    """A node that changes what its posted accept says before it seals it again."""

    node: Seller
    request: VerifiedEvent = field(init=False)
    accept: PostedAccept = field(init=False)
    quote: Quote = field(init=False)

    def begin(self, opening: Opening) -> None:
        (self.request,) = published(opening)
        (answer,) = self.node.hear(self.request)
        accept = open_message(answer, CLIENT)
        assert isinstance(accept, PostedAccept)
        self.accept = accept
        quote = open_message(answer_event(accept), CLIENT)
        assert isinstance(quote, Quote)
        self.quote = quote

    def answer(self, **changes: Any) -> VerifiedEvent:
        return seal(self.accept.model_copy(update=changes), self.node.key, self.request)

    def with_quote(self, quote: Quote, author: KeyPair | None = None) -> VerifiedEvent:
        return self.answer(quote=seal(quote, author or self.node.key, self.request).to_json())


def answer_event(accept: PostedAccept) -> VerifiedEvent:
    return verify(parse_event(accept.quote))


POSTED_LIES: dict[str, Callable[[Liar], VerifiedEvent]] = {
    "a dearer row": lambda liar: liar.with_quote(lower(liar.quote, output_msat=AmountMsat(2_001))),
    "a limit": lambda liar: liar.with_quote(liar.quote.model_copy(update={"max_msat": AmountMsat(5)})),
    "another offer": lambda liar: liar.with_quote(liar.quote.model_copy(update={"offer_id": "77" * 32})),
    "another request": lambda liar: liar.with_quote(liar.quote.model_copy(update={"request_id": "77" * 32})),
    "another author": lambda liar: liar.with_quote(liar.quote, KeyPair(b"\x0a" * 32)),
    "no event": lambda liar: liar.answer(quote={}),
    "a broken signature": lambda liar: liar.answer(quote={**liar.accept.quote, "sig": "00" * 64}),
    "another term": lambda liar: liar.answer(term=1),
    "another session request": lambda liar: liar.answer(request_id="77" * 32),
}


@pytest.mark.parametrize("lie", POSTED_LIES)
def test_an_accept_whose_quote_is_not_what_was_posted_is_not_relied_on(lie: str) -> None:
    liar = Liar(seller(3))
    opening = opening_for(liar.node, way="posted")
    opening.start(moment())
    liar.begin(opening)
    opening.receive(EventArrived(POSTED_LIES[lie](liar)), moment())
    failed = opening.effects()[-1]
    assert isinstance(failed, OpeningFailed) and failed.refusals[0][1].code is RefusalCode.INVALID_MESSAGE


def test_an_accept_without_its_quote_is_not_relied_on() -> None:
    liar = Liar(seller(3))
    opening = opening_for(liar.node, way="posted")
    opening.start(moment())
    liar.begin(opening)
    bare = SessionAccept(**{name: value for name, value in dict(liar.accept).items() if name != "quote"})
    opening.receive(EventArrived(seal(bare, liar.node.key, liar.request)), moment())
    assert isinstance(opening.effects()[-1], OpeningFailed)


def test_quotes_alone_are_never_asked_for_by_way_of_a_session() -> None:
    node = seller(3)
    opening = opening_for(node, way="posted", wants_session=False)
    opening.start(moment())
    assert isinstance(converse(opening, node)[-1], QuotesCollected) and not node.awaited


# ── whatever the way ──────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["free", "busy", "silent"])), min_size=1, max_size=4),
    st.sampled_from(["directed", "open", "posted"]),
)
def test_whatever_the_way_a_session_is_agreed_with_a_node_that_has_room_at_no_more_than_it_posted(
    market: list[tuple[int, str]], way: Way
) -> None:
    nodes = [seller(number + 3, output_msat=price * 100) for number, (price, _) in enumerate(market)]
    for node, (_, state) in zip(nodes, market, strict=True):
        node.load = NodeLoad(free=0 if state == "busy" else 1, queue=0, draining=False)
    heard = [node for node, (_, state) in zip(nodes, market, strict=True) if state != "silent"]
    opening = opening_for(*nodes, way=way, count=4)
    opening.start(moment())
    said = converse(opening, *heard)
    while opening.state is not OpeningState.ENDED:  # who is silent costs time, and nothing else
        deadline = opening.deadline()
        assert deadline is not None
        opening.handle_deadline(Moment(deadline, START_MS + deadline // 1_000 - moment().instant // 1_000))
        said += converse(opening, *heard)
    agreed = [each for each in said if isinstance(each, SessionAgreed)]
    has_room = [node for node, (_, state) in zip(nodes, market, strict=True) if state == "free"]
    assert len(agreed) == bool(has_room)
    for each in agreed:
        (winner,) = [node for node in has_room if node.key.public_key == each.contract.node]
        assert each.contract.quote.row in winner.offer.offer.rows and winner.awaited[-1].contract == each.contract
        assert sum(len(node.awaited) for node in nodes) == 1
