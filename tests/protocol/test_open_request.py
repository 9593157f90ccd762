"""Open requests: readable by everybody, and refused where tags and content say two different things."""

from typing import Any

import pytest

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import UnsignedEvent, VerifiedEvent
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.open_request import build_open_request, is_open_request, read_open_request
from relaymesh.protocol.quote import JobShape, OpenRequest
from relaymesh.units import AmountMsat, Timestamp

KEY = KeyPair(b"\x07" * 32)
NOW = Timestamp(1_800_000_000)
REQUEST = OpenRequest(
    model="tiny",
    job_type="chat",
    shape=JobShape(input_tokens=10, input_bytes=40, output_tokens=20, output_bytes=160),
    budget_msat=AmountMsat(5_000),
    settlement=("prepay",),
    relays=("wss://relay.example",),
)


def signed(**changes: Any) -> VerifiedEvent:
    draft = build_open_request(REQUEST, KEY.public_key, NOW)
    fields = {"kind": draft.kind, "tags": draft.tags, "content": draft.content, **changes}
    return KEY.sign(UnsignedEvent(KEY.public_key, NOW, **fields))


def test_an_open_request_says_to_everybody_what_it_asks() -> None:
    event = signed()
    assert is_open_request(event) and read_open_request(event) == REQUEST
    assert event.tags == (("t", "relaymesh"), ("m", "tiny"), ("j", "chat"), ("expiration", str(NOW + 60)))


TAGS = build_open_request(REQUEST, KEY.public_key, NOW).tags


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": Kind.SESSION_REQUEST},
        {"tags": (*TAGS, ("p", "ab" * 32))},
        {"tags": TAGS[1:]},
        {"tags": (*TAGS, ("t", "other"))},
        {"tags": (*TAGS, ("m", "another"))},
        {"tags": tuple(tag for tag in TAGS if tag[0] != "m")},
        {"tags": (TAGS[0], TAGS[1], ("j", "embedding"))},
        {"tags": (*TAGS, ("padding", "x" * 16_384))},
        {"content": "{}"},
        {"content": "no JSON"},
        {"content": '{"v":2}'},
    ],
)
def test_what_is_no_open_request_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        read_open_request(signed(**changes))
