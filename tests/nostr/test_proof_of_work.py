"""Proof of work (NIP-13)."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynostr.event import Event as PynostrEvent
from pynostr.pow import PowEvent

from relaymesh.errors import LocalProtocolError
from relaymesh.nostr import proof_of_work
from relaymesh.nostr.event import Event, EventId, PublicKey, UnsignedEvent, parse_event
from relaymesh.nostr.keys import KeyPair, has_valid_id
from relaymesh.nostr.proof_of_work import committed_bits, has_proof_of_work, leading_zero_bits, mine, search
from relaymesh.units import Timestamp
from tests.nostr import strategies

VECTOR = parse_event(json.loads((Path(__file__).parent.parent / "vectors" / "nostr" / "nip13.json").read_bytes()))
ALICE = KeyPair(bytes(31) + b"\x01")


def make_event(*tags: tuple[str, ...], content: str = "hello") -> UnsignedEvent:
    return UnsignedEvent(ALICE.public_key, Timestamp(1_700_000_000), 28_770, tags, content)


def with_id(event_id: str, *nonce: str) -> Event:
    return replace(VECTOR, id=EventId(event_id), tags=(("nonce", *nonce),))


def test_the_official_event_has_the_work_it_committed_to() -> None:
    assert has_valid_id(VECTOR)
    assert leading_zero_bits(VECTOR.id) == 21
    assert committed_bits(VECTOR) == 20
    assert has_proof_of_work(VECTOR, 20)
    assert not has_proof_of_work(VECTOR, 21)  # luck, not work


@pytest.mark.parametrize(
    ("event_id", "bits"),
    [
        ("000000000e9d97a1ab09fc381030b346cdd7a142ad57e6df0b46dc9bef6c7e2d", 36),
        ("002f" + "0" * 60, 10),
        ("f" * 64, 0),
        ("8" + "0" * 63, 0),
        ("7" + "f" * 63, 1),
        ("0" * 63 + "1", 255),
        ("0" * 62 + "ff", 248),
        ("0" * 64, 256),
    ],
)
def test_leading_zero_bits_are_counted_to_the_last(event_id: str, bits: int) -> None:
    assert leading_zero_bits(EventId(event_id)) == bits


@given(strategies.hex_32)
def test_leading_zero_bits_are_those_of_the_written_out_id(event_id: str) -> None:
    binary = "".join(f"{int(character, 16):04b}" for character in event_id)
    assert leading_zero_bits(EventId(event_id)) == len(binary) - len(binary.lstrip("0"))


@pytest.mark.parametrize(
    "nonce",
    [("1",), (), ("1", ""), ("1", "twenty"), ("1", "-1"), ("1", "+20"), ("1", "²0"), ("1", "020"), ("1", "2000")],
)
def test_work_without_a_committed_target_is_luck(nonce: tuple[str, ...]) -> None:
    event = with_id("0" * 64, *nonce)
    assert committed_bits(event) is None
    assert not has_proof_of_work(event, 1)


def test_the_committed_target_bounds_what_the_work_is_worth() -> None:
    lucky = with_id("0" * 20 + "f" * 44, "1", "8")
    assert has_proof_of_work(lucky, 8)
    assert not has_proof_of_work(lucky, 9)
    boasting = with_id("00ff" + "f" * 60, "1", "30")
    assert has_proof_of_work(boasting, 8)
    assert not has_proof_of_work(boasting, 9)


def test_where_none_is_asked_every_event_has_done_it() -> None:
    event = ALICE.sign(make_event())
    assert has_proof_of_work(event, 0)
    assert not has_proof_of_work(event, 1)


@given(strategies.unsigned_events(ALICE), st.integers(0, 6))
@settings(max_examples=40)
def test_what_is_mined_has_the_work_and_is_otherwise_unchanged(event: UnsignedEvent, bits: int) -> None:
    mined = mine(event, bits)
    assert leading_zero_bits(mined.compute_id()) >= bits
    assert has_proof_of_work(ALICE.sign(mined), bits)
    kept = tuple(tag for tag in event.tags if tag[0] != "nonce")
    assert mined.tags[:-1] == kept
    assert mined.tags[-1][2] == str(bits)
    assert replace(mined, tags=event.tags) == event


def test_mining_replaces_an_old_nonce_and_touches_no_other_tag() -> None:
    event = make_event(("e", "1", "r"), ("e", "2", "r"), ("nonce", "7", "1"), ("p", "x"), ("nonce", "8", "2"))
    mined = mine(event, 8)
    assert mined.tags[:3] == (("e", "1", "r"), ("e", "2", "r"), ("p", "x"))
    assert [tag[0] for tag in mined.tags].count("nonce") == 1
    assert mine(mined, 8) == mined


def test_pynostr_s_mining_overwrites_another_tag_which_is_why_ours_is_our_own() -> None:
    event = PynostrEvent(
        content="", pubkey=ALICE.public_key, created_at=1, tags=[["e", "1", "r"], ["e", "2", "r"], ["nonce", "0", "1"]]
    )
    PowEvent(difficulty=1).mine(event)
    assert event.tags[1] != ["e", "2", "r"]


def test_what_pynostr_mines_from_scratch_has_the_work() -> None:
    event = PynostrEvent(content="é\n", pubkey=ALICE.public_key, created_at=1_700_000_000, kind=1, tags=[["t", "x"]])
    PowEvent(difficulty=8).mine(event)
    unsigned = UnsignedEvent(ALICE.public_key, Timestamp(1_700_000_000), 1, tuple(map(tuple, event.tags)), "é\n")
    signed = ALICE.sign(unsigned)
    assert signed.id == event.id
    assert has_proof_of_work(signed, 8)


def test_mining_is_repeatable_and_goes_on_until_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    mined = mine(make_event(), 8)
    assert mine(make_event(), 8) == mined
    monkeypatch.setattr(proof_of_work, "MINING_BATCH", 3)
    assert mine(make_event(), 8) == mined


def test_a_search_goes_on_where_the_last_one_ended() -> None:
    event = make_event(content='quote " and \\ and é')
    whole = mine(event, 10)
    nonce = int(whole.tags[-1][1])
    assert search(event, 10, first_nonce=0, tries=nonce) is None
    assert search(event, 10, first_nonce=nonce, tries=1) == whole
    assert search(event, 10, first_nonce=0, tries=nonce + 1) == whole
    assert search(event, 10, first_nonce=0, tries=0) is None


@pytest.mark.parametrize("bits", [-1, 257])
def test_impossible_difficulties_are_refused(bits: int) -> None:
    with pytest.raises(LocalProtocolError):
        mine(make_event(), bits)


def test_what_cannot_be_serialised_is_not_mined() -> None:
    with pytest.raises(LocalProtocolError):
        mine(make_event(content=chr(0xD800)), 1)


def test_a_key_that_is_no_signer_may_have_its_events_mined_elsewhere() -> None:
    other = replace(make_event(), public_key=PublicKey("b" * 64))
    assert leading_zero_bits(mine(other, 8).compute_id()) >= 8
