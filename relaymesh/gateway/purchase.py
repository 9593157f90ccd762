"""One request, bought: each model in turn until one is served, never going on once something was delivered or paid.

A purchase can be given up at any moment. Before its job has begun that simply ends it; afterwards the job is cancelled,
which the node hears at once, and its outcome is waited for, so that it is known what it cost.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

import anyio

from relaymesh.errors import LedgerError
from relaymesh.gateway.answers import MalformedOutput
from relaymesh.gateway.failures import BAD_GATEWAY, INTERNAL, Failure, failure_of, failure_of_reason
from relaymesh.gateway.requests import Asked
from relaymesh.gateway.verdicts import judge
from relaymesh.machines.job_outcome import JobEnded
from relaymesh.machines.opening_events import QuoteArrived
from relaymesh.market.selection import Selection
from relaymesh.market.settlement_choice import ChosenTerm
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.refusal import Refusal
from relaymesh.roles.buying import Bought, BuyingWatcher, Wanted
from relaymesh.roles.client import Client
from relaymesh.roles.client_jobs import RunningJob
from relaymesh.units import AmountMsat

OUTCOME_SECONDS: Final = 5
"""How long the outcome of a job that was given up is waited for."""

Deliver = Callable[[str], Awaitable[None]]


class Buyer(Protocol):
    """Whatever buys a job: `relaymesh.roles.buying.buy` with its client, or a pool of sessions."""

    async def __call__(self, wanted: Wanted, deliver: Deliver, watcher: BuyingWatcher | None = None) -> Bought:
        """Buy one job."""
        ...


class Purse(Protocol):
    """What one request may spend."""

    async def reserve(self, model: str | None, most_msat: AmountMsat) -> AmountMsat | Failure | None:
        """Set aside what a job may cost: how much that is, at most what was asked for; None where there is no limit."""
        ...

    async def settle(self, spent_msat: AmountMsat | None) -> None:
        """Count what it did cost instead; None where nobody knows, so that all that was set aside stays counted."""
        ...


class OpenPurse:
    """A purse without a limit of its own; the wallet's limits hold as always."""

    async def reserve(self, model: str | None, most_msat: AmountMsat) -> AmountMsat | Failure | None:
        """Whatever it costs."""
        return None

    async def settle(self, spent_msat: AmountMsat | None) -> None:
        """Nobody counts."""


OPEN_PURSE: Final = OpenPurse()


@dataclass(frozen=True, slots=True)
class Result:
    """How a purchase ended.

    Args:
        outcome: The job's; None where none was begun, or nobody knows.
        failure: Why it is not done; None when it is.
        is_unaccounted: Whether a job was begun of which nobody knows what it cost.
    """

    outcome: JobEnded | None
    failure: Failure | None
    is_unaccounted: bool = False

    @property
    def spent_msat(self) -> AmountMsat:
        """What it cost at the most, routing included."""
        known = self.outcome
        return AmountMsat(0 if known is None else known.committed_msat + known.fees_msat)


