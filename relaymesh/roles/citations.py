"""What a router cites, it serves: each cited event is published once more, and stays for a day (RM-04)."""

from collections import OrderedDict, deque
from contextlib import suppress
from typing import Final

import anyio

from relaymesh.errors import RelayError
from relaymesh.nostr.event import EventId, VerifiedEvent
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.relays import Relays
from relaymesh.protocol.citation import build_citation
from relaymesh.protocol.router_announcement import CITED_SECONDS
from relaymesh.roles.containment import Contained
from relaymesh.roles.driver import Clock
from relaymesh.units import Timestamp

MAXIMUM_SERVED: Final = 1_000_000
"""So many events are known to be served; whoever cites more in a day publishes some of them twice."""
MAXIMUM_WAITING: Final = 10_000
"""So many wait to be published; what comes beyond is published when it is cited again."""
RENEWED_BEFORE_SECONDS: Final = 3_600
"""What is cited again is published again, if less than this is left of its day."""


class Citations:
    """Publishes what is cited, each event once a day.

    Attributes:
        published: How many events were published.
        dropped: How many were not, because too many waited.
    """

    def __init__(self, key: KeyPair, relays: Relays, clock: Clock) -> None:
        self._key, self._relays, self._clock = key, relays, clock
        self._served_until: OrderedDict[EventId, Timestamp] = OrderedDict()
        self._waiting: deque[VerifiedEvent] = deque()
        self._cited = anyio.Event()
        self.published = self.dropped = 0

    def cite(self, events: tuple[VerifiedEvent, ...]) -> None:
        """See that these events are served from now on; never waits."""
        now = self._clock().timestamp
        for event in events:
            if self._served_until.get(event.id, 0) > now + RENEWED_BEFORE_SECONDS:
                continue
            if len(self._waiting) >= MAXIMUM_WAITING:
                self.dropped += 1
                continue
            self._waiting.append(event)
            self._served_until[event.id] = Timestamp(now + CITED_SECONDS)
            self._served_until.move_to_end(event.id)
            while len(self._served_until) > MAXIMUM_SERVED:
                self._served_until.popitem(last=False)
        self._cited.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            while self._waiting:
                with Contained("citation"), suppress(RelayError):
                    await self._publish(self._waiting.popleft())
            self._cited = anyio.Event()
            await self._cited.wait()  # has no deadline: nothing may be cited for as long as nobody asks

    async def _publish(self, event: VerifiedEvent) -> None:
        unsigned = build_citation(event, self._key.public_key, self._clock().timestamp)
        answers = await self._relays.publish(self._key.sign(unsigned))
        if any(answer.accepted for answer in answers):
            self.published += 1
        else:
            self._served_until.pop(event.id, None)  # the next ranking that cites it tries again
