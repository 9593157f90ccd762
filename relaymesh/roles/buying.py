"""Buying one job: choose, open a session, run, and go to the next node while nothing was delivered and nothing paid.

Failing over is transparent only before the first output; after it the partial result stands, signed and paid for what
arrived, and whoever asked decides what to do about the rest.
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
LONGEST_RETRY_MS: Final = 10_000
"""Whoever is busy for longer than this is not waited for."""
MAXIMUM_BODY_BYTES: Final = 1_900_000
"""What fits a session's parts, escaping included."""


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

    def note(self, node: PublicKey, refusal: Refusal) -> None:
        self.ignored.add(node)
        self.tried.append((node, refusal.to_wire()))
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
    deliver: Callable[[str], Awaitable[None]],
    watcher: BuyingWatcher | None = None,
) -> Bought:
    """Buy one job; `deliver` is awaited with every piece of output.

    Returns:
        How it ended. It raises only what the ledger raises, and UsageError for a body that is too long; everything
        else a market can do is a value here.
    """
    size = len(wanted.body.encode())
    if size > MAXIMUM_BODY_BYTES:
        raise UsageError(f"a job's body must be at most {MAXIMUM_BODY_BYTES} bytes, this one has {size}; shorten it")
    watching = watcher or SilentWatcher()
    attempts = _Attempts()
    counting, attempts_allowed = wanted.counting, wanted.preferences.count(ATTEMPTS)
    for attempt in range(attempts_allowed):
        request = replace(wanted, ignore=wanted.ignore | attempts.ignored).to_request()
        count = wanted.preferences.count(client.candidates)
        selection = await client.wait_for_choice(request, policy=counting, count=count)
        watching.chose(selection)
        if not selection.chosen:
            nothing = explain(selection).sentence() if client.market.is_in_view else client.market.unreachable
            reason = attempts.tried[-1][1] if attempts.tried else nothing
            return Bought(None, None, reason, tuple(attempts.tried))
        session = await client.open_session(selection, watching.quoted)
        if isinstance(session, OpeningFailed):
            for node, refusal in session.refusals:
                attempts.note(node, refusal)
        else:
            watching.opened(session.contract, session.chosen_term)
            bought = await _run(session, wanted, deliver, attempts, watching)
            if bought is not None:
                return bought
        if attempt + 1 < attempts_allowed:
            await attempts.wait_for_room(selection)
    return Bought(None, None, attempts.tried[-1][1], tuple(attempts.tried))


async def _run(
    session: OpenSession,
    wanted: Wanted,
    deliver: Callable[[str], Awaitable[None]],
    attempts: _Attempts,
    watching: BuyingWatcher,
) -> Bought | None:
    """Run the job in an open session; None when another node may be tried without paying twice."""
    contract = session.contract
    limit = contract.quote.max_msat
    if limit is None:  # at a posted price nobody has said it, so it is reckoned as the node would have done
        limit = price_ceiling(contract.quote.row, wanted.to_request().shape, wanted.maximum_msat)
    maximum_msat = wanted.maximum_msat if limit is None else min(limit, wanted.maximum_msat)
    order = wanted.to_order(contract.quote.row, maximum_msat)
    try:
        plan = session.price(order)
        if isinstance(plan, Refusal):
            attempts.note(contract.node, plan)
            return None
        if session.is_closed:
            attempts.note(contract.node, refuse(RefusalCode.CANCELLED, session.close_reason))
            return None
        async with session.start_job(order, plan) as job:
            watching.began(job)
            async for data in job.outputs():
                await deliver(data)
            outcome = await job.wait_outcome()
    finally:
        await session.aclose()
    if outcome.state is JobState.DONE:
        return Bought(outcome, contract, "", tuple(attempts.tried), session.chosen_term)
    reason = outcome.refusal.to_wire() if outcome.refusal is not None else outcome.state.value
    is_untouched = not (outcome.observation.outputs or outcome.committed_msat or session.prepaid_msat)
    if outcome.state is JobState.FAILED and is_untouched and outcome.refusal and outcome.refusal.is_retryable:
        attempts.note(contract.node, outcome.refusal)
        return None
    return Bought(outcome, contract, reason, tuple(attempts.tried), session.chosen_term)
