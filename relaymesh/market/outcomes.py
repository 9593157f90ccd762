"""Outcomes: how jobs ended, aged and counted for one counterparty at a time (RM-05, "Reputation").

Everything here is an integer, and nothing depends on the order in which outcomes come: a window holds the newest ones
by their own dates, and a job that is told twice counts once.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, NewType

from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.protocol.evidence import SignedReceipt
from relaymesh.protocol.fields import MAXIMUM_QUANTITY
from relaymesh.protocol.refusal import RefusalCode
from relaymesh.units import MILLISECONDS_PER_SECOND, AmountMsat, Timestamp

HALF_LIFE_SECONDS: Final = 28 * 86_400
"""After this an outcome counts half."""
FORGOTTEN_AFTER: Final = 7
"""After so many half-lives it counts nothing."""
WHOLE_MILLI: Final = 1_000
SHORTEST_STREAM_MS: Final = 50
"""Output that came in less time came in one piece; its speed is told by the whole time."""

JobKey = NewType("JobKey", bytes)
"""What tells one job from every other: a digest of the client session key that signed for it and the job id."""


class Result(Enum):
    """How a job ended for its buyer; what was cancelled, refused or left unpaid by him ended in none of these ways."""

    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"


_GOOD_MILLI: Final = {Result.DONE: WHOLE_MILLI, Result.PARTIAL: WHOLE_MILLI // 2, Result.FAILED: 0}
_BLAMELESS: Final = frozenset(
    {
        RefusalCode.BUSY,
        RefusalCode.DRAINING,
        RefusalCode.CANCELLED,
        RefusalCode.PAYMENT_REQUIRED,
        RefusalCode.PAYMENT_TIMEOUT,
        RefusalCode.EXPIRED,
        RefusalCode.REPLAYED,
        RefusalCode.POW,
        RefusalCode.RATE_LIMITED,
        RefusalCode.RESTRICTED,
        RefusalCode.UNSUPPORTED_VERSION,
        RefusalCode.UNSUPPORTED_PARAMETER,
        RefusalCode.OVER_BUDGET,
        RefusalCode.MODEL_NOT_OFFERED,
        RefusalCode.OFFER_CHANGED,
    }
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One job with one node, as its buyer saw it end.

    Args:
        job: Which job; of what is told about it twice, the later word counts.
        at: When.
        result: How.
        model: Which model did it.
        first_output_ms: From JOB to first output; None without output.
        output_bytes_per_1000s: How fast output came; None likewise.
        lost_msat: What was paid for a job that was not done, or not wholly.
        receipt_id: The receipt that says so; None where there is none.
        has_record: Whether the node signed a metering record.
    """

    job: JobKey
    at: Timestamp
    result: Result
    model: str = ""
    first_output_ms: int | None = None
    output_bytes_per_1000s: int | None = None
    lost_msat: AmountMsat = AmountMsat(0)
    receipt_id: EventId | None = None
    has_record: bool = True

    @property
    def precedence(self) -> tuple[int, int, str]:
        """Of two words about one job the greater counts: the later, then the worse, then the higher receipt id."""
        return self.at, WHOLE_MILLI - _GOOD_MILLI[self.result], self.receipt_id or ""


@dataclass(frozen=True, slots=True)
class Weight:
    """Good and bad outcomes in thousandths of one, as the posterior of a score takes them."""

    successes_milli: int = 0
    failures_milli: int = 0

    @property
    def total_milli(self) -> int:
        """Both together."""
        return self.successes_milli + self.failures_milli

    def __add__(self, other: "Weight") -> "Weight":
        return Weight(self.successes_milli + other.successes_milli, self.failures_milli + other.failures_milli)

    def limit_to(self, worth_milli: int) -> "Weight":
        """The same proportions, together at most `worth_milli`; what does not divide is counted as bad."""
        total = self.total_milli
        if total <= worth_milli:
            return self
        successes = self.successes_milli * worth_milli // total
        return Weight(successes, worth_milli - successes)


