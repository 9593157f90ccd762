"""A wallet behind a service that answers late, loses answers, denies, stops, restarts: no doubt ever becomes a no."""

import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog

from relaymesh.adapters import wallet_connect, wallet_connect_link, wallet_connect_payments
from relaymesh.adapters.wallet_book import GRACE_SECONDS
from relaymesh.adapters.wallet_connect import WalletConnectWallet
from relaymesh.adapters.wallet_connect_file import format_connection
from relaymesh.errors import LightningError
from relaymesh.lightning_sim import LightningNetwork, NetworkPlan, WalletPlan
from relaymesh.lightning_sim.wallet_connect import WalletService
from relaymesh.nostr.event import VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.wallet_connect import NOT_FOUND, WalletError, WalletResponse
from relaymesh.ports.lightning import (
    NOT_SENT,
    Invoice,
    InvoiceRequest,
    InvoiceStatus,
    PaymentAbsent,
    PaymentFailed,
    PaymentRequest,
    PaymentSucceeded,
    PaymentUnknown,
)
from relaymesh.ports.memory_relays import MemoryRelay
from relaymesh.units import AmountMsat, Instant, Moment
from tests.adapters.scripted_wallet import clock, scripted_wallet

pytestmark = pytest.mark.anyio

BALANCE_MSAT = 10_000_000


