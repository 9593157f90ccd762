"""Warm sessions: what one job has opened serves the next ones, without asking anybody (RM-02, "Sessions").

A session is used again where opening another would do no better: its node is as good as those that a choice made now
comes to, at the price it quoted; the settlement that would be chosen now is the session's; and the job puts no more at
stake than the session's quote states. Everything else opens a session, as buying without a pool does.

A prepaid session serves several jobs at once, as long as one of its tranches covers what all of them may cost, so that
none waits for another's money; any other session serves one job at a time. What speaks against a session (a job that
failed in it, a record that does not agree with what came, a connection that is gone) closes it.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup

from relaymesh.market.pricing import is_no_dearer, price_ceiling, quote_terms
from relaymesh.market.request import BuyerRequest
from relaymesh.market.selection import Choice, Selection, near_equal_limit
from relaymesh.market.settlement_choice import SMALL_JOBS_PER_TRANCHE, NoTerm, choose_term
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.offer import PriceRow, SettlementTerm
from relaymesh.protocol.quote import QuotedTerm
from relaymesh.roles.buying import Bought, BuyingWatcher, Deliver, Wanted, buy
from relaymesh.roles.client import Client
from relaymesh.roles.client_jobs import OpenSession
from relaymesh.units import MILLISECONDS_PER_SECOND, AmountMsat, Instant, Moment, elapsed_ms

QUOTE_MARGIN_MS: Final = 2_000
"""A job must be with the node while the quote stands; so long before its end none is sent any more."""
JOBS_THAT_PROMISE_MORE: Final = SMALL_JOBS_PER_TRANCHE
"""After so many jobs within the time that a session may be idle, more are expected, and worth prepaying a session."""
LOOKS_PER_IDLE_TIME: Final = 4
"""How often, while a session may be idle, the pool looks for those that were idle for too long."""


@dataclass(slots=True)
class _Kept:
    """A session of the pool: what its jobs under way may cost, and since when it had none."""

    session: OpenSession
    under_way: list[AmountMsat] = field(default_factory=list)
    idle_since: Moment | None = None
    is_sound: bool = True

    @property
    def contract(self) -> SessionContract:
        return self.session.contract

    @property
    def may_serve(self) -> bool:
        return self.is_sound and self.session.is_usable

    def has_room(self, ceiling_msat: AmountMsat, now: Moment) -> bool:
        """Whether a job of at most so much can begin now and need not wait."""
        term, foreseen_msat = self.contract.term, sum(self.under_way) + ceiling_msat
        is_shared = term.scope == "session" and foreseen_msat <= (term.tranche_units or 0)
        if self.under_way and not is_shared:
            return False
        is_valid = now.unix_ms + QUOTE_MARGIN_MS < self.contract.quote.valid_until_ms
        return is_valid or foreseen_msat <= self.session.balance_msat  # what is prepaid buys at the quoted price


class SessionPool:
    """`async with` it, inside the client's block: keeps sessions open from job to job, and closes them at the end.

    Implements `relaymesh.roles.session_keeping.SessionKeeper`.

    Args:
        client: Who buys.
        size: So many sessions stay open without a job; of more, those with the least prepaid money are closed first.
        idle_seconds: So long a session stays open without a job.
    """

    def __init__(self, client: Client, size: int = 8, idle_seconds: float = 60) -> None:
        self._client, self._size, self._idle_seconds = client, size, idle_seconds
        self._kept: dict[OpenSession, _Kept] = {}
        self._began: deque[Instant] = deque(maxlen=JOBS_THAT_PROMISE_MORE)
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._close_idle)
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._tasks is not None
        tasks, self._tasks = self._tasks, None
        tasks.cancel_scope.cancel()
        try:
            with anyio.CancelScope(shield=True):  # each takes a second at most
                async with anyio.create_task_group() as closing:
                    for kept in self._kept.values():
                        closing.start_soon(kept.session.aclose)
            self._kept.clear()
        finally:
            is_handled = await tasks.__aexit__(error_type, error, trace)
        return is_handled

    @property
    def sessions(self) -> tuple[OpenSession, ...]:
        """The sessions that are open, with a job or without."""
        return tuple(kept.session for kept in self._kept.values())

    async def buy(self, wanted: Wanted, deliver: Deliver, watcher: BuyingWatcher | None = None) -> Bought:
        """Buy one job, as `relaymesh.roles.buying.buy` does, in a session that is open already where one will do.

        A new session may be a prepaid one where jobs come so often that more are to be expected: what a session has
        left when it ends is lost.
        """
        keeping = replace(wanted, keeps_session=wanted.keeps_session or self._expects_more())
        return await buy(self._client, keeping, deliver, watcher, self)

    def _expects_more(self) -> bool:
        """Whether jobs come often enough for another to come before a session has been idle for too long."""
        now, began = self._client.tools.clock().instant, self._began
        is_often = len(began) == JOBS_THAT_PROMISE_MORE and (
            elapsed_ms(began[0], now) < self._idle_seconds * MILLISECONDS_PER_SECOND
        )
        began.append(now)
        return is_often

    # ── SessionKeeper ─────────────────────────────────────────────────────────────────────────────────────────────

    def find(self, selection: Selection) -> OpenSession | None:
        """The session with the best node whose job this may be, if that is near-equal to the best that was chosen."""
        usable = [kept for kept in self._kept.values() if kept.may_serve]
        if not usable:
            return None
        best = min((choice.tier, choice.terms.score) for choice in selection.chosen)
        limit = near_equal_limit(best[1], selection.policy)
        for choice in self._choose_again(selection, usable):
            if choice.tier > best[0] or choice.terms.score > limit:
                break
            for kept in usable:
                if self._fits(kept, choice, selection.request):
                    return kept.session
        return None

    def begin(self, session: OpenSession, maximum_msat: AmountMsat) -> None:
        """A job begins in a session, which is the pool's from now on."""
        kept = self._kept.setdefault(session, _Kept(session))
        kept.under_way.append(maximum_msat)
        kept.idle_since = None

    async def finish(self, session: OpenSession, maximum_msat: AmountMsat, *, is_sound: bool) -> None:
        """Keep the session for the next job, or close it once its last job is over."""
        kept = self._kept.get(session)
        if kept is None:  # the pool was closed meanwhile, and it with it
            return
        kept.under_way.remove(maximum_msat)
        kept.is_sound = kept.is_sound and is_sound
        if kept.under_way:
            return
        kept.idle_since = self._client.tools.clock()
        if self._tasks is None or not kept.may_serve:
            await self._close(kept)
        else:
            self._make_room()

    # ── which one ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _choose_again(self, selection: Selection, usable: list[_Kept]) -> tuple[Choice, ...]:
        """The same choice among the nodes of these sessions alone, best first."""
        nodes, request = frozenset(kept.contract.node for kept in usable), selection.request
        among = nodes if request.allow is None else nodes & request.allow
        if not among:
            return ()
        narrowed = replace(request, allow=among)
        return self._client.market.select(narrowed, selection.seed, policy=selection.policy, count=len(among)).chosen

    def _fits(self, kept: _Kept, choice: Choice, request: BuyerRequest) -> bool:
        """Whether this job can be done in this session as it would be in a new one with this node."""
        contract = kept.contract
        row = contract.quote.row
        if contract.node != choice.candidate.offer.node or not _stands(row, choice.candidate.row):
            return False
        ceiling_msat = price_ceiling(row, request.shape, request.budget_msat)
        if ceiling_msat is None or not kept.has_room(ceiling_msat, self._client.tools.clock()):
            return False
        forms = tuple(
            SettlementTerm(order=term.order, scope=term.scope, tranche_units=term.tranche_units)
            for term in contract.quote.settlement
        )
        terms = quote_terms(row, request.shape, forms, request.forms, ceiling_msat)
        chosen = choose_term(request, terms, self._client.market.directory.standing(contract.node), ceiling_msat)
        return not isinstance(chosen, NoTerm) and _is_within(chosen.term, contract.term)

    # ── how many, how long ────────────────────────────────────────────────────────────────────────────────────────

    def _make_room(self) -> None:
        """Close what is too much: first where the least money is left, since that is lost, then who waits longest."""
        idle = [kept for kept in self._kept.values() if kept.idle_since is not None]
        idle.sort(key=lambda kept: (kept.session.balance_msat, kept.idle_since.instant if kept.idle_since else 0))
        for kept in idle[: max(len(idle) - self._size, 0)]:
            self._start_closing(kept)

    async def _close_idle(self) -> None:
        """Close sessions that had no job for too long, and forget those that the node has closed."""
        while True:
            await anyio.sleep(self._idle_seconds / LOOKS_PER_IDLE_TIME)
            now = self._client.tools.clock()
            for kept in tuple(self._kept.values()):
                if kept.idle_since is None:
                    continue
                idle_ms = elapsed_ms(kept.idle_since.instant, now.instant)
                if kept.session.is_closed or idle_ms >= self._idle_seconds * MILLISECONDS_PER_SECOND:
                    self._start_closing(kept)

    def _start_closing(self, kept: _Kept) -> None:
        assert self._tasks is not None
        kept.is_sound, kept.idle_since = False, None
        self._tasks.start_soon(self._close, kept)

    async def _close(self, kept: _Kept) -> None:
        await kept.session.aclose()
        self._kept.pop(kept.session, None)  # until then, the end of the pool waits for it


def _stands(quoted: PriceRow, offered: PriceRow) -> bool:
    """Whether a session's row is what the node offers now, for no more."""
    prices = {name: getattr(offered, name) for name in ("per", "input_msat", "output_msat", "minimum_msat")}
    return quoted.model_copy(update=prices) == offered and is_no_dearer(quoted, offered)


def _is_within(now: QuotedTerm, agreed: QuotedTerm) -> bool:
    """Whether the term that would be chosen is the session's, and puts no more at stake than its quote states."""
    is_same = (now.order, now.scope, now.tranche_units) == (agreed.order, agreed.scope, agreed.tranche_units)
    no_more = (
        now.exposure_buyer_msat <= agreed.exposure_buyer_msat and now.exposure_node_msat <= agreed.exposure_node_msat
    )
    return is_same and no_more
