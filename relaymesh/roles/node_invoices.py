"""The node's wallet as a job uses it, or a session's account: whoever asks is told the answer."""

from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from relaymesh.errors import LightningError
from relaymesh.machines.settlement import CreateInvoice, InvoiceFailed, InvoiceIssued, InvoiceResolved, WatchInvoice
from relaymesh.ports.lightning import InvoiceIssuer, InvoiceRequest, InvoiceStatus
from relaymesh.units import MILLISECONDS_PER_SECOND


class NodeInvoices:
    """Issues invoices and waits for what becomes of them, for one job or session.

    Args:
        wallet: The node's.
        tell: Hands over what came of it.
    """

    def __init__(
        self, wallet: InvoiceIssuer, tell: Callable[[InvoiceIssued | InvoiceFailed | InvoiceResolved], None]
    ) -> None:
        self._wallet, self._tell = wallet, tell

    def work(self, effect: CreateInvoice | WatchInvoice) -> Coroutine[Any, Any, None]:
        """What is to be done about an effect, in a task of its own."""
        return self._create(effect) if isinstance(effect, CreateInvoice) else self._watch(effect)

    async def _create(self, wanted: CreateInvoice) -> None:
        request = InvoiceRequest(
            wanted.label, wanted.amount_msat, wanted.description, wanted.expiry_seconds, wanted.preimage
        )
        invoice = None
        try:
            with anyio.move_on_after(wanted.expiry_seconds):  # one that takes longer than it would live is of no use
                invoice = await self._wallet.create_invoice(request)
        except LightningError as error:
            self._tell(InvoiceFailed(wanted.tranche, str(error)))
            return
        if invoice is None:
            self._tell(InvoiceFailed(wanted.tranche, f"the wallet said nothing in {wanted.expiry_seconds} s"))
            return
        expires_at_ms = invoice.expires_at * MILLISECONDS_PER_SECOND
        self._tell(InvoiceIssued(wanted.tranche, invoice.bolt11, invoice.payment_hash, expires_at_ms))

    async def _watch(self, watched: WatchInvoice) -> None:
        while True:
            try:
                state = await self._wallet.wait_invoice(watched.label)
            except LightningError:
                await anyio.sleep(1)  # the wallet is away: ask again until the asker's own deadlines end the wait
                continue
            self._tell(InvoiceResolved(watched.tranche, state.status is InvoiceStatus.PAID))
            return
