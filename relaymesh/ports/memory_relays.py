"""Relays in memory: NIP-01 without sockets, for tests, simulations and whoever wants to try a role without a relay.

Faults can be turned on: a relay that is out of reach (`fail`, `recover`), one that loses events (`loses`), one that
says `mute:` when nobody listens for an ephemeral event.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio.lowlevel

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import Event, VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import verify
from relaymesh.nostr.kinds import is_addressable, is_ephemeral, is_replaceable
from relaymesh.ports.relay_subscription import RelayCounters, RelaySubscription
from relaymesh.ports.relays import Delivered, Delivery, Published, RelayGone, StoredEventsEnd

MAXIMUM_EVENTS: Final = 100_000

Verifier = Callable[[Event], VerifiedEvent]
_Place = tuple[str, ...]


@dataclass(eq=False, slots=True)
class _Follower:
    filters: tuple[Filter, ...]
    subscription: RelaySubscription


class MemoryRelay:
    """One relay: stores, replaces and passes on as NIP-01 says.

    Args:
        url: What it is called.
        verify: Checks id and signature; a simulation brings its own.
        maximum_events: Beyond it the event that was stored first is forgotten.
        says_mute: Refuse an ephemeral event with `mute:` when nobody follows it.
        maximum_answer: So many stored events are sent in one answer, the newest, as public relays do; None for all.
    """

    def __init__(
        self,
        url: str = "ws://memory.example",
        *,
        verify: Verifier = verify,
        maximum_events: int = MAXIMUM_EVENTS,
        says_mute: bool = False,
        maximum_answer: int | None = None,
    ) -> None:
        self.url = url
        self.loses: Callable[[VerifiedEvent], bool] = _nothing
        """Events for which this says True are acknowledged and lost."""
        self._verify = verify
        self._maximum_events = maximum_events
        self._says_mute = says_mute
        self._maximum_answer = maximum_answer
        self._stored: dict[_Place, VerifiedEvent] = {}
        self._followers: set[_Follower] = set()
        self._is_down = False

    def connect(self) -> "MemoryRelays":
        """A client of this relay alone."""
        return MemoryRelays((self,))

    def fail(self) -> None:
        """Be out of reach from now on."""
        self._is_down = True
        for follower in self._followers:
            follower.subscription.lose(RelayGone(self.url))

    def recover(self) -> None:
        """Be back; everyone who follows gets what is stored, as after a reconnect."""
        self._is_down = False
        for follower in self._followers:
            self._send_stored(follower)

    def query(self, filters: tuple[Filter, ...]) -> tuple[VerifiedEvent, ...]:
        """The stored events that match any of the filters, newest first; each filter's `limit` counts for itself."""
        newest_first = sorted(self._stored.values(), key=lambda event: (-event.created_at, event.id))
        found: dict[str, VerifiedEvent] = {}
        for each in filters:
            matching = [event for event in newest_first if each.matches(event)]
            found.update((event.id, event) for event in matching[: each.limit])
        return tuple(sorted(found.values(), key=lambda event: (-event.created_at, event.id)))

    def accept(self, event: Event) -> tuple[bool, str]:
        """Take an event in and say what an `OK` would: whether it was accepted, and a message."""
        if self._is_down:
            return False, "error: the relay cannot be reached"
        try:
            verified = self._verify(event)
        except RemoteProtocolError as error:
            return False, f"invalid: {error}"
        if self.loses(verified):
            return True, ""
        if is_ephemeral(event.kind):
            is_heard = self._pass_on(verified)
            is_refused = self._says_mute and not is_heard
            return not is_refused, "mute: no one was listening" if is_refused else ""
        if not self._store(verified):
            return True, "duplicate: this event, or a newer one in its place, is stored already"
        self._pass_on(verified)
        return True, ""

    def follow(self, filters: tuple[Filter, ...], subscription: RelaySubscription) -> Callable[[], None]:
        """Send what is stored, then what comes, until the function that this returns is called."""
        follower = _Follower(filters, subscription)
        self._followers.add(follower)
        if not self._is_down:
            self._send_stored(follower)
        return lambda: self._followers.discard(follower)

    def _store(self, event: VerifiedEvent) -> bool:
        place = _place_of(event)
        known = self._stored.get(place)
        if known is not None and not _is_newer(event, known):
            return False
        self._stored[place] = event
        if len(self._stored) > self._maximum_events:
            del self._stored[next(iter(self._stored))]
        return True

    def _pass_on(self, event: VerifiedEvent) -> bool:
        followers = [each for each in self._followers if any(one.matches(event) for one in each.filters)]
        for follower in followers:
            follower.subscription.deliver(Delivered(self.url, event))
        return bool(followers)

    def _send_stored(self, follower: _Follower) -> None:
        for event in self.query(follower.filters)[: self._maximum_answer]:
            follower.subscription.deliver(Delivered(self.url, event))
        follower.subscription.end_stored(StoredEventsEnd(self.url))


class MemoryRelays:
    """A client of some relays in memory (`relaymesh.ports.relays.Relays`).

    Args:
        relays: In order of preference.
    """

    def __init__(self, relays: tuple[MemoryRelay, ...]) -> None:
        self._relays = {relay.url: relay for relay in relays}
        self.counters = RelayCounters()
        self.clock_offsets: Mapping[str, int] = {}

    @property
    def urls(self) -> tuple[str, ...]:
        """The relays, in order of preference."""
        return tuple(self._relays)

    async def publish(self, event: Event, relay_urls: tuple[str, ...] = ()) -> tuple[Published, ...]:
        """Send `event` to the given relays (none given: to all); one answer each."""
        await anyio.lowlevel.checkpoint()
        answers: list[Published] = []
        for url in relay_urls or self.urls:
            relay = self._relays.get(url)
            accepted, message = (False, "error: no such relay") if relay is None else relay.accept(event)
            answers.append(Published(url, event.id, accepted, message))
        return tuple(answers)

    def subscribe(
        self,
        filters: tuple[Filter, ...],
        relay_urls: tuple[str, ...] = (),
        *,
        with_repeats: bool = False,
        with_carriers: bool = False,
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Follow `filters` on the given relays (none given: on all) until the block ends."""
        subscription = RelaySubscription(filters, self.counters, with_repeats=with_repeats, with_carriers=with_carriers)
        return self._subscribe(subscription, relay_urls or self.urls)

    @asynccontextmanager
    async def _subscribe(
        self, subscription: RelaySubscription, relay_urls: tuple[str, ...]
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        await anyio.lowlevel.checkpoint()
        relays = [self._relays[url] for url in relay_urls if url in self._relays]
        leave = [relay.follow(subscription.filters, subscription) for relay in relays]
        try:
            yield subscription
        finally:
            subscription.close()
            for each in leave:
                each()


def _nothing(_: VerifiedEvent) -> bool:
    return False


def _place_of(event: Event) -> _Place:
    """Where an event is stored: at most one event has each place (NIP-01, "Kinds")."""
    if is_replaceable(event.kind):
        return (str(event.kind), event.public_key)
    if is_addressable(event.kind):
        return (str(event.kind), event.public_key, event.tag_value("d") or "")
    return (event.id,)


def _is_newer(event: Event, known: Event) -> bool:
    """Which of two events keeps a place: the newer one, of the same age the one with the lower id (NIP-01)."""
    return (-event.created_at, event.id) < (-known.created_at, known.id)
