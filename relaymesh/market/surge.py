"""Surge: posted prices that follow demand, in steps and between bounds (RM-01, "Surge").

A quote is never above the offer it cites, so a price rises only where everybody can read it: the node publishes its
offer again, with the next `seq`, and quotes from that one. Nothing here is secret or personal: everybody sees the same
price at the same time, and it follows from the load alone.
"""

from dataclasses import dataclass
from typing import Final

from relaymesh.errors import LocalProtocolError
from relaymesh.market.admission import NodeLoad
from relaymesh.protocol.fields import MAXIMUM_RATE
from relaymesh.protocol.offer import PriceRow
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat

BASE_PERMILLE: Final = 1_000
HIGHEST_PERMILLE: Final = 100_000
OFFER_INTERVALS: Final = 3
"""An offer whose price moves stands for so many intervals: what it promised to those who read it must end some time."""


@dataclass(frozen=True, slots=True)
class SurgeTerms:
    """How far a node's posted prices follow its load.

    Args:
        minimum_permille: Of the configured prices, for an idle node; below 1,000 it is a discount.
        maximum_permille: Of the configured prices, for a node whose places and queue are full.
        step_permille: Prices move by so much at once, or not at all.
        interval_seconds: Between two changes at the least.

    Raises:
        LocalProtocolError: The bounds are no bounds, or a step or an interval is below 1.
    """

    minimum_permille: int = BASE_PERMILLE
    maximum_permille: int = BASE_PERMILLE
    step_permille: int = 100
    interval_seconds: int = 120

    def __post_init__(self) -> None:
        if not 1 <= self.minimum_permille <= self.maximum_permille <= HIGHEST_PERMILLE:
            raise LocalProtocolError(f"surge must lie between 1 and {HIGHEST_PERMILLE} permille, the lower bound first")
        if self.step_permille < 1 or self.interval_seconds < 1:
            raise LocalProtocolError("surge must move in steps of at least 1 permille and at intervals of at least 1 s")

    @property
    def is_off(self) -> bool:
        """Whether prices stay as they are configured."""
        return self.minimum_permille == self.maximum_permille == BASE_PERMILLE

    @property
    def offer_seconds(self) -> int:
        """The longest that an offer should stand while its prices may move."""
        return OFFER_INTERVALS * self.interval_seconds


def surge_permille(load: NodeLoad, terms: SurgeTerms) -> int:
    """What the configured prices are multiplied by under this load, in thousandths.

    It grows with the jobs that run and wait, from the lower bound with none to the upper with no room left, in whole
    steps from the lower bound on.
    """
    room = load.places + load.queue_limit
    taken = min(max(load.places - load.free, 0) + load.queue, room)
    raised = (terms.maximum_permille - terms.minimum_permille) * taken // room
    if taken < room:
        raised -= raised % terms.step_permille
    return terms.minimum_permille + raised


def surged_row(row: PriceRow, permille: int) -> PriceRow:
    """A configured price row at so many thousandths of its price, rounded up, within the protocol's bounds."""
    if permille == BASE_PERMILLE:
        return row
    changes = {
        "input_msat": AmountMsat(_scale(row.input_msat, permille, MAXIMUM_RATE)),
        "output_msat": AmountMsat(_scale(row.output_msat, permille, MAXIMUM_RATE)),
        "minimum_msat": AmountMsat(_scale(row.minimum_msat, permille, MAXIMUM_INTEGER)),
    }
    return row.model_copy(update=changes)


def _scale(amount: int, permille: int, most: int) -> int:
    return min(-(-amount * permille // BASE_PERMILLE), most)
