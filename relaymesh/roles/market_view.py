"""The market as somebody sees it through relays: a directory that is kept up to date, and choices made from it."""

from secrets import token_bytes
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup

from relaymesh.market.directory import Directory
from relaymesh.market.omissions import Omissions, RelayReport
from relaymesh.market.policy import BALANCED, Policy
from relaymesh.market.request import BuyerRequest
from relaymesh.market.selection import Selection
from relaymesh.market.standing import Standings
from relaymesh.market.state import STATE_KINDS, Address
from relaymesh.nostr.event import EventId
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.relay_urls import is_same_relay
from relaymesh.ports.relays import Carried, Delivered, Delivery, RelayGone, Relays, StoredEventsEnd
from relaymesh.protocol.codec import TOPIC
from relaymesh.roles.clock_check import check_clock
from relaymesh.roles.containment import Contained
from relaymesh.roles.driver import Clock
from relaymesh.roles.experience import Experience
from relaymesh.roles.paging import page_back
from relaymesh.units import Timestamp

MARKET_FILTER: Final = Filter(kinds=tuple(STATE_KINDS), tags=(("t", (TOPIC,)),))
"""All live state of the market (RM-01, "Relays")."""


class MarketView:
    """`async with` it: one standing subscription over all relays feeds the directory until the block ends.

    What a relay stores beyond one answer is fetched page by page. Which relay carries what, and which withholds what
    others deliver, is noted on the way.

    Args:
        relays: Where the market is.
        clock: What time it is.
        candidates: How many nodes a choice is made of.
        experience: What is known about nodes; None knows nobody.
    """

    def __init__(self, relays: Relays, clock: Clock, candidates: int = 3, experience: Experience | None = None) -> None:
        self.directory = Directory()
        self.clock = clock
        self.experience = experience
        self._relays, self._candidates = relays, candidates
        self._omissions: Omissions[Address] = Omissions(self._is_expected)
        self._changed = anyio.Event()
        self._complete: set[str] = set()
        self._oldest: dict[str, Timestamp] = {}
        self._paging: dict[str, anyio.CancelScope] = {}
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
    def relay_urls(self) -> tuple[str, ...]:
        """Our relays, in order of preference."""
        return self._relays.urls

    @property
    def complete_relays(self) -> frozenset[str]:
        """The relays that have sent all they had stored."""
        return frozenset(self._complete)

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

    @property
    def standings(self) -> Standings:
        """What is known about nodes beyond their own words; set it anew for every choice from then on."""
        return self.directory.standings

    @standings.setter
    def standings(self, standings: Standings) -> None:
        self.directory.set_standings(standings)

    def relay_reports(self) -> tuple[RelayReport[Address], ...]:
        """How each relay has kept to what it is there for: what it delivered, and what it withholds now."""
        now = self.clock().timestamp
        self.directory.expire(now)
        self._omissions.judge(now)
        for report in self._omissions.reports():
            for address, event_id in report.missing:
                if self.directory.address_of(event_id) is None:
                    self._omissions.replaced(address)  # it has ended by itself, which no event tells
        return self._omissions.reports()

    def select(
        self,
        request: BuyerRequest,
        seed: bytes | None = None,
        *,
        policy: Policy = BALANCED,
        count: int | None = None,
    ) -> Selection:
        """Choose among the nodes now in view, with a reason for everyone left out.

        Args:
            policy: What counts, and for how much.
            count: How many nodes; None for as many as this view was made for.

        Raises:
            UsageError: Our clock is not the relays': it would make every choice and every request a wrong one.
        """
        check_clock(self._relays.clock_offsets)
        now = self.clock().timestamp
        if self.experience is not None:
            self.experience.tell(self.directory, now)
        return self.directory.select(
            request,
            seed=seed if seed is not None else token_bytes(32),
            count=count or self._candidates,
            now=now,
            policy=policy,
        )

    async def wait_for_choice(
        self, request: BuyerRequest, seconds: float, *, policy: Policy = BALANCED, count: int | None = None
    ) -> Selection:
        """Choose as soon as every relay has told what it has and somebody can serve, or when the wait is over."""
        with anyio.move_on_after(seconds):
            while True:
                if self.is_complete and (selection := self.select(request, policy=policy, count=count)).chosen:
                    return selection
                await self._changed.wait()
        return self.select(request, policy=policy, count=count)

    async def _follow(self) -> None:
        async with self._relays.subscribe((MARKET_FILTER,), with_carriers=True) as deliveries:
            async for delivery in deliveries:
                with Contained("market"):
                    self._take(delivery)

    def _take(self, delivery: Delivery) -> None:
        match delivery:
            case Delivered(url, event):
                self._reached_back(url, event.created_at)
                self._deliver(delivery)
            case Carried(url, event_id, created_at):
                self._reached_back(url, created_at)
                if self.directory.carried(event_id, url):
                    self._note_carrier(url, event_id)
            case StoredEventsEnd(url, is_everything):
                self._omissions.relay_complete(url, self.clock().timestamp)
                self._fetch_the_rest(url, is_everything)
            case RelayGone(url):
                self._omissions.relay_gone(url)
                self._oldest.pop(url, None)
                self._stop_paging(url)

    def _reached_back(self, url: str, created_at: Timestamp) -> None:
        self._oldest[url] = min(self._oldest.get(url, created_at), created_at)

    def _deliver(self, delivered: Delivered) -> None:
        """One event from one relay, however it came."""
        url, event = delivered.relay_url, delivered.event
        now = self.clock().timestamp
        if self.directory.apply(event, url, now):
            address = self.directory.address_of(event.id)
            if address is not None:
                self._omissions.placed(url, address, event.id, event.created_at, now)
            if self.experience is not None and event.kind in (Kind.MANIFEST, Kind.STAKE_COMMITMENT):
                self.experience.take(event, now)
            self._tell()
        else:
            self._note_carrier(url, event.id)

    def _deliver_page(self, delivered: Delivered) -> None:
        """One event of a page, unless it was refused when it came before the page."""
        if all(delivered.event.id != ignored.event_id for ignored in self.directory.last_ignored):
            self._deliver(delivered)

    def _note_carrier(self, url: str, event_id: EventId) -> None:
        address = self.directory.address_of(event_id)
        if address is not None:
            self._omissions.carried(url, address, event_id, self.clock().timestamp)

    def _is_expected(self, address: Address, url: str) -> bool:
        """Whether an author says that he publishes on a relay: state goes to all of one's relays (RM-01, "Relays")."""
        return any(is_same_relay(named, (url,)) for named in self.directory.relays_named_by(address[0]))

    def _fetch_the_rest(self, url: str, is_everything: bool | None) -> None:
        """A relay has ended its first answer; whether or not it could say all in one, it will have said all."""
        self._stop_paging(url)
        until = self._oldest.get(url)
        if is_everything or until is None:
            self._is_complete_now(url)
            return
        assert self._tasks is not None  # or nobody would be followed
        scope = self._paging[url] = anyio.CancelScope()
        self._tasks.start_soon(self._page, url, until, scope)

    def _stop_paging(self, url: str) -> None:
        scope = self._paging.pop(url, None)
        if scope is not None:
            scope.cancel()

    async def _page(self, url: str, until: Timestamp, scope: anyio.CancelScope) -> None:
        with scope, Contained("market"):
            await page_back(self._relays, url, MARKET_FILTER, until, self._deliver_page)
        if not scope.cancelled_caught:
            self._is_complete_now(url)

    def _is_complete_now(self, url: str) -> None:
        self._complete.add(url)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
