"""Omissions: which relay withholds what others deliver, judged by what came in and by nothing else (RM-01, "Relays").

A relay is suspected of an event when its author says that he publishes there, when it was being followed before the
event was made and had sent all it had stored, and when it has still not delivered the event a while after another relay
did. Whoever says that he publishes where he does not makes a relay look bad, so this is no proof: it is for a person.

Everything costs the same however much is live: what is young waits in a queue, each event is looked at once when it is
no longer young, and only what is withheld is remembered longer.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from relaymesh.nostr.event import EventId
from relaymesh.units import Timestamp

GRACE_SECONDS: Final = 10
MAXIMUM_YOUNG: Final = 65_536
MAXIMUM_WITHHELD: Final = 4_096

AddressT = TypeVar("AddressT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class RelayReport(Generic[AddressT]):
    """How one relay has kept to what it is there for, since we began to look.

    Args:
        relay_url: Which relay.
        delivered: How often it delivered an event that stood, first or after others.
        withheld: How often it had not delivered an event in time.
        late: How many of those came after all.
        missing: What it withholds now: the address and the event that stands there.
    """

    relay_url: str
    delivered: int = 0
    withheld: int = 0
    late: int = 0
    missing: tuple[tuple[AddressT, EventId], ...] = ()


@dataclass(slots=True)
class _Relay(Generic[AddressT]):
    complete_since: Timestamp | None = None
    delivered: int = 0
    withheld: int = 0
    late: int = 0
    missing: dict[AddressT, EventId] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Event(Generic[AddressT]):
    address: AddressT
    event_id: EventId
    known_at: Timestamp
    judged_at: Timestamp
    carriers: set[str]


class Omissions(Generic[AddressT]):
    """What each relay delivered of the live state, and what it did not.

    Args:
        is_expected: Whether what stands at an address should be on a relay; asked only about what did not come.
        grace_seconds: So long after another relay's delivery an event may still come; one that is replaced sooner is
            not judged.
    """

    def __init__(self, is_expected: Callable[[AddressT, str], bool], grace_seconds: int = GRACE_SECONDS) -> None:
        self._is_expected = is_expected
        self._grace_seconds = grace_seconds
        self._relays: dict[str, _Relay[AddressT]] = {}
        self._young: dict[AddressT, _Event[AddressT]] = {}
        self._queue: deque[_Event[AddressT]] = deque()
        self._missed: OrderedDict[AddressT, None] = OrderedDict()

    def reports(self) -> tuple[RelayReport[AddressT], ...]:
        """One for each relay that was heard of."""
        return tuple(
            RelayReport(url, relay.delivered, relay.withheld, relay.late, tuple(relay.missing.items()))
            for url, relay in self._relays.items()
        )

    def relay_complete(self, relay_url: str, now: Timestamp) -> None:
        """A relay has sent all it had stored; what is made from now on, it should deliver."""
        relay = self._relay(relay_url)
        if relay.complete_since is None:
            relay.complete_since = now

    def relay_gone(self, relay_url: str) -> None:
        """A relay is not followed any more: what it does not deliver meanwhile, it does not withhold."""
        self._relay(relay_url).complete_since = None

    def placed(
        self, relay_url: str, address: AddressT, event_id: EventId, created_at: Timestamp, now: Timestamp
    ) -> None:
        """A relay was the first to deliver the event that now stands at an address."""
        self.judge(now)
        self._relay(relay_url).delivered += 1
        self.replaced(address)
        if len(self._queue) < MAXIMUM_YOUNG:  # more than anybody looks at, and not worth more memory
            event = _Event(address, event_id, min(created_at, now), Timestamp(now + self._grace_seconds), {relay_url})
            self._young[address] = event
            self._queue.append(event)

    def carried(self, relay_url: str, address: AddressT, event_id: EventId, now: Timestamp) -> None:
        """A relay delivered, after another one or again, the event that stands at an address."""
        self.judge(now)
        relay = self._relay(relay_url)
        relay.delivered += 1
        young = self._young.get(address)
        if young is not None and young.event_id == event_id:
            young.carriers.add(relay_url)
        elif relay.missing.get(address) == event_id:
            del relay.missing[address]
            relay.late += 1

    def replaced(self, address: AddressT) -> None:
        """What stood at an address stands there no more, so nobody withholds it."""
        self._young.pop(address, None)
        if address in self._missed:
            del self._missed[address]
            for relay in self._relays.values():
                relay.missing.pop(address, None)

    def judge(self, now: Timestamp) -> None:
        """Look at the events that are young no longer."""
        while self._queue and self._queue[0].judged_at <= now:
            event = self._queue.popleft()
            if self._young.get(event.address) is event:
                del self._young[event.address]
                self._look_at(event)

    def _relay(self, relay_url: str) -> _Relay[AddressT]:
        relay = self._relays.get(relay_url)
        if relay is None:
            relay = self._relays[relay_url] = _Relay()
        return relay

    def _look_at(self, event: _Event[AddressT]) -> None:
        for url, relay in self._relays.items():
            if url in event.carriers or relay.complete_since is None or relay.complete_since > event.known_at:
                continue
            if not self._is_expected(event.address, url):
                continue
            relay.withheld += 1
            relay.missing[event.address] = event.event_id
            self._missed[event.address] = None
        if len(self._missed) > MAXIMUM_WITHHELD:
            self.replaced(next(iter(self._missed)))