class Clock:
    """The system's, which a test can put forward."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> Moment:
        return Moment(Instant(time.monotonic_ns() // 1_000), time.time_ns() // 1_000_000 + self.ahead_ms)


class Mesh:
    """A simulated network with a wallet service for each of two wallets, and a relay in memory between."""

    def __init__(self, directory: Path, network: LightningNetwork, relay: MemoryRelay) -> None:
        self.directory, self.network, self.relay = directory, network, relay
        self.clock = Clock()
        self.services = {name: WalletService(network, name, relay.connect(), Clock()) for name in ("buyer", "node")}

    @asynccontextmanager
    async def wallet(self, name: str) -> AsyncIterator[WalletConnectWallet]:
        service, book = self.services[name], self.directory / f"{name}.book"
        async with WalletConnectWallet.open(service.connection, self.relay.connect(), book, self.clock) as wallet:
            yield wallet

    def balance(self, name: str) -> int:
        ledger = self.network.simulation.ledger
        return ledger.balance_msat(ledger.nodes[name])


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again soon, and give up soon: the tests wait for nothing."""
    monkeypatch.setattr(wallet_connect_link, "_FIRST_REPEAT_SECONDS", 0.1)
    monkeypatch.setattr(wallet_connect_payments, "_LOOK_AFTER_SECONDS", 0.1)
    monkeypatch.setattr(wallet_connect_payments, "_FIRST_LOOK_SECONDS", 0.3)
    monkeypatch.setattr(wallet_connect_payments, "_LOOK_SECONDS", 0.3)
    monkeypatch.setattr(wallet_connect_payments, "_SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(wallet_connect, "_CALL_SECONDS", 1.0)
    monkeypatch.setattr(wallet_connect, "_HELD_PAUSE_SECONDS", 0.1)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    plan = NetworkPlan((WalletPlan("buyer", BALANCE_MSAT), WalletPlan("node", 0)), payment_latency_ms=2)
    async with (
        LightningNetwork.start(tmp_path, plan, lambda: time.time_ns() // 1_000_000) as network,
        anyio.create_task_group() as tasks,
    ):
        mesh = Mesh(tmp_path, network, MemoryRelay())
        for service in mesh.services.values():
            await tasks.start(service.run)
        yield mesh
        tasks.cancel_scope.cancel()


def _request(preimage: bytes | None = None, expiry_seconds: int = 600) -> InvoiceRequest:
    return InvoiceRequest(f"label-{secrets.token_hex(8)}", AmountMsat(20_000), "a job", expiry_seconds, preimage)


def _order(invoice: Invoice, deadline_ms: int = 10_000) -> PaymentRequest:
    return PaymentRequest(invoice.bolt11, invoice.payment_hash, AmountMsat(5_000), deadline_ms)


async def _find(buyer: WalletConnectWallet, payment_hash: str) -> Any:
    """What the wallet says once it knows."""
    with anyio.fail_after(10):
        while isinstance(found := await buyer.lookup_payment(payment_hash), PaymentUnknown):
            await anyio.lowlevel.checkpoint()
        return found


async def test_a_lost_answer_is_found_by_looking_the_payment_up(mesh: Mesh) -> None:
    mesh.services["buyer"].faults.lose_answers["pay_invoice"] = 1
    async with mesh.wallet("buyer") as buyer, mesh.wallet("node") as node:
        invoice = await node.create_invoice(_request())
        assert isinstance(await buyer.pay(_order(invoice)), PaymentSucceeded)
        assert mesh.balance("node") == 20_000


async def test_a_late_answer_leaves_the_payment_unknown_and_never_failed(mesh: Mesh) -> None:
    mesh.network.hold_payments("node")
    async with mesh.wallet("buyer") as buyer, mesh.wallet("node") as node:
        invoice = await node.create_invoice(_request())
        assert isinstance(await buyer.pay(_order(invoice, 200)), PaymentUnknown)
        assert isinstance(await buyer.lookup_payment(invoice.payment_hash), PaymentUnknown)
        assert isinstance(await buyer.pay(_order(invoice, 200)), PaymentUnknown)
        mesh.network.release_payments("node")
        paid = await _find(buyer, invoice.payment_hash)
        assert isinstance(paid, PaymentSucceeded)
        assert await buyer.pay(_order(invoice)) == paid
        assert mesh.balance("node") == 20_000


async def test_a_wallet_that_denies_and_pays_has_paid(mesh: Mesh) -> None:
    mesh.services["buyer"].faults.deny_payments = True
    async with mesh.wallet("buyer") as buyer, mesh.wallet("node") as node:
        invoice = await node.create_invoice(_request())
        assert isinstance(await buyer.pay(_order(invoice)), PaymentSucceeded)


async def test_of_two_answers_the_first_counts(mesh: Mesh) -> None:
    mesh.services["buyer"].faults.answer_twice = True
    async with mesh.wallet("buyer") as buyer, mesh.wallet("node") as node:
        invoice = await node.create_invoice(_request())
        assert isinstance(await buyer.pay(_order(invoice)), PaymentSucceeded)


async def test_a_wallet_that_is_down_has_sent_nothing_and_pays_once_it_is_back(mesh: Mesh) -> None:
    async with mesh.wallet("buyer") as buyer, mesh.wallet("node") as node:
        invoice = await node.create_invoice(_request())
        mesh.network.kill_node("buyer")
        outcome = await buyer.pay(_order(invoice))
        assert isinstance(outcome, PaymentFailed) and outcome.code == NOT_SENT
        mesh.network.restart_node("buyer")
        assert isinstance(await buyer.pay(_order(invoice)), PaymentSucceeded)


async def test_a_wallet_that_stops_in_mid_payment_is_asked_again_when_it_is_back(mesh: Mesh) -> None:
    mesh.network.hold_payments("node")
    async with mesh.wallet("buyer") as buyer, mesh.wallet("node") as node:
        invoice = await node.create_invoice(_request())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(buyer.pay, _order(invoice, 300))
            while not mesh.network.simulation.ledger.pending:
                await anyio.lowlevel.checkpoint()
            mesh.network.kill_node("buyer")
        assert isinstance(await buyer.lookup_payment(invoice.payment_hash), PaymentUnknown)
        mesh.network.restart_node("buyer")
        mesh.network.release_payments("node")
        assert isinstance(await _find(buyer, invoice.payment_hash), PaymentSucceeded)
        assert mesh.balance("node") == 20_000


async def test_a_lost_request_stays_in_doubt_over_restarts_until_the_invoice_cannot_be_paid(mesh: Mesh) -> None:
    lost: list[VerifiedEvent] = []

    def loses(event: VerifiedEvent) -> bool:
        """Requests to pay, which are the only ones that are long."""
        is_lost = event.kind == Kind.WALLET_REQUEST and len(event.content) > 500
        lost.extend([event] if is_lost else [])
        return is_lost

    async with mesh.wallet("node") as node:
        invoice = await node.create_invoice(_request())
        async with mesh.wallet("buyer") as buyer:
            mesh.relay.loses = loses
            assert isinstance(await buyer.pay(_order(invoice, 300)), PaymentUnknown)
            assert len(lost) == 1
            assert isinstance(await buyer.lookup_payment(invoice.payment_hash), PaymentUnknown)
        async with mesh.wallet("buyer") as buyer:  # another process, as it were
            assert isinstance(await buyer.lookup_payment(invoice.payment_hash), PaymentUnknown)
            assert isinstance(await buyer.pay(_order(invoice, 300)), PaymentUnknown)
            assert len(lost) == 1
            mesh.clock.ahead_ms = (600 + GRACE_SECONDS + 2) * 1_000
            assert await buyer.lookup_payment(invoice.payment_hash) == PaymentAbsent()


async def test_what_fails_is_failed_at_once_and_can_be_tried_again(mesh: Mesh) -> None:
    async with mesh.wallet("buyer") as buyer, mesh.wallet("node") as node:
        invoice = await node.create_invoice(_request())
        mesh.network.refuse_next("node", "temporary_node_failure")
        assert isinstance(await buyer.pay(_order(invoice)), PaymentFailed)
        assert isinstance(await buyer.lookup_payment(invoice.payment_hash), PaymentFailed)
        assert isinstance(await buyer.pay(_order(invoice)), PaymentSucceeded)


async def test_an_answer_after_the_deadline_is_still_taken(mesh: Mesh) -> None:
    async with mesh.wallet("buyer") as buyer, mesh.wallet("node") as node:
        invoice = await node.create_invoice(_request())
        mesh.network.hold_payments("node")
        assert isinstance(await buyer.pay(_order(invoice, 150)), PaymentUnknown)
        mesh.network.refuse_next("node", "temporary_node_failure")
        mesh.network.release_payments("node")
        assert isinstance(await _find(buyer, invoice.payment_hash), PaymentFailed)


async def test_the_same_label_is_the_same_invoice_after_a_restart_and_whatever_was_lost(mesh: Mesh) -> None:
    for request in (_request(), _request(secrets.token_bytes(32))):
        mesh.services["node"].faults.lose_answers = {"make_invoice": 1, "make_hold_invoice": 1}
        async with mesh.wallet("node") as node:
            if request.preimage is None:
                with pytest.raises(LightningError) as lost:
                    await node.create_invoice(request)
                assert lost.value.retryable
            first = await node.create_invoice(request)
        async with mesh.wallet("node") as node:
            assert await node.create_invoice(request) == first
            assert (await node.lookup_invoice(request.label)).status is InvoiceStatus.OPEN


async def test_a_held_payment_is_settled_by_whoever_comes_back(mesh: Mesh) -> None:
    request = _request(secrets.token_bytes(32))
    async with mesh.wallet("buyer") as buyer:
        async with mesh.wallet("node") as node:
            invoice = await node.create_invoice(request)
        assert isinstance(await buyer.pay(_order(invoice, 200)), PaymentUnknown)
        async with mesh.wallet("node"):
            paid = await _find(buyer, invoice.payment_hash)
        assert isinstance(paid, PaymentSucceeded) and paid.preimage == request.preimage


async def test_an_invoice_that_is_cancelled_or_unknown_to_the_wallet_is_not_open(mesh: Mesh) -> None:
    request = _request(secrets.token_bytes(32))
    async with mesh.wallet("node") as node:
        invoice = await node.create_invoice(request)
        mesh.network.change(lambda simulation, now_ms: simulation.cancel_held("node", invoice.payment_hash, now_ms))
        assert (await node.lookup_invoice(request.label)).status is InvoiceStatus.EXPIRED


@pytest.mark.parametrize("is_held", [False, True])
async def test_an_invoice_for_something_else_than_was_asked_is_refused(mesh: Mesh, is_held: bool) -> None:
    async with mesh.wallet("node") as node:
        other = await node.create_invoice(_request())

    def script(method: str, parameters: dict[str, Any]) -> WalletResponse:
        if method == "lookup_invoice":
            return WalletResponse(method, error=WalletError(NOT_FOUND, "no"))
        return WalletResponse(method, {"invoice": other.bolt11, "payment_hash": other.payment_hash})

    request = _request(secrets.token_bytes(32) if is_held else None)
    request = request if is_held else replace(request, amount_msat=AmountMsat(19_999))
    async with scripted_wallet(script) as wallet:
        wallet.announce()
        book = mesh.directory / "scripted.book"
        async with WalletConnectWallet.open(wallet.connection, wallet.relay.connect(), book, clock) as node:
            with pytest.raises(LightningError, match="another"):
                await node.create_invoice(request)


@pytest.mark.parametrize(
    "result",
    [{}, {"preimage": 1}, {"preimage": "ab" * 32}, {"preimage": "zz"}, {"preimage": "ab" * 32, "fees_paid": -1}],
)
async def test_a_success_without_the_right_preimage_is_unknown(mesh: Mesh, result: dict[str, Any]) -> None:
    async with mesh.wallet("node") as node:
        invoice = await node.create_invoice(_request())

    def script(method: str, parameters: dict[str, Any]) -> WalletResponse:
        if method == "lookup_invoice":
            return WalletResponse(method, error=WalletError(NOT_FOUND, "no"))
        return WalletResponse(method, result)

    async with scripted_wallet(script) as wallet:
        wallet.announce()
        book = mesh.directory / "scripted.book"
        async with WalletConnectWallet.open(wallet.connection, wallet.relay.connect(), book, clock) as buyer:
            assert isinstance(await buyer.pay(_order(invoice, 100)), PaymentUnknown)


async def test_a_connection_that_may_not_pay_says_so_and_has_sent_nothing(mesh: Mesh) -> None:
    async with mesh.wallet("node") as node:
        invoice = await node.create_invoice(_request())

    def script(method: str, parameters: dict[str, Any]) -> WalletResponse:
        return WalletResponse(method, error=WalletError(NOT_FOUND, "no"))

    async with scripted_wallet(script) as wallet:
        wallet.announce(frozenset({"lookup_invoice"}))
        book = mesh.directory / "scripted.book"
        async with WalletConnectWallet.open(wallet.connection, wallet.relay.connect(), book, clock) as buyer:
            outcome = await buyer.pay(_order(invoice))
            assert isinstance(outcome, PaymentFailed) and "does not offer pay_invoice" in outcome.reason
            assert await buyer.lookup_payment(invoice.payment_hash) == PaymentAbsent()


async def test_no_secret_shows_in_files_logs_or_errors(mesh: Mesh) -> None:
    preimage = secrets.token_bytes(32)
    with structlog.testing.capture_logs() as logs:
        async with mesh.wallet("buyer") as buyer, mesh.wallet("node") as node:
            invoice = await node.create_invoice(_request(preimage))
            assert isinstance(await buyer.pay(_order(invoice)), PaymentSucceeded)
            with pytest.raises(LightningError) as refused:
                await node.create_invoice(_request(preimage))
            shown = repr((buyer, node, invoice, mesh.services, logs)) + str(refused.value)
    secret = mesh.services["node"].connection.key.reveal_secret().hex()
    assert format_connection(mesh.services["node"].connection).endswith(secret)
    kept = b"".join(path.read_bytes() for path in mesh.directory.glob("*.book*"))
    assert (mesh.directory / "node.book").stat().st_mode & 0o777 == 0o600
    for hidden in (secret, preimage.hex()):
        assert hidden not in shown
    assert preimage not in kept and bytes.fromhex(secret) not in kept and secret.encode() not in kept
    assert hashlib.sha256(preimage).hexdigest().encode() in kept
