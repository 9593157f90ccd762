"""The network's sockets and file: private, one per node, and nothing acknowledged is ever lost."""

import json
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from relaymesh.adapters.core_lightning import CoreLightningWallet
from relaymesh.errors import LedgerError, LightningError, UsageError
from relaymesh.lightning_sim import LightningNetwork, NetworkPlan, WalletPlan
from relaymesh.lightning_sim.__main__ import read_arguments
from relaymesh.ports.lightning import (
    Invoice,
    InvoiceRequest,
    InvoiceStatus,
    PaymentFailed,
    PaymentOutcome,
    PaymentRequest,
    PaymentSucceeded,
    PaymentUnknown,
)
from relaymesh.units import AmountMsat

pytestmark = pytest.mark.anyio

PLAN = NetworkPlan((WalletPlan("alice", 1_000_000), WalletPlan("bob", 0)), payment_latency_ms=4)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def _start(directory: Path, plan: NetworkPlan = PLAN) -> AsyncIterator[LightningNetwork]:
    async with LightningNetwork.start(directory, plan, _now_ms) as network:
        yield network


def _wallets(network: LightningNetwork) -> tuple[CoreLightningWallet, CoreLightningWallet]:
    return CoreLightningWallet(network.rpc_path("alice")), CoreLightningWallet(network.rpc_path("bob"))


async def _issue(payee: CoreLightningWallet, label: str = "one") -> Invoice:
    return await payee.create_invoice(InvoiceRequest(label, AmountMsat(100_000), "d", 600))


def _order(invoice: Invoice, deadline_ms: int = 10_000) -> PaymentRequest:
    return PaymentRequest(invoice.bolt11, invoice.payment_hash, AmountMsat(1_000), deadline_ms)


async def _until_paid(payer: CoreLightningWallet, invoice: Invoice) -> PaymentSucceeded:
    with anyio.fail_after(20):
        while True:
            found = await payer.lookup_payment(invoice.payment_hash)
            if isinstance(found, PaymentSucceeded):
                return found


async def test_folders_and_sockets_are_their_owners_alone(tmp_path: Path) -> None:
    async with _start(tmp_path / "new") as network:
        for name in ("alice", "bob", "hub"):
            path = network.rpc_path(name)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(network.directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((network.directory / "network.sqlite3").stat().st_mode) == 0o600
    assert not any(network.rpc_path(name).exists() for name in ("alice", "bob", "hub"))


async def test_one_connection_may_ask_many_things_at_once(tmp_path: Path) -> None:
    async with _start(tmp_path) as network, await anyio.connect_unix(network.rpc_path("bob")) as stream:
        waiting = {"jsonrpc": "2.0", "id": "wait", "method": "waitanyinvoice", "params": {"timeout": 60}}
        asking = [{"jsonrpc": "2.0", "id": number, "method": "getinfo", "params": {}} for number in range(3)]
        await stream.send(json.dumps(waiting).encode() + b"\n\n".join(json.dumps(one).encode() for one in asking))
        received = b""
        with anyio.fail_after(5):
            while received.count(b"\n\n") < 3:
                received += await stream.receive()
        replies = [json.loads(part) for part in received.split(b"\n\n") if part]
        assert sorted(reply["id"] for reply in replies) == [0, 1, 2]


async def test_a_broken_request_ends_its_connection_and_nothing_else(tmp_path: Path) -> None:
    async with _start(tmp_path) as network:
        async with await anyio.connect_unix(network.rpc_path("bob")) as stream:
            await stream.send(b"rubbish")
            with anyio.fail_after(5):
                assert json.loads(await stream.receive())["error"]["code"] == -32600
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
        await _wallets(network)[1].info()


async def test_a_client_that_goes_away_in_mid_wait_harms_nobody(tmp_path: Path) -> None:
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "getinfo", "params": {}}).encode()
    async with _start(tmp_path) as network:
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(network.rpc_path("bob")))
                client.sendall(200 * request)
        assert (await _wallets(network)[1].info()).alias == "bob"


async def test_a_killed_node_leaves_payments_pending_until_it_is_back(tmp_path: Path) -> None:
    async with _start(tmp_path) as network:
        payer, payee = _wallets(network)
        invoice = await _issue(payee)
        network.hold_payments("bob")
        outcomes: list[PaymentOutcome] = []

        async def pay() -> None:
            outcomes.append(await payer.pay(_order(invoice)))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pay)
                while (await payer.info()).spendable_msat == 1_000_000:
                    await anyio.lowlevel.checkpoint()
                network.kill_node("alice")
            assert [type(outcome) for outcome in outcomes] == [PaymentUnknown]
            with pytest.raises(LightningError):
                await payer.info()
            network.restart_node("alice")
            assert isinstance(await payer.lookup_payment(invoice.payment_hash), PaymentUnknown)
        network.release_payments("bob")
        assert (await _until_paid(payer, invoice)).fee_msat == 2


async def test_a_payee_that_was_briefly_down_can_be_paid_again_at_once(tmp_path: Path) -> None:
    async with _start(tmp_path) as network:
        payer, payee = _wallets(network)
        invoice = await _issue(payee)
        network.kill_node("bob")
        first = await payer.pay(_order(invoice))
        assert isinstance(first, PaymentFailed)
        assert first.code == 209
        network.restart_node("bob")
        assert isinstance(await payer.pay(_order(invoice)), PaymentSucceeded)


