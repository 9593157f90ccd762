"""Opening and reception against each other: from a choice of nodes to one contract that both sides hold."""

from dataclasses import replace

import pytest

from relaymesh.machines import reception_memory
from relaymesh.machines.entropy import Entropy
from relaymesh.machines.opening import Opening, OpeningState
from relaymesh.machines.opening_events import (
    EventArrived,
    Mine,
    Mined,
    OpeningFailed,
    Publish,
    QuoteArrived,
    RelayAnswered,
    SessionAgreed,
)
from relaymesh.market.admission import NodeLoad
from relaymesh.nostr.event import PublicKey, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.nostr.proof_of_work import mine
from relaymesh.protocol.codec import open_message, seal_message
from relaymesh.protocol.handshake import SessionRequest
from relaymesh.protocol.quote import Quote, QuoteRequest, RefusalMessage
from relaymesh.protocol.refusal import Refusal, RefusalCode
from relaymesh.units import AmountMsat, Timestamp
from tests.machines.pair import CLIENT, START_MS, moment, price_row
from tests.machines.sellers import (
    EPHEMERAL,
    NOW,
    RELAYS,
    Seller,
    agreed_in,
    converse,
    offer_of,
    opening_for,
    selection_of,
    seller,
)


def test_both_sides_end_with_the_same_contract() -> None:
    node = seller(3)
    opening = opening_for(node)
    opening.start(moment())
    said = converse(opening, node)
    agreed = agreed_in(said)
    (awaited,) = node.awaited
    assert agreed.contract == awaited.contract
    assert awaited.client_ephemeral_key == EPHEMERAL.public_key
    assert agreed.accept.endpoints == ("ws://203.0.113.7:7780",)
    assert opening.deadline() is None


def test_the_cheapest_quote_is_taken() -> None:
    dear, cheap = seller(3, output_msat=9_000), seller(4, output_msat=1_000)
    opening = opening_for(dear, cheap)
    opening.start(moment())
    agreed = agreed_in(converse(opening, dear, cheap))
    assert agreed.contract.node == cheap.key.public_key
    assert not dear.awaited


def test_a_node_that_is_silent_does_not_hold_up_the_others_for_long() -> None:
    silent, quick = seller(3, output_msat=100), seller(4)
    opening = opening_for(silent, quick)
    opening.start(moment())
    assert not [effect for effect in converse(opening, quick) if isinstance(effect, SessionAgreed)]
    opening.handle_deadline(moment(250))
    assert agreed_in(converse(opening, quick)).contract.node == quick.key.public_key


def test_an_unanswered_request_is_sent_again_the_same_on_the_next_relay() -> None:
    opening = opening_for(seller(3))
    opening.start(moment())
    sent = [effect for effect in opening.effects() if isinstance(effect, Publish)]
    for milliseconds in (1_000, 3_000, 7_000):
        opening.handle_deadline(moment(milliseconds))
        sent += [effect for effect in opening.effects() if isinstance(effect, Publish)]
    assert len({publish.event.id for publish in sent}) == 1
    assert [publish.relay_url for publish in sent] == [RELAYS[0], RELAYS[1], RELAYS[0], RELAYS[1]]


def test_a_relay_that_knows_nobody_listens_is_left_at_once() -> None:
    opening = opening_for(seller(3))
    opening.start(moment())
    (first,) = opening.effects()
    assert isinstance(first, Publish)
    opening.receive(RelayAnswered(RELAYS[0], first.event.id, False, "mute: no one was listening"), moment(5))
    (second,) = opening.effects()
    assert isinstance(second, Publish) and second.relay_url == RELAYS[1]


def test_a_relay_that_limits_us_carries_no_more_conversation() -> None:
    node = seller(3)
    opening = opening_for(node)
    opening.start(moment())
    (first,) = opening.effects()
    assert isinstance(first, Publish)
    opening.receive(RelayAnswered(RELAYS[0], first.event.id, False, "rate-limited: slow down"), moment(5))
    opening.handle_deadline(moment(2_005))
    again = opening.effects()
    for answer in node.hear(first.event):
        opening.receive(EventArrived(answer), moment(2_006))
    sent = [effect for effect in (*again, *opening.effects()) if isinstance(effect, Publish)]
    assert [publish.relay_url for publish in sent] == [RELAYS[1]] * 3


def test_a_relay_that_limits_us_is_still_used_where_there_is_no_other() -> None:
    node = seller(3)
    opening = opening_for(node)
    opening.start(moment())
    (first,) = opening.effects()
    assert isinstance(first, Publish)
    for url in RELAYS:
        opening.receive(RelayAnswered(url, first.event.id, False, "rate-limited: slow down"), moment(5))
    assert len(opening.effects()) == 1, "the second relay is asked at once, and nobody twice in a hurry"
    opening.handle_deadline(moment(2_005))
    assert len(opening.effects()) == 1


