"""A wallet on Core Lightning's JSON-RPC (pyln-client), for a real node and for the simulated network alike.

RM-03, "Wallets". Issuing and watching invoices is here, paying them in `core_lightning_payments`. Every call can be
repeated, nothing blocks the event loop, and cancelling any wait ends it at once.
"""

import hashlib
from pathlib import Path
from typing import Any, Final

import anyio
import structlog

from relaymesh.adapters.core_lightning_payments import CoreLightningPayer
from relaymesh.adapters.core_lightning_replies import (
    read_invoice,
    read_invoice_state,
    read_msat,
    read_received,
    read_rows,
    read_sent,
    read_text,
)
from relaymesh.adapters.core_lightning_rpc import NodeRefused, NodeRpc, NodeUnreachable
from relaymesh.errors import LightningError
from relaymesh.ports.lightning import (
    Invoice,
    InvoiceRequest,
    InvoiceState,
    InvoiceStatus,
    PaymentLookup,
    PaymentOutcome,
    PaymentRequest,
    Transaction,
    WalletInfo,
)
from relaymesh.units import AmountMsat

_CALL_SECONDS: Final = 30.0
_CALLS_AT_ONCE: Final = 16
_WAITS_AT_ONCE: Final = 128
_WAIT_TURN_SECONDS: Final = 5.0
_SHORTEST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0

_LABEL_TAKEN: Final = 900
_PREIMAGE_TAKEN: Final = 901
_INVOICE_EXPIRED: Final = 903

_log = structlog.get_logger(__name__)


