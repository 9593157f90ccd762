"""A market on loopback for benchmarks: the bundled relay in a process of its own, node and client here, real sockets.

Both sides are in this process so that its CPU time is theirs and nobody else's. Ledgers are on disk, wallets settle at
once in memory, the runner follows a script.
"""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_bytes
from typing import Any, Final

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from relaymesh.adapters.direct_sessions import WebSocketDialer, WebSocketListener
from relaymesh.adapters.sql_ledger import SqlLedger
from relaymesh.adapters.websocket_relays import WebSocketRelays
from relaymesh.cli.clock import system_clock
from relaymesh.market.bids import Way
from relaymesh.market.explanation import explain
from relaymesh.market.selection import Selection
from relaymesh.market.unpaid_work import UnpaidWork
from relaymesh.nostr.event import PublicKey
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.lightning import DecodedInvoice, InvoiceIssuer, Payer
from relaymesh.ports.memory_lightning import MemoryLightning, decode_memory_invoice
from relaymesh.ports.memory_runner import MemoryRunner, RunScript
from relaymesh.ports.runners import RunnerModel
from relaymesh.ports.sessions import Connection
from relaymesh.protocol.offer import PriceRow, SettlementTerm
from relaymesh.protocol.refusal import Refusal
from relaymesh.roles.buying import Wanted
from relaymesh.roles.client import Client, ClientSettings
from relaymesh.roles.client_jobs import OpenSession, RunningJob
from relaymesh.roles.client_tools import ClientTools, InvoiceReader
from relaymesh.roles.node import Node, NodeSettings
from relaymesh.roles.node_places import Places
from relaymesh.roles.node_tools import NodeTools
from relaymesh.units import AmountMsat

READY_SECONDS: Final = 60
STOP_SECONDS: Final = 5
PEER_SECONDS: Final = 30
LONGEST_LINE: Final = 65_536
OUTPUT_LIMIT: Final = 1_000_000
BUDGET: Final = AmountMsat(1_000_000_000)
FREE: Final = "free"
"""The model whose jobs cost nothing and echo the prompt: no payment is in their path."""


