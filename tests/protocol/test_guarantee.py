"""A guarantee holds for one node and one session key, for a day at most, and only as its author signed it."""

import json
from typing import Any, Final

import pytest

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import UnsignedEvent, VerifiedEvent
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.protocol.guarantee import (
    MAXIMUM_GUARANTEE_SECONDS,
    Guarantee,
    build_guarantee,
    parse_guarantee,
    read_guarantee,
)
from relaymesh.units import Timestamp

BUYER: Final = KeyPair(b"\x21" * 32)
NODE: Final = KeyPair(b"\x22" * 32).public_key
CLIENT: Final = KeyPair(b"\x23" * 32).public_key
NOW: Final = Timestamp(1_800_000_000)


def unsigned(**changes: Any) -> UnsignedEvent:
    fields = {"client": CLIENT, "valid_until": NOW + MAXIMUM_GUARANTEE_SECONDS, **changes}
    return build_guarantee(Guarantee.model_validate(fields), author=BUYER.public_key, node=NODE, created_at=NOW)


def in_json(event: VerifiedEvent) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(json.dumps(event.to_json()))
    return fields


def test_what_was_built_is_read_back_with_who_answers_for_whom() -> None:
    signed = parse_guarantee(in_json(BUYER.sign(unsigned())), verify)
    assert (signed.guarantor, signed.node, signed.guarantee.client) == (BUYER.public_key, NODE, CLIENT)
    assert signed.find_objection(node=NODE, client=CLIENT, now=NOW) is None


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"node": CLIENT}, "another node"),
        ({"client": BUYER.public_key}, "another session key"),
        ({"now": NOW + MAXIMUM_GUARANTEE_SECONDS}, "expired"),
        ({"now": NOW - 61}, "future"),
    ],
)
def test_it_holds_for_one_node_one_session_key_and_a_time(asked: dict[str, Any], reason: str) -> None:
    signed = read_guarantee(BUYER.sign(unsigned()))
    objection = signed.find_objection(**{"node": NODE, "client": CLIENT, "now": NOW, **asked})
    assert objection is not None and reason in objection


def test_it_cannot_be_given_for_longer_than_a_day() -> None:
    signed = read_guarantee(BUYER.sign(unsigned(valid_until=NOW + MAXIMUM_GUARANTEE_SECONDS + 1)))
    assert "at most 86400 s" in str(signed.find_objection(node=NODE, client=CLIENT, now=NOW))


def test_a_signature_that_was_altered_or_borrowed_is_no_guarantee() -> None:
    fields = in_json(BUYER.sign(unsigned()))
    other = KeyPair(b"\x24" * 32).public_key
    for change in ({"pubkey": other}, {"content": fields["content"].replace(CLIENT, other)}, {"sig": "00" * 64}):
        with pytest.raises(RemoteProtocolError):
            parse_guarantee({**fields, **change}, verify)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": 8_774}, "kind 8775"),
        ({"tags": (("t", "relaymesh"),)}, "exactly one other party"),
        ({"tags": (("p", NODE), ("p", CLIENT))}, "exactly one other party"),
        ({"tags": (("p", NODE), ("padding", "x" * 1_024))}, "at most 1024 bytes"),
        ({"content": "{}"}, "client"),
    ],
)
def test_what_is_no_guarantee_is_refused_with_a_reason(changes: dict[str, Any], reason: str) -> None:
    names = ("public_key", "created_at", "kind", "tags", "content")
    event = unsigned()
    altered = UnsignedEvent(**{**{name: getattr(event, name) for name in names}, **changes})
    with pytest.raises(RemoteProtocolError, match=reason):
        read_guarantee(BUYER.sign(altered))
