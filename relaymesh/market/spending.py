"""What a buyer allows itself to spend on a job, in an hour and in a day: counted before anything is paid.

A payment counts as of when it is decided upon, by the most that it may cost, until its outcome says what it did cost.
One whose outcome is unknown goes on counting so, one that failed does not count at all. What is over is summed by the
minute, and a minute counts until its last millisecond is out of sight: so a limit is kept exactly or a little too well.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from relaymesh.units import MILLISECONDS_PER_MINUTE, AmountMsat

HOUR_MS: Final = 60 * MILLISECONDS_PER_MINUTE
DAY_MS: Final = 24 * HOUR_MS
UNLIMITED: Final = 0


@dataclass(frozen=True, slots=True)
class SpendingLimits:
    """The most that may be spent, routing included; 0 is no limit.

    Args:
        job_msat: On one job, or on one session that is paid for in advance.
        hour_msat: In any 60 minutes.
        day_msat: In any 24 hours.
    """

    job_msat: int = UNLIMITED
    hour_msat: int = UNLIMITED
    day_msat: int = UNLIMITED


@dataclass(frozen=True, slots=True)
class Allowance:
    """One limit and how much of it is used.

    Args:
        setting: What the limit is called in the settings.
        period: Whose money it counts, in words.
        limit_msat: The limit.
        spent_msat: What was spent or may have been.
    """

    setting: str
    period: str
    limit_msat: AmountMsat
    spent_msat: AmountMsat

    @property
    def left_msat(self) -> AmountMsat:
        """What may still be spent."""
        return AmountMsat(max(self.limit_msat - self.spent_msat, 0))


@dataclass(frozen=True, slots=True)
class _Payment:
    job_id: str
    msat: int
    opened_at_ms: int


class SpendingBook:
    """Counts what is spent against the limits; whoever pays reserves first.

    Args:
        limits: What is allowed.
    """

    def __init__(self, limits: SpendingLimits) -> None:
        self._limits = limits
        self._under_way: dict[str, _Payment] = {}
        self._over: dict[str, int] = {}
        self._minutes: dict[int, int] = {}
        self._jobs: dict[str, tuple[int, int]] = {}
        self._forget_at_ms = 0

    def recall(self, minutes: Iterable[tuple[int, AmountMsat]]) -> None:
        """Count what was spent before: when each minute began (Unix ms), and how much it was."""
        for begins_at_ms, msat in minutes:
            self._count(begins_at_ms, msat)

    def recall_under_way(
        self, payment_hash: str, job_id: str, msat: AmountMsat, opened_at_ms: int, *, counted_msat: AmountMsat
    ) -> None:
        """A payment whose outcome is still unknown may cost so much, of which its minute counted some already."""
        self._count(opened_at_ms, -counted_msat)
        self._under_way[payment_hash] = _Payment(job_id, msat, opened_at_ms)

    def recall_paid(self, payment_hash: str, opened_at_ms: int) -> None:
        """A payment that was made before, and is among what was spent: to ask for it once more costs nothing."""
        self._over[payment_hash] = opened_at_ms

    def reserve(self, payment_hash: str, job_id: str, msat: AmountMsat, now_ms: int) -> str | None:
        """Count a payment by the most it may cost; one that is under way or over counts already.

        Returns:
            None, or why it must not be made, as one sentence; then nothing was counted.
        """
        self._forget(now_ms)
        if payment_hash in self._under_way or payment_hash in self._over:
            return None
        for allowance in self.allowances(now_ms, job_id):
            if allowance.left_msat < msat:
                return (
                    f"{allowance.setting} allows {allowance.limit_msat:,} msat {allowance.period}, of which "
                    f"{allowance.spent_msat:,} are spent or on their way, and this payment may cost {msat:,}"
                )
        self._under_way[payment_hash] = _Payment(job_id, msat, now_ms)
        return None

    def settle(self, payment_hash: str, msat: AmountMsat, now_ms: int) -> None:
        """The payment was made, and cost so much; it counts as of when it was reserved."""
        if payment_hash in self._over:
            return
        payment = self._under_way.pop(payment_hash, _Payment("", msat, now_ms))
        self._over[payment_hash] = payment.opened_at_ms
        self._count(payment.opened_at_ms, msat)
        if payment.job_id:
            _, spent_msat = self._jobs.get(payment.job_id, (0, 0))
            self._jobs[payment.job_id] = (payment.opened_at_ms, spent_msat + msat)

    def release(self, payment_hash: str) -> None:
        """The payment was not made and will not be."""
        self._under_way.pop(payment_hash, None)

    def is_under_way(self, payment_hash: str) -> bool:
        """Whether the outcome of this payment is not known yet."""
        return payment_hash in self._under_way

    def allowances(self, now_ms: int, job_id: str = "") -> tuple[Allowance, ...]:
        """Every limit that there is, and how much of it is used; a job's only where a job is named."""
        limits = self._limits
        found = []
        if limits.job_msat and job_id:
            found.append(
                Allowance("wallet.maximum_job_msat", "for a job", AmountMsat(limits.job_msat), self._spent_on(job_id))
            )
        for setting, period, limit_msat, window_ms in (
            ("wallet.maximum_hour_msat", "in an hour", limits.hour_msat, HOUR_MS),
            ("wallet.maximum_day_msat", "in a day", limits.day_msat, DAY_MS),
        ):
            if limit_msat:
                found.append(Allowance(setting, period, AmountMsat(limit_msat), self._spent_since(now_ms - window_ms)))
        return tuple(found)

    def _spent_on(self, job_id: str) -> AmountMsat:
        _, spent_msat = self._jobs.get(job_id, (0, 0))
        return AmountMsat(spent_msat + sum(each.msat for each in self._under_way.values() if each.job_id == job_id))

    def _spent_since(self, since_ms: int) -> AmountMsat:
        """What was spent since this moment, or may have been."""
        first = since_ms // MILLISECONDS_PER_MINUTE
        over = sum(msat for minute, msat in self._minutes.items() if minute >= first)
        return AmountMsat(over + sum(each.msat for each in self._under_way.values() if each.opened_at_ms >= since_ms))

    def _count(self, opened_at_ms: int, msat: int) -> None:
        minute = opened_at_ms // MILLISECONDS_PER_MINUTE
        self._minutes[minute] = self._minutes.get(minute, 0) + msat

    def _forget(self, now_ms: int) -> None:
        """What no limit looks at any more; looked for once a minute, since there may be much of it."""
        if now_ms < self._forget_at_ms:
            return
        self._forget_at_ms = now_ms + MILLISECONDS_PER_MINUTE
        first = (now_ms - DAY_MS) // MILLISECONDS_PER_MINUTE
        for minute in [minute for minute in self._minutes if minute < first]:
            del self._minutes[minute]
        for payment_hash in [each for each, at_ms in self._over.items() if at_ms < now_ms - DAY_MS]:
            del self._over[payment_hash]
        for job_id in [job_id for job_id, (at_ms, _) in self._jobs.items() if at_ms < now_ms - DAY_MS]:
            del self._jobs[job_id]
