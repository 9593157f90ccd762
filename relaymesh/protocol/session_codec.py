"""Session messages into JSON text and back (RM-02, "Messages").

A message is a JSON array that starts with its type. Reading is strict: another length, type or range than written here
ends the connection it came on; only inside the objects of JOB and INVOICE are unknown fields ignored.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from typing import Any, Final, get_args

import orjson

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.nostr.event import Event, is_hex_32, parse_event
from relaymesh.protocol.content import MAXIMUM_EVENT_BYTES
from relaymesh.protocol.fields import MAXIMUM_QUANTITY, JobType, Order
from relaymesh.protocol.refusal import Refusal
from relaymesh.protocol.session_messages import (
    ByeMessage,
    CancelMessage,
    CommitmentMessage,
    CreditMessage,
    EndMessage,
    ErrorMessage,
    InvoiceMessage,
    JobId,
    JobMessage,
    MeteringMessage,
    OutputMessage,
    PaidMessage,
    PartMessage,
    PingMessage,
    PongMessage,
    QuoteMessage,
    ReceiptMessage,
    ResumeMessage,
    SealedMessage,
    SessionId,
    SessionMessage,
)
from relaymesh.units import MAXIMUM_INTEGER

MAXIMUM_LEAVES: Final = 32
MINIMUM_CIPHERTEXT_BYTES: Final = 1 + 16
MAXIMUM_CIPHERTEXT_BYTES: Final = 8_192 + 16
"""A leaf of 1 to 8,192 bytes and its authentication tag."""
MAXIMUM_PARTS: Final = 64
MAXIMUM_BOLT11_CHARACTERS: Final = 2_048
MAXIMUM_MODEL_CHARACTERS: Final = 100
MAXIMUM_REASON_CHARACTERS: Final = 200

_JOB_TYPES: Final = frozenset(get_args(JobType))
_ORDERS: Final = frozenset(get_args(Order))
_HEX_32: Final = re.compile(r"[0-9a-f]{64}").fullmatch


def compute_job_id(session_id: SessionId, client_nonce: bytes) -> JobId:
    """The job id: SHA-256(session id ‖ client nonce), both as 32 raw bytes (RM-02, "Jobs")."""
    return JobId(hashlib.sha256(bytes.fromhex(session_id) + client_nonce).hexdigest())


def encode_message(message: SessionMessage) -> bytes:
    """The message as compact JSON in UTF-8.

    Raises:
        LocalProtocolError: A string holds a lone surrogate, or a number is beyond 64 bits.
    """
    try:
        return orjson.dumps(message.to_json())
    except TypeError as error:  # orjson.JSONEncodeError is a TypeError
        raise LocalProtocolError(
            f"a session message must be valid UTF-8 and hold plain integers: {type(message).__name__}"
        ) from error


def decode_message(text: str | bytes) -> SessionMessage:
    """Read one message from JSON text; RemoteProtocolError if it is malformed."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RemoteProtocolError("a session message must be valid JSON") from error
    return parse_message(value)


def parse_message(value: object) -> SessionMessage:
    """Read one message that was parsed from JSON.

    Raises:
        RemoteProtocolError: It is no well-formed message; an event inside it stays unverified.
    """
    if type(value) is not list or not value:
        raise RemoteProtocolError("a session message must be a JSON array that starts with its type")
    if value[0] == "OUTPUT":  # by far the most frequent, so it goes the short way
        return _parse_output(value)
    layout = _LAYOUTS.get(value[0]) if type(value[0]) is str else None
    if layout is None:
        raise RemoteProtocolError("a session message must begin with a type that this version knows")
    build, checks = layout
    if value[0] == "ERROR" and len(value) == len(checks):
        value = [*value, _ABSENT]  # the hint at its end may be left out
    if len(value) != len(checks) + 1:
        raise RemoteProtocolError(f"{value[0]} must have {len(checks) + 1} elements, not {len(value)}")
    return build(*[check(item) for check, item in zip(checks, value[1:], strict=True)])


def _parse_output(value: list[Any]) -> OutputMessage:
    if len(value) != 4:
        raise RemoteProtocolError(f"OUTPUT must have 4 elements, not {len(value)}")
    _, job_id, number, data = value
    if type(job_id) is not str or _HEX_32(job_id) is None:
        raise RemoteProtocolError("an OUTPUT's job id must be 64 lowercase hex characters")
    if type(number) is not int or not 0 <= number <= MAXIMUM_INTEGER:
        raise RemoteProtocolError("an OUTPUT's number must be an integer from 0 to 2^53 − 1")
    if type(data) is not str or not data:
        raise RemoteProtocolError("an OUTPUT's data must be a string that is not empty")
    return OutputMessage(JobId(job_id), number, data)


def _hex_32(value: object) -> Any:
    if not is_hex_32(value):
        raise RemoteProtocolError("an id in a session message must be 64 lowercase hex characters")
    return value


def _integer(minimum: int, maximum: int) -> Callable[[object], Any]:
    def check(value: object) -> int:
        if type(value) is not int or not minimum <= value <= maximum:
            raise RemoteProtocolError(f"expected an integer from {minimum} to {maximum} in a session message")
        return value

    return check


def _text(maximum: int | None = None) -> Callable[[object], Any]:
    def check(value: object) -> str:
        if type(value) is not str or not value:
            raise RemoteProtocolError("expected a string that is not empty in a session message")
        if maximum is not None and len(value) > maximum:
            raise RemoteProtocolError(f"expected a string of at most {maximum} characters in a session message")
        return value

    return check


