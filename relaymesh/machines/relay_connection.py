"""One client connection to one relay: what was asked for survives every reconnect (NIP-01, NIP-42; RM-01, "Relays").

The machine remembers subscriptions and unanswered events, says them again on each new connection, and decides when the
next one is due. It believes nothing: events leave it unverified, to be matched and checked by whoever drives it.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.machine import TransitionTable, earliest
from relaymesh.machines.relay_connection_interface import (
    Authenticated,
    Connect,
    Disconnect,
    EventArrived,
    Publish,
    PublishAnswered,
    RelayConnectionSettings,
    RelayConnectionState,
    RelayEffect,
    RelayInput,
    RelayLost,
    RelayOpened,
    SendText,
    StopRelay,
    StoredEventsSent,
    Subscribe,
    SubscriptionRefused,
    TextReceived,
    Unsubscribe,
    WantAuthentication,
)
from relaymesh.nostr.event import Event, EventId
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.messages import (
    AuthChallenge,
    AuthMessage,
    ClosedMessage,
    CloseMessage,
    CountResult,
    EndOfStoredEvents,
    EventMessage,
    NoticeMessage,
    OkMessage,
    RelayMessage,
    RequestMessage,
    SubscriptionEvent,
    parse_relay_message,
)
from relaymesh.units import Instant, Moment

MAXIMUM_ENTROPY: Final = 2**32 - 1
FAILURES_OUT_OF_REACH: Final = 2
"""After so many failures in a row nobody waits for a relay any more, until it is connected again."""

RELAY_CONNECTION_TRANSITIONS: Final = TransitionTable(
    RelayConnectionState.CONNECTING,
    [
        (RelayConnectionState.CONNECTING, "opened", RelayConnectionState.OPEN),
        (RelayConnectionState.CONNECTING, "lost", RelayConnectionState.WAITING),
        (RelayConnectionState.OPEN, "lost", RelayConnectionState.WAITING),
        (RelayConnectionState.WAITING, "retry", RelayConnectionState.CONNECTING),
        (RelayConnectionState.CONNECTING, "stop", RelayConnectionState.STOPPED),
        (RelayConnectionState.OPEN, "stop", RelayConnectionState.STOPPED),
        (RelayConnectionState.WAITING, "stop", RelayConnectionState.STOPPED),
    ],
)

_TEMPORARY: Final = frozenset({"rate-limited", "error", ""})
"""Reasons of a `CLOSED` after which the same subscription is worth another try on the same connection (NIP-01)."""


class _Need(Enum):
    """What a subscription or an event waits for."""

    NOTHING = "nothing"
    AUTHENTICATION = "authentication"
    TIME = "time"


@dataclass(slots=True)
class _Subscription:
    filters: tuple[Filter, ...]
    need: _Need = _Need.NOTHING
    retry_at: Instant | None = None
    refusals: int = 0


@dataclass(slots=True)
class _Unanswered:
    event: Event
    until: Instant
    needs_authentication: bool = False


class RelayConnection:
    """Keeps one relay connected and everything asked of it asked.

    Args:
        can_authenticate: Whether somebody can sign NIP-42 challenges; if not, `auth-required:` is a refusal.
        settings: Timing and limits.
    """

    def __init__(self, *, can_authenticate: bool, settings: RelayConnectionSettings | None = None) -> None:
        self._can_authenticate = can_authenticate
        self._settings = settings or RelayConnectionSettings()
        self._state = RELAY_CONNECTION_TRANSITIONS.initial
        self._effects: list[RelayEffect] = []
        self._subscriptions: dict[str, _Subscription] = {}
        self._unanswered: dict[EventId, _Unanswered] = {}
        self._failures = 0
        self._opened_at = Instant(0)
        self._retry_at: Instant | None = None
        self._malformed = 0
        self._challenge: str | None = None
        self._is_authenticating = False
        self._authentication_id: EventId | None = None
        self._authentication_until: Instant | None = None

    @property
    def state(self) -> RelayConnectionState:
        """Where the connection stands."""
        return self._state

    def start(self, now: Moment) -> None:
        """Connect for the first time."""
        self._effects.append(Connect())

    def receive(self, message: RelayInput, now: Moment) -> None:
        """Take in what happened, or what is asked for."""
        match message:
            case TextReceived():
                self._text_received(message.text, now)
            case Publish():
                self._publish(message.event, now)
            case Subscribe():
                self._subscriptions[message.subscription_id] = _Subscription(message.filters)
                self._request(message.subscription_id)
            case Unsubscribe():
                self._unsubscribe(message.subscription_id)
            case RelayOpened():
                self._opened(now)
            case RelayLost():
                self._lost(message.entropy, now)
            case Authenticated():
                self._authenticated(message.event, now)
            case StopRelay():
                self._stop()
            case _:
                assert_never(message)

    def deadline(self) -> Instant | None:
        """When `handle_deadline` must be called at the latest, or None while nothing is timed."""
        instants = [unanswered.until for unanswered in self._unanswered.values()]
        retries = [each.retry_at for each in self._subscriptions.values()]
        return earliest(*instants, *retries, self._retry_at, self._authentication_until)

    def handle_deadline(self, now: Moment) -> None:
        """Act on every deadline that has passed by `now`."""
        if self._retry_at is not None and self._retry_at <= now.instant:
            self._retry_at = None
            self._move("retry", RelayConnectionState.CONNECTING)
            self._effects.append(Connect())
        for event_id, unanswered in tuple(self._unanswered.items()):
            if unanswered.until <= now.instant:
                self._answer(event_id, False, "error: the relay did not answer in time")
        for subscription_id, subscription in self._subscriptions.items():
            if subscription.retry_at is not None and subscription.retry_at <= now.instant:
                subscription.need, subscription.retry_at = _Need.NOTHING, None
                self._request(subscription_id)
        if self._authentication_until is not None and self._authentication_until <= now.instant:
            self._authentication_answered(False, "error: the relay did not answer in time", now)

    def effects(self) -> tuple[RelayEffect, ...]:
        """Hand over, once and in order, what the driver is to do."""
        effects = tuple(self._effects)
        self._effects.clear()
        return effects

    # ── the connection ────────────────────────────────────────────────────────────────────────────────────────────

    def _move(self, trigger: str, target: RelayConnectionState) -> None:
        self._state = RELAY_CONNECTION_TRANSITIONS.move(self._state, trigger, target)

    def _opened(self, now: Moment) -> None:
        if self._state is RelayConnectionState.STOPPED:
            self._effects.append(Disconnect())
            return
        self._move("opened", RelayConnectionState.OPEN)
        self._opened_at = now.instant
        for subscription_id in self._subscriptions:
            self._request(subscription_id)
        for unanswered in self._unanswered.values():
            self._effects.append(SendText(EventMessage(unanswered.event).to_text()))

    def _lost(self, entropy: int, now: Moment) -> None:
        """Wait before the next try: the longer, the more of them failed in a row; half of the wait is drawn by lot."""
        if self._state not in (RelayConnectionState.CONNECTING, RelayConnectionState.OPEN):
            return
        lived_ms = (now.instant - self._opened_at) // 1_000 if self._state is RelayConnectionState.OPEN else 0
        if lived_ms >= self._settings.settled_after_ms:
            self._failures = 0
        self._move("lost", RelayConnectionState.WAITING)
        longest = min(self._settings.first_retry_ms << min(self._failures, 32), self._settings.last_retry_ms)
        self._failures += 1
        self._retry_at = now.after_ms(longest // 2 + longest * entropy // (2 * MAXIMUM_ENTROPY))
        self._malformed = 0
        self._challenge = self._authentication_id = self._authentication_until = None
        self._is_authenticating = False
        for subscription in self._subscriptions.values():
            subscription.need, subscription.retry_at = _Need.NOTHING, None
        for event_id, unanswered in tuple(self._unanswered.items()):
            unanswered.needs_authentication = False
            self._answer_if_hopeless(event_id, unanswered)

    def _stop(self) -> None:
        if self._state is RelayConnectionState.STOPPED:
            return
        if self._state is RelayConnectionState.OPEN:
            self._effects.append(Disconnect())
        self._move("stop", RelayConnectionState.STOPPED)
        for event_id in tuple(self._unanswered):
            self._answer(event_id, False, "error: the relay is no longer used")
        self._subscriptions.clear()
        self._retry_at = self._authentication_until = None

    # ── what is asked of the relay ────────────────────────────────────────────────────────────────────────────────

    def _request(self, subscription_id: str) -> None:
        if self._state is RelayConnectionState.OPEN:
            filters = self._subscriptions[subscription_id].filters
            self._effects.append(SendText(RequestMessage(subscription_id, filters).to_text()))

    def _unsubscribe(self, subscription_id: str) -> None:
        subscription = self._subscriptions.pop(subscription_id, None)
        is_asked = subscription is not None and subscription.need is _Need.NOTHING
        if is_asked and self._state is RelayConnectionState.OPEN:
            self._effects.append(SendText(CloseMessage(subscription_id).to_text()))

    def _publish(self, event: Event, now: Moment) -> None:
        if self._state is RelayConnectionState.STOPPED:
            self._effects.append(PublishAnswered(event.id, False, "error: the relay is no longer used"))
            return
        known = self._unanswered.get(event.id)
        if known is not None:
            known.until = now.after_ms(self._settings.answer_in_ms)
            return
        if len(self._unanswered) >= self._settings.maximum_unanswered:
            self._effects.append(PublishAnswered(event.id, False, "error: too many events wait for this relay"))
            return
        unanswered = _Unanswered(event, now.after_ms(self._settings.answer_in_ms))
        self._unanswered[event.id] = unanswered
        if self._state is RelayConnectionState.OPEN:
            self._effects.append(SendText(EventMessage(event).to_text()))
        else:
            self._answer_if_hopeless(event.id, unanswered)

    def _answer_if_hopeless(self, event_id: EventId, unanswered: _Unanswered) -> None:
        """Nobody waits for a relay that failed again and again, or whose next try comes after the answer's deadline."""
        is_too_late = self._retry_at is not None and self._retry_at >= unanswered.until
        if is_too_late or self._failures >= FAILURES_OUT_OF_REACH:
            self._answer(event_id, False, "error: the relay cannot be reached")

    def _answer(self, event_id: EventId, accepted: bool, message: str) -> None:
        if self._unanswered.pop(event_id, None) is not None:
            self._effects.append(PublishAnswered(event_id, accepted, message))

    # ── what the relay says ───────────────────────────────────────────────────────────────────────────────────────

    def _text_received(self, text: str, now: Moment) -> None:
        if self._state is not RelayConnectionState.OPEN:
            return
        try:
            message = parse_relay_message(text)
        except RemoteProtocolError:  # one bad message must not cost a subscription; a stream of them is no relay
            self._malformed += 1
            if self._malformed == self._settings.maximum_malformed:
                self._effects.append(Disconnect())
            return
        self._take(message, now)

    def _take(self, message: RelayMessage, now: Moment) -> None:
        match message:
            case SubscriptionEvent():
                if message.subscription_id in self._subscriptions:
                    self._effects.append(EventArrived(message.subscription_id, message.event))
            case OkMessage():
                self._event_answered(message, now)
            case EndOfStoredEvents():
                if message.subscription_id in self._subscriptions:
                    self._effects.append(StoredEventsSent(message.subscription_id, _is_everything(message.hints)))
            case ClosedMessage():
                self._subscription_closed(message, now)
            case AuthChallenge():
                self._challenge = message.challenge
            case NoticeMessage() | CountResult():
                pass  # words for a person, and an answer to what is never asked
            case _:
                assert_never(message)

    def _event_answered(self, answer: OkMessage, now: Moment) -> None:
        if answer.event_id == self._authentication_id:
            self._authentication_answered(answer.accepted, answer.message, now)
            return
        unanswered = self._unanswered.get(answer.event_id)
        if unanswered is None:
            return
        wants_authentication = not answer.accepted and _prefix(answer.message) == "auth-required"
        if wants_authentication and self._authenticate(now):
            unanswered.needs_authentication = True
            return
        self._answer(answer.event_id, answer.accepted, answer.message)

    def _subscription_closed(self, closed: ClosedMessage, now: Moment) -> None:
        subscription = self._subscriptions.get(closed.subscription_id)
        if subscription is None:
            return
        prefix = _prefix(closed.message)
        if prefix == "auth-required" and self._authenticate(now):
            subscription.need = _Need.AUTHENTICATION
            return
        subscription.need = _Need.TIME
        if prefix in _TEMPORARY:
            longest = min(30_000 << min(subscription.refusals, 16), self._settings.last_retry_ms)
            subscription.refusals += 1
            subscription.retry_at = now.after_ms(longest)
        self._effects.append(SubscriptionRefused(closed.subscription_id, closed.message))

    # ── authentication ────────────────────────────────────────────────────────────────────────────────────────────

    def _authenticate(self, now: Moment) -> bool:
        """Whether authentication may still help: it is under way now, or was begun here."""
        if self._is_authenticating:
            return True
        if not self._can_authenticate or self._challenge is None or self._authentication_id is not None:
            return False
        self._is_authenticating = True
        self._authentication_until = now.after_ms(self._settings.answer_in_ms)
        self._effects.append(WantAuthentication(self._challenge))
        return True

    def _authenticated(self, event: Event, now: Moment) -> None:
        if self._is_authenticating and self._state is RelayConnectionState.OPEN:
            self._authentication_id = event.id
            self._effects.append(SendText(AuthMessage(event).to_text()))

    def _authentication_answered(self, accepted: bool, message: str, now: Moment) -> None:
        self._is_authenticating = False
        self._authentication_until = None
        for subscription_id, subscription in self._subscriptions.items():
            if subscription.need is _Need.AUTHENTICATION:
                subscription.need = _Need.NOTHING if accepted else _Need.TIME
                if accepted:
                    self._request(subscription_id)
                else:
                    self._effects.append(SubscriptionRefused(subscription_id, message))
        for event_id, unanswered in tuple(self._unanswered.items()):
            if unanswered.needs_authentication and accepted:
                self._effects.append(SendText(EventMessage(unanswered.event).to_text()))
            elif unanswered.needs_authentication:
                self._answer(event_id, False, message)


def _is_everything(hints: tuple[str, ...]) -> bool | None:
    """What the relay says of its answer: `finish`, nothing was left out, or `more` (NIP-67); None if neither."""
    return True if "finish" in hints else False if "more" in hints else None


def _prefix(message: str) -> str:
    """The machine-readable word before the colon (NIP-01); empty where there is none."""
    prefix, colon, _ = message.partition(":")
    return prefix if colon and " " not in prefix else ""