class CoreLightningWallet:
    """Implements `relaymesh.ports.lightning.Wallet` on the JSON-RPC socket of a Core Lightning node.

    Args:
        rpc_path: The socket, `lightning-rpc` in the node's network folder; it need not exist yet.

    Attributes:
        inbound_warning: What the node said of its inbound capacity with the latest invoice; None where it is enough.
            A payer may then be unable to pay, so it is shown to the operator.
    """

    def __init__(self, rpc_path: Path | str) -> None:
        self.inbound_warning: str | None = None
        self._rpc = NodeRpc(Path(rpc_path))
        self._calls = anyio.CapacityLimiter(_CALLS_AT_ONCE)
        self._waits = anyio.CapacityLimiter(_WAITS_AT_ONCE)
        self._payer = CoreLightningPayer(self._rpc, self._calls)

    async def create_invoice(self, request: InvoiceRequest) -> Invoice:
        """As the port says.

        A label in use is looked up and compared. So is one whose preimage is in use, which a node notices first.
        """
        parameters: dict[str, Any] = {
            "amount_msat": int(request.amount_msat),
            "label": request.label,
            "description": request.description,
            "expiry": request.expiry_seconds,
        }
        if request.preimage is not None:
            parameters["preimage"] = request.preimage.hex()
        try:
            reply = await self._call("invoice", parameters)
        except NodeRefused as refused:
            if refused.code not in (_LABEL_TAKEN, _PREIMAGE_TAKEN):
                raise
            issued = await self._find_issued(request)
            if issued is not None:
                return issued
            if refused.code == _PREIMAGE_TAKEN:
                raise LightningError("the preimage belongs to an invoice already, each invoice needs one") from refused
            raise LightningError(
                "the invoice label was taken a moment ago and is now free", retryable=True
            ) from refused
        self._watch_capacity(reply)
        invoice = read_invoice(reply, request.label, request.amount_msat)
        if request.preimage is not None and invoice.payment_hash != hashlib.sha256(request.preimage).hexdigest():
            raise LightningError("the Lightning node issued the invoice for another preimage than the one it was given")
        return invoice

    async def lookup_invoice(self, label: str) -> InvoiceState:
        """As the port says."""
        row = await self._find_row(label)
        return InvoiceState(InvoiceStatus.ABSENT, AmountMsat(0)) if row is None else read_invoice_state(row)

    async def wait_invoice(self, label: str) -> InvoiceState:
        """As the port says; it outlives restarts of the node, so only the caller bounds it.

        It waits in turns, so that more waits than there are threads are all served.
        """
        pause = _SHORTEST_PAUSE_SECONDS
        while True:
            try:
                state = await self._wait_turn(label)
            except NodeUnreachable:
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            except LightningError:
                pause = _SHORTEST_PAUSE_SECONDS
            else:
                if state.status is not InvoiceStatus.OPEN:
                    return state
            await anyio.sleep(pause)

    async def pay(self, request: PaymentRequest) -> PaymentOutcome:
        """As the port says."""
        return await self._payer.pay(request)

    async def lookup_payment(self, payment_hash: str) -> PaymentLookup:
        """As the port says."""
        return await self._payer.lookup_payment(payment_hash)

    async def info(self) -> WalletInfo:
        """As the port says; the balances are those of the channels that can be used now."""
        node = await self._call("getinfo", {})
        channels = [
            channel
            for channel in read_rows(await self._call("listpeerchannels", {}), "channels")
            if channel.get("state") == "CHANNELD_NORMAL"
        ]
        return WalletInfo(
            public_key=read_text(node, "id"),
            alias=str(node.get("alias", "")),
            network=read_text(node, "network"),
            balance_msat=AmountMsat(sum(read_msat(channel, "to_us_msat") for channel in channels)),
            spendable_msat=AmountMsat(sum(read_msat(channel, "spendable_msat") for channel in channels)),
            receivable_msat=AmountMsat(sum(read_msat(channel, "receivable_msat") for channel in channels)),
        )

    async def transactions(self, limit: int) -> tuple[Transaction, ...]:
        """As the port says; the node lists all that it ever issued and paid, so it is for a person who waits for it."""
        invoices = read_rows(await self._call("listinvoices", {}), "invoices")
        pays = read_rows(await self._call("listpays", {}), "pays")
        found = [read_received(row) for row in invoices if row.get("status") == "paid"]
        found += [read_sent(row) for row in pays]
        return tuple(sorted(found, key=lambda each: -each.at)[:limit])

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._rpc.call(method, parameters, self._calls, _CALL_SECONDS)
        except NodeRefused:
            raise
        except LightningError as error:
            raise LightningError(str(error), retryable=True) from error

    async def _wait_turn(self, label: str) -> InvoiceState:
        async with self._waits:
            try:
                reply = await self._rpc.call("waitinvoice", {"label": label}, None, _WAIT_TURN_SECONDS)
            except NodeRefused as refused:
                if refused.code == _INVOICE_EXPIRED:
                    return InvoiceState(InvoiceStatus.EXPIRED, AmountMsat(0))
                return await self.lookup_invoice(label)
        return read_invoice_state(reply)

    async def _find_row(self, label: str) -> dict[str, Any] | None:
        rows = read_rows(await self._call("listinvoices", {"label": label}), "invoices")
        return rows[0] if rows else None

    async def _find_issued(self, request: InvoiceRequest) -> Invoice | None:
        """The invoice that has this label already, if any; LightningError if it is not the one that was asked for."""
        row = await self._find_row(request.label)
        if row is None:
            return None
        invoice = read_invoice(row, request.label, request.amount_msat)
        differs = row.get("description") != request.description or read_msat(row, "amount_msat") != request.amount_msat
        if request.preimage is not None:
            differs = differs or invoice.payment_hash != hashlib.sha256(request.preimage).hexdigest()
        if differs:
            raise LightningError(f"the invoice label {request.label!r} is taken by a different invoice")
        return invoice

    def _watch_capacity(self, reply: dict[str, Any]) -> None:
        """Pass on that payers may have no way in, when that begins and when it ends."""
        warning = reply.get("warning_capacity")
        if warning is not None and self.inbound_warning is None:
            _log.warning("lightning_inbound_capacity_short", node_says=str(warning))
        if warning is None and self.inbound_warning is not None:
            _log.info("lightning_inbound_capacity_enough")
        self.inbound_warning = None if warning is None else str(warning)
