"""Probation: how much a newcomer is given before anybody has seen it work (RM-05, "Probation").

A node gets small jobs first, larger ones with every job it serves. A router weighs nothing until it has stake at risk
and was watched for days.
"""

from dataclasses import dataclass
from typing import Final

from relaymesh.market.outcomes import WHOLE_MILLI
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat

NODE_OUTCOMES: Final = 5
"""A node that served so many jobs for the reader, or for those whom the reader trusts, is no newcomer."""
NEWCOMER_MSAT: Final = AmountMsat(100_000)
"""What the first job with a newcomer may cost, unless the reader says otherwise."""
_LONGEST_SHIFT: Final = 53

ROUTER_STAKE_UNITS: Final = 1_000
"""The least stake, as far as it counts, with which a router is weighed."""
ROUTER_DAYS: Final = 7
"""On so many different days a router must have been seen."""
ROUTER_RANKINGS: Final = 20
"""So many of its rankings must have been recomputed."""
_WRONG_WEIGHS: Final = 20
"""A ranking that recomputed wrong takes as many right ones to outweigh."""


def is_newcomer(proven_milli: int) -> bool:
    """Whether so many proven outcomes, in thousandths, leave a node on probation."""
    return proven_milli < NODE_OUTCOMES * WHOLE_MILLI


def newcomer_limit(base_msat: AmountMsat, proven_milli: int, losses_milli: int) -> AmountMsat:
    """What a job with a node on probation may cost: doubled with every job served, halved with every loss.

    Args:
        base_msat: For one that has served nothing.
        proven_milli: Good outcomes of this node that the reader believes, less twice the bad ones, in thousandths.
        losses_milli: How often the reader paid newcomers, any of them, for nothing, in thousandths, aged. All
            newcomers share it, since one that took the money may come back as another: whoever comes under N new keys
            takes base + base / 2 + base / 4 …, less than twice the base, whatever N is.
    """
    grown = base_msat << min(max(proven_milli, 0) // WHOLE_MILLI, NODE_OUTCOMES)
    losses = min(-(-losses_milli // WHOLE_MILLI), _LONGEST_SHIFT)  # rounded up: a loss does not fade within the hour
    return AmountMsat(min(grown, MAXIMUM_INTEGER) >> losses)


@dataclass(frozen=True, slots=True)
class RouterRecord:
    """What a client has seen of a router.

    Args:
        days: On how many different days it answered.
        right: Rankings that came out the same when they were recomputed.
        wrong: Rankings that did not.
        last_day: The day (Unix seconds // 86,400) it was last seen; -1 for never.
    """

    days: int = 0
    right: int = 0
    wrong: int = 0
    last_day: int = -1

    def book_ranking(self, *, is_right: bool, day: int) -> "RouterRecord":
        """The record with one more ranking, recomputed on this day; a day counts once, and days only go forward."""
        is_new = day > self.last_day
        return RouterRecord(
            self.days + is_new, self.right + is_right, self.wrong + (not is_right), max(day, self.last_day)
        )


def weigh_router(record: RouterRecord, stake_units: int) -> int:
    """What a router's ranking weighs beside the reader's own, in thousandths: 0 on probation.

    Args:
        record: What was seen of it.
        stake_units: Its stake as far as it counts: decayed, backed, capped.
    """
    is_on_probation = (
        stake_units < ROUTER_STAKE_UNITS or record.days < ROUTER_DAYS or record.right + record.wrong < ROUTER_RANKINGS
    )
    if is_on_probation:
        return 0
    return max(record.right - record.wrong * _WRONG_WEIGHS, 0) * WHOLE_MILLI // (record.right + record.wrong)
