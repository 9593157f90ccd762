"""A relay connection by hand: what is asked again, what is waited for, and when the next try is due."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.machines.relay_connection import MAXIMUM_ENTROPY, RELAY_CONNECTION_TRANSITIONS, RelayConnection
from relaymesh.machines.relay_connection_interface import (
    Authenticated,
    Connect,
    Disconnect,
    EventArrived,
    Publish,
    PublishAnswered,
    RelayConnectionSettings,
    RelayConnectionState,
    RelayEffect,
    RelayInput,
    RelayLost,
    RelayOpened,
    SendText,
    StopRelay,
    StoredEventsSent,
    Subscribe,
    SubscriptionRefused,
    TextReceived,
    Unsubscribe,
    WantAuthentication,
)
from relaymesh.nostr.event import Event, EventId, PublicKey
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.kinds import Kind
from relaymesh.units import Instant, Moment, Timestamp

FILTERS = (Filter(kinds=(Kind.OFFER,), tags=(("t", ("relaymesh",)),)),)
REQUEST = SendText('["REQ","1",{"kinds":[38770],"#t":["relaymesh"]}]')


def make_event(number: int = 0, kind: int = 1) -> Event:
    """An event that nobody signed: the machine must not care."""
    return Event(
        PublicKey("aa" * 32), Timestamp(1), kind, (), f"{number}", EventId(number.to_bytes(32).hex()), "cc" * 64
    )


EVENT = make_event()


class Relay:
    """The machine under test; the relay and the network are played by the test."""

    def __init__(self, *, can_authenticate: bool = False) -> None:
        self.machine = RelayConnection(can_authenticate=can_authenticate)
        self.now = self._at(0)
        self.machine.start(self.now)
        assert self.machine.effects() == (Connect(),)

    def tell(self, message: RelayInput) -> tuple[RelayEffect, ...]:
        self.machine.receive(message, self.now)
        return self.machine.effects()

    def says(self, *message: Any) -> tuple[RelayEffect, ...]:
        return self.tell(TextReceived(orjson.dumps(message).decode()))

    def turn_to_ms(self, milliseconds: int) -> tuple[RelayEffect, ...]:
        self.now = self._at(milliseconds)
        self.machine.handle_deadline(self.now)
        return self.machine.effects()

    def opened(self) -> "Relay":
        self.tell(RelayOpened())
        return self

    @staticmethod
    def _at(milliseconds: int) -> Moment:
        return Moment(Instant(5_000_000 + milliseconds * 1_000), 0)


def _sent(event: Event) -> SendText:
    return SendText(orjson.dumps(["EVENT", event.to_json()]).decode())


def test_subscriptions_are_asked_for_on_every_connection() -> None:
    relay = Relay()
    assert relay.tell(Subscribe("1", FILTERS)) == ()
    assert relay.tell(RelayOpened()) == (REQUEST,)
    assert relay.tell(Subscribe("2", FILTERS)) == (SendText('["REQ","2",{"kinds":[38770],"#t":["relaymesh"]}]'),)
    relay.tell(RelayLost(0))
    assert relay.turn_to_ms(500) == (Connect(),)
    assert len(relay.tell(RelayOpened())) == 2


def test_an_ended_subscription_is_closed_and_not_asked_for_again() -> None:
    relay = Relay().opened()
    relay.tell(Subscribe("1", FILTERS))
    assert relay.tell(Unsubscribe("1")) == (SendText('["CLOSE","1"]'),)
    assert relay.says("EVENT", "1", EVENT.to_json()) == ()
    relay.tell(RelayLost(0))
    relay.turn_to_ms(500)
    assert relay.tell(RelayOpened()) == ()
    assert relay.tell(Unsubscribe("1")) == ()


def test_events_and_the_end_of_stored_ones_are_handed_on_for_known_subscriptions() -> None:
    relay = Relay().opened()
    relay.tell(Subscribe("1", FILTERS))
    assert relay.says("EVENT", "1", EVENT.to_json()) == (EventArrived("1", EVENT),)
    assert relay.says("EOSE", "1") == (StoredEventsSent("1"),)
    assert relay.says("EOSE", "1", ["finish"]) == (StoredEventsSent("1", is_everything=True),)
    assert relay.says("EOSE", "1", ["more"]) == (StoredEventsSent("1", is_everything=False),)
    assert relay.says("EOSE", "1", ["something else"]) == (StoredEventsSent("1"),)
    assert relay.says("EVENT", "2", EVENT.to_json()) == ()
    assert relay.says("EOSE", "2") == ()


def test_an_event_is_answered_by_its_own_ok() -> None:
    relay = Relay().opened()
    other = make_event(1)
    assert relay.tell(Publish(EVENT)) == (_sent(EVENT),)
    relay.tell(Publish(other))
    assert relay.says("OK", other.id, False, "mute: no one was listening") == (
        PublishAnswered(other.id, False, "mute: no one was listening"),
    )
    assert relay.says("OK", other.id, True, "") == ()
    assert relay.says("OK", EVENT.id, True, "duplicate: known") == (
        PublishAnswered(EVENT.id, True, "duplicate: known"),
    )


def test_an_event_without_an_answer_is_answered_for_after_8_s() -> None:
    relay = Relay().opened()
    relay.tell(Publish(EVENT))
    assert relay.turn_to_ms(7_999) == ()
    assert relay.turn_to_ms(8_000) == (PublishAnswered(EVENT.id, False, "error: the relay did not answer in time"),)
    assert relay.machine.deadline() is None


def test_the_same_event_published_again_while_it_waits_is_sent_once() -> None:
    relay = Relay().opened()
    relay.tell(Publish(EVENT))
    relay.turn_to_ms(5_000)
    assert relay.tell(Publish(EVENT)) == ()
    assert relay.turn_to_ms(12_999) == ()
    assert len(relay.turn_to_ms(13_000)) == 1


def test_an_event_waits_for_the_first_connection_and_is_sent_again_on_the_next() -> None:
    relay = Relay()
    assert relay.tell(Publish(EVENT)) == ()
    assert relay.tell(RelayOpened()) == (_sent(EVENT),)
    assert relay.tell(RelayLost(0)) == ()
    relay.turn_to_ms(500)
    assert relay.tell(RelayOpened()) == (_sent(EVENT),)


def test_nobody_waits_for_a_relay_that_failed_twice_in_a_row() -> None:
    relay = Relay()
    relay.tell(Publish(EVENT))
    assert relay.tell(RelayLost(0)) == ()
    relay.turn_to_ms(500)
    answer = PublishAnswered(EVENT.id, False, "error: the relay cannot be reached")
    assert relay.tell(RelayLost(0)) == (answer,)
    assert relay.tell(Publish(EVENT)) == (answer,)
    relay.turn_to_ms(1_500)
    relay.tell(RelayOpened())
    assert relay.tell(Publish(EVENT)) == (_sent(EVENT),)


def test_the_number_of_unanswered_events_is_bounded() -> None:
    relay = Relay().opened()
    for number in range(RelayConnectionSettings().maximum_unanswered):
        relay.tell(Publish(make_event(number)))
    said = relay.tell(Publish(make_event(9_999)))
    assert said == (PublishAnswered(make_event(9_999).id, False, "error: too many events wait for this relay"),)


def test_the_wait_doubles_up_to_five_minutes() -> None:
    relay = Relay()
    milliseconds = 0
    waits = []
    for _ in range(12):
        relay.tell(RelayLost(MAXIMUM_ENTROPY))
        deadline = relay.machine.deadline()
        assert deadline is not None
        waits.append((deadline - relay.now.instant) // 1_000)
        milliseconds += waits[-1]
        assert relay.turn_to_ms(milliseconds) == (Connect(),)
    assert waits == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000, 300_000, 300_000]


@given(st.integers(0, MAXIMUM_ENTROPY), st.integers(0, 100))
def test_half_of_each_wait_is_drawn_by_lot(entropy: int, failures: int) -> None:
    relay = Relay()
    milliseconds = 0
    for _ in range(failures):
        relay.tell(RelayLost(0))
        milliseconds += 300_000
        relay.turn_to_ms(milliseconds)
    relay.tell(RelayLost(entropy))
    deadline = relay.machine.deadline()
    assert deadline is not None
    longest = min(1_000 * 2**failures, 300_000)
    assert longest // 2 <= (deadline - relay.now.instant) // 1_000 <= longest


def test_only_a_connection_that_lived_a_minute_makes_up_for_failures() -> None:
    relay = Relay()
    for milliseconds in (1_000, 3_000, 7_000):
        relay.tell(RelayLost(MAXIMUM_ENTROPY))
        relay.turn_to_ms(milliseconds)
    relay.opened()
    relay.turn_to_ms(7_000 + 59_999)
    relay.tell(RelayLost(MAXIMUM_ENTROPY))
    assert relay.turn_to_ms(7_000 + 59_999 + 7_999) == ()
    assert relay.turn_to_ms(75_000) == (Connect(),)
    relay.opened()
    relay.turn_to_ms(75_000 + 60_000)
    relay.tell(RelayLost(MAXIMUM_ENTROPY))
    assert relay.turn_to_ms(75_000 + 61_000) == (Connect(),)


def test_a_challenge_is_answered_when_it_matters_and_what_was_refused_is_said_again() -> None:
    relay = Relay(can_authenticate=True).opened()
    relay.tell(Subscribe("1", FILTERS))
    assert relay.says("AUTH", "challenge") == ()
    relay.tell(Publish(EVENT))
    assert relay.says("CLOSED", "1", "auth-required: who are you?") == (WantAuthentication("challenge"),)
    assert relay.says("OK", EVENT.id, False, "auth-required: who are you?") == ()
    proof = make_event(7, Kind.AUTHENTICATION)
    assert relay.tell(Authenticated(proof)) == (SendText(orjson.dumps(["AUTH", proof.to_json()]).decode()),)
    assert relay.says("OK", proof.id, True, "") == (REQUEST, _sent(EVENT))
    assert relay.says("OK", EVENT.id, True, "") == (PublishAnswered(EVENT.id, True, ""),)


def test_an_authentication_that_is_refused_or_late_is_the_answer() -> None:
    for late in (False, True):
        relay = Relay(can_authenticate=True).opened()
        relay.tell(Subscribe("1", FILTERS))
        relay.says("AUTH", "challenge")
        relay.tell(Publish(EVENT))
        relay.says("CLOSED", "1", "auth-required: who are you?")
        relay.says("OK", EVENT.id, False, "auth-required: who are you?")
        proof = make_event(7, Kind.AUTHENTICATION)
        relay.tell(Authenticated(proof))
        if late:
            message = "error: the relay did not answer in time"
            said = relay.turn_to_ms(8_000)
        else:
            message = "restricted: not you"
            said = relay.says("OK", proof.id, False, message)
        assert set(said) == {SubscriptionRefused("1", message), PublishAnswered(EVENT.id, False, message)}
        relay.tell(Publish(EVENT))
        again = relay.says("OK", EVENT.id, False, "auth-required: who are you?")
        assert again == (PublishAnswered(EVENT.id, False, "auth-required: who are you?"),)


def test_without_a_signer_or_a_challenge_auth_required_is_a_refusal() -> None:
    unable, unasked = Relay().opened(), Relay(can_authenticate=True).opened()
    unable.says("AUTH", "challenge")
    for relay in (unable, unasked):
        relay.tell(Subscribe("1", FILTERS))
        said = relay.says("CLOSED", "1", "auth-required: who are you?")
        assert said == (SubscriptionRefused("1", "auth-required: who are you?"),)
        relay.tell(Publish(EVENT))
        refused = relay.says("OK", EVENT.id, False, "auth-required: who are you?")
        assert refused == (PublishAnswered(EVENT.id, False, "auth-required: who are you?"),)


@pytest.mark.parametrize("message", ["rate-limited: slow down", "error: shutting down", "", "goodbye"])
def test_a_subscription_closed_for_a_passing_reason_is_asked_for_again_later(message: str) -> None:
    relay = Relay().opened()
    relay.tell(Subscribe("1", FILTERS))
    assert relay.says("CLOSED", "1", message) == (SubscriptionRefused("1", message),)
    assert relay.turn_to_ms(29_999) == ()
    assert relay.turn_to_ms(30_000) == (REQUEST,)
    relay.says("CLOSED", "1", message)
    assert relay.turn_to_ms(89_999) == ()
    assert relay.turn_to_ms(90_000) == (REQUEST,)


def test_a_subscription_refused_for_good_is_asked_for_again_only_on_the_next_connection() -> None:
    relay = Relay().opened()
    relay.tell(Subscribe("1", FILTERS))
    assert relay.says("CLOSED", "1", "restricted: members only") == (
        SubscriptionRefused("1", "restricted: members only"),
    )
    assert relay.machine.deadline() is None
    assert relay.tell(Unsubscribe("1")) == ()
    relay.tell(Subscribe("1", FILTERS))
    relay.says("CLOSED", "1", "restricted: members only")
    relay.tell(RelayLost(0))
    relay.turn_to_ms(500)
    assert relay.tell(RelayOpened()) == (REQUEST,)


def test_one_malformed_message_costs_nothing_and_a_stream_of_them_the_connection() -> None:
    relay = Relay().opened()
    relay.tell(Subscribe("1", FILTERS))
    for _ in range(31):
        assert relay.tell(TextReceived('["EVENT","1",{"id":"no"}]')) == ()
    assert relay.says("EVENT", "1", EVENT.to_json()) == (EventArrived("1", EVENT),)
    assert relay.tell(TextReceived("rubbish")) == (Disconnect(),)


@given(
    st.text(max_size=80)
    | st.recursive(st.none() | st.text(max_size=8) | st.integers(0, 9), st.lists).map(orjson.dumps).map(bytes.decode)
)
def test_random_messages_never_raise(text: str) -> None:
    relay = Relay().opened()
    relay.tell(Subscribe("1", FILTERS))
    relay.tell(TextReceived(text))
    assert relay.says("EVENT", "1", EVENT.to_json()) == (EventArrived("1", EVENT),)


def test_what_comes_after_the_connection_is_gone_is_ignored() -> None:
    relay = Relay().opened()
    relay.tell(Subscribe("1", FILTERS))
    relay.tell(RelayLost(0))
    assert relay.says("EVENT", "1", EVENT.to_json()) == ()
    assert relay.tell(RelayLost(0)) == ()


def test_a_relay_that_is_given_up_answers_everyone_who_waits() -> None:
    relay = Relay().opened()
    relay.tell(Publish(EVENT))
    answer = PublishAnswered(EVENT.id, False, "error: the relay is no longer used")
    assert relay.tell(StopRelay()) == (Disconnect(), answer)
    assert relay.tell(Publish(EVENT)) == (answer,)
    assert relay.tell(RelayOpened()) == (Disconnect(),)
    assert relay.tell(StopRelay()) == ()
    assert relay.machine.deadline() is None
    assert relay.machine.state is RelayConnectionState.STOPPED


def test_the_table_draws_itself() -> None:
    assert "WAITING --> CONNECTING: retry" in RELAY_CONNECTION_TRANSITIONS.diagram()
