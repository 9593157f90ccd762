"""Policies: what a buyer's money, time and caution are worth to him, as the few integers that a score is made with.

RM-04, "Policies". A policy is one value; every buyer may make his own. The four that have names are here.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from relaymesh.errors import LocalProtocolError

MAXIMUM_WEIGHT: Final = 10**6


@dataclass(frozen=True, slots=True)
class Policy:
    """What counts, and for how much; every weight is an integer 0 … 10^6.

    Args:
        name: What it is called in explanations.
        cost_milli: How much a millisatoshi of expected cost counts, in thousandths.
        wait_msat_per_second: What a second before the first output is worth.
        run_msat_per_second: What a second while the output is made is worth.
        failure_milli: How much the expected loss from a failure counts, in thousandths.
        distrust_milli: How much of what is at stake a wholly untrusted node counts as more, in thousandths.
        stake_milli: How much of the uncertainty a full stake takes away, in thousandths: 0 … 1,000.
        margin_milli: How much worse than the best, in thousandths of its score, still counts as near-equal.
        margin_msat: How much worse in any case.

    Raises:
        LocalProtocolError: A weight is out of range.
    """

    name: str
    cost_milli: int
    wait_msat_per_second: int
    run_msat_per_second: int
    failure_milli: int
    distrust_milli: int
    stake_milli: int
    margin_milli: int
    margin_msat: int

    def __post_init__(self) -> None:
        for name in self.__slots__[1:]:
            most = 1_000 if name == "stake_milli" else MAXIMUM_WEIGHT
            if not 0 <= getattr(self, name) <= most:
                raise LocalProtocolError(f"a policy's {name} must be 0 … {most}, not {getattr(self, name)}")


CHEAPEST: Final = Policy("cheapest", 1_000, 0, 0, 1_000, 0, 500, 20, 10)
FASTEST: Final = Policy("fastest", 1_000, 5_000, 5_000, 1_000, 0, 500, 50, 100)
BALANCED: Final = Policy("balanced", 1_000, 100, 100, 1_000, 50, 500, 100, 100)
TRUSTED: Final = Policy("trusted", 1_000, 100, 100, 3_000, 1_000, 500, 100, 100)

POLICIES: Final = MappingProxyType({policy.name: policy for policy in (CHEAPEST, FASTEST, BALANCED, TRUSTED)})
"""The policies that have names."""
