"""What a process of the fault-injection suite is told to do to itself; shared by those who tell and those who do."""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from relaymesh.machines.client_job_interface import CLIENT_JOB_TRANSITIONS
from relaymesh.machines.machine import Transition, TransitionTable
from relaymesh.machines.node_job_interface import NODE_JOB_TRANSITIONS
from relaymesh.machines.records import Side
from relaymesh.machines.settlement import TRANCHE_TRANSITIONS

When = Literal["before", "after"]
MOMENTS: Final[tuple[When, ...]] = ("before", "after")

TABLES: Final[dict[str, tuple[TransitionTable[Any], tuple[Side, ...]]]] = {
    "tranche": (TRANCHE_TRANSITIONS, ("client", "node")),
    "client job": (CLIENT_JOB_TRANSITIONS, ("client",)),
    "node job": (NODE_JOB_TRANSITIONS, ("node",)),
}
"""Every transition table that money depends on, by the name its steps have here, and who moves by it."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """What becomes of a process.

    Args:
        journal: The file it notes its steps in, a line each; what is in it survives the process.
        step: It kills itself (`kill -9`) at this step; empty is never.
        when: Before the step has had any effect, or when it has had all of them.
        occurrence: At which occurrence of the step, from 1.
        wallet: How its wallet behaves: a word of `faulty_wallet.py`.
        runner: How its runner behaves: `honest`, `fails` in mid-stream, `breaks` at once or is `silent`.
        buyer: What the buyer does after the first output: `honest` goes on, `cancels` takes the order back,
            `interrupts` ends the command with Ctrl-C, `disconnects` breaks the connection.
    """

    journal: str
    step: str = ""
    when: When = "before"
    occurrence: int = 1
    wallet: str = "honest"
    runner: str = "honest"
    buyer: str = "honest"

    def to_json(self) -> dict[str, object]:
        """As the process is told."""
        return asdict(self)


def transition_step(table: str, row: Transition[Any]) -> str:
    """What the step of moving by this row is called."""
    return f"{table} {row.source.name} {row.trigger.replace(' ', '-')} {row.target.name}"


def effect_step(effect: str, message: str = "") -> str:
    """What the step of carrying out an effect is called; Send is as many effects as there are messages."""
    return f"effect {effect} {message}".rstrip()


def write_step(record: str, what: str = "") -> str:
    """What the step of writing such a record is called."""
    return f"write {record} {what}".rstrip()
