"""The Core Lightning adapter, against what a real node answered: invoices, identity, waits and broken connections."""

import gc
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog

from relaymesh.adapters.core_lightning import CoreLightningWallet
from relaymesh.errors import LightningError
from relaymesh.ports.lightning import InvoiceRequest, InvoiceState, InvoiceStatus, WalletInfo
from relaymesh.units import AmountMsat
from tests.adapters.replayed_node import CLOSE, HANG, recorded, replay, response_of

pytestmark = pytest.mark.anyio

PAID = InvoiceState(InvoiceStatus.PAID, AmountMsat(100_000))
EXPIRED = InvoiceState(InvoiceStatus.EXPIRED, AmountMsat(0))


def _invoice_request(name: str = "invoice") -> InvoiceRequest:
    """What the recorded request asked for."""
    given = recorded()[name]["request"]["params"]
    preimage = bytes.fromhex(given["preimage"]) if "preimage" in given else None
    return InvoiceRequest(given["label"], given["amount_msat"], given["description"], given.get("expiry", 60), preimage)


def _all_that_is_told(error: BaseException) -> str:
    """The words of an exception and of all that led to it."""
    told: list[str] = []
    reason: BaseException | None = error
    while reason is not None:
        told.append(str(reason))
        reason = reason.__cause__ or reason.__context__
    return " ".join(told)


async def test_an_invoice_is_asked_for_with_preimage_and_expiry(tmp_path: Path) -> None:
    request = _invoice_request()
    async with replay(tmp_path, invoice=[response_of("invoice")]) as node:
        invoice = await CoreLightningWallet(node.rpc_path).create_invoice(request)
    result = response_of("invoice")["result"]
    assert (invoice.bolt11, invoice.payment_hash) == (result["bolt11"], result["payment_hash"])
    assert (invoice.label, invoice.amount_msat, invoice.expires_at) == ("rec-1", 100_000, result["expires_at"])
    assert node.calls("invoice") == [recorded()["invoice"]["request"]["params"]]


async def test_an_expiry_is_always_set_and_a_preimage_only_where_chosen(tmp_path: Path) -> None:
    async with replay(tmp_path, invoice=[response_of("invoice")]) as node:
        await CoreLightningWallet(node.rpc_path).create_invoice(replace(_invoice_request(), preimage=None))
    (sent,) = node.calls("invoice")
    assert sent["expiry"] == 3600
    assert "preimage" not in sent


@pytest.mark.parametrize("refusal", ["invoice_error_label_exists", "invoice_error_preimage_exists"])
async def test_an_invoice_issued_before_is_looked_up_and_compared(tmp_path: Path, refusal: str) -> None:
    request = _invoice_request()
    scripts = {"invoice": [response_of(refusal)], "listinvoices": [response_of("listinvoices_unpaid")]}
    async with replay(tmp_path, **scripts) as node:
        wallet = CoreLightningWallet(node.rpc_path)
        assert (await wallet.create_invoice(request)).bolt11 == response_of("invoice")["result"]["bolt11"]
        for other in (
            replace(request, amount_msat=AmountMsat(1)),
            replace(request, description="other"),
            replace(request, preimage=b"1" * 32),
        ):
            with pytest.raises(LightningError, match="taken by a different invoice"):
                await wallet.create_invoice(other)


@pytest.mark.parametrize(
    ("refusal", "is_retryable"), [("invoice_error_label_exists", True), ("invoice_error_preimage_exists", False)]
)
async def test_what_is_in_use_under_no_label_of_ours_is_an_error(
    tmp_path: Path, refusal: str, is_retryable: bool
) -> None:
    scripts = {"invoice": [response_of(refusal)], "listinvoices": [response_of("listinvoices_none")]}
    async with replay(tmp_path, **scripts) as node:
        with pytest.raises(LightningError) as raised:
            await CoreLightningWallet(node.rpc_path).create_invoice(_invoice_request())
    assert raised.value.retryable is is_retryable


REFUSED_INVOICES = [
    "invoice_description_long",
    *(name for name in recorded() if name.startswith("invoice_error") and name != "invoice_error_label_exists"),
]


@pytest.mark.parametrize("name", REFUSED_INVOICES)
async def test_a_refused_invoice_is_an_error_that_never_tells_the_preimage(tmp_path: Path, name: str) -> None:
    request = replace(_invoice_request(), preimage=bytes.fromhex("ab" * 32))
    refusal = json.loads(json.dumps(response_of(name)).replace("abcd", "ab" * 32))
    async with replay(tmp_path, invoice=[refusal], listinvoices=[response_of("listinvoices_none")]) as node:
        with pytest.raises(LightningError) as raised:
            await CoreLightningWallet(node.rpc_path).create_invoice(request)
    assert not raised.value.retryable
    assert "abab" not in _all_that_is_told(raised.value)


