"""What one subscriber still has to read: verified, each event once over all relays, never without bound (RM-01)."""

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final, Self

import anyio

from relaymesh.nostr.event import Event, EventId
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import has_valid_id
from relaymesh.ports.relays import Carried, Delivered, Delivery, RelayGone, StoredEventsEnd

MAXIMUM_UNREAD: Final = 16_384
MAXIMUM_REMEMBERED: Final = 65_536


@dataclass(slots=True)
class RelayCounters:
    """What became of the events that relays sent, and of what was asked of them.

    Args:
        delivered: Handed to a subscriber.
        repeated: Known already, mostly from another relay.
        unwanted: Matched no filter of the subscription they came for.
        forged: Wrong id or signature.
        dropped: Pushed out by newer ones, because the subscriber did not read.
        refused: Subscriptions that a relay closed.
    """

    delivered: int = 0
    repeated: int = 0
    unwanted: int = 0
    forged: int = 0
    dropped: int = 0
    refused: int = 0


class RelaySubscription:
    """A subscriber's queue over all its relays: an iterator of deliveries that ends when it is closed.

    When the subscriber falls behind, the oldest events give way to newer ones and are counted; what marks the end of a
    relay's stored events is kept.

    Args:
        filters: What was asked for.
        counters: Where to count.
        maximum_unread: How many deliveries wait at most.
        maximum_remembered: How many delivered events are remembered, so that none is delivered twice.
        with_repeats: Deliver an event again whenever a relay sends it again.
        with_carriers: Tell which relays carry what another has brought, and which are lost.
    """

    def __init__(
        self,
        filters: tuple[Filter, ...],
        counters: RelayCounters,
        maximum_unread: int = MAXIMUM_UNREAD,
        maximum_remembered: int = MAXIMUM_REMEMBERED,
        *,
        with_repeats: bool = False,
        with_carriers: bool = False,
    ) -> None:
        self.filters = filters
        self._counters = counters
        self._maximum_unread = maximum_unread
        self._maximum_remembered = 0 if with_repeats else maximum_remembered
        self._with_carriers = with_carriers
        self._unread: deque[Delivery] = deque()
        self._delivered: OrderedDict[EventId, None] = OrderedDict()
        self._arrival: anyio.Event | None = None
        self._is_closed = False

    def wants(self, event: Event, relay_url: str) -> bool:
        """Whether an event, still unverified, is worth verifying: it matches, and it was not delivered yet."""
        if event.id in self._delivered:
            self._counters.repeated += 1
            if self._with_carriers and has_valid_id(event):  # whatever it calls itself, it must be the one delivered
                self._queue(Carried(relay_url, event.id, event.created_at))
            return False
        if not any(each.matches(event) for each in self.filters):
            self._counters.unwanted += 1
            return False
        return True

    def deliver(self, delivered: Delivered) -> None:
        """Queue a verified event, unless another relay brought it in the meantime."""
        event_id = delivered.event.id
        if event_id in self._delivered:
            self._counters.repeated += 1
            if self._with_carriers:
                self._queue(Carried(delivered.relay_url, event_id, delivered.event.created_at))
            return
        self._delivered[event_id] = None
        if len(self._delivered) > self._maximum_remembered:
            self._delivered.popitem(last=False)
        self._counters.delivered += 1
        self._queue(delivered)

    def end_stored(self, end: StoredEventsEnd) -> None:
        """Queue the word that a relay has sent all it had stored."""
        self._queue(end)

    def lose(self, lost: RelayGone) -> None:
        """Queue the word that a relay is not followed any more, for whoever wants to know."""
        if self._with_carriers:
            self._queue(lost)

    def close(self) -> None:
        """Deliver nothing more; what waits can still be read."""
        self._is_closed = True
        self._wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        while not self._unread:
            if self._is_closed:
                raise StopAsyncIteration
            self._arrival = anyio.Event()
            await self._arrival.wait()  # without a deadline: how long nothing may happen is the subscriber's affair
        return self._unread.popleft()

    def _queue(self, delivery: Delivery) -> None:
        if self._is_closed:
            return
        if len(self._unread) >= self._maximum_unread:
            self._drop_oldest()
        self._unread.append(delivery)
        self._wake()

    def _drop_oldest(self) -> None:
        kept: list[StoredEventsEnd | RelayGone] = []
        while self._unread:
            oldest = self._unread.popleft()
            if isinstance(oldest, Delivered | Carried):
                self._counters.dropped += 1
                break
            kept.append(oldest)
        self._unread.extendleft(reversed(kept))

    def _wake(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.set()
