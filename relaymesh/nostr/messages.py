"""The messages between clients and relays, both ways (NIP-01, NIP-42, NIP-45, NIP-77)."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import orjson

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.nostr.event import Event, EventId, is_hex_32, parse_event
from relaymesh.nostr.filters import Filter, parse_filter
from relaymesh.units import MAXIMUM_INTEGER

MAXIMUM_SUBSCRIPTION_ID_CHARACTERS: Final = 64

_HEX_BYTES = re.compile(r"(?:[0-9a-fA-F]{2})*\Z")

MessageT = TypeVar("MessageT")


@dataclass(frozen=True, slots=True)
class EventMessage:
    """`EVENT`, client to relay: publish this (NIP-01)."""

    event: Event

    def to_text(self) -> str:
        """The JSON text of the message."""
        return _to_text(["EVENT", self.event.to_json()])


@dataclass(frozen=True, slots=True)
class RequestMessage:
    """`REQ`, client to relay: send what matches any of the filters, stored and to come (NIP-01)."""

    subscription_id: str
    filters: tuple[Filter, ...]

    def to_text(self) -> str:
        """The JSON text of the message."""
        return _to_text(["REQ", self.subscription_id, *(each.to_json() for each in self.filters)])


@dataclass(frozen=True, slots=True)
class CountMessage:
    """`COUNT`, client to relay: how many stored events match any of the filters? (NIP-45)"""

    subscription_id: str
    filters: tuple[Filter, ...]

    def to_text(self) -> str:
        """The JSON text of the message."""
        return _to_text(["COUNT", self.subscription_id, *(each.to_json() for each in self.filters)])


@dataclass(frozen=True, slots=True)
class CloseMessage:
    """`CLOSE`, client to relay: end this subscription (NIP-01)."""

    subscription_id: str

    def to_text(self) -> str:
        """The JSON text of the message."""
        return _to_text(["CLOSE", self.subscription_id])


@dataclass(frozen=True, slots=True)
class AuthMessage:
    """`AUTH`, client to relay: the signed answer to a challenge (NIP-42)."""

    event: Event

    def to_text(self) -> str:
        """The JSON text of the message."""
        return _to_text(["AUTH", self.event.to_json()])


@dataclass(frozen=True, slots=True)
class NegentropyOpen:
    """`NEG-OPEN`, client to relay: compare what you have of this filter with what I have (NIP-77)."""

    subscription_id: str
    wanted: Filter
    message: bytes

    def to_text(self) -> str:
        """The JSON text of the message."""
        return _to_text(["NEG-OPEN", self.subscription_id, self.wanted.to_json(), self.message.hex()])


@dataclass(frozen=True, slots=True)
class NegentropyMessage:
    """`NEG-MSG`, both ways in turn: the next message of the Negentropy protocol (NIP-77)."""

    subscription_id: str
    message: bytes

    def to_text(self) -> str:
        """The JSON text of the message."""
        return _to_text(["NEG-MSG", self.subscription_id, self.message.hex()])


@dataclass(frozen=True, slots=True)
class NegentropyClose:
    """`NEG-CLOSE`, client to relay: forget this comparison (NIP-77)."""

    subscription_id: str

    def to_text(self) -> str:
        """The JSON text of the message."""
        return _to_text(["NEG-CLOSE", self.subscription_id])


NegentropyRequest = NegentropyOpen | NegentropyMessage | NegentropyClose
ClientMessage = EventMessage | RequestMessage | CountMessage | CloseMessage | AuthMessage | NegentropyRequest


@dataclass(frozen=True, slots=True)
class SubscriptionEvent:
    """`EVENT`, relay to client: this event matches your subscription (NIP-01)."""

    subscription_id: str
    event: Event

    def to_text(self) -> str:
        """The JSON text of the message."""
        return _to_text(["EVENT", self.subscription_id, self.event.to_json()])


@dataclass(frozen=True, slots=True)
class OkMessage:
    """`OK`, relay to client: whether an event was taken (NIP-01).

    Args:
        event_id: Which event.
        accepted: Whether the relay took it.
        message: Empty, or a machine-readable prefix, a colon and text; never empty when refused.
    """

    event_id: EventId
    accepted: bool
    message: str

    def to_text(self) -> str:
        """The JSON text of the message."""
        return _to_text(["OK", self.event_id, self.accepted, self.message])


@dataclass(frozen=True, slots=True)
class EndOfStoredEvents:
    """`EOSE`, relay to client: all stored events were sent, what follows is live (NIP-01).

    Args:
        subscription_id: Of which subscription.
        hints: `finish` when nothing that is stored was left out, `more` when something was (NIP-67); others may come.
    """

    subscription_id: str
    hints: tuple[str, ...] = ()

    def to_text(self) -> str:
        """The JSON text of the message."""
        return _to_text(["EOSE", self.subscription_id, *([self.hints] if self.hints else [])])


@dataclass(frozen=True, slots=True)
class ClosedMessage:
    """`CLOSED`, relay to client: the relay refused or ended a subscription (NIP-01)."""

    subscription_id: str
    message: str

    def to_text(self) -> str:
        """The JSON text of the message."""
        return _to_text(["CLOSED", self.subscription_id, self.message])


@dataclass(frozen=True, slots=True)
class NoticeMessage:
    """`NOTICE`, relay to client: words for a person (NIP-01)."""

    message: str

    def to_text(self) -> str:
        """The JSON text of the message."""
        return _to_text(["NOTICE", self.message])


@dataclass(frozen=True, slots=True)
class AuthChallenge:
    """`AUTH`, relay to client: sign this to authenticate (NIP-42)."""

    challenge: str

    def to_text(self) -> str:
        """The JSON text of the message."""
        return _to_text(["AUTH", self.challenge])


@dataclass(frozen=True, slots=True)
class CountResult:
    """`COUNT`, relay to client: how many stored events match (NIP-45)."""

    subscription_id: str
    count: int

    def to_text(self) -> str:
        """The JSON text of the message."""
        return _to_text(["COUNT", self.subscription_id, {"count": self.count}])


@dataclass(frozen=True, slots=True)
class NegentropyError:
    """`NEG-ERR`, relay to client: the relay refused or ended a comparison (NIP-77).

    Args:
        subscription_id: Which one.
        message: A machine-readable prefix, a colon and text.
        maximum_records: How many events may be compared, where too many were asked for.
    """

    subscription_id: str
    message: str
    maximum_records: int | None = None

    def to_text(self) -> str:
        """The JSON text of the message."""
        maximum = [] if self.maximum_records is None else [self.maximum_records]
        return _to_text(["NEG-ERR", self.subscription_id, self.message, *maximum])


RelayMessage = (
    SubscriptionEvent | OkMessage | EndOfStoredEvents | ClosedMessage | NoticeMessage | AuthChallenge | CountResult
)


def parse_client_message(text: str | bytes) -> ClientMessage:
    """Read a message that a client sent to a relay; its event, if any, stays unverified.

    Raises:
        RemoteProtocolError: The text is anything but one well-formed message of this direction.
    """
    return _parse(text, _CLIENT_MESSAGES)


def parse_relay_message(text: str | bytes) -> RelayMessage:
    """Read a message that a relay sent to a client; its event, if any, stays unverified.

    Raises:
        RemoteProtocolError: The text is anything but one well-formed message of this direction.
    """
    return _parse(text, _RELAY_MESSAGES)


def encode_ok(event_id: EventId, accepted: bool, message: str) -> bytes:
    """The JSON bytes of an OK message, for a relay that sends one for every event (NIP-01)."""
    return _to_text(["OK", event_id, accepted, message]).encode()


def _to_text(message: list[Any]) -> str:
    try:
        return orjson.dumps(message).decode()
    except TypeError as error:  # orjson.JSONEncodeError is a TypeError
        raise LocalProtocolError("a message's strings must be valid UTF-8, without lone surrogates") from error


def _parse(text: str | bytes, parsers: dict[str, Callable[[list[Any]], MessageT]]) -> MessageT:
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RemoteProtocolError("a message must be valid JSON") from error
    if not isinstance(message, list) or not message or not isinstance(message[0], str):
        raise RemoteProtocolError("a message must be a JSON array that starts with its type")
    parse = parsers.get(message[0])
    if parse is None:
        raise RemoteProtocolError(f"a message's type must be one of {', '.join(parsers)}")
    return parse(message)


def _check_length(message: list[Any], length: int) -> None:
    if len(message) != length:
        raise RemoteProtocolError(f"the message {message[0]} must have {length} elements, not {len(message)}")


def _check_subscription_id(message: list[Any]) -> str:
    value = message[1] if len(message) > 1 else None
    if not isinstance(value, str) or not 1 <= len(value) <= MAXIMUM_SUBSCRIPTION_ID_CHARACTERS:
        raise RemoteProtocolError(
            f"a subscription id must be a string of 1 to {MAXIMUM_SUBSCRIPTION_ID_CHARACTERS} characters"
        )
    return value


def _check_string(message: list[Any], position: int) -> str:
    value = message[position]
    if not isinstance(value, str):
        raise RemoteProtocolError(f"element {position} of the message {message[0]} must be a string")
    return value


def _parse_name(message: list[Any]) -> str:
    _check_length(message, 2)
    return _check_subscription_id(message)


def _parse_filters(message: list[Any]) -> tuple[str, tuple[Filter, ...]]:
    subscription_id = _check_subscription_id(message)
    if len(message) < 3:
        raise RemoteProtocolError(f"the message {message[0]} must have at least one filter")
    return subscription_id, tuple(map(parse_filter, message[2:]))


def _parse_only_event(message: list[Any]) -> Event:
    _check_length(message, 2)
    return parse_event(message[1])


def _parse_subscription_event(message: list[Any]) -> SubscriptionEvent:
    _check_length(message, 3)
    return SubscriptionEvent(_check_subscription_id(message), parse_event(message[2]))


def _parse_ok_message(message: list[Any]) -> OkMessage:
    _check_length(message, 4)
    event_id, accepted = message[1], message[2]
    if not is_hex_32(event_id):
        raise RemoteProtocolError("an OK message must name an event id of 64 lowercase hex characters")
    if not isinstance(accepted, bool):
        raise RemoteProtocolError("an OK message must say true or false")
    return OkMessage(EventId(event_id), accepted, _check_string(message, 3))


def _parse_end_of_stored_events(message: list[Any]) -> EndOfStoredEvents:
    _check_length(message, 3 if len(message) == 3 else 2)
    hints = message[2] if len(message) == 3 else []
    if not isinstance(hints, list) or not all(isinstance(hint, str) for hint in hints):
        raise RemoteProtocolError("an EOSE message's hints must be a list of strings")
    return EndOfStoredEvents(_check_subscription_id(message), tuple(hints))


def _parse_closed_message(message: list[Any]) -> ClosedMessage:
    _check_length(message, 3)
    return ClosedMessage(_check_subscription_id(message), _check_string(message, 2))


def _parse_words(message: list[Any]) -> str:
    _check_length(message, 2)
    return _check_string(message, 1)


def _parse_count_result(message: list[Any]) -> CountResult:
    _check_length(message, 3)
    count = message[2].get("count") if isinstance(message[2], dict) else None
    if type(count) is not int or not 0 <= count <= MAXIMUM_INTEGER:
        raise RemoteProtocolError("a COUNT message must hold an object whose count is an integer of at least 0")
    return CountResult(_check_subscription_id(message), count)


def _check_hex(message: list[Any], position: int) -> bytes:
    value = message[position]
    if not isinstance(value, str) or _HEX_BYTES.match(value) is None:
        raise RemoteProtocolError(f"element {position} of the message {message[0]} must be bytes in hex")
    return bytes.fromhex(value)


def _parse_negentropy_open(message: list[Any]) -> NegentropyOpen:
    _check_length(message, 4)
    return NegentropyOpen(_check_subscription_id(message), parse_filter(message[2]), _check_hex(message, 3))


def _parse_negentropy_message(message: list[Any]) -> NegentropyMessage:
    _check_length(message, 3)
    return NegentropyMessage(_check_subscription_id(message), _check_hex(message, 2))


_CLIENT_MESSAGES: Final[dict[str, Callable[[list[Any]], ClientMessage]]] = {
    "EVENT": lambda message: EventMessage(_parse_only_event(message)),
    "REQ": lambda message: RequestMessage(*_parse_filters(message)),
    "COUNT": lambda message: CountMessage(*_parse_filters(message)),
    "CLOSE": lambda message: CloseMessage(_parse_name(message)),
    "AUTH": lambda message: AuthMessage(_parse_only_event(message)),
    "NEG-OPEN": _parse_negentropy_open,
    "NEG-MSG": _parse_negentropy_message,
    "NEG-CLOSE": lambda message: NegentropyClose(_parse_name(message)),
}

_RELAY_MESSAGES: Final[dict[str, Callable[[list[Any]], RelayMessage]]] = {
    "EVENT": _parse_subscription_event,
    "OK": _parse_ok_message,
    "EOSE": _parse_end_of_stored_events,
    "CLOSED": _parse_closed_message,
    "NOTICE": lambda message: NoticeMessage(_parse_words(message)),
    "AUTH": lambda message: AuthChallenge(_parse_words(message)),
    "COUNT": _parse_count_result,
}
