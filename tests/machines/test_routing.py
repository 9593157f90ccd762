"""The router's machine: what it ranks, what it passes on, what it refuses, and what it never answers."""

from dataclasses import replace

import pytest

from relaymesh.machines import routing as routing_module
from relaymesh.machines.reception_events import PublishAnswer
from relaymesh.machines.routing_events import (
    AskNode,
    Cite,
    FeeInvoiced,
    FeePaid,
    InvoiceFee,
    RankingAsked,
    RoutingSettings,
)
from relaymesh.nostr.event import EventId, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.keys import KeyPair
from relaymesh.protocol.codec import open_message
from relaymesh.protocol.content import MAXIMUM_EVENT_BYTES
from relaymesh.protocol.quote import ForwardedRequest, RefusalMessage
from relaymesh.protocol.ranking import Ranking, ranking_seed, registry_digest
from relaymesh.protocol.refusal import RefusalCode
from relaymesh.units import AmountMsat, Timestamp
from tests.machines.routers import (
    CLIENT,
    RELAY,
    ROUTER,
    SETTINGS,
    WORK,
    Desk,
    answers,
    call,
    carry,
    make_market,
    node_key,
    node_offer,
    rank_once,
    read,
    seal,
)
from tests.market.builders import MODEL, NOW, open_request, quote_request, signed_offer

FEE = replace(SETTINGS, fee_msat=AmountMsat(250))


def refusal_of(desk: Desk, request: VerifiedEvent) -> RefusalCode:
    [answer] = answers(desk.ask(request))
    message = read(answer)
    assert isinstance(message, RefusalMessage)
    return message.to_refusal().code


# ── ranking ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_ranking_names_the_best_first_and_cites_what_it_rests_on() -> None:
    desk = Desk(make_market(4, busy=(2,)))
    request = carry(call(), policy="cheapest")
    effects = desk.ask(request)
    [answer] = answers(effects)
    ranking = read(answer)
    assert isinstance(ranking, Ranking)
    assert [row.node for row in ranking.rows] == [node_key(number).public_key for number in (1, 3, 4, 2)]
    assert [row.excluded for row in ranking.rows] == [None, None, None, "no free capacity"]
    assert (ranking.eligible, ranking.considered, ranking.policy) == (3, 4, "cheapest")
    assert ranking.seed == ranking_seed(request.id, ROUTER.public_key).hex()
    assert ranking.registry_digest == registry_digest(desk.market.considered_ids(MODEL, "chat", NOW))
    assert answer.tag_value("e") == request.id == ranking.request_id
    assert answer.public_key == ROUTER.public_key and answer.tag_value("p") == CLIENT.public_key
    [cite] = [effect for effect in effects if isinstance(effect, Cite)]
    assert {event.id for event in cite.events} == set(ranking.cited_ids)
    assert len(ranking.cited_ids) == 8


def test_the_best_nodes_get_the_clients_own_request_and_nothing_of_the_routers() -> None:
    desk = Desk()
    inner = call()
    asked = [effect for effect in desk.ask(carry(inner, asks=2)) if isinstance(effect, AskNode)]
    assert [effect.node for effect in asked] == [node_key(number).public_key for number in (1, 2)]
    for number, effect in enumerate(asked, start=1):
        assert effect.event.public_key == ROUTER.public_key and effect.relay_urls == (RELAY,)
        message = open_message(effect.event, node_key(number))
        assert message == ForwardedRequest(request=inner.to_json(), asks=0)


def test_a_node_that_wants_work_is_ranked_and_left_to_the_client() -> None:
    market = make_market(2)
    assert market.apply(node_offer(1, seq=NOW + 1, pow_bits=WORK), RELAY, Timestamp(NOW + 1))
    desk = Desk(market)
    effects = desk.ask(carry(call(), asks=1))
    ranking = read(answers(effects)[0])
    assert isinstance(ranking, Ranking)
    assert [(row.node, row.asked) for row in ranking.rows] == [
        (node_key(1).public_key, False),
        (node_key(2).public_key, True),
    ]
    assert [effect.node for effect in effects if isinstance(effect, AskNode)] == [node_key(2).public_key]


