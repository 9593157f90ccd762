"""A wallet on LND whose answers and requests get lost, which stops and starts again: no doubt ever becomes a no."""

import base64
import hashlib
import secrets
import sqlite3
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from relaymesh.adapters.lnd import LndWallet
from relaymesh.adapters.lnd_file import load_lnd_connection
from relaymesh.adapters.wallet_book import GRACE_SECONDS
from relaymesh.errors import LightningError
from relaymesh.lightning_sim import LightningNetwork, NetworkPlan, WalletPlan, lnd_commands
from relaymesh.lightning_sim.lnd_rest import LndService, serve_lnd
from relaymesh.ports.lightning import (
    BAD_INVOICE,
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
from relaymesh.units import AmountMsat, Instant, Moment

pytestmark = pytest.mark.anyio

BALANCE_MSAT = 10_000_000
SEND, TRACK, INVOICES = "/v2/router/send", "/v2/router/track", "/v1/invoices"


class Clock:
    """The system's, which a test can put forward."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> Moment:
        return Moment(Instant(time.monotonic_ns() // 1_000), time.time_ns() // 1_000_000 + self.ahead_ms)


class Town:
    """A simulated network, by LND's interface."""

    def __init__(self, directory: Path, network: LightningNetwork, service: LndService) -> None:
        self.directory, self.network, self.service = directory, network, service
        self.clock = Clock()

    @asynccontextmanager
    async def wallet(self, name: str, **changes: Any) -> AsyncIterator[LndWallet]:
        connection = replace(load_lnd_connection(self.service.connections[name]), **changes)
        async with LndWallet.open(connection, self.directory / f"{name}.book", self.clock) as wallet:
            yield wallet

    def balance(self, name: str) -> int:
        ledger = self.network.simulation.ledger
        return ledger.balance_msat(ledger.nodes[name])


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    plan = NetworkPlan((WalletPlan("buyer", BALANCE_MSAT), WalletPlan("node", 0)), payment_latency_ms=2)
    async with (
        LightningNetwork.start(tmp_path, plan, lambda: time.time_ns() // 1_000_000) as network,
        serve_lnd(network) as service,
    ):
        yield Town(tmp_path, network, service)


def _request(preimage: bytes | None = None, expiry_seconds: int = 600) -> InvoiceRequest:
    return InvoiceRequest(f"label-{secrets.token_hex(8)}", AmountMsat(20_000), "a job", expiry_seconds, preimage)


def _order(invoice: Invoice, deadline_ms: int = 10_000) -> PaymentRequest:
    return PaymentRequest(invoice.bolt11, invoice.payment_hash, AmountMsat(5_000), deadline_ms)


async def test_a_payment_whose_answer_is_lost_is_followed_to_its_end(town: Town) -> None:
    async with town.wallet("buyer") as buyer, town.wallet("node") as node:
        invoice = await node.create_invoice(_request())
        town.service.faults.lose_answers[SEND] = 1
        paid = await buyer.pay(_order(invoice))
        assert isinstance(paid, PaymentSucceeded)
        assert await buyer.pay(_order(invoice)) == paid
        assert town.balance("node") == 20_000


async def test_a_request_to_pay_that_was_lost_stays_in_doubt_until_nobody_could_carry_it_out(town: Town) -> None:
    town.service.faults.lose_requests[SEND] = 1
    async with town.wallet("node") as node:
        invoice = await node.create_invoice(_request())
        async with town.wallet("buyer") as buyer:
            assert isinstance(await buyer.pay(_order(invoice, deadline_ms=300)), PaymentUnknown)
            assert isinstance(await buyer.lookup_payment(invoice.payment_hash), PaymentUnknown)
        async with town.wallet("buyer") as buyer:  # also after a restart, and it is not asked for again
            assert isinstance(await buyer.lookup_payment(invoice.payment_hash), PaymentUnknown)
            assert isinstance(await buyer.pay(_order(invoice, deadline_ms=300)), PaymentUnknown)
        town.clock.ahead_ms = (600 + GRACE_SECONDS + 1) * 1_000
        async with town.wallet("buyer") as buyer:
            assert await buyer.lookup_payment(invoice.payment_hash) == PaymentAbsent()
    assert town.balance("node") == 0


async def test_a_payment_under_way_outlives_callers_restarts_and_the_node_itself(town: Town) -> None:
    town.network.hold_payments("node")
    async with town.wallet("node") as node:
        invoice = await node.create_invoice(_request())
        async with town.wallet("buyer") as buyer:
            assert isinstance(await buyer.pay(_order(invoice, deadline_ms=200)), PaymentUnknown)
        async with town.wallet("buyer") as buyer:
            assert isinstance(await buyer.pay(_order(invoice, deadline_ms=200)), PaymentUnknown)
            town.network.kill_node("buyer")
            assert isinstance(await buyer.lookup_payment(invoice.payment_hash), PaymentUnknown)
            town.network.restart_node("buyer")
            assert isinstance(await buyer.lookup_payment(invoice.payment_hash), PaymentUnknown)
            town.network.release_payments("node")
            with anyio.fail_after(10):
                assert (await node.wait_invoice(invoice.label)).status is InvoiceStatus.PAID
            assert isinstance(await buyer.pay(_order(invoice)), PaymentSucceeded)
        assert town.balance("node") == 20_000


async def test_the_deadline_ends_the_wait_and_not_the_payment(town: Town) -> None:
    town.service.faults.answer_late_ms[SEND] = 300
    async with town.wallet("buyer") as buyer, town.wallet("node") as node:
        invoice = await node.create_invoice(_request())
        assert isinstance(await buyer.pay(_order(invoice, deadline_ms=1)), PaymentUnknown)
        with anyio.fail_after(10):
            while not isinstance(found := await buyer.lookup_payment(invoice.payment_hash), PaymentSucceeded):
                await anyio.lowlevel.checkpoint()
        assert await buyer.pay(_order(invoice)) == found
        assert town.balance("node") == 20_000


async def test_what_failed_is_tried_again_and_what_did_not_fail_is_not(town: Town) -> None:
    town.network.refuse_next("node", "incorrect_or_unknown_payment_details")
    async with town.wallet("buyer") as buyer, town.wallet("node") as node:
        invoice = await node.create_invoice(_request())
        failed = await buyer.pay(_order(invoice))
        assert isinstance(failed, PaymentFailed) and failed.code == 203
        assert isinstance(await buyer.lookup_payment(invoice.payment_hash), PaymentFailed)
        assert isinstance(await buyer.pay(_order(invoice)), PaymentSucceeded)
        assert isinstance(await buyer.pay(_order(invoice)), PaymentSucceeded)
    assert town.balance("node") == 20_000


async def test_fees_beyond_the_limit_and_ones_own_invoices_fail_without_being_sent(town: Town) -> None:
    async with town.wallet("buyer") as buyer, town.wallet("node") as node:
        invoice = await node.create_invoice(_request())
        failed = await buyer.pay(replace(_order(invoice), maximum_fee_msat=AmountMsat(0)))
        assert isinstance(failed, PaymentFailed) and failed.code == 205
        own = await node.pay(_order(invoice))
        assert isinstance(own, PaymentFailed) and own.code == BAD_INVOICE


@pytest.mark.parametrize("lost", ["lose_answers", "lose_requests"])
async def test_an_invoice_whose_answer_was_lost_is_the_same_one_when_it_is_asked_for_again(
    town: Town, lost: str
) -> None:
    request = _request()
    async with town.wallet("node") as node:
        getattr(town.service.faults, lost)[INVOICES] = 1
        with pytest.raises(LightningError):
            await node.create_invoice(request)
        assert (await node.lookup_invoice(request.label)).status is InvoiceStatus.ABSENT
    async with town.wallet("node") as node:
        issued = await node.create_invoice(request)
        assert issued == await node.create_invoice(request)
        assert (await node.lookup_invoice(request.label)).status is InvoiceStatus.OPEN
    assert len(town.network.simulation.ledger.invoices["node"]) == 1


async def test_a_preimage_of_our_own_goes_to_lnd_whole_and_is_not_kept(town: Town) -> None:
    preimage = bytes(range(224, 256))  # its base64 has characters that a URL has not
    assert set(base64.b64encode(preimage)) & set(b"+/")
    async with town.wallet("node") as node:
        issued = await node.create_invoice(_request(preimage))
        assert issued.payment_hash == hashlib.sha256(preimage).hexdigest()
        assert (await node.lookup_invoice(issued.label)).status is InvoiceStatus.OPEN
    with closing(sqlite3.connect(town.directory / "node.book")) as book:
        assert book.execute("SELECT preimage FROM invoice").fetchall() == [(None,)]


@pytest.mark.parametrize(("kinds", "wanted"), [([True, True], True), ([True, False], False), ([], False)])
async def test_an_invoice_shows_the_way_in_where_all_channels_are_private(
    town: Town, monkeypatch: pytest.MonkeyPatch, kinds: list[bool], wanted: bool
) -> None:
    asked: list[bool] = []
    add_invoice = lnd_commands._add_invoice

    def note(simulation: Any, node: Any, given: Any, now_ms: int) -> Any:
        asked.append(given["private"])
        return add_invoice(simulation, node, given, now_ms)

    monkeypatch.setattr(lnd_commands, "_add_invoice", note)
    monkeypatch.setattr(lnd_commands, "describe_channels", lambda *_: {"channels": [{"private": k} for k in kinds]})
    async with town.wallet("node") as node:
        await node.create_invoice(_request())
        monkeypatch.setattr(lnd_commands, "describe_channels", lambda *_: {"channels": [{"private": True}]})
        await node.create_invoice(_request())
    assert asked == [wanted, wanted or not kinds], "the first channel decides, once there is one"


async def test_an_invoice_that_lnd_has_forgotten_is_over_or_absent_and_nobody_waits_for_it(town: Town) -> None:
    async with town.wallet("node") as node:
        issued = await node.create_invoice(_request())
        _forget(town, issued)
        with anyio.fail_after(10):
            assert (await node.wait_invoice(issued.label)).status is InvoiceStatus.ABSENT
        town.clock.ahead_ms = 601_000
        assert (await node.wait_invoice(issued.label)).status is InvoiceStatus.EXPIRED


async def test_a_wait_outlives_a_restart_of_the_node(town: Town) -> None:
    async with town.wallet("buyer") as buyer, town.wallet("node") as node:
        issued = await node.create_invoice(_request())
        states = []

        async def wait() -> None:
            states.append(await node.wait_invoice(issued.label))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                town.network.kill_node("node")
                await anyio.wait_all_tasks_blocked()
                town.network.restart_node("node")
                assert isinstance(await buyer.pay(_order(issued)), PaymentSucceeded)
        assert states[0].status is InvoiceStatus.PAID


async def test_who_cannot_be_reached_or_does_not_let_us_in_was_not_asked(town: Town, tmp_path: Path) -> None:
    async with town.wallet("node") as node:
        invoice = await node.create_invoice(_request())
    port = town.service.url.rpartition(":")[2]
    other = ssl.PEM_cert_to_DER_cert(_another_certificate(tmp_path))
    for changes, word in (
        ({"address": "127.0.0.1:1"}, "cannot be reached"),
        ({"macaroon": b"another"}, "verification failed"),
        ({"certificate": other}, "certificate is not the one"),
        ({"address": f"127.0.0.2:{port}"}, "cannot be reached"),
    ):
        async with town.wallet("buyer", **changes) as buyer:
            with pytest.raises(LightningError, match=word):
                await buyer.info()
            outcome = await buyer.pay(_order(invoice))
            assert isinstance(outcome, PaymentFailed) and outcome.code == NOT_SENT and word in outcome.reason
    async with town.wallet("buyer") as buyer:
        assert isinstance(await buyer.pay(_order(invoice)), PaymentSucceeded)


async def test_no_secret_is_shown(town: Town) -> None:
    connection = load_lnd_connection(town.service.connections["buyer"])
    shown = repr(connection)
    assert "macaroon" not in shown and "simulated" not in shown and connection.address in shown


def _forget(town: Town, issued: Invoice) -> None:
    """As LND does with what has expired, where it is set to."""

    def work(simulation: Any, _now_ms: int) -> None:
        simulation.ledger.remove(simulation.ledger.invoice_with_hash("node", issued.payment_hash))

    town.network.change(work)


def _another_certificate(directory: Path) -> str:
    from tests.adapters.certificates import make_tls

    make_tls(directory, "localhost")
    return (directory / "certificate.pem").read_text()
