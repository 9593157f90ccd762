"""The node's wallet, asked for a job: whatever it answers or does not answer, the job hears of it."""

import anyio
import pytest

from relaymesh.machines.settlement import CreateInvoice, InvoiceFailed
from relaymesh.ports.lightning import Invoice, InvoiceRequest, InvoiceState
from relaymesh.roles.node_invoices import NodeInvoices
from relaymesh.units import AmountMsat

pytestmark = pytest.mark.anyio


class SilentWallet:
    """Is asked, and never answers."""

    async def create_invoice(self, request: InvoiceRequest) -> Invoice:
        await anyio.Event().wait()
        raise AssertionError(request.label)

    async def lookup_invoice(self, label: str) -> InvoiceState:
        await anyio.Event().wait()
        raise AssertionError(label)

    async def wait_invoice(self, label: str) -> InvoiceState:
        return await self.lookup_invoice(label)


async def test_a_wallet_that_says_nothing_for_as_long_as_an_invoice_lives_has_issued_none() -> None:
    told: list[object] = []
    invoices = NodeInvoices(SilentWallet(), told.append)
    with anyio.fail_after(20):
        await invoices.work(CreateInvoice(0, "label", AmountMsat(5), "RelayMesh job", 0))
    assert told == [InvoiceFailed(0, "the wallet said nothing in 0 s")]
