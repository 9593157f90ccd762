"""Where the fault-injection suite plays: a relay, a Lightning network, a node and its buyers, all real processes."""

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import anyio

from relaymesh.adapters.core_lightning import CoreLightningWallet
from relaymesh.adapters.key_files import load_or_create_key, load_or_create_ledger_key
from relaymesh.adapters.sql_ledger import SqlLedger
from relaymesh.machines.records import EvidenceRecord, SealedRecord, Side
from relaymesh.ports.ledger import JobQuery, LedgerJob
from relaymesh.ports.ledger_rules import is_unresolved
from relaymesh.ports.lightning import Transaction
from tests.chaos.fault_plan import FaultPlan
from tests.cli.processes import Home

PATIENCE_SECONDS: Final = 20
"""For anything to happen that must; the slowest is an invoice of 3 s that nobody pays."""
POLL_SECONDS: Final = 0.02
ROOT: Final = Path(__file__).parents[2]
PRICES: Final = {
    "RELAYMESH_NODE_RUNNER": "embedded",
    "RELAYMESH_NODE_MINIMUM_MSAT": "10",
    "RELAYMESH_NODE_OUTPUT_MSAT": "3000",
    "RELAYMESH_NODE_TRANCHE_UNITS": "32",
    "RELAYMESH_NODE_SEALED_TRANCHE_UNITS": "32",
    "RELAYMESH_NODE_SESSION_TRANCHE_MSAT": "2000",
    "RELAYMESH_NODE_CREDIT_MSAT": "10000000",  # what one case leaves unpaid takes no credit that the next one needs
    "RELAYMESH_NODE_MAXIMUM_JOBS": "64",  # the unpaid jobs of one case hold no place that the next one needs
}
BUYER: Final = {"RELAYMESH_CLIENT_OUTPUT_TOKENS": "16", "RELAYMESH_CLIENT_NEWCOMER_MSAT": "1000000000"}
ALL_JOBS: Final = JobQuery(limit=1_000_000)


