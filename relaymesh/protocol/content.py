"""The content rules: one strict reading of JSON, so that every implementation decides the same.

RM-01, "Content rules". UTF-8 JSON, an object at the top, no duplicate keys, at most 8 levels deep, numbers only as
plain integers within ±(2^53 − 1). Whatever breaks a rule is invalid everywhere and is no evidence.
"""

import json
import re
from typing import Any, Final, Self

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.units import MAXIMUM_INTEGER

MAXIMUM_DEPTH: Final = 8
MAXIMUM_PLAINTEXT_BYTES: Final = 6 * 1024
MAXIMUM_EVENT_BYTES: Final = 16_384
PROTOCOL_VERSION: Final = 1

_UNUSUAL_NUMBER: Final = re.compile(rb"[\[:,]-?[0-9]+(?:[.eE]|(?<=[0-9]{16}))")
"""A fraction, an exponent, or so many digits that the bound must be checked; inside a string it does no harm."""
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')


class WireValue(BaseModel):
    """A frozen value as it stands in an event's content: strict types, unknown fields ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    @classmethod
    def from_text(cls, text: str, *, maximum_bytes: int = MAXIMUM_EVENT_BYTES) -> Self:
        """Read the value from JSON text under the content rules.

        Raises:
            RemoteProtocolError: The text breaks a content rule or a field is missing, mistyped or out of range.
        """
        check_content(text, maximum_bytes=maximum_bytes)
        return cls.from_checked(text)

    @classmethod
    def from_checked(cls, text: str) -> Self:
        """Read the value from JSON text that `check_content` has let through.

        Raises:
            RemoteProtocolError: A field is missing, mistyped or out of range.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise RemoteProtocolError(f"{cls.__name__}: {describe_validation_error(error)}") from None

    def to_fields(self) -> dict[str, Any]:
        """The value as JSON-ready fields, in declaration order."""
        return self.model_dump(mode="json")


def describe_validation_error(error: ValidationError) -> str:
    """The first complaint of pydantic as `field: what was expected`, without repeating the input."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "value"
    return f"{place}: {first['msg']}"


def encode_content(fields: dict[str, Any]) -> str:
    """Fields as compact JSON text.

    Raises:
        LocalProtocolError: The fields break a content rule: nobody would accept what we are about to sign.
    """
    try:
        text = orjson.dumps(fields).decode()
        check_content(text)
    except (RemoteProtocolError, TypeError, orjson.JSONEncodeError) as error:
        raise LocalProtocolError(f"content that breaks the content rules: {error}") from None
    return text


def check_content(text: str, *, maximum_bytes: int = MAXIMUM_EVENT_BYTES) -> dict[str, Any]:
    """Parse JSON text under the content rules.

    Returns:
        The top-level object.

    Raises:
        RemoteProtocolError: A rule is broken; the message says which.
    """
    if len(text) > maximum_bytes:
        raise RemoteProtocolError(f"content must be at most {maximum_bytes} bytes")
    try:
        data = text.encode()
        if len(data) > maximum_bytes:
            raise RemoteProtocolError(f"content must be at most {maximum_bytes} bytes")
        compact = _read_compact(data)
        if compact is not None:
            return compact
        _check_depth(text)
        value = _DECODER.decode(text)
    except UnicodeEncodeError:
        raise RemoteProtocolError("content must be valid UTF-8") from None
    except (ValueError, RecursionError):
        raise RemoteProtocolError("content must be valid JSON") from None
    if not isinstance(value, dict):
        raise RemoteProtocolError("content must be a JSON object")
    if "\\ud" in text or "\\uD" in text:
        _check_surrogates(value)
    return value


def _read_compact(data: bytes) -> dict[str, Any] | None:
    """The object, if the text is laid out as `encode_content` lays it out and breaks no rule; None: look closer.

    A text that comes out again byte for byte repeats no key, since a repeated one would be gone. This takes a fifth of
    the time, and whatever it does not recognise is read, or refused, the long way.
    """
    if _UNUSUAL_NUMBER.search(data) is not None and _UNUSUAL_NUMBER.search(_STRING.sub(b'""', data)) is not None:
        return None  # twice, since an address like `38770:1e…` has what looks like one, and few texts do
    try:
        value = orjson.loads(data)
        is_compact = orjson.dumps(value) == data
    except (ValueError, TypeError):
        return None
    if not is_compact or not isinstance(value, dict):
        return None
    has_few_brackets = data.count(b"[") + data.count(b"{") <= MAXIMUM_DEPTH
    return value if has_few_brackets or _is_shallow(value, MAXIMUM_DEPTH) else None


def _is_shallow(value: Any, depth: int) -> bool:
    if depth <= 0:
        return False
    for item in value.values() if isinstance(value, dict) else value:  # a plain loop: every offer comes through here
        kind = type(item)
        if (kind is dict or kind is list) and not _is_shallow(item, depth - 1):
            return False
    return True


def _check_depth(text: str) -> None:
    depth, in_string, escaped = 0, False, False
    if text.count("[") + text.count("{") <= MAXIMUM_DEPTH:
        return
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            if depth > MAXIMUM_DEPTH:
                raise RemoteProtocolError(f"content must be at most {MAXIMUM_DEPTH} levels deep")
        elif character in "]}":
            depth -= 1


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RemoteProtocolError("content must be valid UTF-8, without lone surrogates") from None


def _refuse_number(text: str) -> Any:
    raise RemoteProtocolError("numbers must be plain integers, without fraction or exponent")


def _parse_integer(text: str) -> int:
    if text == "-0":
        raise RemoteProtocolError("numbers must be plain integers: -0 is not one")
    if len(text) > len(str(MAXIMUM_INTEGER)) + 1 or abs(value := int(text)) > MAXIMUM_INTEGER:
        raise RemoteProtocolError("integers must lie within ±(2^53 − 1)")
    return value


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise RemoteProtocolError("an object must not repeat a key")
    return value


_DECODER = json.JSONDecoder(
    parse_float=_refuse_number,
    parse_constant=_refuse_number,
    parse_int=_parse_integer,
    object_pairs_hook=_unique_object,
    strict=True,
)
