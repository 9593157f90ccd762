"""What the demonstration does, in order: look at the market, buy twice, settle, count the money."""

import json
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import anyio

from relaymesh.adapters.core_lightning import CoreLightningWallet
from relaymesh.adapters.embedded_runner import bundled_sentences
from relaymesh.adapters.websocket_relays import WebSocketRelays
from relaymesh.cli.demo_mesh import NODES, Mesh, start_mesh
from relaymesh.cli.demo_screen import DemoScreen, QuietScreen, RichScreen
from relaymesh.cli.settings_source import load_settings
from relaymesh.cli.wiring import open_client
from relaymesh.machines.opening_events import QuoteArrived
from relaymesh.market.selection import Selection
from relaymesh.market.settlement_choice import ChosenTerm
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import verify
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.relays import Delivered
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.evidence import read_receipt
from relaymesh.protocol.quote import Quote
from relaymesh.roles.buying import Bought, SilentWatcher, Wanted, buy
from relaymesh.roles.client import Client
from relaymesh.units import AmountMsat

PROMPT: Final = "What is RelayMesh?"
BUDGET_MSAT: Final = AmountMsat(100_000)
OUTPUT_TOKENS: Final = 96
MARKET_SECONDS: Final = 10
WATCHED_KINDS: Final = tuple(kind for kind in Kind if kind not in (Kind.RELAY_LIST, Kind.AUTHENTICATION))


@dataclass(slots=True)
class DemoReport:
    """Everything `--json` prints, gathered on the way."""

    relay_url: str = ""
    events_by_kind: dict[str, int] = field(default_factory=dict)
    offers: list[dict[str, Any]] = field(default_factory=list)
    quotes: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    balances_before_msat: dict[str, int] = field(default_factory=dict)
    balances_after_msat: dict[str, int] = field(default_factory=dict)
    fees_msat: int = 0
    conserved: bool = False

    def to_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__})

    @property
    def is_success(self) -> bool:
        """Whether both jobs are done and verified and no money was lost."""
        return self.conserved and len(self.jobs) == 2 and all(job["verified"] for job in self.jobs)


async def tell(*, stay: bool, as_json: bool) -> int:
    """Run the demonstration; returns the exit code."""
    screen: DemoScreen = QuietScreen() if as_json else RichScreen()
    report = DemoReport()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="relaymesh-demo-")))
        screen.starting(len(NODES))
        mesh = await stack.enter_async_context(start_mesh(directory))
        report.relay_url = mesh.relay_url
        await _trade(mesh, report, screen)
        if as_json:
            print(report.to_json(), flush=True)
        if stay:
            screen.staying(mesh)
            await anyio.sleep_forever()
    return 0 if report.is_success else 1


async def _trade(mesh: Mesh, report: DemoReport, screen: DemoScreen) -> None:
    wallets = {name: CoreLightningWallet(path) for name, path in mesh.rpc_paths.items()}
    hub = CoreLightningWallet(mesh.hub_rpc_path)
    report.balances_before_msat = await _balances(wallets)
    hub_before = (await hub.info()).balance_msat
    settings = load_settings(mesh.client_config)
    async with WebSocketRelays((mesh.relay_url,)) as relays, anyio.create_task_group() as tasks:
        await tasks.start(_count_events, relays, report.events_by_kind)
        asking = replace(
            settings, client=replace(settings.client, way="directed")
        )  # so that quotes are there to be seen
        async with open_client(asking) as client:
            await _see_market(client, report, screen)
            await _buy_chat(client, report, screen)
            await _buy_embeddings(client, report, screen)
        tasks.cancel_scope.cancel()
    report.balances_after_msat = await _balances(wallets)
    report.fees_msat = (await hub.info()).balance_msat - hub_before
    lost = sum(report.balances_before_msat.values()) - sum(report.balances_after_msat.values())
    report.conserved = lost == report.fees_msat
    screen.balances(report)


