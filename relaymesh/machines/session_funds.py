"""A session's prepaid money: what was paid in, what is promised to jobs, what they drew (RM-03, "Session tranches").

Sums and a queue, no more: who pays and who asks is `session_account.py`'s. Both sides keep one. The node promises a job
what it can cost at the most before it runs it, and draws what was delivered when it ends; the client, who hears of a
draw from the metering record, books it by the payment that the record names. So nothing is drawn that was not paid, and
nothing is promised twice.
"""

from collections.abc import Callable
from dataclasses import dataclass

from relaymesh.errors import LocalProtocolError
from relaymesh.machines.records import TrancheRecord
from relaymesh.protocol.refusal import Refusal
from relaymesh.protocol.session_messages import JobId
from relaymesh.units import AmountMsat


@dataclass(frozen=True, slots=True)
class Draw:
    """What one job took from one of the session's tranches.

    Args:
        tranche: Of the session, from 0.
        payment_hash: What that tranche was paid by.
    """

    tranche: int
    payment_hash: str
    amount_msat: AmountMsat


@dataclass(slots=True)
class _PaidIn:
    tranche: int
    payment_hash: str
    left_msat: int


# ── what jobs and the session's account tell each other ───────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class FundsAsked:
    """Node: a job has asked the session's funds for what it can cost; it may have been promised that already."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class JobBegun:
    """Client: a job of this session is under way."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class JobSettled:
    """The job is over, and what it drew is in the ledger."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class JobAbandoned:
    """The job ended by an error of ours; what the ledger has of it is for the next start to resolve."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class FundsReserved:
    """Tell the job: what it can cost is there, and is its own until it ends."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class FundsRefused:
    """Tell the job (the client: every job of the session that waits): no money will come for it."""

    refusal: Refusal
    job_id: JobId | None = None


@dataclass(frozen=True, slots=True)
class FundsChanged:
    """Client: tell every job of the session that the outcome of a payment is known: a record may wait for it.

    The node's wallet sees the money first, so that a short job can be over before ours says that it was paid for.
    """


@dataclass(frozen=True, slots=True)
class AccountClosed:
    """The last effect: nothing more can happen to this session's money, or a restart has to see to it."""


