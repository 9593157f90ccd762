"""Session messages on the wire: their exact form, and that nothing else is read as one."""

import hashlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.nostr.event import EventId
from relaymesh.protocol.refusal import RefusalCode, refuse
from relaymesh.protocol.session_codec import compute_job_id, decode_message, encode_message, parse_message
from relaymesh.protocol.session_messages import (
    ByeMessage,
    CancelMessage,
    CreditMessage,
    EndMessage,
    ErrorMessage,
    InvoiceMessage,
    JobId,
    JobMessage,
    OutputMessage,
    PaidMessage,
    PartMessage,
    PingMessage,
    PongMessage,
    ResumeMessage,
    SealedMessage,
    SessionId,
    SessionMessage,
)
from relaymesh.units import AmountMsat
from tests.protocol.session_strategies import json_values, messages

JOB = JobId("ab" * 32)
NONCE = "cd" * 32
QUOTE = EventId("ef" * 32)
JOB_MESSAGE = JobMessage(JOB, NONCE, QUOTE, "tiny", "chat", '{"messages":[]}', 64, AmountMsat(5_000))
INVOICE_MESSAGE = InvoiceMessage(JOB, 0, "prepay", "lnbcrt1…", AmountMsat(1_000), 64, 1_750_000_000_000)

EXACT: list[tuple[SessionMessage, list[Any]]] = [
    (
        JOB_MESSAGE,
        [
            "JOB",
            JOB,
            {
                "client_nonce": NONCE,
                "quote_id": QUOTE,
                "model": "tiny",
                "job_type": "chat",
                "body": '{"messages":[]}',
                "output_units": 64,
                "max_msat": 5_000,
            },
        ],
    ),
    (
        INVOICE_MESSAGE,
        [
            "INVOICE",
            JOB,
            {
                "tranche": 0,
                "order": "prepay",
                "bolt11": "lnbcrt1…",
                "msat": 1_000,
                "units": 64,
                "expires_at_ms": 1_750_000_000_000,
            },
        ],
    ),
    (PaidMessage(JOB, 2), ["PAID", JOB, 2]),
    (OutputMessage(JOB, 7, " Hello"), ["OUTPUT", JOB, 7, " Hello"]),
    (SealedMessage(JOB, 1, 31, bytes(17)), ["SEALED", JOB, 1, 31, "AAAAAAAAAAAAAAAAAAAAAAA="]),
    (EndMessage(JOB), ["END", JOB]),
    (CreditMessage(JOB, 65_536), ["CREDIT", JOB, 65_536]),
    (CancelMessage(JOB), ["CANCEL", JOB]),
    (ByeMessage("idle"), ["BYE", "idle"]),
    (
        ErrorMessage(JOB, refuse(RefusalCode.OVER_BUDGET, "costs more"), False),
        ["ERROR", JOB, "over-budget: costs more", False],
    ),
    (
        ErrorMessage(JOB, refuse(RefusalCode.BUSY, "full", 1_500), True),
        ["ERROR", JOB, "busy: full", True, 1_500],
    ),
    (PartMessage(3, 0, 2, '["JOB"'), ["PART", 3, 0, 2, '["JOB"']),
    (ResumeMessage(JOB, 8), ["RESUME", JOB, 8]),
    (PingMessage(1), ["PING", 1]),
    (PongMessage(1), ["PONG", 1]),
]


