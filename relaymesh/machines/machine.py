"""What every machine is: five verbs, states in an enum, transitions in one table.

A machine never waits, reads no clock, draws no randomness and logs nothing. Whoever drives it (an anyio loop, a test,
the simulator) tells it what happened and when, and carries out the effects it answers with, in their order.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar

from relaymesh.errors import LocalProtocolError
from relaymesh.units import Instant, Moment

InputT = TypeVar("InputT", contravariant=True)
EffectT = TypeVar("EffectT", covariant=True)
StateT = TypeVar("StateT", bound=Enum)


class Machine(Protocol[InputT, EffectT]):
    """The five verbs."""

    def start(self, now: Moment) -> None:
        """Begin; called once."""
        ...

    def receive(self, message: InputT, now: Moment) -> None:
        """Take in what happened."""
        ...

    def deadline(self) -> Instant | None:
        """When `handle_deadline` must be called at the latest, or None while nothing is timed."""
        ...

    def handle_deadline(self, now: Moment) -> None:
        """Act on every deadline that has passed by `now`."""
        ...

    def effects(self) -> tuple[EffectT, ...]:
        """Hand over, once and in order, what the driver is to do."""
        ...


def earliest(*instants: Instant | None) -> Instant | None:
    """The first of these deadlines; those that are None are not set."""
    first: Instant | None = None
    for instant in instants:
        if instant is not None and (first is None or instant < first):
            first = instant
    return first


@dataclass(frozen=True, slots=True)
class Transition(Generic[StateT]):
    """One row of a transition table: in `source`, on `trigger`, go to `target`."""

    source: StateT
    trigger: str
    target: StateT


class TransitionTable(Generic[StateT]):
    """All moves a machine may make; what is not in it is an error.

    Args:
        initial: The state a machine begins in.
        rows: (source, trigger, target), in the order in which a reader should meet them.
    """

    def __init__(self, initial: StateT, rows: Iterable[tuple[StateT, str, StateT]]) -> None:
        self.initial = initial
        self.rows = tuple(Transition(*row) for row in rows)
        self._moves = {(row.source, row.trigger, row.target) for row in self.rows}

    def move(self, source: StateT, trigger: str, target: StateT) -> StateT:
        """The target, if the table has this move; LocalProtocolError otherwise."""
        if (source, trigger, target) not in self._moves:
            raise LocalProtocolError(f"no transition from {source.name} on {trigger} to {target.name}")
        return target

    def diagram(self) -> str:
        """The table as a Mermaid state diagram, for `docs/`."""
        lines = ["stateDiagram-v2", f"    [*] --> {self.initial.name}"]
        lines += [f"    {row.source.name} --> {row.target.name}: {row.trigger}" for row in self.rows]
        sources = {row.source for row in self.rows}
        targets = dict.fromkeys(row.target for row in self.rows)
        lines += [f"    {state.name} --> [*]" for state in targets if state not in sources]
        return "\n".join(lines) + "\n"
