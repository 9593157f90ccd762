"""Buying one job: choose, open a session, run, and go to the next node while nothing was delivered and nothing paid.

Failing over is transparent only before the first output; after it the partial result stands, signed and paid for what
arrived, and whoever asked decides what to do about the rest. A session is for this job alone, unless somebody keeps
sessions (`relaymesh.roles.session_pool`).
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from secrets import token_bytes
from typing import Final, Protocol

import anyio

from relaymesh.errors import UsageError
from relaymesh.machines.job_outcome import JobEnded
from relaymesh.machines.opening_events import OpeningFailed, QuoteArrived
from relaymesh.machines.records import JobState
from relaymesh.market.explanation import explain
from relaymesh.market.policy import BALANCED, Policy
from relaymesh.market.preferences import NO_PREFERENCES, Preferences
from relaymesh.market.pricing import price_ceiling
from relaymesh.market.request import BuyerRequest, SettlementPolicy
from relaymesh.market.selection import Selection
from relaymesh.market.settlement_choice import ChosenTerm, accepted_terms
from relaymesh.nostr.event import PublicKey
from relaymesh.protocol.contract import JobOrder, SessionContract
from relaymesh.protocol.fields import JobType
from relaymesh.protocol.offer import PriceRow
from relaymesh.protocol.quote import JobShape
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.roles.client import Client
from relaymesh.roles.client_jobs import OpenSession, RunningJob
from relaymesh.roles.session_keeping import OneJobEach, SessionKeeper
from relaymesh.units import MILLISECONDS_PER_SECOND, AmountMsat

BYTES_PER_TOKEN: Final = 2
"""A low guess, so that an estimate in tokens is rather too high."""
LONGEST_TOKEN_BYTES: Final = 8
"""A high guess, so that the bytes foreseen for so many tokens suffice."""
LIKELY_BYTES_PER_TOKEN: Final = 4
"""What most text comes to; choices are made by what a job is likely to cost."""
LIKELY_OUTPUT: Final = 2
"""Of the most output that is wanted, most jobs need one part in so many."""
ORDINARY_PARAMETERS: Final = frozenset(("messages", "prompt", "input", "model", "max_tokens", "stream"))
"""What every row takes without saying so."""
ATTEMPTS: Final = 3
OF_THE_JOB: Final = frozenset(
    (RefusalCode.BUSY, RefusalCode.OVER_LIMIT, RefusalCode.OVER_BUDGET, RefusalCode.UNSUPPORTED_PARAMETER)
)
"""Refusals that say nothing against the session."""
OF_THE_SESSION: Final = frozenset(
    (
        RefusalCode.EXPIRED,
        RefusalCode.OFFER_CHANGED,
        RefusalCode.CANCELLED,
        RefusalCode.OVER_LIMIT,
        RefusalCode.OVER_BUDGET,
        RefusalCode.PAYMENT_REQUIRED,
    )
)
"""Refusals that, in a session that is not new, say nothing against its node: it may serve in another."""
LONGEST_RETRY_MS: Final = 10_000
"""Whoever is busy for longer than this is not waited for."""
MAXIMUM_BODY_BYTES: Final = 1_900_000
"""What fits a session's parts, escaping included."""

