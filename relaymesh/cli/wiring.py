"""Settings into running roles: here adapters are chosen and joined, and only here.

Adapters that are slow to import (wallets, runners) are imported where they are chosen, so that looking at the market
does not wait for them.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from pydantic import ValidationError

from relaymesh.adapters.direct_sessions import WebSocketDialer, WebSocketListener
from relaymesh.adapters.websocket_relays import WebSocketRelays
from relaymesh.cli.clock import system_clock
from relaymesh.cli.credit import load_credit_key, unpaid_work
from relaymesh.cli.ledgers import open_existing_ledger, open_ledger
from relaymesh.cli.router_wiring import open_router_records, read_routers
from relaymesh.cli.settings_source import data_directory
from relaymesh.cli.spending import open_spending, payment_policy
from relaymesh.cli.wallet_wiring import open_wallet
from relaymesh.errors import LocalProtocolError, UsageError
from relaymesh.market.outcomes import WHOLE_MILLI
from relaymesh.market.surge import SurgeTerms
from relaymesh.nostr.identifiers import decode_public_key
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.lightning import WalletInfo
from relaymesh.ports.runners import Runner, RunnerModel
from relaymesh.protocol.codec import SignedOffer, is_label
from relaymesh.protocol.fields import MAXIMUM_LABEL_BYTES
from relaymesh.roles.client import Client, ClientSettings
from relaymesh.roles.client_tools import ClientTools
from relaymesh.roles.containment import Contained
from relaymesh.roles.experience import Experience, ExperienceSettings
from relaymesh.roles.market_view import MarketView
from relaymesh.roles.node import Node, NodeSettings
from relaymesh.roles.node_credit import OpenInvoices, recall_unpaid
from relaymesh.roles.node_places import Places
from relaymesh.roles.node_tools import NodeTools
from relaymesh.roles.offering import price_rows, settlement_terms
from relaymesh.roles.recovery import NodeRecovery, Recovered, recover_client
from relaymesh.roles.spending import recall_payment_hashes
from relaymesh.settings import Node as NodeOptions
from relaymesh.settings import Settings, Surge
from relaymesh.units import MILLISECONDS_PER_SECOND, AmountMsat

if TYPE_CHECKING:
    from relaymesh.adapters.runner_discovery import FoundServer

SECONDS_PER_HOUR = 3_600


@dataclass(frozen=True, slots=True)
class FoundRunner:
    """The runner in use, what it is called, what it serves, and which other servers were found beside it."""

    runner: Runner
    description: str
    models: tuple[RunnerModel, ...]
    others: tuple["FoundServer", ...] = ()


@dataclass(frozen=True, slots=True)
class ServingNode:
    """A node that is up: its key, its offer, where it listens and what it runs."""

    key: KeyPair
    offer: SignedOffer
    runner: FoundRunner


@asynccontextmanager
async def open_market(settings: Settings) -> AsyncIterator[tuple[MarketView, WebSocketRelays]]:
    """The market in view, what the client's ledger knows of it, and the relays it is seen through; needs no wallet."""
    experience = Experience(experience_settings(settings))
    async with (
        WebSocketRelays(settings.network.relays, clock=system_clock) as relays,
        MarketView(relays, system_clock, settings.client.candidates, experience) as market,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(experience.follow, relays, system_clock)
        await recall_ledger(experience, settings)
        yield market, relays
        tasks.cancel_scope.cancel()


async def recall_ledger(experience: Experience, settings: Settings) -> None:
    """Book the jobs of the client's ledger, where there is one."""
    async with open_existing_ledger(settings, "client") as ledger:
        if ledger is not None:
            await experience.recall(ledger)


def experience_settings(settings: Settings) -> ExperienceSettings:
    """Whom the reader believes; UsageError if something in `client.trusted` is no public key."""
    trusted = {decode_public_key(key): WHOLE_MILLI for key in settings.client.trusted}
    return ExperienceSettings(trusted, AmountMsat(settings.client.newcomer_msat))


@asynccontextmanager
async def open_client(settings: Settings) -> AsyncIterator[Client]:
    """A client with its relays, wallet and ledger, while the block lasts."""
    from relaymesh.adapters.invoices import invoice_reader

    directory, credit_key = data_directory(settings), load_credit_key(settings)
    async with AsyncExitStack() as stack:
        payer = await stack.enter_async_context(open_wallet(settings.wallet))
        ledger = await stack.enter_async_context(open_ledger(settings, "client"))
        info = await payer.info()
        check_can_pay(info)  # who cannot must not keep a node waiting for it
        tell_unread(await recover_client(ledger, payer))
        spending = await open_spending(payer, ledger, settings.wallet, info.network)
        relays = await stack.enter_async_context(WebSocketRelays(settings.network.relays, clock=system_clock))
        tools = ClientTools(
            wallet=spending,
            ledger=ledger,
            read_invoice=invoice_reader(info.network),
            clock=system_clock,
            payment_policy=payment_policy(settings.wallet),
            known_payment_hashes=await recall_payment_hashes(ledger),
            experience=Experience(experience_settings(settings)),
        )
        chosen = ClientSettings(
            candidates=settings.client.candidates,
            discovery_seconds=settings.client.discovery_seconds,
            way=None if settings.client.way == "auto" else settings.client.way,
            routers=read_routers(settings.client.routers),
            maximum_router_fee_msat=AmountMsat(settings.client.maximum_router_fee_msat),
            credit_key=credit_key,
        )
        dialer = WebSocketDialer(allow_private=settings.network.allow_private)
        records = await stack.enter_async_context(open_router_records(directory))
        client = await stack.enter_async_context(Client(relays, dialer, tools, chosen, records))
        yield client
        records.update(client.routers.records)


def tell_unread(recovered: Recovered) -> None:
    """Remind of what was bought sealed and paid before a crash; it stays until somebody reads it."""
    if recovered.unread:
        jobs = f"{len(recovered.unread)} job{'s' if len(recovered.unread) > 1 else ''}"
        print(
            f"relaymesh: output of {jobs} was paid and not read: `relaymesh receipts recover` opens it", file=sys.stderr
        )


def check_can_pay(wallet: WalletInfo) -> None:
    """Refuse to buy with a wallet out of which nothing can be sent.

    Raises:
        UsageError: It is one.
    """
    if wallet.spendable_msat <= 0:
        raise UsageError(
            f"the wallet can send nothing now, of {wallet.balance_msat} msat in it:"
            " put money into it, or open a channel"
        )


@asynccontextmanager
async def open_node(settings: Settings, key: KeyPair) -> AsyncIterator[ServingNode]:
    """A node with this identity that serves while the block lasts."""
    if not settings.node.announce:
        _check_can_be_told(settings.node.host)
    node = settings.node
    async with AsyncExitStack() as stack:
        wallet = await stack.enter_async_context(open_wallet(settings.wallet))
        runner = await stack.enter_async_context(open_runner(settings))
        offered = _node_settings(settings, runner.models, (await wallet.info()).public_key)
        ledger = await stack.enter_async_context(open_ledger(settings, "node"))
        recovery = NodeRecovery(ledger, wallet, key, system_clock)
        await recovery.resolve()
        unpaid = unpaid_work(node)
        await recall_unpaid(ledger, unpaid)
        invoices = OpenInvoices(unpaid, ledger, recovery.waiting)
        await invoices.book()
        relays = await stack.enter_async_context(WebSocketRelays(settings.network.relays, clock=system_clock))
        serving = Node(
            offered,
            relays,
            WebSocketListener(node.host, node.port, node.announce),
            NodeTools(key, wallet, runner.runner, ledger, system_clock, _places(node), unpaid=unpaid),
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_finish_recovery, recovery, invoices)
            offer: SignedOffer = await tasks.start(serving.run)
            try:
                yield ServingNode(key, offer, runner)
            finally:
                tasks.cancel_scope.cancel()


async def _finish_recovery(recovery: NodeRecovery, invoices: OpenInvoices) -> None:
    """Wait for the invoices that were open when the node was stopped, while it serves again."""
    with Contained("recovery"):
        await recovery.wait()
        await invoices.settle()


def _places(node: NodeOptions) -> Places:
    return Places(
        node.maximum_jobs,
        system_clock,
        queue_limit=node.queue,
        queue_limit_per_client=max(node.queue_per_client, 1),
        queue_ms=node.queue_seconds * MILLISECONDS_PER_SECOND,
    )


def _surge_terms(surge: Surge) -> SurgeTerms:
    try:
        return SurgeTerms(surge.minimum_permille, surge.maximum_permille, surge.step_permille, surge.interval_seconds)
    except LocalProtocolError as error:
        raise UsageError(f"the settings in [node.surge] make no prices: {error}") from error


def _node_settings(settings: Settings, models: tuple[RunnerModel, ...], lightning_node_id: str) -> NodeSettings:
    node = settings.node
    if not is_label(node.label):
        raise UsageError(
            f"node.label must be 1 to {MAXIMUM_LABEL_BYTES} characters of a-z, 0-9 and ./@-, not `{node.label}`"
        )
    try:
        return NodeSettings(
            label=node.label,
            rows=price_rows(models, node),
            settlement=settlement_terms(node),
            lightning_node_id=lightning_node_id,
            relay_urls=settings.network.relays,
            region=node.region or None,
            heartbeat_seconds=node.heartbeat_seconds,
            offer_validity_seconds=node.offer_hours * SECONDS_PER_HOUR,
            pow_bits=node.pow_bits,
            surge=_surge_terms(node.surge),
            open_requests_per_second=node.open_requests_per_second,
            open_pow_bits=node.open_pow_bits,
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        field = ".".join(str(part) for part in wrong["loc"])
        raise UsageError(f"the settings in [node] make no offer: {field}: {wrong['msg']}") from error


@asynccontextmanager
async def open_runner(settings: Settings) -> AsyncIterator[FoundRunner]:
    """The model server that the settings name, or the first one found on this machine."""
    from relaymesh.adapters.embedded_runner import EmbeddedRunner
    from relaymesh.adapters.openai_runner import OpenAiRunner
    from relaymesh.adapters.paced_runner import PacedRunner

    node = settings.node
    async with AsyncExitStack() as stack:
        runner: Runner
        found: tuple[FoundServer, ...] = ()
        if node.runner == "embedded":
            runner = await stack.enter_async_context(EmbeddedRunner.start())
            description = "the embedded engine"
        else:
            if node.runner == "auto" and not node.runner_url:
                found = await _find_servers()
            url = found[0].url if found else node.runner_url
            if not url:
                raise UsageError("node.runner is `openai`, so node.runner_url must say where the model server is")
            server = OpenAiRunner(url, _read_api_key(node.runner_key_file))
            runner = await stack.enter_async_context(server)
            description = f"{found[0].name} at {server.address}" if found else server.address
        models = await runner.models()
        if node.output_tokens_per_second:
            runner = PacedRunner(runner, node.output_tokens_per_second)
        yield FoundRunner(runner, description, models, found[1:])


async def _find_servers() -> "tuple[FoundServer, ...]":
    from relaymesh.adapters.runner_discovery import find_servers

    found = await find_servers()
    if not found:
        raise UsageError(
            "no model server was found on this machine (Ollama on 11434, llama.cpp on 8080, vLLM on 8000, LM Studio "
            "on 1234): start one, name another with --runner openai --url URL, or use --runner embedded"
        )
    return found


def _check_can_be_told(host: str) -> None:
    """Refuse a host that stands for every address: no client can connect to that.

    Raises:
        UsageError: It is one.
    """
    with suppress(ValueError):
        if ip_address(host).is_unspecified:
            raise UsageError(
                f"the node listens on every address ({host}), so node.announce must say which endpoint clients use, "
                'for example announce = ["ws://203.0.113.7:7780"]'
            )


def _read_api_key(file: str) -> str | None:
    if not file:
        return None
    try:
        return Path(file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the API key cannot be read from {file}: {error}") from error
