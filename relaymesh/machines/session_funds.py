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
        return AmountMsat(self.balance_msat - sum(self._promised.values()))

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

    def turn_away(self) -> tuple[JobId, ...]:
        """Nobody waits any longer: those who did, in their order."""
        turned_away = tuple(self._waiting)
        self._waiting.clear()
        return turned_away

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

    def match(self, payments: tuple[tuple[str, AmountMsat], ...], commit: Callable[[int, str], str]) -> bool:
        """Take what a metering record says a job drew, if each draw is of another tranche that still has as much.

        Args:
            payments: The record's payment commitments in order, each with what was drawn.
            commit: The commitment to a payment hash at a position in the record.

        Returns:
            Whether it was; if not, nothing was taken.
        """
        found: dict[int, AmountMsat] = {}
        for position, (commitment, amount_msat) in enumerate(payments):
            stated = (commit(position, paid.payment_hash) == commitment for paid in self._paid_in)
            index = next((number for number, is_meant in enumerate(stated) if is_meant), None)
            if index is None or index in found or self._paid_in[index].left_msat < amount_msat:
                return False
            found[index] = amount_msat
        for index, amount_msat in found.items():
            self._paid_in[index].left_msat -= amount_msat
        return True

    def settle(self, job_id: JobId) -> None:
        """The job's record is in the ledger, or it never had one: nothing more will come of it."""
        self._waiting.pop(job_id, None)
        self._promised.pop(job_id, None)
        self._unsettled.discard(job_id)

    def _fits(self, amount_msat: AmountMsat) -> bool:
        return amount_msat <= self.available_msat

    def _promise(self, job_id: JobId) -> None:
        self._promised[job_id] = self._waiting.pop(job_id)
