"""One relay, kept connected: the machine's effects carried out on a socket, events verified before anyone sees them."""

import secrets
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, assert_never

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from websockets.uri import WebSocketURI

from relaymesh.adapters.websocket_connection import WebSocketConnection, connect_websocket
from relaymesh.errors import RemoteProtocolError, SessionError
from relaymesh.machines.relay_connection import MAXIMUM_ENTROPY, RelayConnection
from relaymesh.machines.relay_connection_interface import (
    Authenticated,
    Connect,
    Disconnect,
    EventArrived,
    Publish,
    PublishAnswered,
    RelayConnectionSettings,
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
from relaymesh.nostr.event import Event, EventId, VerifiedEvent
from relaymesh.nostr.keys import SignatureMemory
from relaymesh.ports.relay_subscription import RelayCounters, RelaySubscription
from relaymesh.ports.relays import Delivered, Published, RelayGone, StoredEventsEnd
from relaymesh.units import Instant, Moment

CONNECT_SECONDS: Final = 10
KEEPALIVE_SECONDS: Final = 30
MAXIMUM_MESSAGE_BYTES: Final = 2 * 1024 * 1024
MAXIMUM_UNSENT: Final = 4_096
BATCH: Final = 64
"""So many messages are read before what they brought is verified together."""
VERIFIED_INLINE: Final = 2
"""Up to so many signatures are checked on the loop: a hop to a thread costs more than they do."""

Authenticator = Callable[[str, str], VerifiedEvent]
"""Signs a relay's challenge (NIP-42): relay URL, challenge → the signed 22242."""


@dataclass(slots=True)
class _Asked:
    """Who waits for a relay's answer to one event."""

    answered: anyio.Event = field(default_factory=anyio.Event)
    answer: PublishAnswered | None = None
    waiting: int = 0


class RelayLink:
    """One relay's connection, subscriptions and unanswered events.

    Args:
        url: The relay, normalised.
        uri: The same, parsed.
        resolve: The addresses to dial, checked as far as they need to be; SessionError if there is none.
        counters: Where to count what the relay brings.
        authenticate: Signs NIP-42 challenges; None where nobody can.
        tls: For `wss`.
        verifiers: How many threads check signatures at once, all relays together.
        signatures: What was checked already, likewise.
        settings: How long answers and reconnects are waited for.
        clock: Our clock, to compare the relay's with; None where nobody asks.
    """

    def __init__(
        self,
        url: str,
        uri: WebSocketURI,
        resolve: Callable[[WebSocketURI], Awaitable[list[str]]],
        counters: RelayCounters,
        authenticate: Authenticator | None,
        tls: ssl.SSLContext | None,
        verifiers: anyio.CapacityLimiter,
        signatures: SignatureMemory,
        settings: RelayConnectionSettings,
        clock: Callable[[], Moment] | None,
    ) -> None:
        self.url = url
        self._uri = uri
        self._resolve = resolve
        self._counters = counters
        self._authenticate = authenticate
        self._tls = tls
        self._verifiers = verifiers
        self._signatures = signatures
        self._clock = clock
        self._machine = RelayConnection(can_authenticate=authenticate is not None, settings=settings)
        self._subscriptions: dict[str, RelaySubscription] = {}
        self._asked: dict[EventId, _Asked] = {}
        self._arrived: list[EventArrived | StoredEventsSent | SubscriptionRefused] = []
        self._unsent: deque[str] = deque()
        self._sendable = anyio.Event()
        self._connect_wanted = anyio.Event()
        self._timer_changed = anyio.Event()
        self._timer_at: Instant | None = None
        self._connection: WebSocketConnection | None = None
        # Whoever is cancelled may have last words to publish; so this ends when `stop` says so, and by nothing else.
        self._scope = anyio.CancelScope(shield=True)
        self.used_at = anyio.current_time()
        self.clock_offset: int | None = None
        """By how many seconds the relay's clock was ahead of ours when it was last connected, if it said."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody follows this relay or waits for its answer."""
        return not self._subscriptions and not self._asked

    async def run(self) -> None:
        """Keep the relay connected until `stop`, even while what surrounds it is being cancelled."""
        try:
            with self._scope:
                await self._stay_connected()
        finally:
            self._tell(StopRelay())  # which answers everyone who still waits

    async def _stay_connected(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep_time)
            self._machine.start(_now())
            self._perform()
            while True:  # without a deadline of its own: the machine decides when to connect again
                await self._connect_wanted.wait()
                self._connect_wanted = anyio.Event()
                await self._connect_once(group)
                self._tell(RelayLost(secrets.randbelow(MAXIMUM_ENTROPY + 1)))

    def stop(self) -> None:
        """End `run`."""
        self._scope.cancel()

    def subscribe(self, subscription_id: str, subscription: RelaySubscription) -> None:
        """Follow a subscription's filters on this relay."""
        self.used_at = anyio.current_time()
        self._subscriptions[subscription_id] = subscription
        self._tell(Subscribe(subscription_id, subscription.filters))

    def unsubscribe(self, subscription_id: str) -> None:
        """Follow it no longer."""
        self.used_at = anyio.current_time()
        if self._subscriptions.pop(subscription_id, None) is not None:
            self._tell(Unsubscribe(subscription_id))

    async def publish(self, event: Event) -> Published:
        """Send an event and wait for the relay's word on it; the machine sees to it that there is one in time."""
        self.used_at = anyio.current_time()
        asked = self._asked.setdefault(event.id, _Asked())
        asked.waiting += 1
        try:
            self._tell(Publish(event))
            await asked.answered.wait()
        finally:
            asked.waiting -= 1
            if not asked.waiting and self._asked.get(event.id) is asked:
                del self._asked[event.id]
        assert asked.answer is not None
        return Published(self.url, event.id, asked.answer.accepted, asked.answer.message)

    # ── the machine's effects ─────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, message: RelayInput) -> None:
        self._machine.receive(message, _now())
        self._perform()

    def _perform(self) -> None:
        while effects := self._machine.effects():
            for effect in effects:
                self._carry_out(effect)
        deadline = self._machine.deadline()
        if deadline is not None and (self._timer_at is None or deadline < self._timer_at):
            self._timer_changed.set()

    def _carry_out(self, effect: RelayEffect) -> None:
        match effect:
            case EventArrived() | StoredEventsSent():
                self._arrived.append(effect)
            case SendText():
                self._send(effect.text)
            case PublishAnswered():
                asked = self._asked.pop(effect.event_id, None)
                if asked is not None:
                    asked.answer = effect
                    asked.answered.set()
            case Connect():
                self._connect_wanted.set()
            case Disconnect():
                self._disconnect()
            case WantAuthentication():
                assert self._authenticate is not None
                event = self._authenticate(self.url, effect.challenge)
                self._machine.receive(Authenticated(event), _now())
            case SubscriptionRefused():
                self._counters.refused += 1
                self._arrived += [StoredEventsSent(effect.subscription_id), effect]  # nobody needs to wait for more
            case _:
                assert_never(effect)

    def _send(self, text: str) -> None:
        if len(self._unsent) >= MAXIMUM_UNSENT:
            self._disconnect()  # it does not read what we send
            return
        self._unsent.append(text)
        self._sendable.set()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    async def _keep_time(self) -> None:
        while True:
            self._timer_changed = anyio.Event()
            self._timer_at = self._machine.deadline()
            if self._timer_at is None:
                await self._timer_changed.wait()  # until the machine times something
                continue
            with anyio.move_on_after(max(0, self._timer_at - _now().instant) / 1_000_000):
                await self._timer_changed.wait()
                continue
            self._machine.handle_deadline(_now())
            self._perform()
            await self._deliver()

    # ── the connection ────────────────────────────────────────────────────────────────────────────────────────────

    async def _connect_once(self, group: TaskGroup) -> None:
        """Connect, and stay connected until the connection is gone."""
        try:
            connection = await connect_websocket(
                self._uri,
                await self._resolve(self._uri),
                tls=self._tls if self._uri.secure else None,
                connect_seconds=CONNECT_SECONDS,
                maximum_bytes=MAXIMUM_MESSAGE_BYTES,
                keepalive_seconds=KEEPALIVE_SECONDS,
            )
        except SessionError:
            return
        self._connection = connection
        if self._clock is not None and connection.peer_time is not None:
            self.clock_offset = connection.peer_time - self._clock().timestamp
        self._unsent.clear()
        writing = anyio.CancelScope()
        try:
            group.start_soon(self._write, connection, writing)
            self._tell(RelayOpened())
            await self._read(connection)
        except SessionError:
            pass  # the connection is gone, which is what this waited for
        finally:
            writing.cancel()
            self._connection = None
            self._arrived.clear()
            for subscription in self._subscriptions.values():
                subscription.lose(RelayGone(self.url))
            with anyio.CancelScope(shield=True):  # at most a second, as `aclose` promises
                await connection.aclose()

    async def _write(self, connection: WebSocketConnection, scope: anyio.CancelScope) -> None:
        with scope:
            while True:
                await self._sendable.wait()  # until there is something to send, or the connection is gone
                self._sendable = anyio.Event()
                texts = tuple(self._unsent)
                self._unsent.clear()
                try:
                    await connection.send(*texts)
                except SessionError:
                    connection.abort()
                    return

    async def _read(self, connection: WebSocketConnection) -> None:
        while True:
            frames = [await connection.receive()]
            while len(frames) < BATCH and (frame := connection.receive_nowait()) is not None:
                frames.append(frame)
            now = _now()
            for frame in frames:
                if isinstance(frame, str):
                    self._machine.receive(TextReceived(frame), now)
            self._perform()
            await self._deliver()

    async def _deliver(self) -> None:
        """Verify what arrived and is wanted, then hand it over in the order in which it came."""
        if not self._arrived:
            return
        arrived, self._arrived = self._arrived, []
        wanted = {  # the same event may have come for two subscriptions, and a forged one under a true one's id
            each.event
            for each in arrived
            if isinstance(each, EventArrived) and self._is_wanted(each.subscription_id, each.event)
        }
        verified = await self._verify(wanted)
        self._counters.forged += len(wanted) - len(verified)
        for each in arrived:
            subscription = self._subscriptions.get(each.subscription_id)
            if subscription is None:
                continue
            if isinstance(each, StoredEventsSent):
                subscription.end_stored(StoredEventsEnd(self.url, each.is_everything))
            elif isinstance(each, SubscriptionRefused):
                subscription.lose(RelayGone(self.url))
            elif (event := verified.get(each.event)) is not None:
                subscription.deliver(Delivered(self.url, event))

    async def _verify(self, events: set[Event]) -> dict[Event, VerifiedEvent]:
        if len(events) <= VERIFIED_INLINE:
            return _verify_batch(events, self._signatures)
        return await anyio.to_thread.run_sync(_verify_batch, events, self._signatures, limiter=self._verifiers)

    def _is_wanted(self, subscription_id: str, event: Event) -> bool:
        subscription = self._subscriptions.get(subscription_id)
        return subscription is not None and subscription.wants(event, self.url)


def _now() -> Moment:
    """Where the event loop's clock stands; the relay machine reads no wall clock."""
    return Moment(Instant(int(anyio.current_time() * 1_000_000)), 0)


def _verify_batch(events: set[Event], signatures: SignatureMemory) -> dict[Event, VerifiedEvent]:
    verified: dict[Event, VerifiedEvent] = {}
    for event in events:
        try:
            verified[event] = signatures.verify(event)
        except RemoteProtocolError:
            continue
    return verified