async def _count_events(
    relays: WebSocketRelays, counts: dict[str, int], *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    async with relays.subscribe((Filter(kinds=WATCHED_KINDS),)) as deliveries:
        task_status.started()
        async for delivery in deliveries:
            if isinstance(delivery, Delivered):
                kind = str(delivery.event.kind)
                counts[kind] = counts.get(kind, 0) + 1


async def _see_market(client: Client, report: DemoReport, screen: DemoScreen) -> None:
    """Wait until every node is in view."""
    with anyio.move_on_after(MARKET_SECONDS):
        while len(client.market.directory.offers(client.tools.clock().timestamp)) < len(NODES):
            await client.market.wait_changed()
    now = client.tools.clock().timestamp
    for signed in sorted(client.market.directory.offers(now), key=lambda offer: offer.label):
        status = client.market.directory.status(signed.node, now)
        load = status.status.labels.get(signed.label) if status is not None else None
        for row in signed.offer.rows:
            offered = {"node": signed.node, "label": signed.label, "free": load.free if load else 0}
            report.offers.append({**offered, **row.model_dump(mode="json", exclude={"identity"})})
    screen.market(report.offers)


async def _buy_chat(client: Client, report: DemoReport, screen: DemoScreen) -> None:
    body = json.dumps(
        {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": OUTPUT_TOKENS, "temperature": 0}
    )
    wanted = Wanted("chat", body, BUDGET_MSAT, output_tokens=OUTPUT_TOKENS, capabilities=("stream",), is_streamed=True)
    screen.asking(PROMPT)

    async def deliver(data: str) -> None:
        screen.answer(data)

    await _buy(client, wanted, deliver, report, screen)


async def _buy_embeddings(client: Client, report: DemoReport, screen: DemoScreen) -> None:
    sentences = bundled_sentences()
    # Nobody reads vectors as they come, so they are bought sealed also from a node that the chat has made known.
    wanted = Wanted("embedding", json.dumps({"input": sentences}), BUDGET_MSAT, settlement="sealed")
    screen.embedding(len(sentences))
    vectors: list[str] = []

    async def deliver(data: str) -> None:
        vectors.append(data)

    await _buy(client, wanted, deliver, report, screen)
    screen.embedded(sentences, vectors)


async def _buy(client: Client, wanted: Wanted, deliver: Any, report: DemoReport, screen: DemoScreen) -> None:
    labels = {offer["node"]: offer["label"] for offer in report.offers}
    bought = await buy(client, wanted, deliver, _Watcher(report, screen, labels, wanted.job_type))
    job = _describe_job(bought, wanted)
    job["label"] = labels.get(job["node"], "?")
    report.jobs.append(job)
    screen.settled(job, bought.reason)


class _Watcher(SilentWatcher):
    """Puts what happens on the screen and into the report (`relaymesh.roles.buying.BuyingWatcher`)."""

    def __init__(self, report: DemoReport, screen: DemoScreen, labels: dict[str, str], job_type: str) -> None:
        self._report, self._screen, self._labels, self._job_type = report, screen, labels, job_type

    def chose(self, selection: Selection) -> None:
        """Nodes were chosen, with reasons."""
        self._screen.chose(selection)

    def quoted(self, quote: QuoteArrived) -> None:
        """A node quoted or refused."""
        node = quote.choice.candidate.offer.node
        answer = quote.answer
        entry: dict[str, Any] = {"node": node, "label": self._labels.get(node, "?"), "job_type": self._job_type}
        if isinstance(answer, Quote):
            entry |= {"estimated_msat": answer.estimated_msat, "max_msat": answer.max_msat}
        else:
            entry |= {"refusal": answer.to_wire()}
        self._report.quotes.append(entry)
        self._screen.quoted(entry)

    def opened(self, contract: SessionContract, chosen_term: ChosenTerm | None) -> None:
        """A session was agreed on."""
        self._screen.opened(self._labels.get(contract.node, "?"), "" if chosen_term is None else chosen_term.sentence)


def _describe_job(bought: Bought, wanted: Wanted) -> dict[str, Any]:
    outcome, contract = bought.outcome, bought.contract
    if outcome is None or contract is None:
        return {"node": "", "job_type": wanted.job_type, "reason": bought.reason, "verified": False}
    metering, receipt = outcome.metering, outcome.receipt
    record = metering.record if metering is not None else None
    is_verified = outcome.is_verified
    if receipt is not None:
        is_verified = is_verified and read_receipt(receipt, verify).receipt.paid_msat == outcome.paid_msat
    return {
        "node": contract.node,
        "model": contract.quote.row.model,
        "job_type": wanted.job_type,
        "settlement": None if bought.chosen_term is None else bought.chosen_term.to_json(),
        "quoted_max_msat": contract.quote.max_msat,
        "charged_msat": record.charged_msat if record is not None else 0,
        "paid_msat": outcome.paid_msat,
        "fees_msat": outcome.fees_msat,
        "tranches": len(record.tranches) if record is not None else 0,
        "units": record.units.model_dump() if record is not None else {},
        "time_to_first_output_ms": outcome.observation.first_output_in_ms,
        "total_ms": outcome.observation.total_in_ms,
        "metering_id": metering.event.id if metering is not None else None,
        "receipt_id": receipt.id if receipt is not None else None,
        "verified": is_verified,
    }


async def _balances(wallets: dict[str, CoreLightningWallet]) -> dict[str, int]:
    return {name: (await wallet.info()).balance_msat for name, wallet in wallets.items()}
