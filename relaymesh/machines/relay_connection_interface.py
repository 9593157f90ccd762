"""What goes into a relay connection's machine and what comes out of it (`relaymesh.machines.relay_connection`)."""

from dataclasses import dataclass
from enum import Enum

from relaymesh.nostr.event import Event, EventId
from relaymesh.nostr.filters import Filter


class RelayConnectionState(Enum):
    """Where the connection stands."""

    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class RelayConnectionSettings:
    """Timing, in milliseconds, and limits.

    Args:
        answer_in_ms: How long the relay has to answer an event (`OK`) or an authentication.
        first_retry_ms: The wait before the first reconnect; it doubles with every failure.
        last_retry_ms: The longest wait.
        settled_after_ms: A connection that lived this long was a good one: the wait starts over after it.
        maximum_unanswered: So many events may wait for their `OK`.
        maximum_malformed: So many unreadable messages are passed over on one connection.
    """

    answer_in_ms: int = 8_000
    first_retry_ms: int = 1_000
    last_retry_ms: int = 300_000
    settled_after_ms: int = 60_000
    maximum_unanswered: int = 1_024
    maximum_malformed: int = 32


@dataclass(frozen=True, slots=True)
class RelayOpened:
    """The connection is open."""


@dataclass(frozen=True, slots=True)
class RelayLost:
    """The connection is gone, or could not be made; `entropy` is a random integer of 32 bits."""

    entropy: int


@dataclass(frozen=True, slots=True)
class TextReceived:
    """The relay sent a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Follow these filters under this id, until `Unsubscribe`."""

    subscription_id: str
    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Follow no longer."""

    subscription_id: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Send an event and report what the relay says; while it waits for an answer it is not sent again."""

    event: Event


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The signed answer (22242) to the challenge that `WantAuthentication` named."""

    event: Event


@dataclass(frozen=True, slots=True)
class StopRelay:
    """Give the relay up for good."""


RelayInput = RelayOpened | RelayLost | TextReceived | Subscribe | Unsubscribe | Publish | Authenticated | StopRelay


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a connection and report `RelayOpened` or `RelayLost`."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the connection and report `RelayLost`."""


@dataclass(frozen=True, slots=True)
class SendText:
    """Send a message on the open connection."""

    text: str


@dataclass(frozen=True, slots=True)
class EventArrived:
    """The relay says that this event matches this subscription; nothing about it is checked yet."""

    subscription_id: str
    event: Event


@dataclass(frozen=True, slots=True)
class StoredEventsSent:
    """The relay has sent what it had stored for this subscription.

    Args:
        subscription_id: Which one.
        is_everything: Whether nothing was left out (NIP-67); None if it does not say.
    """

    subscription_id: str
    is_everything: bool | None = None


@dataclass(frozen=True, slots=True)
class SubscriptionRefused:
    """The relay will not serve this subscription on this connection; `message` is its own."""

    subscription_id: str
    message: str


@dataclass(frozen=True, slots=True)
class PublishAnswered:
    """What the relay said to an event, or, with `accepted` False, why it could not be asked."""

    event_id: EventId
    accepted: bool
    message: str


@dataclass(frozen=True, slots=True)
class WantAuthentication:
    """The relay asks for proof of identity: sign this challenge and answer with `Authenticated`."""

    challenge: str


RelayEffect = (
    Connect
    | Disconnect
    | SendText
    | EventArrived
    | StoredEventsSent
    | SubscriptionRefused
    | PublishAnswered
    | WantAuthentication
)