def test_nobody_answering_ends_in_a_failure_that_names_everyone_asked() -> None:
    nodes = seller(3), seller(4)
    opening = opening_for(*nodes)
    opening.start(moment())
    opening.handle_deadline(moment(8_000))
    failed = opening.effects()[-1]
    assert isinstance(failed, OpeningFailed)
    assert {node for node, _ in failed.refusals} == {node.key.public_key for node in nodes}
    assert opening.state is OpeningState.ENDED


def test_a_busy_node_is_a_refusal_and_the_next_quote_is_taken() -> None:
    busy, free = seller(3, output_msat=100), seller(4)
    busy.load = NodeLoad(free=0, queue=0, draining=False)
    opening = opening_for(busy, free)
    opening.start(moment())
    said = converse(opening, busy, free)
    refusals = [effect.answer for effect in said if isinstance(effect, QuoteArrived)]
    assert any(isinstance(answer, Refusal) and answer.code is RefusalCode.BUSY for answer in refusals)
    assert agreed_in(said).contract.node == free.key.public_key


def test_a_session_that_is_refused_leads_to_the_next_quote() -> None:
    first, second = seller(3, output_msat=100), seller(4)
    opening = opening_for(first, second)
    opening.start(moment())
    for effect in opening.effects():
        assert isinstance(effect, Publish)
        for node in (first, second):
            if effect.event.tag_value("p") == node.key.public_key:
                for answer in node.hear(effect.event):
                    opening.receive(EventArrived(answer), moment())
    first.load = NodeLoad(free=0, queue=0, draining=False)
    assert agreed_in(converse(opening, first, second)).contract.node == second.key.public_key


def answer_with(node: Seller, request: VerifiedEvent, quote: Quote, signer: KeyPair | None = None) -> VerifiedEvent:
    signer = signer or node.key
    draft = seal_message(
        quote,
        author=signer.public_key,
        signer=signer,
        recipient=CLIENT.public_key,
        answers=request.id,
        created_at=NOW,
        entropy=b"f" * 64,
    )
    return signer.sign(draft)


def honest_quote(node: Seller, request: VerifiedEvent) -> Quote:
    (answer,) = node.hear(request)
    quote = open_message(answer, CLIENT)
    assert isinstance(quote, Quote)
    return quote


