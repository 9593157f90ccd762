"""A payment or a wait that is held for a minute does not hold up Ctrl-C: a real process, a real signal."""

import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest

from relaymesh.adapters.core_lightning import CoreLightningWallet
from relaymesh.lightning_sim import LightningNetwork, NetworkPlan, WalletPlan
from relaymesh.ports.lightning import Invoice, InvoiceRequest, PaymentSucceeded
from relaymesh.units import AmountMsat

pytestmark = pytest.mark.anyio

PROGRAM = """
import sys, anyio
from relaymesh.adapters.core_lightning import CoreLightningWallet
from relaymesh.ports.lightning import PaymentRequest

async def main(payer, payee, label, bolt11, payment_hash):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(CoreLightningWallet(payer).pay, PaymentRequest(bolt11, payment_hash, 10_000, 60_000))
        for _ in range(20):
            tasks.start_soon(CoreLightningWallet(payee).wait_invoice, label)

anyio.run(main, *sys.argv[1:])
"""


@asynccontextmanager
async def _network(directory: Path) -> AsyncIterator[tuple[LightningNetwork, Invoice]]:
    plan = NetworkPlan((WalletPlan("payer", 1_000_000), WalletPlan("payee", 0)), payment_latency_ms=4)
    async with LightningNetwork.start(directory, plan, lambda: time.time_ns() // 1_000_000) as network:
        network.hold_payments("payee")
        wallet = CoreLightningWallet(network.rpc_path("payee"))
        yield network, await wallet.create_invoice(InvoiceRequest("held", AmountMsat(1_000), "held", 600))


async def _is_held(network: LightningNetwork) -> None:
    payer = CoreLightningWallet(network.rpc_path("payer"))
    while (await payer.info()).spendable_msat == 1_000_000:
        await anyio.lowlevel.checkpoint()


async def test_a_held_payment_and_twenty_waits_do_not_hold_up_an_interrupt(tmp_path: Path) -> None:
    async with _network(tmp_path) as (network, invoice):
        paths = [str(network.rpc_path(name)) for name in ("payer", "payee")]
        arguments = [*paths, invoice.label, invoice.bolt11, invoice.payment_hash]
        program = await anyio.open_process(
            [sys.executable, "-c", PROGRAM, *arguments], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        async with program:
            with anyio.fail_after(30):
                await _is_held(network)
            program.send_signal(signal.SIGINT)
            with anyio.fail_after(2):
                await program.wait()
            assert program.returncode != 0
        network.release_payments("payee")
        payer = CoreLightningWallet(network.rpc_path("payer"))
        with anyio.fail_after(10):
            while not isinstance(await payer.lookup_payment(invoice.payment_hash), PaymentSucceeded):
                await anyio.lowlevel.checkpoint()
