"""A wallet on LND's REST interface: a macaroon to be let in, a certificate to know the node by.

RM-03, "Wallets". Issuing and watching invoices is here, paying them in `lnd_payments`, the conversation in `lnd_link`.
LND knows no labels, but an invoice whose preimage is ours is found again by its hash. So every invoice has a preimage
of our own, written into the book under its label before LND hears of it: whatever answer is lost, asking again issues
the same one.
"""

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import anyio

from relaymesh.adapters.background_tasks import BackgroundTasks
from relaymesh.adapters.keyed_locks import KeyedLocks
from relaymesh.adapters.lnd_file import LndConnection
from relaymesh.adapters.lnd_link import NOT_FOUND, LndLink, LndRefused
from relaymesh.adapters.lnd_payments import LndPayer
from relaymesh.adapters.lnd_replies import (
    read_amount,
    read_integer,
    read_invoice_state,
    read_network,
    read_public_key,
    read_received,
    read_rows,
    read_sent,
    read_text,
    read_usable,
)
from relaymesh.adapters.wallet_book import BookedInvoice, WalletBook
from relaymesh.errors import LightningError
from relaymesh.ports.lightning import (
    MAXIMUM_INVOICE_LABEL_BYTES,
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
from relaymesh.units import MILLISECONDS_PER_SECOND, AmountMsat, Moment, Timestamp

_CALL_SECONDS: Final = 20.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
_FORGETTING_SECONDS: Final = 2.0
_PAGE: Final = 100
_MOST_PAGES: Final = 20
_PREIMAGE_BYTES: Final = 32
_ABSENT: Final = InvoiceState(InvoiceStatus.ABSENT, AmountMsat(0))


class LndWallet:
    """Implements `relaymesh.ports.lightning.Wallet` over LND's REST interface; `open` makes one."""

    def __init__(self, link: LndLink, book: WalletBook, clock: Callable[[], Moment], payer: LndPayer) -> None:
        self._link = link
        self._book = book
        self._clock = clock
        self._payer = payer
        self._creating = KeyedLocks()
        self._is_private: bool | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, connection: LndConnection, book_path: Path, clock: Callable[[], Moment]) -> AsyncIterator[Self]:
        """The wallet, while the block lasts.

        Args:
            connection: Where LND is, and what lets us in.
            book_path: Where labels and payments are remembered, one file for each connection.
            clock: What time it is.

        Raises:
            LedgerError: The book cannot be used.
        """
        address = connection.address.encode()
        async with (
            WalletBook.open(book_path, connection.macaroon, address, clock().timestamp) as book,
            LndLink.open(connection) as link,
            BackgroundTasks() as tasks,
        ):
            yield cls(link, book, clock, LndPayer(link, book, clock, tasks))

    async def create_invoice(self, request: InvoiceRequest) -> Invoice:
        """As the port says."""
        if len(request.label.encode()) > MAXIMUM_INVOICE_LABEL_BYTES:
            raise LightningError(f"an invoice's label must have at most {MAXIMUM_INVOICE_LABEL_BYTES} bytes")
        async with self._creating.hold(request.label):
            known = await self._book.find(request.label)
            if known is None:
                known = await self._begin(request)
            else:
                known.check_is_same(request)
            if not known.bolt11:
                known = await self._finish(known, request)
            return known.as_invoice()

    async def lookup_invoice(self, label: str) -> InvoiceState:
        """As the port says."""
        booked = await self._book.find(label)
        return _ABSENT if booked is None or not booked.bolt11 else await self._look(booked)

    async def wait_invoice(self, label: str) -> InvoiceState:
        """As the port says; it outlives restarts of LND, so only the caller bounds it."""
        booked = await self._book.find(label)
        if booked is None or not booked.bolt11:
            return _ABSENT
        pause = _FIRST_PAUSE_SECONDS
        while True:
            state = await self._look_if_possible(booked)
            if state.status is InvoiceStatus.OPEN:
                state = await self._hear(booked)
            if state.status is not InvoiceStatus.OPEN:
                return state
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def pay(self, request: PaymentRequest) -> PaymentOutcome:
        """As the port says."""
        return await self._payer.pay(request)

    async def lookup_payment(self, payment_hash: str) -> PaymentLookup:
        """As the port says."""
        return await self._payer.lookup_payment(payment_hash)

    async def info(self) -> WalletInfo:
        """As the port says; what can be sent and received is that of the channels that are active now."""
        node = await self._link.call("GET", "/v1/getinfo", _CALL_SECONDS)
        balance = await self._link.call("GET", "/v1/balance/channels", _CALL_SECONDS)
        found = await self._link.call("GET", "/v1/channels", _CALL_SECONDS, query={"active_only": "true"})
        channels = read_rows(found, "channels")
        balance_msat = read_amount(balance, "local_balance")
        return WalletInfo(
            public_key=read_public_key(node),
            alias=str(node.get("alias") or ""),
            network=read_network(node),
            balance_msat=balance_msat,
            spendable_msat=AmountMsat(min(balance_msat, sum(read_usable(each, "local") for each in channels))),
            receivable_msat=AmountMsat(sum(read_usable(each, "remote") for each in channels)),
        )

    async def transactions(self, limit: int) -> tuple[Transaction, ...]:
        """As the port says; unpaid invoices are looked past, as far as some thousands of them."""
        query = {"include_incomplete": "true", "reversed": "true", "max_payments": str(limit), "omit_hops": "true"}
        payments = await self._link.call("GET", "/v1/payments", _CALL_SECONDS, query=query)
        found = list(read_sent(read_rows(payments, "payments")))
        received: list[Transaction] = []
        offset = 0
        for _ in range(_MOST_PAGES):
            query = {"reversed": "true", "num_max_invoices": str(_PAGE), "index_offset": str(offset)}
            page = await self._link.call("GET", "/v1/invoices", _CALL_SECONDS, query=query)
            rows = read_rows(page, "invoices")
            received += read_received(rows)
            offset = read_integer(page, "first_index_offset")
            if len(received) >= limit or len(rows) < _PAGE or offset <= 1:
                break
        return tuple(sorted(found + received, key=lambda each: -each.at)[:limit])

    # ── invoices ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _begin(self, request: InvoiceRequest) -> BookedInvoice:
        """Write down label and preimage before LND hears of either."""
        preimage = request.preimage or secrets.token_bytes(_PREIMAGE_BYTES)
        payment_hash = hashlib.sha256(preimage).hexdigest()
        until = Timestamp(self._clock().timestamp + request.expiry_seconds)
        booked = BookedInvoice(
            request.label, payment_hash, request.amount_msat, request.description, "", until, preimage
        )
        await self._book.put(booked)
        return booked

    async def _finish(self, booked: BookedInvoice, request: InvoiceRequest) -> BookedInvoice:
        """Let LND issue it, check what it says, and write it down; LND keeps the preimage from now on."""
        assert booked.preimage is not None
        body = {
            "memo": request.description,
            "r_preimage": _encode(booked.preimage),
            "value_msat": str(int(request.amount_msat)),
            "expiry": str(request.expiry_seconds),
            "private": await self._is_reached_privately(),
        }
        try:
            reply = await self._link.call("POST", "/v1/invoices", _CALL_SECONDS, body)
        except LndRefused as refused:  # maybe because it has the invoice
            try:
                reply = await self._find(booked)
            except LightningError:
                raise refused from None
        finished = await booked.issued_as(read_text(reply, "payment_request"))
        finished = replace(finished, preimage=None)
        await self._book.put(finished)
        return finished

    async def _is_reached_privately(self) -> bool:
        """Whether all channels are private: then an invoice has to show the way in. Asked anew until there is one."""
        if self._is_private is None:
            channels = read_rows(await self._link.call("GET", "/v1/channels", _CALL_SECONDS), "channels")
            if not channels:
                return False
            self._is_private = all(channel.get("private") is True for channel in channels)
        return self._is_private

    async def _find(self, booked: BookedInvoice) -> dict[str, object]:
        return await self._link.call("GET", f"/v1/invoice/{booked.payment_hash}", _CALL_SECONDS)

    async def _look(self, booked: BookedInvoice) -> InvoiceState:
        """Where it stands; LND may be set to forget what has expired."""
        try:
            return read_invoice_state(await self._find(booked))
        except LndRefused as refused:
            if refused.code != NOT_FOUND:
                raise
        is_over = self._clock().timestamp >= booked.expires_at
        return InvoiceState(InvoiceStatus.EXPIRED, AmountMsat(0)) if is_over else _ABSENT

    async def _hear(self, booked: BookedInvoice) -> InvoiceState:
        """Listen until LND says that it is paid or expired, or somewhat longer than it can be paid.

        LND says nothing at all of an invoice that it does not know, or has forgotten since it was looked up.
        """
        path = f"/v2/invoices/subscribe/{_encode(bytes.fromhex(booked.payment_hash), is_url=True)}"
        left = booked.expires_at - self._clock().unix_ms / MILLISECONDS_PER_SECOND
        try:
            with anyio.move_on_after(max(left, 0) + _FORGETTING_SECONDS):
                async with self._link.stream("GET", path) as results:
                    async for invoice in results:
                        state = read_invoice_state(invoice)
                        if state.status is not InvoiceStatus.OPEN:
                            return state
        except LightningError:
            pass  # it is away, and will be back
        return InvoiceState(InvoiceStatus.OPEN, AmountMsat(0))

    async def _look_if_possible(self, booked: BookedInvoice) -> InvoiceState:
        try:
            return await self._look(booked)
        except LightningError:
            return InvoiceState(InvoiceStatus.OPEN, AmountMsat(0))


def _encode(data: bytes, *, is_url: bool = False) -> str:
    """Bytes as LND's REST interface wants them, in a body or in a path."""
    return (base64.urlsafe_b64encode(data) if is_url else base64.b64encode(data)).decode()