async def test_a_hop_that_fails_once_fails_the_payment(tmp_path: Path) -> None:
    async with _start(tmp_path) as network:
        payer, payee = _wallets(network)
        invoice = await _issue(payee)
        network.refuse_next("bob", "temporary_node_failure")
        assert isinstance(await payer.pay(_order(invoice)), PaymentFailed)
        assert isinstance(await payer.pay(_order(invoice)), PaymentSucceeded)


async def test_a_network_goes_on_where_it_ended_and_takes_new_wallets_in(tmp_path: Path) -> None:
    async with _start(tmp_path) as network:
        payer, payee = _wallets(network)
        before = await payer.info(), await payee.info()
        invoice = await _issue(payee)
        open_invoice = await _issue(payee, "two")
        paid = await payer.pay(_order(invoice))
    wallets = (WalletPlan("alice", 77), WalletPlan("carol", 5))
    async with _start(tmp_path, NetworkPlan(wallets, payment_latency_ms=4)) as network:
        payer, payee = _wallets(network)
        after = await payer.info(), await payee.info()
        assert [info.public_key for info in after] == [info.public_key for info in before]
        assert [info.balance_msat for info in after] == [1_000_000 - 100_002, 100_000]
        assert await payer.lookup_payment(invoice.payment_hash) == paid
        assert (await payee.lookup_invoice("one")).status is InvoiceStatus.PAID
        assert isinstance(await payer.pay(_order(open_invoice)), PaymentSucceeded)
        assert (await CoreLightningWallet(network.rpc_path("carol")).info()).balance_msat == 5


async def test_a_deleted_invoice_stays_deleted(tmp_path: Path) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "delinvoice", "params": {"label": "one", "status": "unpaid"}}
    async with _start(tmp_path) as network:
        await _issue(_wallets(network)[1])
        async with await anyio.connect_unix(network.rpc_path("bob")) as stream:
            await stream.send(json.dumps(request).encode())
            assert json.loads(await stream.receive())["result"]["label"] == "one"
    async with _start(tmp_path) as network:
        assert (await _wallets(network)[1].lookup_invoice("one")).status is InvoiceStatus.ABSENT


async def test_a_folder_serves_one_network_at_a_time(tmp_path: Path) -> None:
    async with _start(tmp_path):
        with pytest.raises(UsageError, match=r"runs in .* already"):
            async with _start(tmp_path):
                pass


async def test_a_folder_with_too_long_a_name_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with _start(tmp_path / ("x" * 100)):
            pass
    assert raised.group_contains(UsageError, match="use a shorter one")


@pytest.mark.parametrize("damage", ["not a database", "another version", "a strange record"])
async def test_a_damaged_file_is_refused_in_a_sentence(tmp_path: Path, damage: str) -> None:
    async with _start(tmp_path):
        pass
    path = tmp_path / "network.sqlite3"
    if damage == "not a database":
        path.write_bytes(b"x" * 8192)
    else:
        database = sqlite3.connect(path)
        statement = {
            "another version": "PRAGMA user_version = 9",
            "a strange record": "INSERT INTO records VALUES ('NodeRecord', 'x', '{}')",
        }[damage]
        with database:
            database.execute(statement)
        database.close()
    with pytest.raises(LedgerError, match=r"network\.sqlite3"):
        async with _start(tmp_path):
            pass


async def _run_process(directory: Path, *more: str) -> anyio.abc.Process:
    arguments = [sys.executable, "-m", "relaymesh.lightning_sim", "--directory", str(directory)]
    wallets = ["--wallet", "alice=1000000", "--wallet", "bob=0", "--payment-latency-ms", "4"]
    return await anyio.open_process([*arguments, *wallets, *more], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def _ready_line(process: anyio.abc.Process) -> dict[str, Any]:
    received = b""
    with anyio.fail_after(30):
        assert process.stdout is not None
        while not received.endswith(b"\n"):
            received += await process.stdout.receive()
    line: dict[str, Any] = json.loads(received)
    return line


async def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    async with await _run_process(tmp_path, "--hold", "bob=1") as process:
        paths = (await _ready_line(process))["wallets"]
        payer, payee = (CoreLightningWallet(paths[name]["rpc_path"]) for name in ("alice", "bob"))
        invoice = await _issue(payee)
        with anyio.move_on_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(payer.pay, _order(invoice))
                while (await payer.info()).spendable_msat == 1_000_000:
                    await anyio.lowlevel.checkpoint()
                process.kill()
                tasks.cancel_scope.cancel()
        await process.wait()
    assert Path(paths["alice"]["rpc_path"]).exists(), "what a killed process leaves behind"
    async with await _run_process(tmp_path) as process:
        assert (await _ready_line(process))["wallets"]["alice"]["rpc_path"] == paths["alice"]["rpc_path"]
        assert (await _until_paid(CoreLightningWallet(paths["alice"]["rpc_path"]), invoice)).amount_msat == 100_000
        assert (await payee.info()).balance_msat == 100_000
        process.send_signal(signal.SIGINT)
        with anyio.fail_after(2):
            assert await process.wait() == 0
    assert not Path(paths["alice"]["rpc_path"]).exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--wallet", "carol"], "--wallet NAME=MSAT was expected"),
        (["--hold", "carol=1"], "'carol' is none"),
        (["--fee-base-msat", "-1"], r"from 0 to 2\^53"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_a_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        read_arguments(["--directory", "somewhere", *arguments])[1].check()


def test_the_command_tells_a_person_what_is_wrong_without_a_traceback(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "relaymesh.lightning_sim",
        "--directory",
        str(tmp_path / "new"),
        "--wallet",
        "hub=1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "a wallet's name must be" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
