"""Authentication of clients to relays (NIP-42)."""

from dataclasses import replace

import pytest

from relaymesh.errors import RemoteProtocolError, UsageError
from relaymesh.nostr.authentication import AUTHENTICATION_WINDOW_SECONDS, build_authentication, check_authentication
from relaymesh.nostr.event import UnsignedEvent
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.kinds import is_ephemeral
from relaymesh.nostr.messages import AuthMessage, parse_client_message
from relaymesh.units import Timestamp

ALICE = KeyPair(bytes(31) + b"\x01")
NOW = Timestamp(1_700_000_000)
RELAY = "wss://relay.example.com"
BUILT = build_authentication(ALICE.public_key, RELAY, "challenge", NOW)


def check(event: UnsignedEvent, relay_urls: tuple[str, ...] = (RELAY,), challenge: str = "challenge") -> str:
    return check_authentication(ALICE.sign(event), relay_urls, challenge, NOW)


def test_the_answer_to_a_challenge_says_who_has_authenticated() -> None:
    assert check(BUILT) == ALICE.public_key
    assert is_ephemeral(BUILT.kind)
    assert BUILT.tags == (("relay", RELAY), ("challenge", "challenge"))
    signed = ALICE.sign(BUILT)
    message = parse_client_message(AuthMessage(signed).to_text())
    assert isinstance(message, AuthMessage)
    assert message.event.id == signed.id


@pytest.mark.parametrize("named", [RELAY, RELAY + "/", "WSS://Relay.Example.Com:443", RELAY + "#x"])
def test_the_relay_may_be_spelled_as_people_spell_it(named: str) -> None:
    assert check(build_authentication(ALICE.public_key, named, "challenge", NOW))


def test_a_relay_may_be_known_under_several_urls() -> None:
    assert check(BUILT, ("ws://127.0.0.1:7777", RELAY + "/"))


@pytest.mark.parametrize(
    "wrong",
    [
        replace(BUILT, kind=1),
        replace(BUILT, created_at=Timestamp(NOW - AUTHENTICATION_WINDOW_SECONDS - 1)),
        replace(BUILT, created_at=Timestamp(NOW + AUTHENTICATION_WINDOW_SECONDS + 1)),
        replace(BUILT, tags=(("relay", RELAY), ("challenge", "another"))),
        replace(BUILT, tags=(("relay", RELAY),)),
        replace(BUILT, tags=(("relay", RELAY), ("challenge",))),
        replace(BUILT, tags=(("relay", RELAY), ("challenge", "challenge"), ("challenge", "another"))),
        replace(BUILT, tags=(("challenge", "challenge"),)),
        replace(BUILT, tags=(("relay", "wss://evil.example.com"), ("challenge", "challenge"))),
        replace(BUILT, tags=(("relay", "wss://relay.example.com.evil.org"), ("challenge", "challenge"))),
        replace(BUILT, tags=(("relay", "ws://relay.example.com"), ("challenge", "challenge"))),
        replace(BUILT, tags=(("relay", "wss://relay.example.com:4443"), ("challenge", "challenge"))),
        replace(BUILT, tags=(("relay", "relay.example.com"), ("challenge", "challenge"))),
        replace(BUILT, tags=(("relay", RELAY), ("relay", "wss://b.example.com"), ("challenge", "challenge"))),
    ],
)
def test_what_answers_another_challenge_relay_or_time_authenticates_nobody(wrong: UnsignedEvent) -> None:
    with pytest.raises(RemoteProtocolError):
        check(wrong)


@pytest.mark.parametrize("offset", [-AUTHENTICATION_WINDOW_SECONDS, AUTHENTICATION_WINDOW_SECONDS])
def test_clocks_may_differ_by_the_window(offset: int) -> None:
    assert check(replace(BUILT, created_at=Timestamp(NOW + offset)))


def test_an_empty_challenge_is_not_met_by_its_absence() -> None:
    with pytest.raises(RemoteProtocolError):
        check(replace(BUILT, tags=(("relay", RELAY),)), challenge="")


def test_a_relay_that_does_not_know_its_own_url_is_told_so() -> None:
    with pytest.raises(UsageError):
        check(BUILT, ("relay.example.com",))
