"""The port's rules, on every wallet there is.

In memory, on the simulated network by its JSON-RPC, on the same network by Nostr Wallet Connect over the bundled relay
and by LND's REST interface over HTTPS, and on real Lightning nodes.

The real ones are used where `LIGHTNING_RPC_PAYER` and `LIGHTNING_RPC_PAYEE` name their JSON-RPC sockets, those that run
LND where `LND_PAYER` and `LND_PAYEE` name files with their connections (lndconnect). Between them has to be a channel,
or a way over others, with some millions of msat on the payer's side.
"""

import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest

from relaymesh.adapters.core_lightning import CoreLightningWallet
from relaymesh.adapters.invoices import decode_invoice_on_loop
from relaymesh.adapters.lnd import LndWallet
from relaymesh.adapters.lnd_file import load_lnd_connection
from relaymesh.adapters.wallet_connect import WalletConnectWallet
from relaymesh.adapters.websocket_relays import WebSocketRelays
from relaymesh.lightning_sim import LightningNetwork, NetworkPlan, WalletPlan
from relaymesh.lightning_sim.lnd_rest import serve_lnd
from relaymesh.lightning_sim.wallet_connect import WalletService
from relaymesh.ports.lightning import DecodedInvoice, Wallet
from relaymesh.ports.memory_lightning import MemoryLightning, decode_memory_invoice
from relaymesh.units import Instant, Moment
from tests.conformance.lightning.rules import RULES, Rule, WalletsUnderTest
from tests.relay.processes import relay_process

pytestmark = pytest.mark.anyio

REAL = {"real": ("LIGHTNING_RPC_PAYER", "LIGHTNING_RPC_PAYEE"), "real-lnd": ("LND_PAYER", "LND_PAYEE")}
BALANCE_MSAT = 50_000_000


def _kinds() -> list[str]:
    kinds = ["memory", "simulated", "wallet-connect", "lnd"]
    for kind, pair in REAL.items():
        named = [name for name in pair if os.environ.get(name)]
        if len(named) == 1:
            words = f"set both {pair[0]} and {pair[1]}, not only {named[0]}"
            pytest.fail(f"real Lightning nodes are tested in pairs: {words}", False)
        kinds += [kind] if named else []
    return kinds


@pytest.fixture(scope="module")
def relay_url() -> Iterator[str]:
    """The bundled relay, in a process of its own."""
    with TemporaryDirectory() as directory, relay_process(f"{directory}/relay.sqlite3") as (_, url):
        yield url


@pytest.fixture(params=_kinds())
async def subject(request: pytest.FixtureRequest, tmp_path: Path, relay_url: str) -> AsyncIterator[WalletsUnderTest]:
    if request.param == "memory":
        lightning = MemoryLightning()
        wallets = lightning.wallet("payer", BALANCE_MSAT), lightning.wallet("payee")
        yield WalletsUnderTest(*wallets, _decode_memory, rest_seconds=0)
    elif request.param == "simulated":
        plan = NetworkPlan((WalletPlan("payer", BALANCE_MSAT), WalletPlan("payee", 0)), payment_latency_ms=10)
        async with LightningNetwork.start(tmp_path, plan, lambda: time.time_ns() // 1_000_000) as network:
            payer, payee = (CoreLightningWallet(network.rpc_path(name)) for name in ("payer", "payee"))
            yield WalletsUnderTest(payer, payee, decode_invoice_on_loop, rest_seconds=0.05)
    elif request.param == "wallet-connect":
        async with connected_wallets(tmp_path, relay_url) as (near, far):
            yield WalletsUnderTest(near, far, decode_invoice_on_loop, rest_seconds=0.05)
    elif request.param == "lnd":
        async with lnd_wallets(tmp_path) as (near, far):
            yield WalletsUnderTest(near, far, decode_invoice_on_loop, rest_seconds=0.05)
    elif request.param == "real":
        payer, payee = (CoreLightningWallet(os.environ[name]) for name in REAL["real"])
        yield WalletsUnderTest(payer, payee, decode_invoice_on_loop)
    else:
        async with AsyncExitStack() as stack:
            real: list[Wallet] = []
            for name in REAL["real-lnd"]:
                connection = load_lnd_connection(Path(os.environ[name]))
                opened = LndWallet.open(connection, tmp_path / f"{name}.book", _clock)
                real.append(await stack.enter_async_context(opened))
            yield WalletsUnderTest(real[0], real[1], decode_invoice_on_loop)


@asynccontextmanager
async def connected_wallets(directory: Path, relay_url: str) -> AsyncIterator[tuple[Wallet, Wallet]]:
    """Two wallets of a simulated network, each behind a wallet service at the relay."""
    plan = NetworkPlan((WalletPlan("payer", BALANCE_MSAT), WalletPlan("payee", 0)), payment_latency_ms=10)
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(LightningNetwork.start(directory, plan, lambda: _clock().unix_ms))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        wallets = []
        for name in ("payer", "payee"):
            near, far = [await stack.enter_async_context(WebSocketRelays((relay_url,))) for _ in range(2)]
            service = WalletService(network, name, far, _clock)
            await tasks.start(service.run)
            opened = WalletConnectWallet.open(service.connection, near, directory / f"{name}.book", _clock)
            wallets.append(await stack.enter_async_context(opened))
        yield wallets[0], wallets[1]


@asynccontextmanager
async def lnd_wallets(directory: Path) -> AsyncIterator[tuple[Wallet, Wallet]]:
    """Two wallets of a simulated network, each by LND's REST interface."""
    plan = NetworkPlan((WalletPlan("payer", BALANCE_MSAT), WalletPlan("payee", 0)), payment_latency_ms=10)
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(LightningNetwork.start(directory, plan, lambda: _clock().unix_ms))
        service = await stack.enter_async_context(serve_lnd(network))
        wallets = []
        for name in ("payer", "payee"):
            connection = load_lnd_connection(service.connections[name])
            opened = LndWallet.open(connection, directory / f"{name}.book", _clock)
            wallets.append(await stack.enter_async_context(opened))
        yield wallets[0], wallets[1]


def _clock() -> Moment:
    return Moment(Instant(time.monotonic_ns() // 1_000), time.time_ns() // 1_000_000)


async def _decode_memory(text: str) -> DecodedInvoice:
    return decode_memory_invoice(text)


def test_one_real_node_alone_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIGHTNING_RPC_PAYER", raising=False)
    monkeypatch.setenv("LIGHTNING_RPC_PAYEE", "/somewhere/lightning-rpc")
    with pytest.raises(pytest.fail.Exception, match="set both LIGHTNING_RPC_PAYER and LIGHTNING_RPC_PAYEE"):
        _kinds()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_it_keeps_to_the_port(rule: Rule, subject: WalletsUnderTest) -> None:
    await rule(subject)
