"""Eligibility and score over whole columns: the same arithmetic as for one price, to the last integer (RM-04, "Score").

A figure that is absent stands in its column as what makes every comparison and every formula come out as if it were
absent: no limit is `NO_LIMIT`, an unknown speed the one that unknown nodes are reckoned with.
"""

from enum import IntEnum
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from relaymesh.market.facts import Facts
from relaymesh.market.policy import Policy
from relaymesh.market.reliability import MILLION, failure_ppm
from relaymesh.market.request import RATE_TOKENS, BuyerRequest, PriceCeiling
from relaymesh.market.score import (
    FULL_STAKE_UNITS,
    MOST_MS,
    MOST_MSAT,
    UNKNOWN_FIRST_OUTPUT_MS,
    UNKNOWN_UNITS_PER_1000S,
)
from relaymesh.market.standing import BYTES_PER_TOKEN, MILLI
from relaymesh.protocol.fields import Unit
from relaymesh.units import Timestamp

Integers = NDArray[np.int64]
Vector = NDArray[np.int64]
Mask = NDArray[np.bool_]

NO_LIMIT: Final = 2**62
UNITS: Final[tuple[Unit, ...]] = ("token", "byte", "second", "job")
_SAFE_BUDGET_MSAT: Final = 9 * 10**12  # times `per`, at most 10^6, it fits into 64 bits


class Column(IntEnum):
    """What stands in which column; those from `KNOWN_FIRST_OUTPUT` on tell what is unknown."""

    TRAITS = 0
    UNIT = 1
    PER = 2
    INPUT = 3
    OUTPUT = 4
    MINIMUM = 5
    CONTEXT_LIMIT = 6
    OUTPUT_LIMIT = 7
    VALID_UNTIL = 8
    STATUS_AT = 9
    STATUS_UNTIL = 10
    ROOM = 11
    QUEUE = 12
    FIRST_OUTPUT = 13
    SPEED = 14
    MEAN = 15
    BOUND = 16
    TRUST = 17
    STAKE = 18
    JOB_LIMIT = 19
    KNOWN_FIRST_OUTPUT = 20
    KNOWN_SLOW_FIRST_OUTPUT = 21
    KNOWN_SPEED = 22
    KNOWN_SLOW_SPEED = 23


def write_price(integers: Integers, row: int, facts: Facts, traits: int) -> None:
    """Write what an offer says."""
    integers[Column.TRAITS : Column.VALID_UNTIL + 1, row] = (
        traits,
        UNITS.index(facts.unit),
        facts.per,
        facts.input_msat,
        facts.output_msat,
        facts.minimum_msat,
        facts.context_limit or NO_LIMIT,
        facts.output_limit,
        facts.valid_until,
    )


def write_load(integers: Integers, row: int, facts: Facts) -> None:
    """Write what a status says."""
    load = facts.load
    room = load.free if load.state == "up" and load.free is not None else 0
    integers[Column.STATUS_AT : Column.QUEUE + 1, row] = (load.said_at, load.ends_at, room, load.queue)


def write_standing(integers: Integers, row: int, facts: Facts) -> None:
    """Write what is known about the node."""
    standing = facts.standing
    first, speed = standing.first_output_ms, standing.output_units_per_1000s
    slow_first, slow_speed = standing.slow_first_output_ms, standing.slow_output_units_per_1000s
    limit = standing.job_limit_msat
    integers[Column.FIRST_OUTPUT : Column.KNOWN_SLOW_SPEED + 1, row] = (
        UNKNOWN_FIRST_OUTPUT_MS if first is None else first,
        UNKNOWN_UNITS_PER_1000S if speed is None else speed,
        *failure_ppm(standing),
        standing.trust_milli,
        min(standing.stake_units, FULL_STAKE_UNITS),
        NO_LIMIT if limit is None else limit,
        -1 if first is None else first,
        -1 if slow_first is None else slow_first,
        NO_LIMIT if speed is None else speed,
        NO_LIMIT if slow_speed is None else slow_speed,
    )


# ── eligibility ───────────────────────────────────────────────────────────────────────────────────────────────────


def find_eligible(integers: Integers, request: BuyerRequest, now: Timestamp) -> Mask:
    """Which rows pass every test of numbers; traits and nodes are compared elsewhere."""
    shape = request.shape
    is_in: Mask = integers[Column.ROOM] > 0
    is_in &= integers[Column.STATUS_UNTIL] > now
    is_in &= integers[Column.VALID_UNTIL] > now
    is_in &= integers[Column.CONTEXT_LIMIT] >= shape.input_tokens + shape.output_tokens
    is_in &= integers[Column.OUTPUT_LIMIT] >= shape.output_tokens
    is_in &= _within_budget(integers, request)
    if request.maximum_status_age_seconds is not None:
        is_in &= integers[Column.STATUS_AT] >= now - request.maximum_status_age_seconds
    if request.minimum_trust_milli > 0:
        is_in &= integers[Column.TRUST] >= request.minimum_trust_milli
    if request.minimum_reliability_milli > 0:
        is_in &= (MILLION - integers[Column.BOUND]) // MILLI >= request.minimum_reliability_milli
    if request.maximum_price is not None:
        is_in &= _under_ceiling(integers, request.maximum_price)
    return is_in


