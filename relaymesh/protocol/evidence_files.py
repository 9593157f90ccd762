"""Evidence as people hand it around: the text of a file with receipts or metering records, read before it is checked.

The text is JSON: one event as NIP-01 prints it, or `{"receipt": event}` or `{"metering": event}`, each of the two
optionally with `"quote": {"event": event, "plaintext": text}`, or a list of any of these.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from relaymesh.errors import RemoteProtocolError, UsageError
from relaymesh.nostr.event import Event, parse_event

MAXIMUM_BYTES: Final = 4 * 1024 * 1024
MAXIMUM_ITEMS: Final = 1_000
_STATEMENTS: Final = ("receipt", "metering")


@dataclass(frozen=True, slots=True)
class DisclosedQuote:
    """A sealed quote (28771) with its plaintext, which its `x` tag commits to; nothing of it is checked yet."""

    event: Event
    plaintext: str


@dataclass(frozen=True, slots=True)
class PresentedEvidence:
    """A receipt (8771) or metering record (8770) as somebody presents it; nothing of it is checked yet."""

    event: Event
    quote: DisclosedQuote | None = None


def parse_evidence_text(text: str) -> tuple[PresentedEvidence, ...]:
    """Read what a file presents, in its order, at least one item.

    Raises:
        UsageError: It is too long, is no JSON, or holds something other than events; the sentence says where.
    """
    if len(text) > MAXIMUM_BYTES:
        raise UsageError(f"expected at most {MAXIMUM_BYTES >> 20} MiB of evidence; split the file")
    try:
        text.encode()
        value = json.loads(text, object_pairs_hook=_unique_object)
    except UnicodeEncodeError:
        raise UsageError("expected evidence as UTF-8 text") from None
    except RecursionError:
        raise UsageError("expected events, got JSON that is nested too deeply") from None
    except ValueError as error:
        place = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise UsageError(f"expected events as JSON, got text that is no valid JSON{place}") from None
    if not isinstance(value, list):
        return (_read_item(value, "the file"),)
    if not 1 <= len(value) <= MAXIMUM_ITEMS:
        raise UsageError(f"expected 1 to {MAXIMUM_ITEMS} receipts or metering records, got {len(value)}")
    return tuple(_read_item(item, f"item {number}") for number, item in enumerate(value, 1))


def _read_item(value: object, place: str) -> PresentedEvidence:
    if not isinstance(value, dict):
        raise UsageError(f"{place}: expected an event, a JSON object")
    if "kind" in value:
        return PresentedEvidence(_read_event(value, place))
    names = [name for name in _STATEMENTS if name in value]
    if len(names) != 1:
        raise UsageError(f'{place}: expected an event, or an object with either "receipt" or "metering"')
    event = _read_event(value[names[0]], f"{place}, {names[0]}")
    return PresentedEvidence(event, _read_quote(value.get("quote"), f"{place}, quote"))


def _read_quote(value: object, place: str) -> DisclosedQuote | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(plaintext := value.get("plaintext"), str):
        raise UsageError(f'{place}: expected an object with "event" and "plaintext"')
    try:
        plaintext.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{place}: expected a plaintext of valid Unicode") from None
    return DisclosedQuote(_read_event(value.get("event"), f"{place}, event"), plaintext)


def _read_event(value: object, place: str) -> Event:
    try:
        return parse_event(value)
    except RemoteProtocolError as error:
        raise UsageError(f"{place}: {error}") from None


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise UsageError("expected events as JSON, got an object that repeats a key")
    return value