def _one_of(choices: frozenset[str]) -> Callable[[object], Any]:
    def check(value: object) -> str:
        if type(value) is not str or value not in choices:
            raise RemoteProtocolError(f"expected one of {', '.join(sorted(choices))} in a session message")
        return value

    return check


def _boolean(value: object) -> bool:
    if type(value) is not bool:
        raise RemoteProtocolError("expected true or false in a session message")
    return value


def _refusal(value: object) -> Refusal:
    if type(value) is not str:
        raise RemoteProtocolError("an ERROR must say `code: reason`")
    return Refusal.from_wire(value)


def _ciphertext(value: object) -> bytes:
    if type(value) is not str or len(value) > MAXIMUM_CIPHERTEXT_BYTES * 4 // 3 + 4:
        raise RemoteProtocolError(f"a leaf must be base64 of at most {MAXIMUM_CIPHERTEXT_BYTES} bytes")
    try:
        ciphertext = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RemoteProtocolError("a leaf must be base64") from error
    if not MINIMUM_CIPHERTEXT_BYTES <= len(ciphertext) <= MAXIMUM_CIPHERTEXT_BYTES:
        raise RemoteProtocolError(
            f"a leaf must be {MINIMUM_CIPHERTEXT_BYTES} to {MAXIMUM_CIPHERTEXT_BYTES} bytes, not {len(ciphertext)}"
        )
    if base64.b64encode(ciphertext).decode() != value:
        raise RemoteProtocolError("a leaf must be canonical base64")
    return ciphertext


def _event(value: object) -> Event:
    event = parse_event(value)
    if event.size > MAXIMUM_EVENT_BYTES:
        raise RemoteProtocolError(f"an event in a session message must be at most {MAXIMUM_EVENT_BYTES} bytes")
    return event


_NUMBER: Final = _integer(0, MAXIMUM_INTEGER)
_EVENT: Final = _event

_JOB_FIELDS: Final[dict[str, Callable[[object], Any]]] = {
    "client_nonce": _hex_32,
    "quote_id": _hex_32,
    "model": _text(MAXIMUM_MODEL_CHARACTERS),
    "job_type": _one_of(_JOB_TYPES),
    "body": _text(),
    "output_units": _integer(0, MAXIMUM_QUANTITY),
    "max_msat": _NUMBER,
}
_INVOICE_FIELDS: Final[dict[str, Callable[[object], Any]]] = {
    "tranche": _NUMBER,
    "order": _one_of(_ORDERS),
    "bolt11": _text(MAXIMUM_BOLT11_CHARACTERS),
    "msat": _NUMBER,
    "units": _NUMBER,
    "expires_at_ms": _NUMBER,
}


def _read_fields(value: object, fields: dict[str, Callable[[object], Any]]) -> dict[str, Any]:
    if type(value) is not dict:
        raise RemoteProtocolError("JOB and INVOICE must hold a JSON object")
    return {name: check(value.get(name)) for name, check in fields.items()}


def _build_job(job_id: JobId, value: object) -> JobMessage:
    fields = _read_fields(value, _JOB_FIELDS)
    assert type(value) is dict  # checked by _read_fields, told to the type checker
    session = value.get("session")
    return JobMessage(job_id, session=None if session is None else _hex_32(session), **fields)


def _build_invoice(job_id: JobId, value: object) -> InvoiceMessage:
    return InvoiceMessage(job_id, **_read_fields(value, _INVOICE_FIELDS))


def _build_error(job_id: JobId, refusal: Refusal, is_retryable: bool, retry_in_ms: int | None) -> ErrorMessage:
    return ErrorMessage(job_id, refusal.model_copy(update={"retry_in_ms": retry_in_ms}), is_retryable)


def _hint(value: object) -> int | None:
    return None if value is _ABSENT else int(_NUMBER(value))


def _as_is(value: object) -> Any:
    return value


_ABSENT: Final = object()
_LAYOUTS: Final[dict[str, tuple[Callable[..., SessionMessage], tuple[Callable[[object], Any], ...]]]] = {
    "JOB": (_build_job, (_hex_32, _as_is)),
    "INVOICE": (_build_invoice, (_hex_32, _as_is)),
    "PAID": (PaidMessage, (_hex_32, _NUMBER)),
    "SEALED": (SealedMessage, (_hex_32, _NUMBER, _integer(0, MAXIMUM_LEAVES - 1), _ciphertext)),
    "COMMITMENT": (CommitmentMessage, (_EVENT,)),
    "METERING": (MeteringMessage, (_EVENT,)),
    "RECEIPT": (ReceiptMessage, (_EVENT,)),
    "QUOTE": (QuoteMessage, (_EVENT,)),
    "END": (EndMessage, (_hex_32,)),
    "CREDIT": (CreditMessage, (_hex_32, _integer(1, MAXIMUM_INTEGER))),
    "CANCEL": (CancelMessage, (_hex_32,)),
    "BYE": (ByeMessage, (_text(MAXIMUM_REASON_CHARACTERS),)),
    "ERROR": (_build_error, (_hex_32, _refusal, _boolean, _hint)),
    "PART": (PartMessage, (_NUMBER, _integer(0, MAXIMUM_PARTS - 1), _integer(2, MAXIMUM_PARTS), _text())),
    "RESUME": (ResumeMessage, (_hex_32, _NUMBER)),
    "PING": (PingMessage, (_NUMBER,)),
    "PONG": (PongMessage, (_NUMBER,)),
}