def test_a_ranking_of_a_large_market_holds_the_best_eight_and_fits_one_event() -> None:
    desk = Desk(make_market(40))
    signed = rank_once(desk, policy="cheapest")
    assert [row.node for row in signed.ranking.rows] == [node_key(number).public_key for number in range(1, 9)]
    assert signed.ranking.eligible == 40
    assert signed.event.size <= MAXIMUM_EVENT_BYTES


def test_nobody_offers_it_is_an_answer_too() -> None:
    signed = rank_once(Desk(), call(model="unheard-of"))
    assert {row.excluded for row in signed.ranking.rows} == {"model not offered"} and signed.ranking.eligible == 0
    empty = rank_once(Desk(make_market(0)))
    assert not empty.ranking.rows and empty.ranking.registry_digest == registry_digest(())


def test_the_digest_changes_with_the_market_and_only_then() -> None:
    desk = Desk()
    first = rank_once(desk).ranking
    again = rank_once(desk, salt=b"t" * 64).ranking
    assert first.registry_digest == again.registry_digest and first.seed != again.seed
    assert desk.market.apply(node_offer(1, seq=NOW + 1), RELAY, Timestamp(NOW + 1))
    assert rank_once(desk, salt=b"u" * 64).ranking.registry_digest != first.registry_digest


# ── replay and limits ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_request_gets_the_same_ranking_byte_for_byte_and_nobody_is_asked_again() -> None:
    desk = Desk()
    request = carry(call())
    [first] = answers(desk.ask(request))
    assert desk.market.apply(node_offer(1, seq=NOW + 1), RELAY, Timestamp(NOW + 1))
    again = desk.ask(request, 60_000, "ws://two.test")
    assert again == (PublishAnswer(first, ("ws://two.test", RELAY)),)


def test_the_answer_goes_where_the_request_came_from_and_where_its_author_also_listens() -> None:
    [answer] = [
        effect
        for effect in Desk().ask(carry(call(relays=("ws://three.test", RELAY))))
        if isinstance(effect, PublishAnswer)
    ]
    assert answer.relay_urls == (RELAY, "ws://three.test")


def test_one_key_is_answered_so_often_and_others_still_are() -> None:
    desk = Desk(settings=replace(SETTINGS, requests_per_key=3))
    inner = call()
    codes = []
    for number in range(5):
        [answer] = answers(desk.ask(carry(inner, salt=bytes([number]) * 64)))
        message = read(answer)
        codes.append(message.to_refusal().code if isinstance(message, RefusalMessage) else None)
    assert codes == [None, None, None, RefusalCode.RATE_LIMITED, RefusalCode.RATE_LIMITED]
    other = KeyPair(b"\x74" * 32)
    [answer] = answers(desk.ask(carry(call(other), key=other)))
    assert isinstance(read(answer, other), Ranking)


def test_all_together_are_answered_so_often_a_second() -> None:
    desk = Desk(settings=replace(SETTINGS, requests_per_second=2))
    inner = call()
    for number in range(2):
        assert isinstance(read(answers(desk.ask(carry(inner, salt=bytes([number]) * 64)))[0]), Ranking)
    assert refusal_of(desk, carry(inner, salt=b"x" * 64)) is RefusalCode.RATE_LIMITED
    assert isinstance(read(answers(desk.ask(carry(inner, salt=b"y" * 64), 1_000))[0]), Ranking)


def test_what_is_two_minutes_old_is_forgotten() -> None:
    desk = Desk()
    desk.ask(carry(call()))
    assert desk.routing.deadline() == 120_000_000
    desk.tell(FeePaid(EventId("00" * 32)), 120_000)
    assert desk.routing.deadline() is None


# ── hostile requests ──────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_not_sealed_to_the_router_or_carries_too_little_work_gets_no_answer() -> None:
    desk = Desk(settings=replace(SETTINGS, pow_bits=1))
    other = KeyPair(b"\x75" * 32)
    assert not desk.ask(carry(call()))  # no work outside
    desk = Desk()
    assert not desk.ask(carry(call(), to=other.public_key))
    assert not desk.ask(call())  # a call on everybody is none of a router's business
    assert not desk.ask(carry(call(), created_at=NOW - 61))
    request = carry(call())
    garbled = UnsignedEvent(CLIENT.public_key, request.created_at, request.kind, request.tags, "AAAA")
    assert not desk.ask(CLIENT.sign(garbled))


