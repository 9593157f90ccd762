"""One case of the suite: a purchase during which somebody dies, and what follows until everything is resolved."""

from dataclasses import dataclass, replace

from relaymesh.machines.records import Side
from tests.chaos.accounts import Account, Wallet, read_journals
from tests.chaos.fault_plan import FaultPlan, When
from tests.chaos.fault_points import FaultPoint
from tests.chaos.stage import Books, Command, Stage, read_books, read_wallet, wait_until

KILLED = -9


@dataclass
class Case:
    """A buyer who is new, and what the books said before."""

    stage: Stage
    point: FaultPoint

    def __post_init__(self) -> None:
        self.buyer = self.stage.make_buyer()
        self._journals: list[str] = []
        self._wallets = self._read_wallets()
        self._known = {(each.job.client, each.job.job_id) for each in self._node_books().jobs}

    def play(self) -> Account:
        """Buy, die, start again, buy again; what is left behind then."""
        if self.point.side == "client":
            self._kill_client()
        else:
            self._kill_node()
        self._wait_resolved()
        self.stage.keep_node(self._plan("node", is_honest=True))
        again = self.stage.infer(self.buyer, self._plan("client", is_honest=True))
        assert again.wait() == 0, f"the next purchase failed: {again.errors.read_text()[-2_000:]}"
        self._wait_resolved()
        return self._account()

    def _kill_client(self) -> None:
        self.stage.keep_node(self._plan("node"))
        self._check_end(self.stage.infer(self.buyer, self._plan("client", self.point.step, self.point.when)))
        if self.point.again:
            again = self.stage.infer(self.buyer, self._plan("client", self.point.again, "before"))
            assert again.wait() == KILLED, f"`{self.point.again}` was not reached when it started again"

    def _kill_node(self) -> None:
        node = self.stage.start_node(self._plan("node", self.point.step, self.point.when))
        buying = self.stage.infer(self.buyer, self._plan("client"))
        if self.point.step:
            self._check_end(node)
        if self.point.again:
            again = self.stage.start_node(self._plan("node", self.point.again, "before"), is_ready=False)
            assert again.wait() == KILLED, f"`{self.point.again}` was not reached when it started again"
        if self.point.step:
            self.stage.start_node(self._plan("node"))
        buying.wait()

    def _check_end(self, command: Command) -> None:
        code = command.wait()
        if self.point.step:
            assert code == KILLED, f"the step was not reached: {code} {command.errors.read_text()[-2_000:]}"

    def _plan(self, side: Side, step: str = "", when: When = "before", *, is_honest: bool = False) -> FaultPlan:
        journal = self.stage.journal(f"{side}{len(self._journals)}")
        self._journals.append(journal)
        around = self.point.circumstances
        if is_honest:
            return FaultPlan(journal)
        occurrence = self.point.occurrence if step == self.point.step else 1
        if side == "client":
            return FaultPlan(journal, step, when, occurrence, wallet=around.buyer_wallet, buyer=around.buyer)
        return FaultPlan(journal, step, when, occurrence, wallet=around.node_wallet, runner=around.runner)

    def _wait_resolved(self) -> None:
        """The node resolves by itself whatever its clients left it with."""
        try:
            wait_until(lambda: not self._node_books().unresolved, "")
        except AssertionError:
            raise AssertionError(f"a row of the node's is left open: {self._node_books().unresolved}") from None

    def _account(self) -> Account:
        books = self._node_books()
        new = tuple(each for each in books.jobs if (each.job.client, each.job.job_id) not in self._known)
        before, after = self._wallets, self._read_wallets()
        return Account(
            buyer=read_books(self.buyer, "client"),
            node=replace(books, jobs=new),
            wallets=((before[0], after[0]), (before[1], after[1])),
            journals=read_journals(dict.fromkeys((*self._journals, *self.stage.node_journals))),
        )

    def _node_books(self) -> Books:
        return read_books(self.stage.operator, "node") if self.stage.has_books else Books()

    def _read_wallets(self) -> tuple[Wallet, Wallet]:
        purses = self.stage.purses
        return read_wallet(purses["buyer"]["rpc_path"]), read_wallet(purses["node"]["rpc_path"])
