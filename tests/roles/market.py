"""A whole market in memory, on whatever clock the event loop has: relays, wallets, runners, nodes and a client."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from relaymesh.machines.job_settings import NodeJobSettings
from relaymesh.market.surge import SurgeTerms
from relaymesh.market.unpaid_work import UnpaidWork
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.lightning import DecodedInvoice
from relaymesh.ports.memory_ledger import MemoryLedger
from relaymesh.ports.memory_lightning import MemoryLightning, MemoryWallet, decode_memory_invoice
from relaymesh.ports.memory_relays import MemoryRelay, MemoryRelays
from relaymesh.ports.memory_runner import MemoryRunner, RunScript
from relaymesh.ports.memory_sessions import MemoryNetwork
from relaymesh.protocol.codec import SignedOffer
from relaymesh.protocol.offer import PriceRow, SettlementTerm
from relaymesh.protocol.refusal import Refusal
from relaymesh.roles.buying import Bought, Wanted, buy
from relaymesh.roles.client import Client, ClientSettings
from relaymesh.roles.client_jobs import OpenSession, RunningJob
from relaymesh.roles.client_tools import ClientTools, PaymentPolicy
from relaymesh.roles.experience import Experience
from relaymesh.roles.node import Node, NodeSettings
from relaymesh.roles.node_places import Places
from relaymesh.roles.node_tools import NodeTools
from relaymesh.units import AmountMsat, Instant, Moment

EPOCH_MS = 1_800_000_000_000
PROMPT = "one two three four five six"


def loop_clock() -> Moment:
    """The event loop's clock, which under test is a virtual one."""
    seconds = anyio.current_time()
    return Moment(Instant(int(seconds * 1_000_000)), EPOCH_MS + int(seconds * 1_000))


def chat_body(prompt: str = PROMPT) -> str:
    return json.dumps({"messages": [{"role": "user", "content": prompt}]})


def chat_row(**changes: Any) -> PriceRow:
    fields = {
        "model": "echo",
        "job_types": ("chat",),
        "unit": "byte",
        "per": 1_000,
        "input_msat": AmountMsat(500),
        "output_msat": AmountMsat(4_000),
        "minimum_msat": AmountMsat(10),
        "context_limit": 4_096,
        "output_limit": 256,
        "capabilities": ("stream",),
    }
    return PriceRow.model_validate({**fields, **changes})


@dataclass
class MarketNode:
    """One node of the market, and the handles a test pulls."""

    key: KeyPair
    runner: MemoryRunner
    wallet: MemoryWallet
    ledger: MemoryLedger
    network: MemoryNetwork
    tools: NodeTools
    offer: SignedOffer | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