@asynccontextmanager
async def start_process(arguments: Sequence[str]) -> AsyncIterator[tuple[Process, dict[str, Any]]]:
    """Run `python ARGUMENTS`, which says in one JSON line when it is ready; ends it with the block."""
    process = await anyio.open_process([sys.executable, *arguments], stdin=None, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        with anyio.fail_after(READY_SECONDS):
            line = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", LONGEST_LINE)
        yield process, json.loads(line)
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            with anyio.move_on_after(STOP_SECONDS):
                await process.wait()
            if process.returncode is None:
                process.kill()
            await process.aclose()


@asynccontextmanager
async def serve_relay(database: Path) -> AsyncIterator[tuple[str, int]]:
    """The bundled relay as shipped; yields its URL and its process id."""
    arguments = ["-m", "relaymesh_relay", "--port", "0", "--database", str(database), "--json"]
    async with start_process(arguments) as (process, facts):
        yield facts["relay_url"], process.pid


@asynccontextmanager
async def start_relay(directory: Path) -> AsyncIterator[str]:
    """The bundled relay; yields its URL."""
    async with serve_relay(directory / "relay.sqlite3") as (url, _):
        yield url


@dataclass(slots=True)
class WatchedConnection:
    """A connection that tells when so many frames have come."""

    inner: Connection
    received: int = 0
    arrival: anyio.Event = field(default_factory=anyio.Event)

    async def send(self, *frames: bytes | str) -> None:
        await self.inner.send(*frames)

    async def receive(self) -> bytes | str:
        frame = await self.inner.receive()
        self.received += 1
        self.arrival.set()
        return frame

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def wait_frames(self, count: int) -> None:
        """Wait until `count` frames have come."""
        while self.received < count:
            self.arrival = anyio.Event()
            await self.arrival.wait()


class WatchedDialer:
    """Dials over WebSocket and keeps the last connection, so that a benchmark sees when a session is open."""

    def __init__(self) -> None:
        self._dialer = WebSocketDialer(allow_private=True)
        self._last: WatchedConnection | None = None
        self._dialled = anyio.Event()

    async def dial(self, endpoint: str) -> Connection:
        self._last = WatchedConnection(await self._dialer.dial(endpoint))
        self._dialled.set()
        return self._last

    async def wait_open(self) -> None:
        """Wait until the connection that comes next is open: READY came, and the answer to our first frame."""
        with anyio.fail_after(PEER_SECONDS):
            await self._dialled.wait()
            self._dialled = anyio.Event()
            assert self._last is not None
            await self._last.wait_frames(2)


@dataclass(frozen=True, slots=True)
class LoopbackMarket:
    """A node and a client that have each other in view."""

    node: PublicKey
    client: Client
    dialer: WatchedDialer
    runner: MemoryRunner

    async def choose(self, wanted: Wanted) -> Selection:
        """The node, chosen for this job."""
        selection = await self.client.wait_for_choice(replace(wanted, allow=frozenset({self.node})).to_request())
        assert selection.chosen, f"the node must be in view: {explain(selection).sentence()}"
        return selection

    async def open_session(
        self, wanted: Wanted, selection: Selection | None = None, way: Way = "directed"
    ) -> OpenSession:
        """A session, agreed on; its connection is on its way."""
        session = await self.client.open_session(selection or await self.choose(wanted), way=way)
        assert isinstance(session, OpenSession), f"the node refused: {session}"
        return session


def wanted_job(model: str, prompt: str, output_tokens: int) -> Wanted:
    """A chat job for this model."""
    body = json.dumps({"messages": [{"role": "user", "content": prompt}]})
    return Wanted("chat", body, BUDGET, model, output_tokens)


def start_job(session: OpenSession, wanted: Wanted) -> RunningJob:
    """Begin a job in an open session."""
    order = wanted.to_order(session.contract.quote.row, BUDGET)
    plan = session.price(order)
    assert not isinstance(plan, Refusal), f"the job does not fit: {plan}"
    return session.start_job(order, plan)


@dataclass(frozen=True, slots=True)
class Trade:
    """How jobs are paid, and from where to where.

    Args:
        terms: What the node offers.
        payee: The node's wallet.
        payee_id: Its Lightning node.
        payer: The client's wallet.
        read_invoice: Reads what that wallet issues.
        output_msat: The price of 1,000 bytes of output.
    """

    terms: tuple[SettlementTerm, ...]
    payee: InvoiceIssuer
    payee_id: str
    payer: Payer
    read_invoice: InvoiceReader
    output_msat: int = 1


def trade_in_memory() -> Trade:
    """Whole jobs, paid ahead, at once."""
    lightning = MemoryLightning(clock=lambda: system_clock().timestamp)
    node, client = lightning.wallet("node"), lightning.wallet("client", 10**15)
    return Trade((SettlementTerm(order="prepay"),), node, node.public_key, client, _read_invoice)


def price_row(model: str, output_msat: int = 1) -> PriceRow:
    """Free for `FREE`; everything else is priced by the byte."""
    rate = AmountMsat(0 if model == FREE else 1)
    return PriceRow(
        model=model,
        job_types=("chat",),
        unit="byte",
        per=1_000,
        input_msat=rate,
        output_msat=AmountMsat(rate * output_msat),
        minimum_msat=rate,
        context_limit=0,
        output_limit=OUTPUT_LIMIT,
        capabilities=("stream",),
    )


@asynccontextmanager
async def open_market(
    directory: Path,
    url: str,
    scripts: dict[str, RunScript] | None = None,
    *,
    maximum_jobs: int = 4,
    trade: Trade | None = None,
) -> AsyncIterator[LoopbackMarket]:
    """Node and client until the block ends.

    Args:
        directory: Where the ledgers keep their files.
        url: The relay on which they meet.
        scripts: What each model says, by its name; `FREE` is always there and echoes.
        maximum_jobs: How many jobs will run at once; the node takes one more, so that it never says it is busy.
        trade: How jobs are paid; None pays whole jobs ahead, from wallets in memory that settle at once.
    """
    trade = trade or trade_in_memory()
    scripts = {FREE: RunScript(), **(scripts or {})}
    runner = MemoryRunner(served=tuple(RunnerModel(name, ("chat",)) for name in scripts), scripts=scripts)
    async with AsyncExitStack() as stack:
        ledgers = [await stack.enter_async_context(_ledger(directory, side)) for side in ("node", "client")]
        relays = [await stack.enter_async_context(WebSocketRelays((url,))) for _ in range(2)]
        settings = _node_settings(url, tuple(scripts), trade)
        places = Places(maximum_jobs + 1, system_clock)
        tools = NodeTools(KeyPair.generate(), trade.payee, runner, ledgers[0], system_clock, places)
        credit_key = KeyPair.generate() if any(term.order == "postpay" for term in trade.terms) else None
        if credit_key is not None:
            tools.unpaid = UnpaidWork(lines={credit_key.public_key: BUDGET})
        node = Node(settings, relays[0], WebSocketListener("127.0.0.1", 0), tools)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        await tasks.start(node.run)
        buyer = ClientTools(trade.payer, ledgers[1], trade.read_invoice, system_clock)
        dialer = WatchedDialer()
        async with Client(relays[1], dialer, buyer, ClientSettings(credit_key=credit_key)) as client:
            yield LoopbackMarket(tools.key.public_key, client, dialer, runner)
        tasks.cancel_scope.cancel()


def _node_settings(url: str, models: tuple[str, ...], trade: Trade) -> NodeSettings:
    return NodeSettings(
        label="main",
        rows=tuple(price_row(model, trade.output_msat) for model in models),
        settlement=trade.terms,
        lightning_node_id=trade.payee_id,
        relay_urls=(url,),
    )


def _ledger(directory: Path, side: str) -> AbstractAsyncContextManager[SqlLedger]:
    return SqlLedger.open(directory / side / "ledger.sqlite3", key=token_bytes(32))


async def _read_invoice(bolt11: str) -> DecodedInvoice:
    return decode_memory_invoice(bolt11)


async def gather(jobs: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Run these at the same time, to their ends."""
    async with anyio.create_task_group() as tasks:
        for job in jobs:
            tasks.start_soon(job)