Deliver = Callable[[str], Awaitable[None]]
"""Awaited with every piece of output."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One job as a person or a program asks for it.

    Args:
        body: JSON text in the shape of the OpenAI API for the job type.
        model: None takes any model that does the job.
        output_tokens: The most output wanted.
        maximum_msat: The most it may cost.
        allow: The only nodes to deal with; None for all.
        ignore: Nodes not to deal with.
        policy: What counts, and for how much.
        preferences: What else the buyer says about nodes.
        settlement: The form of settlement that is required; `auto` chooses.
        maximum_exposure_msat: The most to have at stake at once; 0 for no limit.
        is_streamed: Whether somebody reads the output as it comes.
        has_credit: Whether nodes may lend to a key of the buyer's.
        keeps_session: Whether more jobs will follow in the session that is opened for this one.
        token_bytes: What one token of output may come to; more where output is not plain text.
    """

    job_type: JobType
    body: str
    maximum_msat: AmountMsat
    model: str | None = None
    output_tokens: int = 0
    capabilities: tuple[str, ...] = ()
    allow: frozenset[PublicKey] | None = None
    ignore: frozenset[PublicKey] = frozenset()
    maximum_pow_bits: int = 20
    policy: Policy = BALANCED
    preferences: Preferences = NO_PREFERENCES
    settlement: SettlementPolicy = "auto"
    maximum_exposure_msat: int = 0
    is_streamed: bool = False
    has_credit: bool = False
    keeps_session: bool = False
    token_bytes: int = LONGEST_TOKEN_BYTES

    @property
    def counting(self) -> Policy:
        """What counts in the end: what the preferences sort by or, where they do not, the policy."""
        return self.preferences.policy(self.policy)

    def to_request(self) -> BuyerRequest:
        """What is asked of the market: the shape of the job, not the job."""
        size = len(self.body.encode())
        shape = JobShape(
            input_tokens=size // BYTES_PER_TOKEN + 1,
            input_bytes=size,
            output_tokens=self.output_tokens,
            output_bytes=self.output_tokens * self.token_bytes,
        )
        likely_tokens = -(-self.output_tokens // LIKELY_OUTPUT)
        estimate = JobShape(
            input_tokens=size // LIKELY_BYTES_PER_TOKEN + 1,
            input_bytes=size,
            output_tokens=likely_tokens,
            output_bytes=likely_tokens * LIKELY_BYTES_PER_TOKEN,
        )
        orders, scopes = accepted_terms(
            self.settlement,
            is_streamed=self.is_streamed,
            has_credit=self.has_credit,
            keeps_session=self.keeps_session,
        )
        request = BuyerRequest(
            model=self.model,
            job_type=self.job_type,
            shape=shape,
            budget_msat=self.maximum_msat,
            capabilities=self.capabilities,
            orders=orders,
            scopes=scopes,
            settlement=self.settlement,
            maximum_exposure_msat=self.maximum_exposure_msat,
            is_streamed=self.is_streamed,
            allow=self.allow,
            ignore=self.ignore,
            maximum_pow_bits=self.maximum_pow_bits,
            estimate=estimate,
        )
        return self.preferences.narrow(request, self._parameters())

    def _parameters(self) -> tuple[str, ...]:
        """The parameters of the body beyond what every job of this kind has, by name."""
        if not self.preferences.require_parameters:
            return ()
        body = json.loads(self.body)
        return tuple(name for name in body if name not in ORDINARY_PARAMETERS) if isinstance(body, dict) else ()

    def to_order(self, row: PriceRow, maximum_msat: AmountMsat) -> JobOrder:
        """The job itself, for the node that sells it under this row."""
        output_units = self.to_request().shape.units(row.unit)[1] if row.output_msat else 0
        return JobOrder(row.model, self.job_type, self.body, output_units, maximum_msat, token_bytes(32))


class BuyingWatcher(Protocol):
    """Who is told how a purchase goes; nothing waits for it."""

    def chose(self, selection: Selection) -> None:
        """Nodes were chosen, with reasons."""
        ...

    def quoted(self, quote: QuoteArrived) -> None:
        """A node quoted or refused."""
        ...

    def opened(self, contract: SessionContract, chosen_term: ChosenTerm | None) -> None:
        """A session was agreed on, on a settlement term chosen for a reason."""
        ...

    def began(self, job: RunningJob) -> None:
        """A job was begun; whoever cancels it still gets its outcome."""
        ...


class SilentWatcher:
    """Watches and says nothing."""

    def chose(self, selection: Selection) -> None:
        """Nodes were chosen."""

    def quoted(self, quote: QuoteArrived) -> None:
        """A node quoted."""

    def opened(self, contract: SessionContract, chosen_term: ChosenTerm | None) -> None:
        """A session was agreed on."""

    def began(self, job: RunningJob) -> None:
        """A job was begun."""


@dataclass(frozen=True, slots=True)
class Bought:
    """How a purchase ended.

    Args:
        outcome: The last job's; None when no job was begun.
        contract: The session it ran in; None likewise.
        reason: Why it is not done, in one sentence; empty when it is.
        tried: The nodes that were tried before, each with why it did not serve.
        chosen_term: How the last job was to be paid, and why; None when no job was begun.
    """

    outcome: JobEnded | None
    contract: SessionContract | None
    reason: str
    tried: tuple[tuple[PublicKey, str], ...]
    chosen_term: ChosenTerm | None = None


@dataclass(slots=True)
class _Attempts:
    """Who was tried and did not serve.

    Who was only busy, or takes on no more unpaid work now, may be tried again when it said, if nobody else is left.
    """

    ignored: set[PublicKey] = field(default_factory=set)
    tried: list[tuple[PublicKey, str]] = field(default_factory=list)
    busy: dict[PublicKey, int] = field(default_factory=dict)

    def note(self, node: PublicKey, refusal: Refusal, *, is_kept_session: bool = False) -> None:
        self.tried.append((node, refusal.to_wire()))
        if is_kept_session and refusal.code in OF_THE_SESSION:
            return
        self.ignored.add(node)
        if refusal.code in (RefusalCode.BUSY, RefusalCode.PAYMENT_REQUIRED) and refusal.retry_in_ms is not None:
            self.busy[node] = refusal.retry_in_ms

    async def wait_for_room(self, selection: Selection) -> None:
        """Where everybody was tried, wait until the first of the busy ones has room again, if that is soon."""
        known = {choice.candidate.offer.node for choice in (*selection.chosen, *selection.runners_up)}
        soon = [retry_in_ms for retry_in_ms in self.busy.values() if retry_in_ms <= LONGEST_RETRY_MS]
        if known <= self.ignored and soon:
            await anyio.sleep(min(soon) / MILLISECONDS_PER_SECOND)
            self.ignored -= self.busy.keys()
            self.busy.clear()


async def buy(
    client: Client,
    wanted: Wanted,
    deliver: Deliver,
    watcher: BuyingWatcher | None = None,
    keeper: SessionKeeper | None = None,
) -> Bought:
    """Buy one job; `deliver` is awaited with every piece of output.

    Args:
        keeper: Who keeps sessions from job to job; None opens one for this job and closes it.

    Returns:
        How it ended. It raises only what the ledger raises, and UsageError for a body that is too long; everything
        else a market can do is a value here.
    """
    size = len(wanted.body.encode())
    if size > MAXIMUM_BODY_BYTES:
        raise UsageError(f"a job's body must be at most {MAXIMUM_BODY_BYTES} bytes, this one has {size}; shorten it")
    return await _Purchase(client, wanted, deliver, watcher or SilentWatcher(), keeper or OneJobEach()).run()


@dataclass(slots=True)
class _Purchase:
    """One job on its way from node to node."""

    client: Client
    wanted: Wanted
    deliver: Deliver
    watching: BuyingWatcher
    keeper: SessionKeeper
    attempts: _Attempts = field(default_factory=_Attempts)

    async def run(self) -> Bought:
        """Try one session that is open already, if there is one; then open so many as may be tried."""
        attempts, left, may_reuse = self.attempts, self.wanted.preferences.count(ATTEMPTS), True
        while left:
            selection = await self._choose()
            if not selection.chosen:
                return self._nothing(selection)
            session = self.keeper.find(selection) if may_reuse else None
            is_kept, may_reuse = session is not None, False
            if session is None:
                left -= 1
                session = await self._open(selection)
            if session is not None:
                bought = await self._run(session, is_kept=is_kept)
                if bought is not None:
                    return bought
            if left and not is_kept:
                await attempts.wait_for_room(selection)
        return Bought(None, None, attempts.tried[-1][1], tuple(attempts.tried))

    async def _choose(self) -> Selection:
        wanted = self.wanted
        request = replace(wanted, ignore=wanted.ignore | self.attempts.ignored).to_request()
        count = wanted.preferences.count(self.client.candidates)
        selection = await self.client.wait_for_choice(request, policy=wanted.counting, count=count)
        self.watching.chose(selection)
        return selection

    def _nothing(self, selection: Selection) -> Bought:
        market, tried = self.client.market, tuple(self.attempts.tried)
        nothing = explain(selection).sentence() if market.is_in_view else market.unreachable
        return Bought(None, None, tried[-1][1] if tried else nothing, tried)

    async def _open(self, selection: Selection) -> OpenSession | None:
        session = await self.client.open_session(selection, self.watching.quoted)
        if isinstance(session, OpeningFailed):
            for node, refusal in session.refusals:
                self.attempts.note(node, refusal)
            return None
        return session

    async def _run(self, session: OpenSession, *, is_kept: bool) -> Bought | None:
        """Run the job in an open session; None when another may be tried without paying twice."""
        contract, attempts = session.contract, self.attempts
        self.watching.opened(contract, session.chosen_term)
        order = self._order(contract, is_kept=is_kept)
        prepaid_msat, outcome = session.prepaid_msat, None
        self.keeper.begin(session, order.maximum_msat)
        try:
            plan = session.price(order)
            if isinstance(plan, Refusal) or session.is_closed:
                closed = refuse(RefusalCode.CANCELLED, session.close_reason)
                attempts.note(contract.node, plan if isinstance(plan, Refusal) else closed, is_kept_session=is_kept)
                return None
            async with session.start_job(order, plan) as job:
                self.watching.began(job)
                async for data in job.outputs():
                    await self.deliver(data)
                outcome = await job.wait_outcome()
        finally:
            await self.keeper.finish(session, order.maximum_msat, is_sound=outcome is not None and _is_sound(outcome))
        if outcome.state is JobState.DONE:
            return Bought(outcome, contract, "", tuple(attempts.tried), session.chosen_term)
        is_untouched = not (
            outcome.observation.outputs or outcome.committed_msat or session.prepaid_msat > prepaid_msat
        )
        if (
            outcome.state is JobState.FAILED
            and is_untouched
            and outcome.refusal
            and _may_go_on(outcome.refusal, is_kept)
        ):
            attempts.note(contract.node, outcome.refusal, is_kept_session=is_kept)
            return None
        reason = outcome.refusal.to_wire() if outcome.refusal is not None else outcome.state.value
        return Bought(outcome, contract, reason, tuple(attempts.tried), session.chosen_term)

    def _order(self, contract: SessionContract, *, is_kept: bool) -> JobOrder:
        """The job for this session; what it may cost was quoted, unless the session was opened for another."""
        row, maximum_msat = contract.quote.row, self.wanted.maximum_msat
        limit = None if is_kept else contract.quote.max_msat
        if limit is None:  # at a posted price nobody has said it either, so it is reckoned as the node would have done
            limit = price_ceiling(row, self.wanted.to_request().shape, maximum_msat)
        return self.wanted.to_order(row, maximum_msat if limit is None else min(limit, maximum_msat))


def _is_sound(outcome: JobEnded) -> bool:
    """Whether nothing about a job's end speaks against the session that it ran in."""
    if outcome.complaints:
        return False
    if outcome.state is JobState.FAILED and outcome.refusal is not None:
        return outcome.observation.was_refused and outcome.refusal.code in OF_THE_JOB
    return outcome.state in (JobState.DONE, JobState.CANCELLED)


def _may_go_on(refusal: Refusal, is_kept: bool) -> bool:
    """Whether another session may serve what was refused so."""
    return refusal.is_retryable or (is_kept and refusal.code in OF_THE_JOB | OF_THE_SESSION)
