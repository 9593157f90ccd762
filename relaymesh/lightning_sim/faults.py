"""What goes wrong on purpose, for tests: payments held, payments failed at a hop, nodes that are down.

A Python value next to the network, never a method of its JSON-RPC.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Faults:
    """The faults in force.

    Args:
        hold_ms: How long each payment to this node is held before it is taken; None until it is released.
        refuse_next: Failures with which a node answers the next payments that reach it, oldest first:
            `temporary_node_failure` or `incorrect_or_unknown_payment_details` at the payee,
            `temporary_channel_failure` at the hub.
        down: Nodes that neither answer nor forward.
    """

    hold_ms: dict[str, int | None] = field(default_factory=dict)
    refuse_next: dict[str, deque[str]] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)

    @classmethod
    def holding(cls, hold_ms: Mapping[str, int | None]) -> "Faults":
        """Only holds."""
        return cls(hold_ms=dict(hold_ms))

    def take_refusal(self, node: str) -> str | None:
        """The failure with which `node` answers this time; each counts once."""
        planned = self.refuse_next.get(node)
        return planned.popleft() if planned else None