class Launcher:
    """The process that forks all others (`faulty_process.py`)."""

    def __init__(self, home: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'relay'}"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.faulty_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self._home = home
        self._count = 0

    def start(self, home: Home, plan: FaultPlan, *arguments: str) -> "Command":
        self._count += 1
        output, errors = (home.directory / f"{self._count}.{name}" for name in ("out", "err"))
        output.touch()
        asked = {
            "plan": plan.to_json(),
            "arguments": arguments,
            "environment": home.environment(),
            "directory": str(home.directory),
            "output": str(output),
            "errors": str(errors),
        }
        return Command(self, self._ask(asked), output, errors)

    def wait(self, process_id: int) -> int:
        """How the process ended: its exit code, or -9 if it was killed."""
        return self._ask({"wait": process_id})

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _ask(self, asked: dict[str, Any]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@dataclass
class Command:
    """A command that runs."""

    launcher: Launcher
    process_id: int
    output: Path
    errors: Path

    def __post_init__(self) -> None:
        self._descriptor = os.pidfd_open(self.process_id)
        self.code: int | None = None

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for its end; its exit code, or -9 if it was killed."""
        if self.code is None:
            is_over = select.select([self._descriptor], [], [], seconds)[0]
            if not is_over:
                self.kill()
            code = self.launcher.wait(self.process_id)
            os.close(self._descriptor)
            self.code = code
            assert is_over, f"the command did not end in {seconds} s: {self.errors.read_text()[-2_000:]}"
        return self.code

    def wait_ready(self) -> dict[str, Any]:
        """Wait for its first line, a JSON object."""
        wait_until(lambda: "\n" in self.output.read_text() or self.is_over, "the command said nothing in time")
        assert not self.is_over, f"the command ended: {self.errors.read_text()[-2_000:]}"
        facts: dict[str, Any] = json.loads(self.output.read_text().splitlines()[0])
        return facts

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.code is not None or bool(select.select([self._descriptor], [], [], 0)[0])

    def kill(self) -> None:
        """`kill -9`, the whole group."""
        if not self.is_over:
            os.killpg(self.process_id, 9)


def wait_until(condition: Any, complaint: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Look again and again until the condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, complaint
        threading.Event().wait(POLL_SECONDS)


@dataclass(frozen=True)
class Books:
    """What one side has when everything is over: its ledger's jobs and evidence."""

    jobs: tuple[LedgerJob, ...] = ()
    evidence: tuple[EvidenceRecord, ...] = ()
    sealed: tuple[SealedRecord, ...] = ()

    @property
    def unresolved(self) -> list[str]:
        """Whatever is still open."""
        return [
            f"{found.job.job_id[:8]} {found.job.state.name} {[each.state.name for each in found.tranches]}"
            for found in self.jobs
            if is_unresolved(found)
        ]


def read_books(home: Home, side: Side) -> Books:
    """Read a ledger from its file, as another process would."""

    async def read() -> Books:
        folder = home.directory / "data" / "relaymesh"
        key = load_or_create_ledger_key(folder / "ledger.key")
        async with SqlLedger.open(folder / f"{side}.sqlite3", key=key, read_only=True) as ledger:
            jobs = await ledger.find_jobs(ALL_JOBS)
            return Books(jobs, await ledger.find_evidence(), await ledger.find_sealed())

    return anyio.run(read)


def read_wallet(rpc_path: str) -> tuple[int, tuple[Transaction, ...]]:
    """A wallet's balance and its transactions."""

    async def read() -> tuple[int, tuple[Transaction, ...]]:
        wallet = CoreLightningWallet(Path(rpc_path))
        return (await wallet.info()).balance_msat, await wallet.transactions(1_000_000)

    return anyio.run(read)


@dataclass
class Stage:
    """Everything that a case needs, and that outlives it."""

    folder: Path
    node_settings: dict[str, str]
    buyer_settings: dict[str, str]
    stack: ExitStack = field(default_factory=ExitStack)
    _buyers: int = 0

    def __post_init__(self) -> None:
        self.launcher = Launcher(self.folder)
        self.stack.callback(self.launcher.close)
        host = Home(self.folder / "host")
        host.directory.mkdir()
        self._journal = str(self.folder / "host.journal")
        database = str(self.folder / "relay.sqlite3")
        self._relay = self._serve(host, "relay", "serve", "--port", "0", "--database", database, "--json")
        lightning = self._serve(host, "lightning", "serve", "--json")
        self.purses: dict[str, Any] = lightning["wallets"]
        self.operator = Home(self.folder / "operator", self._settings("node", self.node_settings))
        self.operator.directory.mkdir()
        self.port = _free_port()
        self._node: Command | None = None
        self._node_plan: FaultPlan | None = None

    def _settings(self, purse: str, more: dict[str, str]) -> dict[str, str]:
        return {
            "RELAYMESH_NETWORK_RELAYS": self._relay["relay_url"],
            "RELAYMESH_WALLET_LIGHTNING_RPC": self.purses[purse]["rpc_path"],
            **more,
        }

    def _serve(self, home: Home, *arguments: str) -> dict[str, Any]:
        command = self.launcher.start(home, FaultPlan(self._journal), *arguments)
        self.stack.callback(command.wait)
        self.stack.callback(command.kill)
        return command.wait_ready()

    def make_buyer(self) -> Home:
        """A home of a buyer who has never bought anything."""
        self._buyers += 1
        home = Home(self.folder / f"buyer{self._buyers}", self._settings("buyer", self.buyer_settings))
        home.directory.mkdir()
        return home

    def journal(self, name: str) -> str:
        """The path of a journal of the present buyer's case."""
        return str(self.folder / f"{self._buyers}.{name}.journal")

    @property
    def node_journals(self) -> tuple[str, ...]:
        """What the present node writes into, which may have begun to run for an earlier case."""
        return () if self._node_plan is None else (self._node_plan.journal,)

    @property
    def has_books(self) -> bool:
        """Whether the node has ever run."""
        return (self.operator.directory / "data" / "relaymesh" / "node.sqlite3").exists()

    def start_node(self, plan: FaultPlan, *, is_ready: bool = True) -> Command:
        """The node, with this in store for it; one that runs is killed first."""
        self.stop_node()
        self._node_plan = plan
        port = str(self.port)
        self._node = self.launcher.start(self.operator, plan, "node", "serve", "--port", port, "--json")
        if is_ready:
            self._node.wait_ready()
        return self._node

    def keep_node(self, plan: FaultPlan) -> None:
        """The node as it should be: the one that runs, if it is like that already."""
        is_alike = self._node_plan is not None and (self._node_plan.wallet, self._node_plan.runner, "") == (
            plan.wallet,
            plan.runner,
            self._node_plan.step,
        )
        if self._node is None or self._node.is_over or not is_alike:
            self.start_node(plan)

    def stop_node(self) -> None:
        """Kill the node, if it runs."""
        if self._node is not None:
            self._node.kill()
            self._node.wait()
            self._node = None

    def infer(self, buyer: Home, plan: FaultPlan) -> Command:
        """A purchase."""
        return self.launcher.start(buyer, plan, "infer", "--json", "--allow-private", "What is RelayMesh?")

    def close(self) -> None:
        """End every process."""
        self.stop_node()
        self.stack.close()


@contextmanager
def set_stage(form: str) -> Iterator[Stage]:
    """A stage on which everybody settles in this form, while the block lasts."""
    with TemporaryDirectory(prefix="rm-") as folder:  # sockets need short paths
        credit_key = Path(folder) / "credit.key"
        trusted = load_or_create_key(credit_key).public_key
        node = {**PRICES, "RELAYMESH_NODE_SETTLEMENT": form, "RELAYMESH_NODE_CREDIT_KEYS": trusted}
        buyer = {**BUYER, "RELAYMESH_CLIENT_SETTLEMENT": form, "RELAYMESH_CLIENT_CREDIT_KEY_FILE": str(credit_key)}
        stage = Stage(Path(folder), node, buyer)
        try:
            yield stage
        finally:
            stage.close()


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