LIES = {
    "a dearer row": lambda quote: quote.model_copy(update={"row": price_row(output_msat=2_001)}),
    "a limit above the budget": lambda quote: quote.model_copy(update={"max_msat": AmountMsat(100_001)}),
    "no limit": lambda quote: quote.model_copy(update={"max_msat": None}),
    "another offer": lambda quote: quote.model_copy(update={"offer_id": "77" * 32}),
    "another model of the offer": lambda quote: quote.model_copy(update={"row": price_row(model="other")}),
    "another job type of the offer": lambda quote: quote.model_copy(
        update={"row": price_row(job_types=("completion",))}
    ),
    "an answer to another request": lambda quote: quote.model_copy(update={"request_id": "77" * 32}),
    "an expired quote": lambda quote: quote.model_copy(update={"valid_until_ms": START_MS - 1}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_quote_that_is_not_what_was_offered_is_not_relied_on(lie: str) -> None:
    node = seller(3)
    opening = opening_for(node)
    opening.start(moment())
    (publish,) = opening.effects()
    assert isinstance(publish, Publish)
    quote = LIES[lie](honest_quote(node, publish.event))
    opening.receive(EventArrived(answer_with(node, publish.event, quote)), moment())
    assert isinstance(opening.effects()[-1], OpeningFailed)


def test_a_quote_too_large_to_be_brought_back_is_not_relied_on() -> None:
    node = seller(3)
    opening = opening_for(node)
    opening.start(moment())
    (publish,) = opening.effects()
    assert isinstance(publish, Publish)
    honest = answer_with(node, publish.event, honest_quote(node, publish.event))
    tags = (*honest.tags, ("padding", "x" * 5_000))
    padded = UnsignedEvent(honest.public_key, honest.created_at, honest.kind, tags, honest.content)
    opening.receive(EventArrived(node.key.sign(padded)), moment())
    assert isinstance(opening.effects()[-1], OpeningFailed)


def test_a_stranger_cannot_answer_for_the_node_that_was_asked() -> None:
    node = seller(3)
    opening = opening_for(node)
    opening.start(moment())
    (publish,) = opening.effects()
    assert isinstance(publish, Publish)
    quote = honest_quote(node, publish.event)
    opening.receive(EventArrived(answer_with(node, publish.event, quote, KeyPair(b"\x0a" * 32))), moment())
    assert opening.effects() == ()
    assert opening.state is OpeningState.QUOTING


def test_an_answer_from_another_time_is_ignored() -> None:
    node = seller(3)
    opening = opening_for(node)
    opening.start(moment())
    (publish,) = opening.effects()
    assert isinstance(publish, Publish)
    for answer in node.hear(publish.event):
        opening.receive(EventArrived(answer), moment(61_000))
    assert opening.effects() == ()


def test_proof_of_work_is_mined_outside_and_checked_by_the_node() -> None:
    node = seller(3, pow_bits=8)
    opening = opening_for(node)
    opening.start(moment())
    (wanted,) = opening.effects()
    assert isinstance(wanted, Mine) and wanted.bits == 8
    lazy = CLIENT.sign(wanted.draft)
    assert node.hear(lazy) == [], "without its proof of work a request gets no answer"
    opening.receive(Mined(wanted.draft, mine(wanted.draft, wanted.bits)), moment())
    (publish,) = opening.effects()
    assert isinstance(publish, Publish)
    assert len(node.hear(publish.event)) == 1


# ── the node's side ───────────────────────────────────────────────────────────────────────────────────────────────


def first_request(node: Seller) -> VerifiedEvent:
    opening = opening_for(node)
    opening.start(moment())
    (publish,) = opening.effects()
    assert isinstance(publish, Publish)
    return publish.event


def session_request(node: Seller) -> tuple[Opening, VerifiedEvent]:
    opening = opening_for(node)
    opening.start(moment())
    (publish,) = opening.effects()
    assert isinstance(publish, Publish)
    for answer in node.hear(publish.event):
        opening.receive(EventArrived(answer), moment())
    request = opening.effects()[-1]
    assert isinstance(request, Publish)
    return opening, request.event


def refusal_in(answer: VerifiedEvent, reader: KeyPair = CLIENT) -> Refusal:
    message = open_message(answer, reader)
    assert isinstance(message, RefusalMessage)
    return message.to_refusal()


def test_the_same_request_gets_the_same_answer_byte_for_byte_and_no_second_session() -> None:
    node = seller(3)
    _, request = session_request(node)
    assert node.hear(request) == node.hear(request, 119_000)
    assert len(node.awaited) == 1


def test_a_request_heard_again_on_another_relay_is_answered_there() -> None:
    node = seller(3)
    request = first_request(node)
    assert node.hear(request) == node.hear(request, 1_000, "ws://three.test")


def test_a_request_heard_again_and_again_is_answered_only_so_often() -> None:
    node = seller(3)
    request = first_request(node)
    assert sum(len(node.hear(request)) for _ in range(60)) == 50


def test_a_quote_stays_used_however_many_strangers_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception_memory, "MAXIMUM_REMEMBERED", 3)
    node = seller(3)
    _, request = session_request(node)
    node.hear(request)
    for number in range(4):
        node.hear(seal_again_request(node, KeyPair(bytes([number + 20]) * 32)))
    (answer,) = node.hear(seal_again(request, node, other_salt=b"z" * 64))
    assert refusal_in(answer).code is RefusalCode.REPLAYED


def test_a_quote_opens_one_session_only() -> None:
    node = seller(3)
    _, request = session_request(node)
    node.hear(request)
    other = KeyPair(b"\x0b" * 32)
    again = seal_again(request, node, other_salt=b"z" * 64)
    (answer,) = node.hear(again)
    assert refusal_in(answer).code is RefusalCode.REPLAYED
    assert other.public_key != CLIENT.public_key and len(node.awaited) == 1


def seal_again(request: VerifiedEvent, node: Seller, other_salt: bytes, signer: KeyPair = CLIENT) -> VerifiedEvent:
    message = open_message(request, CLIENT)
    assert not isinstance(message, Refusal)
    draft = seal_message(
        message,
        author=signer.public_key,
        signer=signer,
        recipient=node.key.public_key,
        answers=None,
        created_at=NOW,
        entropy=other_salt,
    )
    return signer.sign(draft)


def test_a_stolen_quote_opens_no_session() -> None:
    node = seller(3)
    _, request = session_request(node)
    thief = KeyPair(b"\x0c" * 32)
    (answer,) = node.hear(seal_again(request, node, b"t" * 64, thief))
    assert refusal_in(answer, thief).code is RefusalCode.INVALID_MESSAGE
    assert node.awaited == []


def test_an_ephemeral_key_off_the_curve_is_refused_and_the_quote_stays_good() -> None:
    node = seller(3)
    _, request = session_request(node)
    message = open_message(request, CLIENT)
    assert isinstance(message, SessionRequest)
    broken = replace_created_at(request, node, message.model_copy(update={"ephemeral_key": "00" * 32}), NOW)
    (answer,) = node.hear(broken)
    assert refusal_in(answer).code is RefusalCode.INVALID_MESSAGE
    node.hear(request)
    assert len(node.awaited) == 1


def test_a_quote_past_its_time_opens_no_session() -> None:
    node = seller(3)
    _, request = session_request(node)
    message = open_message(request, CLIENT)
    late = replace_created_at(request, node, message, NOW + 61)
    (answer,) = node.hear(late, 61_000)
    assert refusal_in(answer).code is RefusalCode.EXPIRED


def replace_created_at(
    request: VerifiedEvent, node: Seller, message: object, created_at: int, entropy: bytes = b"l" * 64
) -> VerifiedEvent:
    draft = seal_message(
        message,  # type: ignore[arg-type]  # what open_message read is what is sealed again
        author=CLIENT.public_key,
        signer=CLIENT,
        recipient=node.key.public_key,
        answers=None,
        created_at=Timestamp(created_at),
        entropy=entropy,
    )
    return CLIENT.sign(draft)


def test_a_changed_offer_voids_the_quotes_that_rest_on_it() -> None:
    node = seller(3)
    _, request = session_request(node)
    node.offer = offer_of(node.key, output_msat=5_000)
    (answer,) = node.hear(request)
    assert refusal_in(answer).code is RefusalCode.OFFER_CHANGED


def test_what_cannot_be_read_is_refused_and_what_is_for_somebody_else_is_ignored() -> None:
    node, other = seller(3), seller(4)
    request = first_request(node)
    assert other.hear(request) == []
    unsigned = UnsignedEvent(
        CLIENT.public_key,
        NOW,
        request.kind,
        (("p", node.key.public_key), ("x", "00" * 32)),
        CLIENT.seal('{"v":1}', node.key.public_key, b"n" * 32),
    )
    (answer,) = node.hear(CLIENT.sign(unsigned))
    assert refusal_in(answer).code is RefusalCode.INVALID_MESSAGE


def test_a_refusal_is_never_refused() -> None:
    node = seller(3)
    draft = seal_message(
        RefusalMessage(refusal="busy: later", retryable=True),
        author=CLIENT.public_key,
        signer=CLIENT,
        recipient=node.key.public_key,
        answers=None,
        created_at=NOW,
        entropy=b"r" * 64,
    )
    assert node.hear(CLIENT.sign(draft)) == []


def test_a_request_larger_than_any_market_message_is_not_even_opened() -> None:
    node = seller(3)
    request = first_request(node)
    tags = (*request.tags, ("padding", "x" * 16_384))
    large = UnsignedEvent(request.public_key, request.created_at, request.kind, tags, request.content)
    assert node.hear(CLIENT.sign(large)) == []


def test_an_old_request_gets_no_answer() -> None:
    node = seller(3)
    assert node.hear(first_request(node), 61_000) == []


def test_strangers_together_may_ask_only_so_much() -> None:
    node = seller(3)
    codes = []
    for number in range(60):
        stranger = KeyPair(bytes([number + 20]) * 32)
        request = seal_again_request(node, stranger)
        (answer,) = node.hear(request)
        message = open_message(answer, stranger)
        codes.append(message.to_refusal().code if isinstance(message, RefusalMessage) else None)
    assert codes.count(RefusalCode.RATE_LIMITED) == 10
    assert codes[:50] == [None] * 50


def seal_again_request(node: Seller, stranger: KeyPair) -> VerifiedEvent:
    opening = Opening(
        selection_of(node),
        signer=stranger,
        verify=verify,
        ephemeral_key=PublicKey(EPHEMERAL.public_key),
        relay_urls=RELAYS,
        entropy=Entropy(b"q" * 32),
    )
    opening.start(moment())
    (publish,) = opening.effects()
    assert isinstance(publish, Publish)
    return publish.event


def test_one_key_may_ask_only_so_much_until_what_it_asked_is_forgotten() -> None:
    node = seller(3)
    _, request = session_request(node)
    message = open_message(first_request(node), node.key)
    assert isinstance(message, QuoteRequest)

    def ask(number: int, seconds: int) -> RefusalCode | None:
        (answer,) = node.hear(
            replace_created_at(request, node, message, NOW + seconds, bytes([number]) * 64), seconds * 1_000
        )
        said = open_message(answer, CLIENT)
        return said.to_refusal().code if isinstance(said, RefusalMessage) else None

    assert [ask(number, number) for number in range(1, 35)].count(RefusalCode.RATE_LIMITED) == 3
    stranger = KeyPair(b"\x0d" * 32)
    assert isinstance(open_message(node.hear(seal_again_request(node, stranger), 40_000)[0], stranger), Quote)
    assert ask(200, 125) is None


def test_answers_are_forgotten_after_two_minutes() -> None:
    node = seller(3)
    node.hear(first_request(node))
    deadline = node.reception.deadline()
    assert deadline is not None
    node.reception.handle_deadline(moment(120_001))
    assert node.reception.deadline() is None
    assert replace(node.load, free=1).free == 1