def _within_budget(integers: Integers, request: BuyerRequest) -> Mask:
    units = [request.shape.units(unit) for unit in UNITS]
    amount = _amount(integers, units)
    is_within: Mask = integers[Column.MINIMUM] <= request.budget_msat
    limits = integers[Column.JOB_LIMIT]
    if request.budget_msat <= _SAFE_BUDGET_MSAT:  # ceil(x / per) ≤ budget  ⇔  x ≤ budget × per
        is_within &= amount <= request.budget_msat * integers[Column.PER]
    else:
        is_within &= _divide_up(amount, integers[Column.PER]) <= request.budget_msat
    if len(limits) and limits.min() < NO_LIMIT:
        ceiling = np.maximum(_divide_up(amount, integers[Column.PER]), integers[Column.MINIMUM])
        by_second = (integers[Column.UNIT] == UNITS.index("second")) & (integers[Column.OUTPUT] > 0)
        is_within &= np.where(by_second, request.budget_msat, ceiling) <= limits
    return is_within


def _under_ceiling(integers: Integers, ceiling: PriceCeiling) -> Mask:
    per = integers[Column.PER]
    factor = np.array([RATE_TOKENS, RATE_TOKENS * BYTES_PER_TOKEN, 0, 0], np.int64)[integers[Column.UNIT]]
    is_under = np.ones(len(per), bool)
    for column, limit in ((Column.INPUT, ceiling.input_msat), (Column.OUTPUT, ceiling.output_msat)):
        if limit is not None:
            is_under &= integers[column] * factor <= limit * per
    if ceiling.job_msat is not None:
        by_job = integers[Column.UNIT] == UNITS.index("job")
        price = np.where(by_job, _divide_up(integers[Column.OUTPUT], per), 0)
        is_under &= np.maximum(price, integers[Column.MINIMUM]) <= ceiling.job_msat
    return is_under


def find_tiers(integers: Integers, request: BuyerRequest) -> Vector | None:
    """1 for the rows of nodes known to be slower than preferred, else 0; None where the buyer has no order at all."""
    preferred = (
        (Column.KNOWN_FIRST_OUTPUT, request.preferred_first_output_ms),
        (Column.KNOWN_SLOW_FIRST_OUTPUT, request.preferred_slow_first_output_ms),
    )
    preferred_speeds = (
        (Column.KNOWN_SPEED, request.preferred_units_per_1000s),
        (Column.KNOWN_SLOW_SPEED, request.preferred_slow_units_per_1000s),
    )
    if not request.order and all(limit is None for _, limit in (*preferred, *preferred_speeds)):
        return None
    is_slow = np.zeros(integers.shape[1], bool)
    for column, limit in preferred:
        if limit is not None:
            is_slow |= integers[column] > limit
    for column, limit in preferred_speeds:
        if limit is not None:
            is_slow |= integers[column] < limit
    return is_slow.astype(np.int64)


# ── score ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def compute_terms(integers: Integers, request: BuyerRequest, policy: Policy) -> tuple[Vector, ...]:
    """The terms of every row, in the order of `Terms`."""
    cost = _expected_cost(integers, request)
    first_ms = integers[Column.FIRST_OUTPUT]
    run_ms = np.minimum(request.expected.output_tokens * MILLION // integers[Column.SPEED], MOST_MS)
    wait, run = np.zeros_like(cost), np.zeros_like(cost)
    if policy.wait_msat_per_second:
        service_ms = np.minimum(first_ms + run_ms, MOST_MS)
        room = 4 * np.maximum(integers[Column.ROOM], 1)
        wait_ms = np.minimum((4 * integers[Column.QUEUE] + 1) * service_ms // room, MOST_MS)
        wait = np.minimum((wait_ms + first_ms) * policy.wait_msat_per_second // MILLI, MOST_MSAT)
    if policy.run_msat_per_second:
        run = np.minimum(run_ms * policy.run_msat_per_second // MILLI, MOST_MSAT)
    at_stake = np.minimum(cost + wait + run, MOST_MSAT)
    failure = _expected_loss(at_stake, integers[Column.MEAN], policy.failure_milli)
    uncertainty = _expected_loss(at_stake, integers[Column.BOUND], policy.failure_milli) - failure
    distrust = np.zeros_like(cost)
    if policy.distrust_milli:
        distrusted = at_stake * (MILLI - integers[Column.TRUST]) // MILLI
        distrust = np.minimum(distrusted * policy.distrust_milli // MILLI, MOST_MSAT)
    share = integers[Column.STAKE] * policy.stake_milli // FULL_STAKE_UNITS
    stake = -(uncertainty * share // MILLI)
    counted = cost if policy.cost_milli == MILLI else np.minimum(cost * policy.cost_milli // MILLI, MOST_MSAT)
    return counted, wait, run, failure, uncertainty, distrust, stake


def _expected_loss(at_stake: Vector, ppm: Vector, weight_milli: int) -> Vector:
    loss = at_stake * ppm // MILLION
    return cast(Vector, loss if weight_milli == MILLI else np.minimum(loss * weight_milli // MILLI, MOST_MSAT))


def _expected_cost(integers: Integers, request: BuyerRequest) -> Vector:
    exact = _divide_up(_amount(integers, [request.expected.units(unit) for unit in UNITS]), integers[Column.PER])
    cost = np.maximum(exact, integers[Column.MINIMUM])
    by_second = (integers[Column.UNIT] == UNITS.index("second")) & (integers[Column.OUTPUT] > 0)
    if by_second.any():
        cost = np.where(by_second, request.budget_msat, cost)
    return cast(Vector, np.minimum(cost, MOST_MSAT))


def _amount(integers: Integers, units: list[tuple[int, int]]) -> Vector:
    """Input and output at their rates, before the division: at most 2 × 10^18."""
    taken, given = np.array(units, np.int64).T
    unit = integers[Column.UNIT]
    return cast(Vector, taken[unit] * integers[Column.INPUT] + given[unit] * integers[Column.OUTPUT])


def _divide_up(amount: Vector, per: Vector) -> Vector:
    return cast(Vector, (amount + (per - 1)) // per)