@pytest.mark.parametrize(("message", "form"), EXACT, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_each_message_has_exactly_its_form_on_the_wire(message: SessionMessage, form: list[Any]) -> None:
    assert orjson.loads(encode_message(message)) == form
    assert parse_message(form) == message


@given(messages)
def test_every_message_survives_the_wire(message: SessionMessage) -> None:
    assert decode_message(encode_message(message)) == message


@given(json_values)
def test_nothing_that_is_no_message_is_read_or_raises_anything_else(value: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_message(value)


@given(messages, st.data())
def test_a_message_with_one_element_exchanged_is_read_as_another_or_refused(
    message: SessionMessage, data: st.DataObject
) -> None:
    form = orjson.loads(encode_message(message))
    position = data.draw(st.integers(0, len(form) - 1))
    form[position] = data.draw(json_values)
    try:
        again = parse_message(form)
    except RemoteProtocolError:
        return
    assert orjson.loads(encode_message(again)) == form or isinstance(again, JobMessage | InvoiceMessage | ErrorMessage)


@given(messages, json_values)
def test_a_message_with_an_element_too_many_or_too_few_is_refused(message: SessionMessage, extra: Any) -> None:
    form = orjson.loads(encode_message(message))
    is_short = isinstance(message, ErrorMessage) and len(form) == 4  # an ERROR's hint may be left out
    for wrong in ([*form, *([0] if is_short else []), extra], form[: 3 if isinstance(message, ErrorMessage) else -1]):
        with pytest.raises(RemoteProtocolError):
            parse_message(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        ["OUTPUT", JOB, 1.0, "x"],
        ["OUTPUT", JOB, True, "x"],
        ["OUTPUT", JOB, -1, "x"],
        ["OUTPUT", JOB, 2**53, "x"],
        ["OUTPUT", JOB, 0, ""],
        ["OUTPUT", JOB.upper(), 0, "x"],
        ["OUTPUT", JOB[:-1], 0, "x"],
        ["CREDIT", JOB, 0],
        ["CREDIT", JOB, -5],
        ["PART", 0, 64, 64, "x"],
        ["PART", 0, 0, 1, "x"],
        ["PART", 0, 0, 65, "x"],
        ["SEALED", JOB, 0, 32, "AAAAAAAAAAAAAAAAAAAAAAA="],
        ["SEALED", JOB, 0, 0, "AAAAAAAAAAAAAAAAAAAAAAB="],
        ["SEALED", JOB, 0, 0, "AAAAAAAAAAAAAAAAAAAAAAA"],
        ["SEALED", JOB, 0, 0, "AAAA AAAAAAAAAAAAAAAAAAA="],
        ["SEALED", JOB, 0, 0, "AAAA"],
        ["SEALED", JOB, 0, 0, "A" * 11_000],
        ["ERROR", JOB, "no-such-code: text", False],
        ["ERROR", JOB, "busy: text", 1],
        ["ERROR", JOB, "busy", True],
        ["BYE", ""],
        ["BYE", "x" * 201],
        ["INVOICE", JOB, {"tranche": 0}],
        ["INVOICE", JOB, [0]],
        ["NOTHING", JOB],
        [["OUTPUT"], JOB],
        [],
        {},
        "OUTPUT",
        None,
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused(wrong: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_message(wrong)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("client_nonce", "00"),
        ("quote_id", None),
        ("model", ""),
        ("model", "x" * 101),
        ("job_type", "dream"),
        ("body", {"messages": []}),
        ("max_msat", 1.5),
        ("max_msat", -1),
        ("output_units", 10**9 + 1),
        ("session", "xyz"),
    ],
)
def test_a_job_with_a_wrong_field_is_refused(field: str, wrong: Any) -> None:
    form: Any = JOB_MESSAGE.to_json()
    form[2][field] = wrong
    with pytest.raises(RemoteProtocolError):
        parse_message(form)


def test_unknown_fields_of_a_job_and_an_invoice_are_ignored() -> None:
    for message in (JOB_MESSAGE, INVOICE_MESSAGE):
        form: Any = message.to_json()
        form[2]["later"] = {"version": 2}
        assert parse_message(form) == message


@pytest.mark.parametrize("text", ["", "[", "[1,]", "NaN", '["PING",1] x', '["BYE","\\ud800"]', "[" * 100_000, b"\xff"])
def test_text_that_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_message(text)


def test_what_utf_8_cannot_carry_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        encode_message(OutputMessage(JOB, 0, "\ud800"))


def test_a_job_id_is_the_hash_of_session_and_nonce() -> None:
    expected = hashlib.sha256(b"\x01" * 32 + b"\x02" * 32).hexdigest()
    assert compute_job_id(SessionId("01" * 32), b"\x02" * 32) == expected