class OutcomeWindow:
    """The newest `limit` outcomes of one counterparty with one node, each job once.

    Which outcomes it holds depends on which were added, never on their order.
    """

    __slots__ = ("_limit", "_outcomes")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._outcomes: dict[JobKey, Outcome] = {}

    def __len__(self) -> int:
        return len(self._outcomes)

    def add(self, outcome: Outcome) -> bool:
        """Take in an outcome, in constant time; whether anything changed."""
        known = self._outcomes.get(outcome.job)
        if known is not None:
            if known.precedence >= outcome.precedence:
                return False
        elif len(self._outcomes) >= self._limit:
            oldest = min(self._outcomes.values(), key=_order)
            if _order(outcome) <= _order(oldest):
                return False
            del self._outcomes[oldest.job]
        self._outcomes[outcome.job] = outcome
        return True

    def newest(self) -> list[Outcome]:
        """All of them, newest first."""
        return sorted(self._outcomes.values(), key=_order, reverse=True)


def _order(outcome: Outcome) -> tuple[int, JobKey]:
    return outcome.at, outcome.job


def make_job_key(client: PublicKey, job_id: str) -> JobKey:
    """The key of a job; nobody can make another client's, since its receipt is signed by that client."""
    return JobKey(hashlib.sha256(f"{client}:{job_id}".encode()).digest()[:16])


def age_weight_milli(age_seconds: int, half_life_seconds: int = HALF_LIFE_SECONDS) -> int:
    """What something of this age still counts, in thousandths: halved every half-life, on a straight line between.

    Never grows with age; what lies in the future counts as new.
    """
    halvings, rest = divmod(max(age_seconds, 0), half_life_seconds)
    if halvings >= FORGOTTEN_AFTER:
        return 0
    weight = WHOLE_MILLI >> halvings
    return weight - weight * rest // (2 * half_life_seconds)


def weigh_outcomes(outcomes: Iterable[Outcome], now: Timestamp) -> Weight:
    """All of these together, each by its age; a partial one is half good and half bad."""
    successes = failures = 0
    for outcome in outcomes:
        weight = age_weight_milli(now - outcome.at)
        good = weight * _GOOD_MILLI[outcome.result] // WHOLE_MILLI
        successes += good
        failures += weight - good
    return Weight(successes, failures)


def is_blameless(reason: str) -> bool:
    """Whether a job that ended for this reason (`code: text`) says nothing about its node.

    Busy and draining are honest answers; what the buyer cancelled, could not pay or asked wrongly is his own doing.
    """
    code = reason.partition(":")[0]
    return any(code == blameless.value for blameless in _BLAMELESS)


def read_outcome(receipt: SignedReceipt) -> Outcome | None:
    """What anybody's receipt tells of a job; None where it tells nothing about the node.

    A failure for which the record names the buyer's own doing counts neither way: its buyer could slander with it, and
    its node excuse itself. A record that the buyer contradicts counts as failed.
    """
    said, record = receipt.receipt, receipt.metering.record
    if said.outcome == "ok":
        return tell_outcome(receipt, Result.DONE)
    if record.status != "ok" and record.error is not None and is_blameless(record.error):
        return None
    is_partial = (said.outcome, record.status) == ("partial", "partial")
    return tell_outcome(receipt, Result.PARTIAL if is_partial else Result.FAILED)


def tell_outcome(receipt: SignedReceipt, result: Result) -> Outcome:
    """The outcome of a receipt's job, ended as `result`, with what the buyer measured."""
    said, record = receipt.receipt, receipt.metering.record
    return Outcome(
        job=make_job_key(receipt.event.public_key, record.job),
        at=receipt.event.created_at,
        result=result,
        model=record.model,
        first_output_ms=said.first_output_in_ms,
        output_bytes_per_1000s=measure_speed(said.units.output_bytes, said.first_output_in_ms, said.total_in_ms),
        lost_msat=AmountMsat(0 if result is Result.DONE else said.paid_msat),
        receipt_id=receipt.event.id,
    )


def measure_speed(output_bytes: int, first_output_ms: int | None, total_ms: int) -> int | None:
    """Output bytes in 1,000 seconds at the pace of this job; None where nothing came."""
    if first_output_ms is None or output_bytes == 0:
        return None
    streamed_ms = total_ms - first_output_ms
    taken_ms = max(streamed_ms if streamed_ms >= SHORTEST_STREAM_MS else total_ms, 1)
    return min(output_bytes * 1_000 * MILLISECONDS_PER_SECOND // taken_ms, MAXIMUM_QUANTITY)
