"""One client's connection as a machine without I/O: message texts in, what the relay is to do out.

Everything a client says is checked here against the limits of one connection: form, sizes, rates, authentication. What
concerns other connections (events, stored ones, live ones) is asked of the relay as an effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from relaymesh.errors import ProtocolError, UsageError
from relaymesh.nostr.authentication import check_authentication
from relaymesh.nostr.event import Event, EventId, PublicKey, is_hex_32
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import verify
from relaymesh.nostr.messages import (
    MAXIMUM_SUBSCRIPTION_ID_CHARACTERS,
    AuthChallenge,
    AuthMessage,
    ClosedMessage,
    CloseMessage,
    CountMessage,
    EventMessage,
    NegentropyClose,
    NegentropyError,
    NegentropyMessage,
    NegentropyOpen,
    NegentropyRequest,
    NoticeMessage,
    RequestMessage,
    encode_ok,
    parse_client_message,
)
from relaymesh.nostr.relay_urls import is_same_relay
from relaymesh.units import Moment
from relaymesh_relay.counts import Counts
from relaymesh_relay.policies import is_private
from relaymesh_relay.rates import Bucket
from relaymesh_relay.settings import Settings
from relaymesh_relay.store import VANISH_KIND

_TOO_MANY_REQUESTS: Final = "rate-limited: too many requests on this connection; slow down"


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Send what is stored and what will come; an open subscription of that name is replaced."""

    subscription_id: str
    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """Count what is stored (NIP-45)."""

    subscription_id: str
    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """End this subscription."""

    subscription_id: str


@dataclass(frozen=True, slots=True)
class Compare:
    """Open, go on with or end a comparison (NIP-77)."""

    request: NegentropyRequest


Effect = EventMessage | Subscribe | Count | Unsubscribe | Compare
"""What the relay is to do; an EVENT message says it itself: take this event, or say why not."""