class Purchase:
    """One request's way through the market. Implements `relaymesh.roles.buying.BuyingWatcher`.

    Attributes:
        selection: The last choice that was made.
        contract: The last session's.
    """

    def __init__(self, client: Client, buyer: Buyer, asked: Asked, purse: Purse = OPEN_PURSE) -> None:
        self.selection: Selection | None = None
        self.contract: SessionContract | None = None
        self._client, self._buyer, self._asked, self._purse = client, buyer, asked, purse
        self._scope = anyio.CancelScope()
        self._is_given_up = False
        self._has_output = False
        self._job: RunningJob | None = None
        self._refusal: Refusal | None = None
        self._malformed = ""

    def _foresee(self, wanted: Wanted) -> Selection:
        count = wanted.preferences.count(self._client.candidates)
        return self._client.market.select(wanted.to_request(), policy=wanted.counting, count=count)

    async def run(self, deliver: Deliver) -> Result:
        """Buy it; `deliver` is awaited with every output, and may raise MalformedOutput, which ends the job."""
        wanted = self._asked.wanted
        result = Result(None, None)
        for model in self._asked.models:
            result = await self._try(replace(wanted, model=model), deliver)
            is_begun = self._has_output or result.spent_msat or result.is_unaccounted
            if result.failure is None or is_begun or self._is_given_up:
                break
        return result

    def give_up(self) -> None:
        """Nobody wants it any more: nothing further is to be made or paid."""
        self._is_given_up = True
        if self._job is None or self._job.is_settled:
            self._scope.cancel()
        else:
            self._job.cancel()

    async def _try(self, wanted: Wanted, deliver: Deliver) -> Result:
        """Buy it of one model, within what the purse has for that."""
        self._job = self._refusal = None
        foreseen = self._foresee(wanted)
        if objection := self._find_objection(foreseen):
            return Result(None, objection)
        ceilings = [choice.ceiling_msat for choice in foreseen.chosen]
        most_msat = max(ceilings, default=wanted.maximum_msat)
        granted = await self._purse.reserve(wanted.model, most_msat)
        if isinstance(granted, Failure):
            return Result(None, granted)
        if granted is not None:
            wanted = replace(wanted, maximum_msat=granted)
            if granted < most_msat and (objection := self._find_objection(self._foresee(wanted))):
                await self._purse.settle(AmountMsat(0))
                return Result(None, objection)
        result: Result | None = None
        try:
            result = await self._buy(wanted, deliver)
        finally:
            with anyio.CancelScope(shield=True):
                known = await self._account() if result is None else result
                await self._purse.settle(None if known.is_unaccounted else known.spent_msat)
        return result

    def _find_objection(self, foreseen: Selection) -> Failure | None:
        """Why nobody will ever serve it; None where somebody can, may be able to later, or may yet come into view."""
        if foreseen.chosen or not self._client.market.is_complete:
            return None
        failure = judge(foreseen, self._client.market)
        return failure if failure.is_lasting else None

    async def _buy(self, wanted: Wanted, deliver: Deliver) -> Result:
        async def take(data: str) -> None:
            self._has_output = True
            try:
                await deliver(data)
            except MalformedOutput as error:
                self._malformed = str(error)
                if self._job is not None:
                    self._job.cancel()

        bought: Bought | None = None
        try:
            with self._scope:
                bought = await self._buyer(wanted, take, self)
        except LedgerError:
            broken = "the ledger could not be written, so the job was stopped where it stood"
            return Result(None, Failure(INTERNAL, "ledger", broken, is_paid=True), is_unaccounted=True)
        if bought is None:
            return await self._account()
        return self._judge(bought)

    async def _account(self) -> Result:
        """What became of a job that was left; cancelled or not, it ends within moments."""
        failure = Failure(BAD_GATEWAY, "cancelled", "nobody waited for the answer", is_paid=True)
        if self._job is None:
            return Result(None, failure)
        with anyio.move_on_after(OUTCOME_SECONDS, shield=True):
            try:
                return Result(await self._job.wait_outcome(), failure)
            except LedgerError:
                pass
        return Result(None, failure, is_unaccounted=True)

    def _judge(self, bought: Bought) -> Result:
        outcome = bought.outcome
        is_paid = outcome is not None and bool(outcome.committed_msat)
        if self._malformed:
            return Result(outcome, Failure(BAD_GATEWAY, "malformed_output", self._malformed, is_paid=is_paid))
        if not bought.reason:
            return Result(outcome, None)
        if outcome is None and not bought.tried and self.selection is not None and not self.selection.chosen:
            return Result(None, judge(self.selection, self._client.market))
        if outcome is not None and outcome.refusal is not None:
            return Result(outcome, failure_of(outcome.refusal, is_paid=is_paid))
        if outcome is None and self._refusal is not None:
            return Result(None, failure_of(self._refusal))
        return Result(outcome, failure_of_reason(bought.reason, is_paid=is_paid))

    # ── BuyingWatcher ─────────────────────────────────────────────────────────────────────────────────────────────

    def chose(self, selection: Selection) -> None:
        """Nodes were chosen, for the first attempt or, where that came to nothing, for the next."""
        self.selection, self._job = selection, None

    def quoted(self, quote: QuoteArrived) -> None:
        """A node quoted or refused; of refusals, one that passes says most."""
        answer = quote.answer
        if isinstance(answer, Refusal) and (self._refusal is None or answer.is_retryable):
            self._refusal = answer

    def opened(self, contract: SessionContract, chosen_term: ChosenTerm | None) -> None:
        """A session was agreed on."""
        self.contract = contract

    def began(self, job: RunningJob) -> None:
        """A job was begun; if nobody wants it any more, it ends at once."""
        self._job = job
        if self._is_given_up:
            job.cancel()