class Market:
    """Everything in one event loop."""

    def __init__(self, relays: int = 1) -> None:
        self.relays = tuple(MemoryRelay(f"ws://relay-{number}.test") for number in range(relays))
        self.lightning = MemoryLightning(clock=lambda: loop_clock().timestamp)
        self.buyer = self.lightning.wallet("buyer", 1_000_000)
        self.client_ledger = MemoryLedger()
        self.nodes: list[MarketNode] = []
        self.network = MemoryNetwork()
        self.clock_offset_seconds = 0
        self._tasks: anyio.abc.TaskGroup | None = None
        self._stack = AsyncExitStack()

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Market"]:
        """The market, until the block ends; nodes then say goodbye."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            yield self
            tasks.cancel_scope.cancel()

    async def add_node(
        self,
        row: PriceRow | None = None,
        *,
        script: RunScript | None = None,
        maximum_jobs: int = 4,
        queue_limit: int = 0,
        tranche_units: int | None = 16,
        pow_bits: int = 0,
        lightning_node_id: str | None = None,
        job_settings: NodeJobSettings | None = None,
        surge: SurgeTerms | None = None,
        open_requests_per_second: int = 100,
        settlement: tuple[SettlementTerm, ...] | None = None,
        unpaid: UnpaidWork | None = None,
    ) -> MarketNode:
        """Start a node, up when this returns."""
        assert self._tasks is not None
        number = len(self.nodes)
        wallet = self.lightning.wallet(f"node-{number}")
        node = MarketNode(
            key=KeyPair.generate(),
            runner=MemoryRunner(script=script or RunScript()),
            wallet=wallet,
            ledger=MemoryLedger(),
            network=self.network,
            tools=None,  # type: ignore[arg-type]  # set below, once its parts are there
        )
        node.tools = NodeTools(
            node.key,
            wallet,
            node.runner,
            node.ledger,
            loop_clock,
            Places(maximum_jobs, loop_clock, queue_limit=queue_limit),
            job_settings=job_settings or NodeJobSettings(),
            unpaid=unpaid or UnpaidWork(),
        )
        settings = NodeSettings(
            label="main",
            rows=(row or chat_row(),),
            settlement=settlement or (SettlementTerm(order="prepay", tranche_units=tranche_units),),
            lightning_node_id=lightning_node_id or (await wallet.info()).public_key,
            relay_urls=self.relay_urls,
            pow_bits=pow_bits,
            surge=surge or SurgeTerms(),
            open_requests_per_second=open_requests_per_second,
        )
        listener = self.network.listener(f"ws://node-{number}.test")
        role = Node(settings, self.connect_relays(), listener, node.tools)

        async def run(*, task_status: anyio.abc.TaskStatus[SignedOffer]) -> None:
            with node.scope:
                await role.run(task_status=task_status)

        node.offer = await self._tasks.start(run)
        self.nodes.append(node)
        return node

    @property
    def relay_urls(self) -> tuple[str, ...]:
        return tuple(relay.url for relay in self.relays)

    def connect_relays(self) -> MemoryRelays:
        relays = MemoryRelays(self.relays)
        relays.clock_offsets = dict.fromkeys(self.relay_urls, self.clock_offset_seconds)
        return relays

    @asynccontextmanager
    async def client(
        self,
        settings: ClientSettings | None = None,
        read_invoice: Callable[[str], DecodedInvoice] = decode_memory_invoice,
        policy: PaymentPolicy | None = None,
        experience: Experience | None = None,
    ) -> AsyncIterator[Client]:
        """A client of this market."""

        async def read(bolt11: str) -> DecodedInvoice:
            return read_invoice(bolt11)

        tools = ClientTools(
            self.buyer,
            self.client_ledger,
            read,
            loop_clock,
            payment_policy=policy or PaymentPolicy(),
            experience=experience or Experience(),
        )
        async with Client(self.connect_relays(), self.network.dialer(), tools, settings) as client:
            yield client


@dataclass
class Purchase:
    """What came of buying one job."""

    bought: Bought
    pieces: list[str]

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def wanted(prompt: str = PROMPT, **changes: Any) -> Wanted:
    fields: dict[str, Any] = {"maximum_msat": AmountMsat(100_000), "output_tokens": 32, **changes}
    return Wanted("chat", chat_body(prompt), **fields)


async def purchase(client: Client, job: Wanted | None = None) -> Purchase:
    """Buy one job and gather its output."""
    pieces: list[str] = []

    async def deliver(data: str) -> None:
        pieces.append(data)

    return Purchase(await buy(client, job or wanted(), deliver), pieces)


async def open_session(client: Client, job: Wanted | None = None) -> OpenSession:
    """A session with the node that sells this job best."""
    session = await client.open_session(await client.wait_for_choice((job or wanted()).to_request()))
    assert isinstance(session, OpenSession)
    return session


def start_job(session: OpenSession, job: Wanted | None = None) -> RunningJob:
    """Begin a job in an open session."""
    order = (job or wanted()).to_order(session.contract.quote.row, AmountMsat(50_000))
    plan = session.price(order)
    assert not isinstance(plan, Refusal)
    return session.start_job(order, plan)