class Connection:
    """One client.

    Args:
        settings: The relay's.
        address: The client's network address, by which rates are shared.
        relay_urls: The addresses under which the client may know this relay (NIP-42).
        challenge: What the client must sign to authenticate (NIP-42); random.
        is_exempt: Whether rates do not apply.
        now: When it connected.
        counts: Where what it says is counted; None counts for itself.
    """

    __slots__ = (
        "_challenge",
        "_challenge_sent",
        "_counts",
        "_event_rate",
        "_request_rate",
        "_settings",
        "_urls",
        "address",
        "authors",
        "is_exempt",
        "is_open",
        "open_comparisons",
        "open_subscriptions",
        "outgoing",
        "pending",
    )

    def __init__(
        self,
        settings: Settings,
        *,
        address: str,
        relay_urls: tuple[str, ...],
        challenge: str,
        is_exempt: bool,
        now: Moment,
        counts: Counts | None = None,
    ) -> None:
        self._settings = settings
        self._counts = counts or Counts()
        self._urls = relay_urls
        self._challenge = challenge
        self._challenge_sent = False
        rates = settings.rates
        self._event_rate = Bucket(rates.events_per_second, rates.events_burst, now.instant)
        self._request_rate = Bucket(rates.requests_per_second, rates.requests_burst, now.instant)
        self.address = address
        self.is_exempt = is_exempt
        self.is_open = True
        """False once the client is gone."""
        self.authors: frozenset[PublicKey] = frozenset()
        """Who has authenticated on this connection (NIP-42)."""
        self.open_subscriptions: dict[str, Any] = {}
        """The relay's record of each open subscription, by the client's name for it."""
        self.open_comparisons: dict[str, Any] = {}
        """The relay's record of each open comparison, by the client's name for it (NIP-77)."""
        self.outgoing: list[bytes] = []
        """Messages that wait to be sent, in order."""
        self.pending = 0
        """Events and requests of this connection that wait for their answer."""

    def adopt(self, settings: Settings, now: Moment, *, is_exempt: bool) -> None:
        """Be held to other settings from now on."""
        if settings.rates != self._settings.rates:
            rates = settings.rates
            self._event_rate = Bucket(rates.events_per_second, rates.events_burst, now.instant)
            self._request_rate = Bucket(rates.requests_per_second, rates.requests_burst, now.instant)
        self._settings = settings
        self.is_exempt = is_exempt

    def receive(self, text: bytes, now: Moment) -> Sequence[Effect]:
        """Take in one message; answers that need nobody else are put into `outgoing`."""
        try:
            message = parse_client_message(text)
        except ProtocolError as error:
            return self._refuse_malformed(text, str(error))
        match message:
            case EventMessage(event):
                return (message,) if self._may_publish(event, now) else ()
            case RequestMessage(subscription_id, filters):
                if self._may_request(subscription_id, filters, now, opens=True):
                    return (Subscribe(subscription_id, filters),)
            case CountMessage(subscription_id, filters):
                if self._may_request(subscription_id, filters, now, opens=False):
                    return (Count(subscription_id, filters),)
            case CloseMessage(subscription_id):
                return (Unsubscribe(subscription_id),)
            case AuthMessage(event):
                self._authenticate(event, now)
            case NegentropyOpen() | NegentropyMessage() | NegentropyClose():
                return (Compare(self._check_negentropy(message, now)),)
        return ()

    def answer(self, event_id: EventId, accepted: bool, message: str) -> None:
        """Say OK, or why not (NIP-01)."""
        if message:
            self._counts.outcomes[message.partition(":")[0]] += 1
        if message.startswith("auth-required:"):
            self._send_challenge()
        self.outgoing.append(encode_ok(event_id, accepted, message))

    def close(self, subscription_id: str, message: str) -> None:
        """Tell the client that the relay will not serve a subscription, or no longer (NIP-01)."""
        if message.startswith("auth-required:"):
            self._send_challenge()
        self.send(ClosedMessage(subscription_id, message).to_text())

    def refuse_comparison(self, subscription_id: str, message: str, maximum_records: int | None = None) -> None:
        """Tell the client that the relay will not serve a comparison, or no longer (NIP-77)."""
        if message.startswith("auth-required:"):
            self._send_challenge()
        self.send(NegentropyError(subscription_id, message, maximum_records).to_text())

    def send(self, text: str) -> None:
        """Queue one message."""
        self.outgoing.append(text.encode())

    def _may_publish(self, event: Event, now: Moment) -> bool:
        refusal = ""
        if not self.is_exempt and not self._event_rate.take(now.instant):
            refusal = "rate-limited: too many events on this connection; slow down"
        elif event.kind == VANISH_KIND:  # which everybody may ask (NIP-62)
            if not self._is_addressed(event):
                refusal = "invalid: a request to vanish must name this relay's URL or ALL_RELAYS"
        elif self._settings.access.authenticate_to_write and not self.authors:
            refusal = "auth-required: events are taken from authenticated clients only"
        if refusal:
            self.answer(event.id, False, refusal)
        return not refusal

    def _is_addressed(self, request: Event) -> bool:
        """Whether a request to vanish is for this relay (NIP-62)."""
        named = request.tag_values("relay")
        try:
            return "ALL_RELAYS" in named or any(is_same_relay(each, self._urls) for each in named)
        except UsageError:  # our own address is none that anybody could name
            return False

    def _may_request(self, subscription_id: str, filters: tuple[Filter, ...], now: Moment, *, opens: bool) -> bool:
        refusal = self._refusal_of_request(subscription_id, filters, now, opens=opens)
        if refusal is not None:
            self.close(subscription_id, refusal)
        return refusal is None

    def _refusal_of_request(
        self, subscription_id: str, filters: tuple[Filter, ...], now: Moment, *, opens: bool
    ) -> str | None:
        limits = self._settings.limits
        if not self._may_ask(now):
            return _TOO_MANY_REQUESTS
        if self._settings.access.authenticate_to_read and not self.authors:
            return "auth-required: requests are answered to authenticated clients only"
        if self._settings.access.private_to_recipients and not self.authors and all(map(is_private, filters)):
            return "auth-required: private messages are sent to their authenticated author and recipients only"
        if len(subscription_id) > limits.subscription_id_characters:
            return f"invalid: a subscription id may have at most {limits.subscription_id_characters} characters"
        if len(filters) > limits.filters:
            return f"invalid: at most {limits.filters} filters may be asked at once, not {len(filters)}"
        if any(_count_values(wanted) > limits.filter_values for wanted in filters):
            return f"invalid: a filter may hold at most {limits.filter_values} values"
        is_new = opens and subscription_id not in self.open_subscriptions
        if is_new and len(self.open_subscriptions) >= limits.subscriptions:
            return f"rate-limited: at most {limits.subscriptions} subscriptions may be open; close one first"
        return None

    def _check_negentropy(self, request: NegentropyRequest, now: Moment) -> NegentropyRequest:
        """The request, or, once it was refused, the end of the comparison."""
        refusal: str | None = None
        if isinstance(request, NegentropyOpen):
            refusal = self._refusal_of_request(request.subscription_id, (request.wanted,), now, opens=False)
        elif isinstance(request, NegentropyMessage) and not self._may_ask(now):
            refusal = _TOO_MANY_REQUESTS
        if refusal is None:
            return request
        self.refuse_comparison(request.subscription_id, refusal)
        return NegentropyClose(request.subscription_id)

    def _may_ask(self, now: Moment) -> bool:
        return self.is_exempt or self._request_rate.take(now.instant)

    def _authenticate(self, event: Event, now: Moment) -> None:
        if not self.is_exempt and not self._event_rate.take(now.instant):
            self.answer(event.id, False, "rate-limited: too many events on this connection; slow down")
            return
        try:
            author = check_authentication(verify(event), self._urls, self._challenge, now.timestamp)
        except (ProtocolError, UsageError) as error:
            self.answer(event.id, False, f"invalid: {error}")
            return
        self.authors |= {author}
        self.answer(event.id, True, "")

    def _send_challenge(self) -> None:
        if not self._challenge_sent:
            self._challenge_sent = True
            self.send(AuthChallenge(self._challenge).to_text())

    def _refuse_malformed(self, text: bytes, reason: str) -> Sequence[Effect]:
        """Refuse by the message that a client waits for, where it can be told which; by a NOTICE otherwise."""
        match _loads_leniently(text):
            case ["EVENT" | "AUTH", {"id": str(event_id)}, *_] if is_hex_32(event_id):
                self.answer(EventId(event_id), False, f"invalid: {reason}")
            case ["REQ" | "COUNT", str(subscription_id), *_] if (
                1 <= len(subscription_id) <= MAXIMUM_SUBSCRIPTION_ID_CHARACTERS
            ):
                self.close(subscription_id, f"invalid: {reason}")
            case ["NEG-OPEN" | "NEG-MSG", str(subscription_id), *_] if (
                1 <= len(subscription_id) <= MAXIMUM_SUBSCRIPTION_ID_CHARACTERS
            ):
                self.refuse_comparison(subscription_id, f"invalid: {reason}")
                return (Compare(NegentropyClose(subscription_id)),)
            case _:
                self.send(NoticeMessage(f"invalid: {reason}").to_text())
        return ()


def _count_values(wanted: Filter) -> int:
    lists = (wanted.ids, wanted.authors, wanted.kinds, *(values for _, values in wanted.tags))
    return sum(len(values) for values in lists if values is not None)


def _loads_leniently(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
