"""The relay information document (NIP-11)."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.relay_information import (
    MAXIMUM_DOCUMENT_BYTES,
    RelayInformation,
    RelayLimitation,
    parse_relay_information,
)
from tests.nostr import strategies

DOCUMENT: dict[str, Any] = {
    "contact": "mailto:someone@example.com",
    "description": "A relay\n\nfor this test.",
    "icon": "https://example.com/icon.png",
    "limitation": {
        "auth_required": False,
        "created_at_lower_limit": 94_608_000,
        "created_at_upper_limit": 300,
        "max_event_tags": 4_000,
        "max_limit": 1_000,
        "max_message_length": 524_288,
        "max_subid_length": 71,
        "max_subscriptions": 50,
        "min_pow_difficulty": 0,
        "payment_required": True,
        "restricted_writes": True,
    },
    "name": "relay.example.com",
    "pubkey": "4918eb332a41b71ba9a74b1dc64276cfff592e55107b93baae38af3520e55975",
    "self": "52b4a076bcbbbdc3a1aefa3735816cf74993b1b8db202b01c883c58be7fad8bd",
    "software": "https://example.com/relay",
    "supported_nips": [1, 11, 42],
    "terms_of_service": "https://example.com/terms",
    "version": "0.3.3",
}


def test_a_document_comes_back_as_it_was() -> None:
    information = parse_relay_information(json.dumps(DOCUMENT))
    assert information.to_json() == DOCUMENT
    assert information.contact_public_key == DOCUMENT["pubkey"]
    assert information.relay_public_key == DOCUMENT["self"]
    assert information.supported_nips == (1, 11, 42)
    assert information.limitation is not None
    assert information.limitation.max_subscriptions == 50
    assert parse_relay_information(json.dumps(DOCUMENT).encode()) == information


def test_a_document_is_built_from_names() -> None:
    information = RelayInformation(
        name="RelayMesh",
        relay_public_key="a" * 64,
        supported_nips=(1, 11),
        limitation=RelayLimitation(max_limit=500, auth_required=False),
    )
    assert information.to_json() == {
        "name": "RelayMesh",
        "self": "a" * 64,
        "supported_nips": [1, 11],
        "limitation": {"max_limit": 500, "auth_required": False},
    }
    assert parse_relay_information(json.dumps(information.to_json())) == information


def test_an_empty_document_says_nothing() -> None:
    assert parse_relay_information("{}") == RelayInformation()
    assert RelayInformation().to_json() == {}
    assert parse_relay_information('{"name": null, "limitation": null}') == RelayInformation()


def test_fields_that_are_not_known_here_are_passed_over() -> None:
    extended = {**DOCUMENT, "fees": {"admission": [{"amount": 1.5}]}, "payments_url": 3}
    extended["limitation"] = {**DOCUMENT["limitation"], "max_mood": "good"}
    assert parse_relay_information(json.dumps(extended)).to_json() == DOCUMENT


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", 1),
        ("name", "x" * 4097),
        ("pubkey", "npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6"),
        ("pubkey", "A" * 64),
        ("pubkey", "a" * 64 + "\n"),
        ("self", ""),
        ("supported_nips", ["1"]),
        ("supported_nips", [1.0]),
        ("supported_nips", [True]),
        ("supported_nips", 1),
        ("supported_nips", [-1]),
        ("supported_nips", list(range(1025))),
        ("limitation", []),
        ("limitation", {"max_limit": "500"}),
        ("limitation", {"max_limit": 500.5}),
        ("limitation", {"max_limit": -1}),
        ("limitation", {"max_limit": 2**53}),
        ("limitation", {"auth_required": 1}),
        ("limitation", {"auth_required": "true"}),
    ],
)
def test_a_known_field_of_the_wrong_form_is_refused_by_name(field: str, wrong: object) -> None:
    with pytest.raises(RemoteProtocolError, match=field):
        parse_relay_information(json.dumps({**DOCUMENT, field: wrong}))


@pytest.mark.parametrize("text", ["", "[]", "null", '"x"', "{", b"\xff", '{"name": "\\ud800"}', "[" * 10_000])
def test_what_is_no_json_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_relay_information(text)


def test_a_document_without_end_is_refused_before_it_is_read() -> None:
    with pytest.raises(RemoteProtocolError, match="at most"):
        parse_relay_information("{" + " " * MAXIMUM_DOCUMENT_BYTES + "}")


@given(strategies.json_values.map(json.dumps) | strategies.text_with_surrogates | st.binary(max_size=80))
def test_any_text_is_a_document_or_a_remote_error(text: str | bytes) -> None:
    try:
        parse_relay_information(text)
    except RemoteProtocolError:
        return


@given(st.dictionaries(st.sampled_from(sorted(DOCUMENT)), strategies.json_values, max_size=3))
def test_a_damaged_document_is_a_document_all_the_same_or_a_remote_error(damage: dict[str, Any]) -> None:
    try:
        information = parse_relay_information(json.dumps({**DOCUMENT, **damage}))
    except RemoteProtocolError:
        return
    json.dumps(information.to_json())