async def test_an_invoice_for_another_preimage_than_asked_is_refused(tmp_path: Path) -> None:
    async with replay(tmp_path, invoice=[response_of("invoice")]) as node:
        with pytest.raises(LightningError, match="another preimage"):
            await CoreLightningWallet(node.rpc_path).create_invoice(replace(_invoice_request(), preimage=b"1" * 32))


async def test_a_lack_of_inbound_capacity_is_told_once_and_until_it_is_over(tmp_path: Path) -> None:
    request = replace(_invoice_request("invoice_too_much_inbound"), amount_msat=AmountMsat(90_000_000_000))
    answers = [response_of(name) for name in ("invoice_too_much_inbound", "invoice_too_much_inbound", "invoice")]
    with structlog.testing.capture_logs() as logs:
        async with replay(tmp_path, invoice=answers) as node:
            wallet = CoreLightningWallet(node.rpc_path)
            for expected in (True, True, False):
                await wallet.create_invoice(request)
                assert (wallet.inbound_warning is not None) is expected
    assert [(entry["log_level"], entry["event"]) for entry in logs] == [
        ("warning", "lightning_inbound_capacity_short"),
        ("info", "lightning_inbound_capacity_enough"),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("listinvoices_unpaid", InvoiceState(InvoiceStatus.OPEN, AmountMsat(0))),
        ("listinvoices_paid", PAID),
        ("listinvoices_expired", EXPIRED),
        ("listinvoices_none", InvoiceState(InvoiceStatus.ABSENT, AmountMsat(0))),
    ],
)
async def test_an_invoice_stands_where_the_node_says(tmp_path: Path, name: str, expected: InvoiceState) -> None:
    async with replay(tmp_path, listinvoices=[response_of(name)]) as node:
        assert await CoreLightningWallet(node.rpc_path).lookup_invoice("rec-1") == expected


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["waitinvoice_paid"], PAID),
        (["waitinvoice_already_paid"], PAID),
        (["waitinvoice_error_expired"], EXPIRED),
        (["waitinvoice_error_expires_meanwhile"], EXPIRED),
        (["waitinvoice_error_unknown"], InvoiceState(InvoiceStatus.ABSENT, AmountMsat(0))),
        (["waitinvoice_node_killed", "waitinvoice_node_stopped", "waitinvoice_paid"], PAID),
    ],
)
async def test_a_wait_ends_as_the_node_says_and_outlives_its_restarts(
    tmp_path: Path, answers: list[str], expected: InvoiceState
) -> None:
    scripts = {
        "waitinvoice": [response_of(name) for name in answers],
        "listinvoices": [response_of("listinvoices_none")],
    }
    async with replay(tmp_path, **scripts) as node:
        with anyio.fail_after(10):
            assert await CoreLightningWallet(node.rpc_path).wait_invoice("rec-1") == expected


async def test_a_wait_survives_a_node_that_is_not_there_yet(tmp_path: Path) -> None:
    wallet = CoreLightningWallet(tmp_path / "lightning-rpc")
    states: list[InvoiceState] = []
    done = anyio.Event()

    async def wait() -> None:
        states.append(await wallet.wait_invoice("rec-1"))
        done.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            async with replay(tmp_path, waitinvoice=[response_of("waitinvoice_paid")]):
                await done.wait()
    assert states == [PAID]


async def test_a_cancelled_wait_hangs_up_at_once(tmp_path: Path) -> None:
    async with replay(tmp_path, waitinvoice=[HANG]) as node, anyio.create_task_group() as tasks:
        tasks.start_soon(CoreLightningWallet(node.rpc_path).wait_invoice, "rec-1")
        await node.asked.wait()
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True), anyio.fail_after(1):
            await node.hung_up.wait()
    assert node.hung_up.is_set()


async def test_the_wallet_is_its_node_and_its_usable_channels(tmp_path: Path) -> None:
    channels = response_of("listpeerchannels")["result"]["channels"]
    closing = {**channels[0], "state": "CLOSINGD_SIGEXCHANGE"}
    reply = {"result": {"channels": [*channels, closing]}}
    async with replay(tmp_path, listpeerchannels=[reply]) as node:
        info = await CoreLightningWallet(node.rpc_path).info()
    (channel,) = channels
    assert info == WalletInfo(
        public_key=response_of("getinfo_alice")["result"]["id"],
        alias="alice",
        network="regtest",
        balance_msat=channel["to_us_msat"],
        spendable_msat=channel["spendable_msat"],
        receivable_msat=channel["receivable_msat"],
    )


