"""A node's reception: bids for open requests, requests that a router passes on, sessions at the posted price."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relaymesh.market.admission import NodeLoad
from relaymesh.market.pricing import quote_terms
from relaymesh.nostr.event import EventId, UnsignedEvent, VerifiedEvent, parse_event
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.proof_of_work import mine
from relaymesh.protocol.codec import MarketMessage, open_message, seal_message
from relaymesh.protocol.handshake import PostedAccept, PostedRequest, SessionAccept, SessionRequest
from relaymesh.protocol.open_request import OPEN_REQUEST_POW_BITS, build_open_request
from relaymesh.protocol.quote import ForwardedRequest, OpenRequest, Quote, RefusalMessage
from relaymesh.protocol.refusal import Refusal, RefusalCode
from relaymesh.units import AmountMsat, Timestamp
from tests.machines.pair import CLIENT
from tests.machines.sellers import EPHEMERAL, NOW, RELAYS, SHAPE, Seller, offer_of, seller

ROUTER = KeyPair(b"\x0e" * 32)
BUSY = NodeLoad(free=0, queue=0, draining=False)
NO_REQUEST = RefusalMessage(refusal="busy: x", retryable=True)
MINE = "ws://mine.test"


def open_request(
    *, bits: int = OPEN_REQUEST_POW_BITS, author: KeyPair = CLIENT, at: int = NOW, **changes: Any
) -> VerifiedEvent:
    """An open request with its work done."""
    fields: dict[str, Any] = {
        "model": "tiny",
        "job_type": "chat",
        "shape": SHAPE,
        "budget_msat": AmountMsat(100_000),
        "settlement": ("prepay",),
        "relays": (MINE,),
        **changes,
    }
    draft = build_open_request(OpenRequest(**fields), author.public_key, Timestamp(at))
    return author.sign(mine(draft, bits))


def seal(
    message: MarketMessage, node: Seller, author: KeyPair, *, answers: EventId | None = None, at: int = NOW, n: int = 1
) -> VerifiedEvent:
    """A message to a node, without proof of work."""
    draft = seal_message(
        message,
        author=author.public_key,
        signer=author,
        recipient=node.key.public_key,
        answers=answers,
        created_at=Timestamp(at),
        entropy=bytes([n]) * 64,
    )
    return author.sign(draft)


def forwarded(request: VerifiedEvent, node: Seller, n: int = 1, router: KeyPair = ROUTER) -> VerifiedEvent:
    return seal(ForwardedRequest(request=request.to_json()), node, router, n=n)


def read(answer: VerifiedEvent, reader: KeyPair = CLIENT) -> MarketMessage:
    message = open_message(answer, reader)
    assert not isinstance(message, Refusal)
    return message


def refusal_in(answer: VerifiedEvent, reader: KeyPair = CLIENT) -> Refusal:
    message = read(answer, reader)
    assert isinstance(message, RefusalMessage)
    return message.to_refusal()


# ── open requests ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_open_request_is_bid_for_sealed_to_whoever_asks() -> None:
    node, request = seller(3), open_request()
    (bid,) = node.hear(request)
    quote = read(bid)
    assert isinstance(quote, Quote)
    assert (bid.kind, bid.tag_value("e"), bid.tag_value("p")) == (Kind.QUOTE, request.id, CLIENT.public_key)
    assert (quote.request_id, quote.offer_id) == (request.id, node.offer.event.id)
    assert quote.row == node.offer.offer.rows[0] and quote.max_msat is not None


def test_a_bid_opens_a_session_as_any_quote_does() -> None:
    node = seller(3)
    (bid,) = node.hear(open_request())
    request = SessionRequest(quote=bid.to_json(), term=0, ephemeral_key=EPHEMERAL.public_key)
    (accept,) = node.hear(seal(request, node, CLIENT, answers=bid.id))
    assert isinstance(read(accept), SessionAccept) and len(node.awaited) == 1


def test_the_work_of_an_open_request_buys_one_quote_however_often_it_comes() -> None:
    node, request = seller(3), open_request()
    first = node.hear(request)
    again = [*node.hear(request, 1_000, "ws://three.test"), *node.hear(forwarded(request, node), 2_000)]
    assert again == first * 2


@pytest.mark.parametrize(
    "request_event",
    [
        open_request(bits=OPEN_REQUEST_POW_BITS - 1),
        open_request(model="unheard-of"),
        open_request(budget_msat=AmountMsat(1)),
        open_request(capabilities=("tools",)),
        open_request(at=NOW - 61),
    ],
    ids=["too little work", "another model", "over budget", "another capability", "another time"],
)
def test_what_a_node_does_not_serve_it_leaves_to_others_in_silence(request_event: VerifiedEvent) -> None:
    node = seller(3)
    assert node.hear(request_event) == []


@pytest.mark.parametrize("load", [BUSY, NodeLoad(free=3, queue=0, draining=True)])
def test_a_node_without_room_does_not_bid_and_does_not_look_again(load: NodeLoad) -> None:
    node, request = seller(3), open_request()
    node.load = load
    assert node.hear(request) == []
    node.load = NodeLoad(free=2, queue=0, draining=False)
    assert node.hear(request, 1_000) == []


def test_a_node_that_asks_for_more_work_asks_for_it_of_everybody() -> None:
    node = seller(3, pow_bits=OPEN_REQUEST_POW_BITS + 1)
    assert node.hear(open_request()) == []
    assert len(node.hear(open_request(bits=OPEN_REQUEST_POW_BITS + 1))) == 1


def test_one_key_may_call_on_everybody_only_so_often() -> None:
    node = seller(3, open_pow_bits=4)
    answered = [len(node.hear(open_request(at=NOW + number, bits=4), number * 1_000)) for number in range(33)]
    assert answered == [1] * 32 + [0]


def test_open_requests_of_all_strangers_together_take_nothing_from_those_who_ask_this_node() -> None:
    node = seller(3, open_requests_per_second=2)
    strangers = [KeyPair(bytes([number + 20]) * 32) for number in range(4)]
    assert [len(node.hear(open_request(author=each))) for each in strangers] == [1, 1, 0, 0]
    asked = PostedRequest(**posted_fields(node))
    assert len(node.hear(seal(asked, node, CLIENT))) == 1


# ── requests that a router passes on ──────────────────────────────────────────────────────────────────────────────


def test_a_request_passed_on_is_quoted_straight_to_its_author() -> None:
    node, request = seller(3), open_request()
    (bid,) = node.hear(forwarded(request, node))
    quote = read(bid)
    assert isinstance(quote, Quote) and quote.request_id == request.id
    assert (bid.tag_value("e"), bid.tag_value("p")) == (request.id, CLIENT.public_key)


def test_a_request_passed_on_is_answered_where_it_came_from_and_where_its_author_listens() -> None:
    node = seller(3)
    node.hear(forwarded(open_request(), node))
    assert node.answered_on[-1] == (RELAYS[0], MINE)


def test_a_request_passed_on_again_by_anybody_gets_the_same_answer_and_no_second_quote() -> None:
    node, request = seller(3), open_request()
    carrier = forwarded(request, node)
    first = node.hear(carrier)
    assert node.hear(carrier, 500) == first
    other = forwarded(request, node, n=2, router=KeyPair(b"\x0f" * 32))
    assert node.hear(other, 1_000) == first == node.hear(request, 2_000)


def test_whoever_is_asked_for_through_a_router_is_told_why_not() -> None:
    node, request = seller(3), open_request()
    node.load = BUSY
    (answer,) = node.hear(forwarded(request, node))
    refusal = refusal_in(answer)
    assert refusal.code is RefusalCode.BUSY and refusal.retry_in_ms is not None
    assert answer.tag_value("e") == request.id


def tampered(request: VerifiedEvent) -> dict[str, Any]:
    return {**request.to_json(), "content": request.content.replace("100000", "900000")}


@pytest.mark.parametrize(
    ("inner", "code"),
    [
        (tampered(open_request()), RefusalCode.INVALID_MESSAGE),
        ({}, RefusalCode.INVALID_MESSAGE),
        (
            seal(RefusalMessage(refusal="busy: x", retryable=True), seller(3), CLIENT).to_json(),
            RefusalCode.INVALID_MESSAGE,
        ),
        (open_request(at=NOW - 61).to_json(), RefusalCode.EXPIRED),
        (open_request(bits=4).to_json(), RefusalCode.POW),
    ],
    ids=["tampered with", "no event", "no open request", "of another time", "without its work"],
)
def test_a_router_that_passes_on_what_is_no_good_is_refused_itself(inner: dict[str, Any], code: RefusalCode) -> None:
    node = seller(3)
    (answer,) = node.hear(seal(ForwardedRequest(request=inner), node, ROUTER))
    assert refusal_in(answer, ROUTER).code is code


def test_a_router_may_pass_on_as_much_as_its_clients_ask_and_no_client_more_than_a_key_may() -> None:
    node, asked = seller(3, open_pow_bits=4), 0
    for number in range(40):
        author = KeyPair(bytes([number + 20]) * 32)
        request = open_request(author=author, at=NOW + number // 10, bits=4)
        (answer,) = node.hear(forwarded(request, node, n=number), number * 100)
        asked += isinstance(read(answer, author), Quote)
    assert asked == 40
    codes = []
    for number in range(33):
        request = open_request(at=NOW + 10, bits=4, budget_msat=AmountMsat(90_000 + number))
        (answer,) = node.hear(forwarded(request, node, n=100 + number), 10_000 + number * 100)
        said = read(answer)
        codes.append(said.to_refusal().code if isinstance(said, RefusalMessage) else None)
    assert codes == [None] * 32 + [RefusalCode.RATE_LIMITED]


# ── posted prices ─────────────────────────────────────────────────────────────────────────────────────────────────


def posted_fields(node: Seller, **changes: Any) -> dict[str, Any]:
    return {
        "offer_id": node.offer.event.id,
        "offer_seq": node.offer.offer.seq,
        "model": "tiny",
        "job_type": "chat",
        "shape": SHAPE,
        "budget_msat": AmountMsat(100_000),
        "settlement": ("prepay",),
        "ephemeral_key": EPHEMERAL.public_key,
        **changes,
    }


def test_a_posted_price_opens_a_session_in_one_round_trip() -> None:
    node = seller(3)
    request = seal(PostedRequest(**posted_fields(node)), node, CLIENT)
    (answer,) = node.hear(request)
    accept = read(answer)
    assert isinstance(accept, PostedAccept) and answer.kind == Kind.SESSION_ACCEPT
    quote_event = verify(parse_event(accept.quote))
    quote = read(quote_event)
    assert isinstance(quote, Quote) and quote.max_msat is None
    assert quote_event.tag_value("e") == request.id == quote.request_id == accept.request_id
    assert quote_event.public_key == node.key.public_key and quote_event.tag_value("p") == CLIENT.public_key
    offer = node.offer.offer
    assert quote.settlement == quote_terms(offer.rows[0], SHAPE, offer.settlement, ("prepay",), AmountMsat(100_000))
    (awaited,) = node.awaited
    assert (awaited.contract.quote_event, awaited.contract.term) == (quote_event, quote.settlement[0])


def test_the_quote_of_a_posted_price_opens_no_other_session() -> None:
    node = seller(3)
    (answer,) = node.hear(seal(PostedRequest(**posted_fields(node)), node, CLIENT))
    accept = read(answer)
    assert isinstance(accept, PostedAccept)
    again = SessionRequest(quote=accept.quote, term=0, ephemeral_key=EPHEMERAL.public_key)
    (refused,) = node.hear(seal(again, node, CLIENT, n=2))
    assert refusal_in(refused).code is RefusalCode.REPLAYED and len(node.awaited) == 1


def test_the_same_request_at_a_posted_price_gets_the_same_accept_and_no_second_session() -> None:
    node = seller(3)
    request = seal(PostedRequest(**posted_fields(node)), node, CLIENT)
    assert node.hear(request) == node.hear(request, 1_000)
    assert len(node.awaited) == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"offer_id": "77" * 32}, RefusalCode.OFFER_CHANGED),
        ({"offer_seq": 1}, RefusalCode.OFFER_CHANGED),
        ({"model": "unheard-of"}, RefusalCode.MODEL_NOT_OFFERED),
        ({"budget_msat": AmountMsat(1)}, RefusalCode.OVER_BUDGET),
        ({"settlement": ("sealed",)}, RefusalCode.UNSUPPORTED_PARAMETER),
        ({"ephemeral_key": "00" * 32}, RefusalCode.INVALID_MESSAGE),
    ],
)
def test_a_posted_price_is_refused_for_what_a_quote_would_be(changes: dict[str, Any], code: RefusalCode) -> None:
    node = seller(3)
    (answer,) = node.hear(seal(PostedRequest(**posted_fields(node, **changes)), node, CLIENT))
    assert refusal_in(answer).code is code and node.awaited == []


def test_a_posted_price_too_long_for_an_accept_is_left_to_a_quote() -> None:
    node = seller(3)
    long = tuple(f"{number:03}" + "x" * 190 for number in range(16))
    node.offer = offer_of(node.key, capabilities=long)
    (answer,) = node.hear(seal(PostedRequest(**posted_fields(node)), node, CLIENT))
    assert refusal_in(answer).code is RefusalCode.UNSUPPORTED_PARAMETER and node.awaited == []


def test_a_posted_price_takes_the_work_that_the_offer_asks_for() -> None:
    node = seller(3, pow_bits=8)
    assert node.hear(seal(PostedRequest(**posted_fields(node)), node, CLIENT)) == []
    assert node.awaited == []


def test_a_busy_node_says_when_to_come_back() -> None:
    node = seller(3)
    node.load = NodeLoad(free=0, queue=4, draining=False, places=2, queue_limit=4, service_ms=3_000)
    (answer,) = node.hear(seal(PostedRequest(**posted_fields(node)), node, CLIENT))
    refusal = refusal_in(answer)
    assert (refusal.code, refusal.retry_in_ms) == (RefusalCode.BUSY, 7_500)


def test_a_node_whose_queue_has_room_sells_and_says_how_long_it_takes() -> None:
    node = seller(3)
    node.load = NodeLoad(free=0, queue=1, draining=False, places=2, queue_limit=4, service_ms=3_000)
    (bid,) = node.hear(open_request())
    quote = read(bid)
    assert isinstance(quote, Quote) and quote.eta_in_ms == 1_000 + 3_000


# ── whatever comes, in whatever order ─────────────────────────────────────────────────────────────────────────────

CLIENTS = tuple(KeyPair(bytes([number]) * 32) for number in (31, 32))
ASKED = tuple(open_request(author=author, budget_msat=AmountMsat(90_000 + n)) for author in CLIENTS for n in range(2))
ROUTERS = tuple(KeyPair(bytes([number]) * 32) for number in (41, 42))


class AnyOrder(RuleBasedStateMachine):
    """Requests heard openly, passed on by several routers, replayed on other relays, while load and time change."""

    def __init__(self) -> None:
        super().__init__()
        self.node = seller(3, open_requests_per_second=1_000)
        self.milliseconds, self.carriers = 0, 0
        self.answers: dict[EventId, set[EventId]] = {}
        self.carried: list[VerifiedEvent] = []

    def hear(self, event: VerifiedEvent, relay_url: str) -> None:
        for answer in self.node.hear(event, self.milliseconds, relay_url):
            recipient = answer.tag_value("p")
            if recipient not in {router.public_key for router in ROUTERS}:
                self.answers.setdefault(EventId(answer.tag_value("e") or ""), set()).add(answer.id)

    @rule(request=st.sampled_from(ASKED), relay_url=st.sampled_from(RELAYS))
    def hear_openly(self, request: VerifiedEvent, relay_url: str) -> None:
        self.hear(request, relay_url)

    @rule(request=st.sampled_from(ASKED), router=st.sampled_from(ROUTERS), relay_url=st.sampled_from(RELAYS))
    def pass_on(self, request: VerifiedEvent, router: KeyPair, relay_url: str) -> None:
        self.carriers += 1
        carrier = forwarded(request, self.node, n=self.carriers % 256, router=router)
        self.carried.append(carrier)
        self.hear(carrier, relay_url)

    @precondition(lambda self: self.carried)
    @rule(data=st.data(), relay_url=st.sampled_from(RELAYS))
    def pass_on_again(self, data: st.DataObject, relay_url: str) -> None:
        self.hear(data.draw(st.sampled_from(self.carried)), relay_url)

    @rule(free=st.integers(0, 2), draining=st.booleans())
    def change_load(self, free: int, draining: bool) -> None:
        self.node.load = NodeLoad(free=free, queue=0, draining=draining)

    @rule(milliseconds=st.integers(0, 30_000))
    def wait(self, milliseconds: int) -> None:
        self.milliseconds += milliseconds

    @invariant()
    def no_request_gets_two_different_answers(self) -> None:
        assert all(len(answers) == 1 for answers in self.answers.values())
        assert set(self.answers) <= {request.id for request in ASKED}


TestAnyOrder = AnyOrder.TestCase


@given(st.binary(max_size=200) | st.from_regex(r'\{"v":1,("request":.{0,40})?\}', fullmatch=True).map(str.encode))
def test_no_plaintext_in_a_sealed_request_makes_a_node_fail(plaintext: bytes) -> None:
    node = seller(3)
    text = plaintext.decode("utf-8", "replace") or "x"
    content = CLIENT.seal(text, node.key.public_key, b"n" * 32)
    for kind in (Kind.QUOTE_REQUEST, Kind.SESSION_REQUEST):
        tags = (("p", node.key.public_key), ("x", hashlib.sha256(text.encode()).hexdigest()))
        (answer,) = node.hear(CLIENT.sign(UnsignedEvent(CLIENT.public_key, NOW, kind, tags, content)))
        assert refusal_in(answer).code in (RefusalCode.INVALID_MESSAGE, RefusalCode.UNSUPPORTED_VERSION)


@pytest.mark.parametrize(
    "tags", [(), (("t", "relaymesh"),), (("t", "relaymesh"), ("m", "tiny")), (("t", "relaymesh"), ("j", "chat"))]
)
@pytest.mark.parametrize("content", ["", "{}", "[]", '{"v":1}', "x" * 17_000])
def test_an_open_request_that_is_none_gets_no_answer(tags: tuple[tuple[str, ...], ...], content: str) -> None:
    draft = UnsignedEvent(CLIENT.public_key, NOW, Kind.QUOTE_REQUEST, tags, content)
    assert seller(3).hear(CLIENT.sign(mine(draft, OPEN_REQUEST_POW_BITS))) == []


# ── quotes that come back ─────────────────────────────────────────────────────────────────────────────────────────


def bring_back(node: Seller, quote: dict[str, Any], term: int = 0, n: int = 7) -> Refusal | SessionAccept:
    request = SessionRequest(quote=quote, term=term, ephemeral_key=EPHEMERAL.public_key)
    (answer,) = node.hear(seal(request, node, CLIENT, n=n))
    message = read(answer)
    assert isinstance(message, RefusalMessage | SessionAccept)
    return message.to_refusal() if isinstance(message, RefusalMessage) else message


def code_of(answer: Refusal | SessionAccept) -> RefusalCode:
    assert isinstance(answer, Refusal)
    return answer.code


def test_a_quote_that_comes_back_is_all_that_a_node_needs_to_know_of_it() -> None:
    first = seller(3)
    (bid,) = first.hear(open_request())
    again = Seller(first.key, first.offer)
    assert isinstance(bring_back(again, bid.to_json()), SessionAccept), "this reception has never heard of it"
    assert code_of(bring_back(again, bid.to_json(), n=8)) is RefusalCode.REPLAYED


def test_a_node_that_began_anew_owes_nothing_for_quotes_on_an_offer_it_has_forgotten() -> None:
    first = seller(3)
    (bid,) = first.hear(open_request())
    assert (
        code_of(bring_back(Seller(first.key, offer_of(first.key, 5_000)), bid.to_json())) is RefusalCode.OFFER_CHANGED
    )


def test_what_was_not_quoted_to_this_key_opens_no_session() -> None:
    node, other = seller(3), seller(4)
    (bid,) = node.hear(open_request())
    (foreign,) = other.hear(open_request())
    (stranger,) = node.hear(open_request(author=KeyPair(b"\x0a" * 32)))
    node.load = BUSY
    (refusal,) = node.hear(forwarded(open_request(budget_msat=AmountMsat(70_000)), node))
    node.load = NodeLoad(free=2, queue=0, draining=False)
    wrong = {
        "tampered with": {**bid.to_json(), "content": "x" + bid.content[1:]},
        "another signature": {**bid.to_json(), "sig": foreign.signature},
        "another node's": foreign.to_json(),
        "another client's": stranger.to_json(),
        "no quote": refusal.to_json(),
        "no event": {},
    }
    codes = {name: code_of(bring_back(node, quote, n=n)) for n, (name, quote) in enumerate(wrong.items(), 1)}
    assert codes == dict.fromkeys(wrong, RefusalCode.INVALID_MESSAGE)
    assert code_of(bring_back(node, bid.to_json(), term=7, n=20)) is RefusalCode.INVALID_MESSAGE
    assert isinstance(bring_back(node, bid.to_json(), n=21), SessionAccept), "none of it used the quote up"
