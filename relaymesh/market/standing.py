"""Standing: what a buyer knows about a node beyond its own words, as integers that a score reads (RM-04, "Standing").

Who fills it is reputation: own observations, receipts, stake. Who reads it is eligibility and score. A node that nobody
knows has the standing `UNKNOWN`, with which everybody begins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from relaymesh.errors import LocalProtocolError
from relaymesh.nostr.event import PublicKey
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat

MILLI: Final = 1_000
BYTES_PER_TOKEN: Final = 4
KNOWN_SUCCESSES_MILLI: Final = 1_000
"""So many jobs, in thousandths, that ended well make a node known."""
TOLERATED_FAILURES: Final = 10
"""One failure in so many jobs that ended well leaves it known."""
MAXIMUM_OUTCOMES_MILLI: Final = 10**9
MAXIMUM_OBSERVED_MS: Final = 10**9
MAXIMUM_OBSERVED_SPEED: Final = 10**9
MAXIMUM_STAKE_UNITS: Final = 10**9


def _check(name: str, figure: int, least: int, most: int) -> None:
    if not least <= figure <= most:
        raise LocalProtocolError(f"{name} must be {least} … {most}, not {figure}")


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known about one node; integers only, so that every machine computes the same from it.

    Args:
        successes_milli: Observed jobs that ended well, weighted, in thousandths of a job: 0 … 10^9.
        failures_milli: Observed jobs that did not, likewise. A refusal for want of room is no failure.
        first_output_ms: Observed time to the first output, half of the jobs: 0 … 10^9; None when nobody measured it.
        output_units_per_1000s: Observed output tokens per 1,000 seconds, half of the jobs: 1 … 10^9; None likewise.
            `BYTES_PER_TOKEN` bytes of output count as a token, since bytes are what a buyer measures.
        trust_milli: How far the reader trusts the node, 0 … 1,000.
        stake_units: What the node has at stake, decayed, capped and checked: 0 … 10^9.
        is_on_probation: Whether it is too new for more than small jobs.
        job_limit_msat: The most that a job may cost there, while it is on probation; None for no limit.
        slow_first_output_ms: What 90 of 100 jobs did not exceed to their first output; None when nobody measured it.
        slow_output_units_per_1000s: The speed that 90 of 100 jobs reached; None likewise.
        reasons: A few short words for explanations; they change nothing.

    Raises:
        LocalProtocolError: A figure is out of its range.
    """

    successes_milli: int = 0
    failures_milli: int = 0
    first_output_ms: int | None = None
    output_units_per_1000s: int | None = None
    trust_milli: int = 0
    stake_units: int = 0
    is_on_probation: bool = False
    job_limit_msat: AmountMsat | None = None
    slow_first_output_ms: int | None = None
    slow_output_units_per_1000s: int | None = None
    reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check("successes_milli", self.successes_milli, 0, MAXIMUM_OUTCOMES_MILLI)
        _check("failures_milli", self.failures_milli, 0, MAXIMUM_OUTCOMES_MILLI)
        for name in ("first_output_ms", "slow_first_output_ms"):
            _check(name, getattr(self, name) or 0, 0, MAXIMUM_OBSERVED_MS)
        for name in ("output_units_per_1000s", "slow_output_units_per_1000s"):
            speed = getattr(self, name)
            _check(name, 1 if speed is None else speed, 1, MAXIMUM_OBSERVED_SPEED)
        _check("trust_milli", self.trust_milli, 0, MILLI)
        _check("stake_units", self.stake_units, 0, MAXIMUM_STAKE_UNITS)
        _check("job_limit_msat", self.job_limit_msat or 0, 0, MAXIMUM_INTEGER)

    @property
    def is_known(self) -> bool:
        """Whether the node has served, and hardly ever failed to."""
        return (
            self.successes_milli >= KNOWN_SUCCESSES_MILLI
            and self.failures_milli * TOLERATED_FAILURES <= self.successes_milli
        )


Standings = Mapping[PublicKey, Standing]
"""Standing by node; who is not in it is `UNKNOWN`."""

UNKNOWN: Final = Standing()
"""The standing of a node that nobody knows."""

NOBODY_KNOWN: Final[Standings] = {}
"""The standings of a buyer who knows nobody."""