async def test_a_node_that_is_not_there_is_a_retryable_error_that_names_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "lightning-rpc"
    with pytest.raises(LightningError, match=str(path)) as raised:
        await CoreLightningWallet(path).info()
    assert raised.value.retryable
    async with replay(tmp_path):
        pass
    assert path.exists()
    with pytest.raises(LightningError, match=str(path)):
        await CoreLightningWallet(path).lookup_invoice("x")


@pytest.mark.parametrize(
    "reply",
    [
        CLOSE,
        {"text": "nonsense\n\n"},
        {"text": "[]\n\n"},
        {"text": '{"id": "another", "result": {}}\n\n'},
        {"text": '{"jsonrpc": "2.0"}\n\n'},
        {"text": "\xff\n\n"},
        {"result": []},
        {"result": {}},
        {"result": {"invoices": {}}},
        {"result": {"invoices": [1]}},
        {"result": {"invoices": [{}]}},
        {"result": {"invoices": [{"status": "stolen"}]}},
        {"result": {"invoices": [{"status": "paid", "amount_received_msat": "some"}]}},
        {"result": {"invoices": [{"status": "paid", "amount_received_msat": -1}]}},
        {"result": {"invoices": [{"status": "paid", "amount_received_msat": True}]}},
        {"result": {"invoices": [{"status": "paid", "amount_received_msat": 99_999.5}]}},
        {"result": {"invoices": [{"status": "paid", "amount_received_msat": float("inf")}]}},
        {"result": {"invoices": [{"status": "paid", "amount_received_msat": float("nan")}]}},
        {"result": {"invoices": [{"status": "paid", "amount_received_msat": 2**53}]}},
        {"result": {"invoices": [{"status": "paid", "amount_received_msat": "9" * 5_000 + "msat"}]}},
        {"error": "text"},
        {"error": {}},
        {"error": {"code": -1, "message": "x" * 10_000}},
    ],
    ids=lambda reply: str(reply)[:80],
)
async def test_whatever_makes_no_sense_is_an_error_and_never_a_guess(tmp_path: Path, reply: dict[str, Any]) -> None:
    async with replay(tmp_path, listinvoices=[reply]) as node:
        with pytest.raises(LightningError) as raised:
            await CoreLightningWallet(node.rpc_path).lookup_invoice("x")
    assert len(str(raised.value)) < 500


async def test_a_connection_is_closed_whatever_came_over_it(tmp_path: Path) -> None:
    async with replay(tmp_path, listinvoices=[{"text": "nonsense\n\n"}]) as node:
        gc.disable()
        try:
            with pytest.raises(LightningError):
                await CoreLightningWallet(node.rpc_path).lookup_invoice("x")
            with anyio.fail_after(2):
                await node.hung_up.wait()
        finally:
            gc.enable()


async def test_amounts_of_older_nodes_are_read_too(tmp_path: Path) -> None:
    reply = {"result": {"invoices": [{"status": "paid", "amount_received_msat": "100000msat"}]}}
    async with replay(tmp_path, listinvoices=[reply]) as node:
        assert await CoreLightningWallet(node.rpc_path).lookup_invoice("x") == PAID


async def test_no_preimage_is_logged_or_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    request = _invoice_request()
    assert request.preimage is not None
    assert hashlib.sha256(request.preimage).hexdigest() == response_of("invoice")["result"]["payment_hash"]
    async with replay(tmp_path, invoice=[CLOSE]) as node:
        with pytest.raises(LightningError) as raised:
            await CoreLightningWallet(node.rpc_path).create_invoice(request)
    assert request.preimage.hex() not in caplog.text + _all_that_is_told(raised.value)


@pytest.mark.parametrize(
    "text", ['[{"payment_preimage": "PREIMAGE"}]', '{"id": "another", "result": "PREIMAGE"}', '"PREIMAGE']
)
async def test_no_preimage_is_told_of_an_answer_that_makes_no_sense(tmp_path: Path, text: str) -> None:
    answer = {"text": text.replace("PREIMAGE", "ab" * 32) + "\n\n"}
    async with replay(tmp_path, listinvoices=[answer]) as node:
        with pytest.raises(LightningError) as raised:
            await CoreLightningWallet(node.rpc_path).lookup_invoice("rec-1")
    assert "abab" not in _all_that_is_told(raised.value)
