"""Several opinions of which nodes are best, put together by what each weighs (RM-04, "Asking a router").

One's own view weighs 1,000 thousandths, a router what it has earned: on probation, or found wrong, nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from relaymesh.nostr.event import PublicKey
from relaymesh.protocol.ranking import MAXIMUM_RANKED

OWN_WEIGHT_MILLI: Final = 1_000


@dataclass(frozen=True, slots=True)
class Opinion:
    """Nodes, the best first, and what the word of whoever lists them weighs in thousandths."""

    nodes: tuple[PublicKey, ...]
    weight_milli: int


def combine(opinions: Iterable[Opinion]) -> tuple[PublicKey, ...]:
    """The nodes of all opinions that weigh anything, the best first; of equals the lower key.

    A node has as many points from each opinion as there are places from its own to the eighth, times the weight.
    """
    points: dict[PublicKey, int] = {}
    for opinion in opinions:
        if opinion.weight_milli > 0:
            for place, node in enumerate(opinion.nodes[:MAXIMUM_RANKED]):
                points[node] = points.get(node, 0) + (MAXIMUM_RANKED - place) * opinion.weight_milli
    return tuple(sorted(points, key=lambda node: (-points[node], node)))
