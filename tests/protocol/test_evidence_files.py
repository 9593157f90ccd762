"""Whatever text somebody presents as evidence is read or refused in one sentence that says where."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import UsageError
from relaymesh.nostr.event import UnsignedEvent
from relaymesh.nostr.keys import KeyPair
from relaymesh.protocol import evidence_files
from relaymesh.protocol.evidence_files import DisclosedQuote, PresentedEvidence, parse_evidence_text
from relaymesh.units import Timestamp

KEY = KeyPair(b"\x31" * 32)
EVENT = KEY.sign(UnsignedEvent(KEY.public_key, Timestamp(1), 8771, (("p", KEY.public_key),), "{}"))
FIELDS: dict[str, Any] = EVENT.to_json()
QUOTE: dict[str, Any] = {"event": FIELDS, "plaintext": '{"v":1}'}


def read(value: object) -> tuple[PresentedEvidence, ...]:
    return parse_evidence_text(json.dumps(value))


def refusal_of(text: str) -> str:
    with pytest.raises(UsageError) as refused:
        parse_evidence_text(text)
    return str(refused.value)


def is_event(evidence: PresentedEvidence) -> bool:
    return evidence.event.to_json() == FIELDS


def test_an_event_is_evidence() -> None:
    (evidence,) = read(FIELDS)
    assert is_event(evidence)
    assert evidence.quote is None


@pytest.mark.parametrize("name", ["receipt", "metering"])
def test_a_statement_may_come_with_its_quote(name: str) -> None:
    (evidence,) = read({name: FIELDS, "quote": QUOTE})
    assert is_event(evidence)
    assert isinstance(evidence.quote, DisclosedQuote)
    assert evidence.quote.event.to_json() == FIELDS
    assert evidence.quote.plaintext == '{"v":1}'
    assert read({name: FIELDS}) == read({name: FIELDS, "quote": None}) == read(FIELDS)


def test_a_list_may_hold_both_forms_in_any_order() -> None:
    evidence = read([FIELDS, {"receipt": FIELDS, "quote": QUOTE}, FIELDS])
    assert [item.quote is not None for item in evidence] == [False, True, False]


def test_what_is_read_is_not_verified_yet() -> None:
    (evidence,) = read({**FIELDS, "sig": "00" * 64})
    assert evidence.event.signature == "00" * 64


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "the file: expected an event, a JSON object"),
        ("text", "the file: expected an event, a JSON object"),
        (None, "the file: expected an event"),
        ([], "expected 1 to 1000 receipts or metering records, got 0"),
        ([FIELDS, 7], "item 2: expected an event, a JSON object"),
        ([[FIELDS]], "item 1: expected an event, a JSON object"),
        ({}, 'the file: expected an event, or an object with either "receipt" or "metering"'),
        ({"receipt": FIELDS, "metering": FIELDS}, 'with either "receipt" or "metering"'),
        ({"quote": QUOTE}, 'with either "receipt" or "metering"'),
        ({"receipt": 1}, "the file, receipt: an event must be a JSON object"),
        ({**FIELDS, "sig": "short"}, "the file: an event's sig must be 128 lowercase hex characters"),
        ({**FIELDS, "kind": 8771.0}, "the file: an event's kind must be an integer"),
        ({"receipt": FIELDS, "quote": 1}, 'the file, quote: expected an object with "event" and "plaintext"'),
        ({"receipt": FIELDS, "quote": {"event": FIELDS}}, 'with "event" and "plaintext"'),
        ({"receipt": FIELDS, "quote": {"event": 1, "plaintext": ""}}, "the file, quote, event: an event must be"),
        ({"receipt": FIELDS, "quote": {"event": FIELDS, "plaintext": "\ud800"}}, "a plaintext of valid Unicode"),
    ],
)
def test_what_is_no_evidence_is_refused_with_its_place(value: object, said: str) -> None:
    assert said in refusal_of(json.dumps(value))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no valid JSON (line 1, column 1)"),
        ("npub1…", "no valid JSON"),
        ('{\n"id":', "no valid JSON (line 2"),
        ("[" * 100_000, "nested too deeply"),
        ('{"kind":1,"kind":2}', "repeats a key"),
        ('{"kind":' + "9" * 5_000 + "}", "no valid JSON"),
        ("\ud800", "UTF-8"),
    ],
)
def test_text_that_is_no_json_is_refused(text: str, said: str) -> None:
    assert said in refusal_of(text)


def test_too_much_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence_files, "MAXIMUM_BYTES", 1 << 20)
    assert refusal_of(" " * ((1 << 20) + 1)) == "expected at most 1 MiB of evidence; split the file"
    assert "got 1001" in refusal_of("[" + ",".join(["0"] * 1_001) + "]")


def test_strings_that_make_no_unicode_are_left_to_the_signature_check() -> None:
    (evidence,) = parse_evidence_text(json.dumps({**FIELDS, "content": "\ud800"}))
    assert evidence.event.content == "\ud800"


@given(st.text(max_size=50) | st.text(alphabet='{}[]",:0123456789receipt ', max_size=50))
def test_any_text_is_read_or_refused_as_a_persons_mistake(text: str) -> None:
    with suppress(UsageError):
        parse_evidence_text(text)
