"""Score: what asking a node costs all in all, in msat-equivalents, term by term (RM-04, "Score").

Integers of 64 bits, made with + − × // min max only, so that every machine and every language computes the same. The
lower, the better. No intermediate result exceeds 9 × 10^18: amounts are cut at `MOST_MSAT` and times at `MOST_MS`
before they are multiplied, weights are at most 10^6.
"""

from typing import Final, NamedTuple

from relaymesh.market.facts import Facts
from relaymesh.market.policy import Policy
from relaymesh.market.reliability import MILLION, failure_ppm
from relaymesh.market.request import BuyerRequest
from relaymesh.market.standing import MILLI

MOST_MSAT: Final = 10**12
MOST_MS: Final = 10**9
UNKNOWN_FIRST_OUTPUT_MS: Final = 3_000
UNKNOWN_UNITS_PER_1000S: Final = 15_000
FULL_STAKE_UNITS: Final = 100_000


class Terms(NamedTuple):
    """What a score is made of, each in msat-equivalents; only the stake is negative."""

    cost: int
    """The expected cost of the job as it is likely to be."""
    wait: int
    """The time until the first output: queue, contention for the free places, first output."""
    run: int
    """The time while the output is made."""
    failure: int
    """The expected loss from a failure."""
    uncertainty: int
    """What that loss may be more, since little is known."""
    distrust: int
    """What is at stake with a node that the buyer does not wholly trust."""
    stake: int
    """How much of the uncertainty the node's stake takes away: 0 or less."""

    @property
    def score(self) -> int:
        """The sum, 0 … 5 × 10^12."""
        return sum(self)


def score(facts: Facts, request: BuyerRequest, policy: Policy) -> Terms:
    """The terms of one price's score; the price must be eligible for the request."""
    cost = expected_cost(facts, request)
    first, speed = facts.standing.first_output_ms, facts.standing.output_units_per_1000s
    first_ms = UNKNOWN_FIRST_OUTPUT_MS if first is None else first
    per_1000s = UNKNOWN_UNITS_PER_1000S if speed is None else speed
    run_ms = min(MOST_MS, request.expected.output_tokens * MILLION // per_1000s)
    service_ms = min(MOST_MS, first_ms + run_ms)
    room = max(facts.load.free or 0, 1)
    wait_ms = min(MOST_MS, (4 * facts.load.queue + 1) * service_ms // (4 * room))
    wait = min(MOST_MSAT, (wait_ms + first_ms) * policy.wait_msat_per_second // MILLI)
    run = min(MOST_MSAT, run_ms * policy.run_msat_per_second // MILLI)
    at_stake = min(MOST_MSAT, cost + wait + run)
    mean, bound = failure_ppm(facts.standing)
    failure = min(MOST_MSAT, at_stake * mean // MILLION * policy.failure_milli // MILLI)
    uncertainty = min(MOST_MSAT, at_stake * bound // MILLION * policy.failure_milli // MILLI) - failure
    distrusted = at_stake * (MILLI - facts.standing.trust_milli) // MILLI
    share = min(facts.standing.stake_units, FULL_STAKE_UNITS) * policy.stake_milli // FULL_STAKE_UNITS
    return Terms(
        cost=min(MOST_MSAT, cost * policy.cost_milli // MILLI),
        wait=wait,
        run=run,
        failure=failure,
        uncertainty=uncertainty,
        distrust=min(MOST_MSAT, distrusted * policy.distrust_milli // MILLI),
        stake=-(uncertainty * share // MILLI),
    )


def expected_cost(facts: Facts, request: BuyerRequest) -> int:
    """What the job as it is likely to be costs, at most `MOST_MSAT`; seconds are reckoned at the whole budget."""
    if facts.unit == "second" and facts.output_msat > 0:
        return min(MOST_MSAT, request.budget_msat)
    taken, given = request.expected.units(facts.unit)
    exact = -(-(taken * facts.input_msat + given * facts.output_msat) // facts.per)
    return min(MOST_MSAT, max(facts.minimum_msat, exact))


def tier(facts: Facts, request: BuyerRequest) -> int:
    """The buyer's own order, before any score: nodes of a lower tier come first (RM-04, "Selection")."""
    named = request.order
    place = named.index(facts.node) if facts.node in named else len(named)
    return 2 * place + is_slow(facts, request)


def is_slow(facts: Facts, request: BuyerRequest) -> bool:
    """Whether the node is known to be slower than the buyer prefers."""
    standing = facts.standing
    return (
        _over(standing.first_output_ms, request.preferred_first_output_ms)
        or _over(standing.slow_first_output_ms, request.preferred_slow_first_output_ms)
        or _over(request.preferred_units_per_1000s, standing.output_units_per_1000s)
        or _over(request.preferred_slow_units_per_1000s, standing.slow_output_units_per_1000s)
    )


def _over(figure: int | None, limit: int | None) -> bool:
    return figure is not None and limit is not None and figure > limit