def test_what_is_inside_must_be_a_valid_open_request_by_whoever_asks() -> None:
    other = KeyPair(b"\x76" * 32)
    inner = call()
    forged = {**inner.to_json(), "sig": "00" * 64}
    changed = {**inner.to_json(), "content": inner.content.replace("100000", "999999")}
    cases: dict[str, VerifiedEvent] = {
        "somebody else's": carry(call(other)),
        "forged": carry(forged),
        "changed": carry(changed),
        "no event": carry({"id": 1}),
        "a sealed request": carry(carry(inner).to_json()),
        "an offer": carry(node_offer(1).to_json()),
        "nothing inside": seal(quote_request(signed_offer())),
    }
    for case, request in cases.items():
        assert refusal_of(Desk(), request) is RefusalCode.INVALID_MESSAGE, case


def test_work_time_and_policy_of_the_inner_request_are_checked() -> None:
    assert refusal_of(Desk(), carry(call(bits=0))) is RefusalCode.POW
    assert refusal_of(Desk(), carry(call(created_at=NOW - 61))) is RefusalCode.EXPIRED
    assert refusal_of(Desk(), carry(call(), policy="kindest")) is RefusalCode.UNSUPPORTED_PARAMETER


def test_asking_for_more_nodes_than_a_router_asks_asks_those() -> None:
    desk = Desk(make_market(6), replace(SETTINGS, maximum_asks=2))
    assert len([effect for effect in desk.ask(carry(call(), asks=8)) if isinstance(effect, AskNode)]) == 2
    assert not [effect for effect in Desk().ask(carry(call(), asks=0)) if isinstance(effect, AskNode)]


# ── routing fee ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_fee_is_asked_for_first_and_the_ranking_follows_its_payment_without_another_request() -> None:
    desk = Desk(settings=FEE)
    request = carry(call())
    assert desk.ask(request) == (InvoiceFee(request.id, AmountMsat(250)),)
    assert not desk.ask(request), "its invoice is being made"
    [refused] = answers(desk.tell(FeeInvoiced(request.id, "lnbc2500n1test")))
    message = read(refused)
    assert isinstance(message, RefusalMessage)
    assert (message.to_refusal().code, message.bolt11) == (RefusalCode.PAYMENT_REQUIRED, "lnbc2500n1test")
    assert answers(desk.ask(request)) == [refused]
    effects = desk.tell(FeePaid(request.id), 1_000)
    ranking = read(answers(effects)[0])
    assert isinstance(ranking, Ranking) and [each for each in effects if isinstance(each, AskNode)]
    assert answers(desk.ask(request, 2_000)) == answers(effects)
    assert not desk.tell(FeePaid(request.id), 3_000), "one payment, one ranking"


def test_a_wallet_that_makes_no_invoice_is_said_and_an_unpaid_request_forgotten() -> None:
    desk = Desk(settings=FEE)
    request = carry(call())
    desk.ask(request)
    message = read(answers(desk.tell(FeeInvoiced(request.id, None)))[0])
    assert isinstance(message, RefusalMessage) and message.to_refusal().code is RefusalCode.INTERNAL
    second = carry(call(), salt=b"2" * 64)
    desk.ask(second)
    assert not desk.tell(FeePaid(second.id), 120_000)


def test_only_so_many_requests_wait_for_their_fee(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing_module, "MAXIMUM_UNPAID", 1)
    desk = Desk(settings=FEE)
    desk.ask(carry(call()))
    assert refusal_of(desk, carry(call(), salt=b"2" * 64)) is RefusalCode.BUSY


def test_settings_rank_by_every_named_policy_balanced_first() -> None:
    assert [policy.name for policy in RoutingSettings().policies] == ["balanced", "cheapest", "fastest", "trusted"]
    assert RankingAsked(call(), RELAY).relay_url == RELAY and open_request().model == MODEL
