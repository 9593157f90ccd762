"""A node's places: who runs a job now, who waits for a place, and how long that takes (RM-02, "Jobs")."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import anyio

from relaymesh.market.admission import NodeLoad, refuse_for_load
from relaymesh.market.waiting import WaitingQueue
from relaymesh.nostr.event import PublicKey
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.roles.driver import Clock
from relaymesh.units import MILLISECONDS_PER_SECOND, Instant

MICROSECONDS_PER_MILLISECOND: Final = 1_000
UNPAID_RETRY_MS: Final = 5_000
AVERAGED_JOBS: Final = 8
"""How long a job takes here is an average in which each new job counts for one in so many."""


@dataclass(eq=False, slots=True)
class Place:
    """One job's place, or its wait for one.

    Attributes:
        began_at: Since when it is taken; None while the job waits.
        refusal: Why the job will not get one; None as long as it may.
        is_kept: Whether the job has begun to run; before that its place is only lent.
    """

    client: PublicKey
    began_at: Instant | None = None
    refusal: Refusal | None = None
    is_kept: bool = False
    decided: anyio.Event = field(default_factory=anyio.Event)


class Places:
    """So many jobs at the same time, and a bounded, fair queue behind them.

    Args:
        maximum_jobs: Jobs that run at once.
        clock: For how long they take.
        queue_limit: Jobs that may wait; 0 refuses at once whoever finds no place free.
        queue_limit_per_client: Of these, jobs of one client session key.
        queue_ms: So long a job waits at the most; it stays below what a client waits for its first output.
        lent_ms: So long a job has its place before its first payment; then it is the next one's.
        unpaid_limit: Jobs that wait for their first payment after that; `unpaid_limit_per_client` of one session key.
    """

    def __init__(
        self,
        maximum_jobs: int,
        clock: Clock,
        *,
        queue_limit: int = 0,
        queue_limit_per_client: int = 4,
        queue_ms: int = 5_000,
        lent_ms: int = 3_000,
        unpaid_limit: int = 1_024,
        unpaid_limit_per_client: int = 4,
    ) -> None:
        self.maximum_jobs = maximum_jobs
        self.running = 0
        self.is_draining = False
        self.changed = anyio.Event()
        self._clock, self._queue_ms = clock, queue_ms
        self._queue: WaitingQueue[Place] = WaitingQueue(queue_limit, queue_limit_per_client)
        self._lent_ms = lent_ms
        self._unpaid: WaitingQueue[Place] = WaitingQueue(unpaid_limit, max(unpaid_limit_per_client, 1))
        self._funded: deque[Place] = deque()
        self._service_ms = MILLISECONDS_PER_SECOND

    def load(self) -> NodeLoad:
        """How busy the node is now."""
        return NodeLoad(
            free=max(self.maximum_jobs - self.running, 0),
            queue=len(self._queue),
            draining=self.is_draining,
            places=max(self.maximum_jobs, 1),
            queue_limit=self._queue.limit,
            service_ms=self._service_ms,
        )

    @property
    def room(self) -> tuple[bool, bool]:
        """Whether a job could start at once, and whether one could at least wait: what a market wants to hear of."""
        load = self.load()
        return load.free > 0, refuse_for_load(load) is None

    def ask(self, client: PublicKey) -> Place | Refusal:
        """A place, taken or to be waited for; or why this job gets neither."""
        load = self.load()
        refusal = refuse_for_load(load)
        if refusal is not None:
            return refusal
        if not self._unpaid.has_room(client):
            said = "as many jobs wait for their first payment as may; pay one, or ask again later"
            return refuse(RefusalCode.PAYMENT_REQUIRED, said, UNPAID_RETRY_MS)
        place = Place(client)
        if load.free > 0:
            self._take(place)
        elif not self._queue.enter(client, place):
            return refuse(RefusalCode.BUSY, "as many jobs of this key wait as may; ask again later", load.retry_in_ms)
        self._note_change()
        return place

    async def wait(self, place: Place) -> Refusal | None:
        """Wait until a place that was asked for is taken; or why it will not be. Whoever waits leaves in any case."""
        if place.began_at is None and place.refusal is None:
            with anyio.move_on_after(self._queue_ms / MILLISECONDS_PER_SECOND):
                await place.decided.wait()
        if place.began_at is None and place.refusal is None:
            return refuse(RefusalCode.BUSY, "no place came free in time; ask again later", self.load().retry_in_ms)
        return place.refusal

    async def lend(self, place: Place) -> None:
        """Take a place back that was taken for a job which is not paid in time; never fails, and may be cancelled.

        The job may still be paid, and then has the first place that comes free. So whoever does not pay keeps nobody
        from the machine for long.
        """
        await anyio.sleep(self._lent_ms / MILLISECONDS_PER_SECOND)
        if place.began_at is not None and not place.is_kept and self._unpaid.enter(place.client, place):
            place.decided = anyio.Event()
            self._give_back(place)

    async def keep(self, place: Place) -> None:
        """The job begins to run: wait, ahead of all who have not paid, until it has its place again; mostly it has."""
        place.is_kept = True
        if place.began_at is None:
            self._unpaid.leave(place.client, place)
            self._funded.append(place)
            self._hand_on()
            await place.decided.wait()  # whoever runs now ends, and whoever waits for this one gives it up

    def give_up(self, place: Place, reason: str) -> None:
        """End a job's wait: it is not wanted any more. One that runs is ended by its own means."""
        if place.began_at is None:
            self._refuse(place, refuse(RefusalCode.CANCELLED, reason))
            self._queue.leave(place.client, place)
            self._note_change()

    def leave(self, place: Place) -> None:
        """A job is over, or waits no longer: whoever's turn it is takes the place."""
        if place.began_at is None:
            self._queue.leave(place.client, place)
            self._unpaid.leave(place.client, place)
            if place in self._funded:
                self._funded.remove(place)
        else:
            took_ms = (self._clock().instant - place.began_at) // MICROSECONDS_PER_MILLISECOND
            self._service_ms = (self._service_ms * (AVERAGED_JOBS - 1) + took_ms) // AVERAGED_JOBS
            self._give_back(place)
        self._note_change()

    def drain(self) -> None:
        """Take nothing new; those who wait are told so."""
        self.is_draining = True
        while (place := self._queue.take()) is not None:
            self._refuse(place, refuse(RefusalCode.DRAINING, "this node takes no new jobs; ask another"))
        self._note_change()

    def _give_back(self, place: Place) -> None:
        place.began_at = None
        self.running -= 1
        self._hand_on()

    def _hand_on(self) -> None:
        """Give what is free to whoever is next: those who have paid, then the queue."""
        while self.running < self.maximum_jobs:
            following = self._funded.popleft() if self._funded else self._queue.take()
            if following is None:
                break
            self._take(following)
        self._note_change()

    def _take(self, place: Place) -> None:
        place.began_at = self._clock().instant
        self.running += 1
        place.decided.set()

    def _refuse(self, place: Place, refusal: Refusal) -> None:
        place.refusal = refusal
        place.decided.set()

    def _note_change(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()
