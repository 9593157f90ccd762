"""The market as somebody sees it through relays: a directory that is kept up to date, and choices made from it."""

from secrets import token_bytes
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup

from relaymesh.market.directory import Directory
from relaymesh.market.eligibility import BuyerRequest
from relaymesh.market.selection import Selection, select
from relaymesh.market.standing import NOBODY_KNOWN, Standings
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.relays import Delivered, Delivery, Relays
from relaymesh.protocol.codec import TOPIC
from relaymesh.roles.clock_check import check_clock
from relaymesh.roles.containment import Contained
from relaymesh.roles.driver import Clock

MARKET_FILTER: Final = Filter(kinds=(Kind.OFFER, Kind.STATUS), tags=(("t", (TOPIC,)),))


class MarketView:
    """`async with` it: one standing subscription over all relays feeds the directory until the block ends."""

    def __init__(self, relays: Relays, clock: Clock, candidates: int = 3) -> None:
        self.directory = Directory()
        self.clock = clock
        self._relays, self._candidates = relays, candidates
        self.standings: Standings = NOBODY_KNOWN
        self._changed = anyio.Event()
        self._complete: set[str] = set()
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._follow)
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        return await self._tasks.__aexit__(error_type, error, trace)

    @property
    def is_complete(self) -> bool:
        """Whether every relay has sent all it had stored."""
        return self._complete >= set(self._relays.urls)

    @property
    def is_in_view(self) -> bool:
        """Whether at least one relay has answered."""
        return bool(self._complete)

    @property
    def unreachable(self) -> str:
        """One sentence for when no relay has answered."""
        return f"no relay answers at {', '.join(self._relays.urls)}; `relaymesh relay serve` starts one"

    async def wait_complete(self, seconds: float) -> bool:
        """Wait until every relay has sent all it had stored, at most so long; whether they have.

        Raises:
            UsageError: Our clock is not the relays'.
        """
        with anyio.move_on_after(seconds):
            while not self.is_complete:
                await self._changed.wait()
        check_clock(self._relays.clock_offsets)
        return self.is_complete

    async def wait_changed(self) -> None:
        """Wait until an offer or a status changes, comes or goes; has no deadline, since a market may stand still."""
        await self._changed.wait()

    def select(self, request: BuyerRequest, seed: bytes | None = None) -> Selection:
        """Choose among the nodes now in view, with a reason for everyone left out.

        Raises:
            UsageError: Our clock is not the relays': it would make every choice and every request a wrong one.
        """
        check_clock(self._relays.clock_offsets)
        now = self.clock().timestamp
        candidates = self.directory.candidates(None, request.job_type, now)
        chosen_seed = seed if seed is not None else token_bytes(32)
        return select(candidates, request, seed=chosen_seed, count=self._candidates, now=now, standings=self.standings)

    async def wait_for_choice(self, request: BuyerRequest, seconds: float) -> Selection:
        """Choose as soon as every relay has told what it has and somebody can serve, or when the wait is over."""
        with anyio.move_on_after(seconds):
            while True:
                selection = self.select(request)
                if selection.chosen and self.is_complete:
                    return selection
                await self._changed.wait()
        return self.select(request)

    async def _follow(self) -> None:
        async with self._relays.subscribe((MARKET_FILTER,)) as deliveries:
            async for delivery in deliveries:
                with Contained("market"):
                    self._take(delivery)

    def _take(self, delivery: Delivery) -> None:
        if isinstance(delivery, Delivered):
            if not self.directory.apply(delivery.event, delivery.relay_url, self.clock().timestamp):
                return
        else:
            self._complete.add(delivery.relay_url)
        self._changed.set()
        self._changed = anyio.Event()
