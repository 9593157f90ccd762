"""Opinion: evidence about one node weighed into counts, trust and reasons (RM-05, "Reputation").

Pure arithmetic on integers: the same evidence at the same hour gives every implementation the same opinion.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from relaymesh.market.outcomes import WHOLE_MILLI, Outcome, Result, Weight, weigh_outcomes
from relaymesh.market.probation import is_newcomer
from relaymesh.units import Timestamp

VOUCHER_WORTH_MILLI: Final = 4_000
"""What one trusted key's receipts weigh at the most, times its weight: four outcomes."""
STRANGERS_WORTH_MILLI: Final = 1_000
"""What all receipts that nobody trusted stands by weigh at the most: one outcome."""
OTHERS_WORTH_MILLI: Final = 8_000
"""What all others weigh together at the most, while the reader has seen nothing itself: eight outcomes.

After as many of its own they weigh half, and from five on less than those. So an outcome of the reader's own never
takes more away from the others than it adds.
"""
TRUST_PRIOR_MILLI: Final = 4_000
"""Trust is good outcomes over all believed ones and these, so that it takes some to earn it."""
FRAUD_WORTH_MILLI: Final = 16_000
"""What one proven fraud weighs: sixteen failures."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a reader holds about one node at one time, by who says so; each job stands with the nearest who tells it.

    Args:
        own: The reader's own outcomes, newest first.
        vouched: Those that each trusted key stands by, with what that key's word weighs in thousandths.
        strangers: Those that nobody trusted stands by.
        frauds: The claims that were proven, and what each still counts in thousandths.
    """

    own: tuple[Outcome, ...] = ()
    vouched: tuple[tuple[int, tuple[Outcome, ...]], ...] = ()
    strangers: tuple[Outcome, ...] = ()
    frauds: tuple[tuple[str, int], ...] = ()

    @property
    def believed(self) -> tuple[Outcome, ...]:
        """Outcomes of those whom the reader believes: its own first."""
        return (*self.own, *(outcome for _, outcomes in self.vouched for outcome in outcomes))


@dataclass(frozen=True, slots=True)
class Opinion:
    """What evidence comes to.

    Args:
        weight: Good and bad outcomes for the posterior of a score, everybody's.
        proven_milli: Good outcomes of the reader and of those it trusts, less twice the bad ones; 0 with proven fraud.
        trust_milli: How far the reader trusts the node, 0 … 1,000; no stranger adds to it.
        is_newcomer: Whether too little is proven for more than small jobs.
    """

    weight: Weight
    proven_milli: int
    trust_milli: int
    is_newcomer: bool


def weigh_evidence(evidence: Evidence, now: Timestamp) -> Opinion:
    """Weigh everything that is held about one node.

    Own outcomes count in full. Each trusted key's are limited to its worth, the strangers' to that of one outcome, and
    all others' together to a worth that shrinks as own outcomes gather: W × W / (W + own).
    """
    own = weigh_outcomes(evidence.own, now)
    vouched = Weight()
    for weight_milli, outcomes in evidence.vouched:
        worth = VOUCHER_WORTH_MILLI * weight_milli // WHOLE_MILLI
        vouched += weigh_outcomes(outcomes, now).limit_to(worth)
    strangers = weigh_outcomes(evidence.strangers, now).limit_to(STRANGERS_WORTH_MILLI)
    room = OTHERS_WORTH_MILLI * OTHERS_WORTH_MILLI // (OTHERS_WORTH_MILLI + own.total_milli)
    fraud = sum(FRAUD_WORTH_MILLI * weight // WHOLE_MILLI for _, weight in evidence.frauds)
    believed = own + vouched.limit_to(room)
    proven = 0 if fraud else max(believed.successes_milli - 2 * believed.failures_milli, 0)
    trust = WHOLE_MILLI * believed.successes_milli // (believed.total_milli + TRUST_PRIOR_MILLI)
    everybody = own + (vouched + strangers).limit_to(room) + Weight(0, fraud)
    return Opinion(everybody, proven, 0 if fraud else trust, is_newcomer(proven))


def tell_evidence(evidence: Evidence) -> tuple[str, ...]:
    """What an opinion rests on, in a few words each."""
    reasons = [f"proven fraud: {claim}" for claim, weight in evidence.frauds if weight]
    if evidence.own:
        reasons.append(f"{_done(evidence.own)} of {len(evidence.own)} own jobs done")
    vouched = [outcomes for _, outcomes in evidence.vouched if outcomes]
    if vouched:
        jobs = [outcome for outcomes in vouched for outcome in outcomes]
        keys = "1 trusted key vouches" if len(vouched) == 1 else f"{len(vouched)} trusted keys vouch"
        reasons.append(f"{keys} for {len(jobs)} jobs, {_done(jobs)} done")
    if evidence.strangers:
        reasons.append(f"strangers, who count as one: {_done(evidence.strangers)} of {len(evidence.strangers)} done")
    return tuple(reasons) or ("nobody has seen it work",)


def _done(outcomes: Iterable[Outcome]) -> int:
    return sum(outcome.result is Result.DONE for outcome in outcomes)
