"""Reliability: how likely a node is to fail, from what was observed, with the doubt that is left (RM-04, "Failure").

A Beta posterior with integer counts: one failure and nine successes are believed before anything is seen. Its mean is
what to expect; what it would be after one more failure is the bound, which comes down to the mean as evidence grows.
"""

from typing import Final

from relaymesh.market.standing import MILLI, Standing

PRIOR_SUCCESSES_MILLI: Final = 9_000
PRIOR_FAILURES_MILLI: Final = 1_000
DOUBT_MILLI: Final = 1_000
MILLION: Final = 10**6


def failure_ppm(standing: Standing) -> tuple[int, int]:
    """The mean of the posterior that a job fails there, and its bound, in millionths; mean ≤ bound."""
    failures = PRIOR_FAILURES_MILLI + standing.failures_milli
    outcomes = PRIOR_SUCCESSES_MILLI + standing.successes_milli + failures
    return failures * MILLION // outcomes, (failures + DOUBT_MILLI) * MILLION // (outcomes + DOUBT_MILLI)


def reliability_milli(standing: Standing) -> int:
    """How likely a job is to end well at the least, in thousandths, rounded down."""
    return (MILLION - failure_ppm(standing)[1]) // MILLI
