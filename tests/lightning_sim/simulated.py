"""A simulated network by hand: no sockets, no clock, and the same random bytes every time."""

import hashlib
from typing import Any, Final

from relaymesh.lightning_sim.answers import Result, RpcFailure, Waiting
from relaymesh.lightning_sim.commands import answer
from relaymesh.lightning_sim.ledger import Ledger
from relaymesh.lightning_sim.plan import NetworkPlan, WalletPlan
from relaymesh.lightning_sim.simulation import Simulation

START_MS: Final = 1_800_000_000_000
LATENCY_MS: Final = 100


class Entropy:
    """Random bytes that are the same in every run."""

    def __init__(self) -> None:
        self._drawn = 0

    def __call__(self, count: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_256(self._drawn.to_bytes(8)).digest(count)


class HandDriven:
    """A network whose time moves when it is told to.

    Attributes:
        now_ms: Unix milliseconds.
    """

    def __init__(self, *wallets: WalletPlan, ledger: Ledger | None = None, **plan: Any) -> None:
        self.now_ms = START_MS
        plan = {"payment_latency_ms": LATENCY_MS, **plan}
        self.simulation = Simulation(NetworkPlan(wallets, **plan), ledger or Ledger(), Entropy())
        self.simulation.open(self.now_ms)

    def ask(self, node: str, method: str, **parameters: object) -> Result | Waiting:
        """What the node answers at once."""
        return answer(self.simulation, node, method, parameters, self.now_ms)

    def call(self, node: str, method: str, **parameters: object) -> Result:
        """What the node answers in the end; time passes meanwhile."""
        found = self.ask(node, method, **parameters)
        return self.finish(found) if isinstance(found, Waiting) else found

    def fails(self, node: str, method: str, **parameters: object) -> RpcFailure:
        """How the node refuses."""
        try:
            result = self.call(node, method, **parameters)
        except RpcFailure as failure:
            return failure
        raise AssertionError(f"{method} was to fail and answered {result}")

    def refusal(self, node: str, method: str, **parameters: object) -> int | None:
        """The code with which the node refuses at once, if it does."""
        try:
            self.ask(node, method, **parameters)
        except RpcFailure as failure:
            return failure.code
        return None

    def outcome(self, waiting: Waiting) -> int | None:
        """The code with which it ends; None for success."""
        try:
            self.finish(waiting)
        except RpcFailure as failure:
            return failure.code
        return None

    def finish(self, waiting: Waiting) -> Result:
        """Let time pass until the answer is there."""
        while (result := waiting.check(self.now_ms)) is None:
            deadlines = [time for time in (self.simulation.deadline(), waiting.until_ms) if time is not None]
            assert deadlines, "nothing will ever happen"
            self.pass_time(max(min(deadlines) - self.now_ms, 1))
        return result

    def pass_time(self, milliseconds: int) -> None:
        """Let what is due in that time happen."""
        self.now_ms += milliseconds
        self.simulation.advance(self.now_ms)

    def invoice(self, payee: str, amount_msat: int | str = 100_000, label: str = "one", **more: object) -> Result:
        """A new invoice."""
        return self.call(payee, "invoice", amount_msat=amount_msat, label=label, description="d", **more)

    def balances_msat(self) -> dict[str, int]:
        """What every node owns."""
        ledger = self.simulation.ledger
        return {name: ledger.balance_msat(node) for name, node in ledger.nodes.items()}


def alice_and_bob(**plan: Any) -> HandDriven:
    """Two wallets: alice has ten million msat, bob nothing."""
    return HandDriven(WalletPlan("alice", 10_000_000), WalletPlan("bob", 0), **plan)