class SessionFunds:
    """The money of one session, on one side."""

    def __init__(self) -> None:
        self._paid_in: list[_PaidIn] = []
        self._promised: dict[JobId, AmountMsat] = {}
        self._waiting: dict[JobId, AmountMsat] = {}
        self._unsettled: set[JobId] = set()
        self._paid_msat = 0

    # ── sums ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def paid_msat(self) -> AmountMsat:
        """All that was paid in."""
        return AmountMsat(self._paid_msat)

    @property
    def balance_msat(self) -> AmountMsat:
        """Paid in and not drawn: what the buyer has at stake."""
        return AmountMsat(sum(each.left_msat for each in self._paid_in))

    @property
    def drawn_msat(self) -> AmountMsat:
        """What all jobs took."""
        return AmountMsat(self.paid_msat - self.balance_msat)

    @property
    def available_msat(self) -> AmountMsat:
        """What can still be promised."""
        return AmountMsat(self.balance_msat - self.promised_msat)

    @property
    def promised_msat(self) -> AmountMsat:
        """What the jobs that run can cost at the most; what they do not draw is free again when they end."""
        return AmountMsat(sum(self._promised.values()))

    @property
    def is_in_use(self) -> bool:
        """Whether some job waits, runs, or drew something that is not in the ledger yet."""
        return bool(self._waiting or self._promised or self._unsettled)

    @property
    def first_waiting(self) -> tuple[JobId, AmountMsat] | None:
        """The job that waits longest for a promise, and of how much."""
        return next(iter(self._waiting.items()), None)

    # ── money in ──────────────────────────────────────────────────────────────────────────────────────────────────

    def pay_in(self, tranche: TrancheRecord) -> None:
        """A tranche of the session was paid.

        Raises:
            LocalProtocolError: It was paid in before.
        """
        if any(each.tranche == tranche.tranche for each in self._paid_in):
            raise LocalProtocolError(f"tranche {tranche.tranche} of the session was paid in before")
        self._paid_in.append(_PaidIn(tranche.tranche, tranche.payment_hash, tranche.amount_msat))
        self._paid_msat += tranche.amount_msat

    # ── promises ──────────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, job_id: JobId, amount_msat: AmountMsat) -> bool:
        """Promise a job so much; where that is not there, or others wait, it queues behind them.

        Returns:
            Whether it was promised at once.

        Raises:
            LocalProtocolError: The job has asked before.
        """
        if job_id in self._promised or job_id in self._waiting or job_id in self._unsettled:
            raise LocalProtocolError("a job asks a session's funds once")
        self._waiting[job_id] = amount_msat
        if next(iter(self._waiting)) == job_id and self._fits(amount_msat):
            self._promise(job_id)
            return True
        return False

    def grant(self) -> tuple[JobId, ...]:
        """Promise those who wait what they asked for, in their order, as far as the money reaches."""
        granted = []
        while (first := self.first_waiting) is not None and self._fits(first[1]):
            self._promise(first[0])
            granted.append(first[0])
        return tuple(granted)

    def turn_away(self) -> JobId | None:
        """The job that waited longest (None if none did) waits no longer; it stays unsettled until it has ended."""
        job_id = next(iter(self._waiting), None)
        if job_id is not None:
            del self._waiting[job_id]
            self._unsettled.add(job_id)
        return job_id

    def is_promised(self, job_id: JobId) -> bool:
        """Whether the job may run: it was promised what it can cost, and has not drawn yet."""
        return job_id in self._promised

    # ── money out ─────────────────────────────────────────────────────────────────────────────────────────────────

    def draw(self, job_id: JobId, amount_msat: AmountMsat) -> tuple[Draw, ...]:
        """End a job's promise, or its wait: it takes so much, from the oldest tranches first.

        The job stays unsettled until `settle`, when its record is in the ledger.

        Raises:
            LocalProtocolError: That is more than the job was promised.
        """
        self._waiting.pop(job_id, None)
        promised = self._promised.pop(job_id, AmountMsat(0))
        if not 0 <= amount_msat <= promised:
            raise LocalProtocolError(f"a job was promised {promised} msat and must not draw {amount_msat}")
        self._unsettled.add(job_id)
        draws, missing = [], int(amount_msat)
        for paid in self._paid_in:
            taken = min(paid.left_msat, missing)
            if taken:
                paid.left_msat -= taken
                missing -= taken
                draws.append(Draw(paid.tranche, paid.payment_hash, AmountMsat(taken)))
        return tuple(draws)

    def match(
        self, payments: tuple[tuple[str, AmountMsat], ...], commit: Callable[[int, str], str]
    ) -> tuple[Draw, ...] | None:
        """Take what a metering record says a job drew, if each draw is of another tranche that still has as much.

        Args:
            payments: The record's payment commitments in order, each with what was drawn.
            commit: The commitment to a payment hash at a position in the record.

        Returns:
            What was taken; None if it is not so, and then nothing was.
        """
        found: dict[int, AmountMsat] = {}
        for position, (commitment, amount_msat) in enumerate(payments):
            stated = (commit(position, paid.payment_hash) == commitment for paid in self._paid_in)
            index = next((number for number, is_meant in enumerate(stated) if is_meant), None)
            if index is None or index in found or self._paid_in[index].left_msat < amount_msat:
                return None
            found[index] = amount_msat
        for index, amount_msat in found.items():
            self._paid_in[index].left_msat -= amount_msat
        meant = ((self._paid_in[index], amount_msat) for index, amount_msat in found.items())
        return tuple(Draw(paid.tranche, paid.payment_hash, amount_msat) for paid, amount_msat in meant)

    def settle(self, job_id: JobId) -> bool:
        """The job's record is in the ledger, or it never had one: nothing more comes of it; whether it had asked."""
        has_asked = job_id in self._waiting or job_id in self._promised or job_id in self._unsettled
        self._waiting.pop(job_id, None)
        self._promised.pop(job_id, None)
        self._unsettled.discard(job_id)
        return has_asked

    def _fits(self, amount_msat: AmountMsat) -> bool:
        return amount_msat <= self.available_msat

    def _promise(self, job_id: JobId) -> None:
        self._promised[job_id] = self._waiting.pop(job_id)
