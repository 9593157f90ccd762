"""A wallet behind a Nostr Wallet Connect service, for any wallet that speaks NIP-47 with NIP-44.

RM-03, "Wallets". Issuing and watching invoices is here, paying them in `wallet_connect_payments`, the conversation in
`wallet_connect_link`. A service knows no labels: the book keeps what each label means, so that the same label is the
same invoice whatever answer was lost. A preimage of our own makes a hold invoice, settled as soon as the wallet says
that the payment is there; the wallet must be connected then, and lets the payment go back if it is not.
"""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import anyio

from relaymesh.adapters.keyed_locks import KeyedLocks
from relaymesh.adapters.wallet_book import BookedInvoice, WalletBook
from relaymesh.adapters.wallet_connect_file import WalletConnection
from relaymesh.adapters.wallet_connect_link import WalletLink, WalletRefused
from relaymesh.adapters.wallet_connect_payments import WalletConnectPayer
from relaymesh.adapters.wallet_connect_replies import (
    read_integer,
    read_invoice_state,
    read_network,
    read_public_key,
    read_text,
    read_transaction,
)
from relaymesh.errors import LightningError, PortError
from relaymesh.nostr.wallet_connect import (
    GET_BALANCE,
    GET_INFO,
    HOLD_INVOICE_ACCEPTED,
    LIST_TRANSACTIONS,
    LOOKUP_INVOICE,
    MAKE_HOLD_INVOICE,
    MAKE_INVOICE,
    NOT_FOUND,
    SETTLE_HOLD_INVOICE,
    WalletNotification,
)
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
from relaymesh.ports.relays import Relays
from relaymesh.units import MILLISECONDS_PER_SECOND, AmountMsat, Moment, Timestamp

_CALL_SECONDS: Final = 20.0
_PAGE: Final = 20
_MAXIMUM_WAITED_FOR: Final = 1_024
_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 10.0
_HELD_PAUSE_SECONDS: Final = 5.0
_EXPIRY_PAUSE_SECONDS: Final = 0.05


class WalletConnectWallet:
    """Implements `relaymesh.ports.lightning.Wallet` over a wallet connection; `open` makes one."""

    def __init__(
        self, connection: WalletConnection, relays: Relays, book: WalletBook, clock: Callable[[], Moment]
    ) -> None:
        self._book = book
        self._clock = clock
        self._link = WalletLink(connection, relays, clock, self._hear)
        self._payer = WalletConnectPayer(self._link, book, clock)
        self._creating = KeyedLocks()
        self._paid: dict[str, anyio.Event] = {}
        self._accepted: set[str] = set()
        self._is_accepted = anyio.Event()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, connection: WalletConnection, relays: Relays, book_path: Path, clock: Callable[[], Moment]
    ) -> AsyncIterator[Self]:
        """The wallet, while the block lasts.

        Args:
            connection: What the connection string says.
            relays: Connected to the connection's relays while the block lasts.
            book_path: Where labels and payments are remembered, one file for each connection.
            clock: What time it is.

        Raises:
            LedgerError: The book cannot be used.
        """
        async with WalletBook.open(book_path, *_book_of(connection), clock().timestamp) as book:
            wallet = cls(connection, relays, book, clock)
            async with wallet._link:
                wallet._link.start_soon(wallet._settle_what_is_held)
                yield wallet

    async def create_invoice(self, request: InvoiceRequest) -> Invoice:
        """As the port says.

        An invoice whose answer was lost is one that nobody was told of: another one in its place does no harm. With a
        preimage of our own it is found again by its hash.
        """
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
        if booked is None or not booked.bolt11:
            return InvoiceState(InvoiceStatus.ABSENT, AmountMsat(0))
        return await self._look(booked)

    async def wait_invoice(self, label: str) -> InvoiceState:
        """As the port says; it outlives restarts of the wallet, so only the caller bounds it."""
        booked = await self._book.find(label)
        if booked is None or not booked.bolt11:
            return InvoiceState(InvoiceStatus.ABSENT, AmountMsat(0))
        pause = _FIRST_PAUSE_SECONDS
        while True:
            paid = self._paid.setdefault(booked.payment_hash, anyio.Event())
            if len(self._paid) > _MAXIMUM_WAITED_FOR:  # whoever waits for the oldest just looks again
                self._wake(next(iter(self._paid)))
            try:
                state = await self._look(booked)
            except LightningError:
                pass
            else:
                if state.status is not InvoiceStatus.OPEN:
                    self._wake(booked.payment_hash)
                    return state
            left = booked.expires_at - self._clock().unix_ms / MILLISECONDS_PER_SECOND
            with anyio.move_on_after(min(pause, left + _EXPIRY_PAUSE_SECONDS) if left > 0 else pause):
                await paid.wait()
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def pay(self, request: PaymentRequest) -> PaymentOutcome:
        """As the port says; the fee is limited by the wallet's own limit only, since NIP-47 has no word for one."""
        return await self._payer.pay(request)

    async def lookup_payment(self, payment_hash: str) -> PaymentLookup:
        """As the port says."""
        return await self._payer.lookup_payment(payment_hash)

    async def info(self) -> WalletInfo:
        """As the port says; a balance that the connection may not see counts as nothing to spend."""
        abilities = await self._link.abilities(_CALL_SECONDS)
        node = await self._link.call(GET_INFO, {}, _CALL_SECONDS)
        balance_msat = AmountMsat(0)
        if GET_BALANCE in abilities.methods:
            balance_msat = AmountMsat(read_integer(await self._link.call(GET_BALANCE, {}, _CALL_SECONDS), "balance"))
        return WalletInfo(
            public_key=read_public_key(node),
            alias=str(node.get("alias") or ""),
            network=read_network(node),
            balance_msat=balance_msat,
            spendable_msat=balance_msat,
            receivable_msat=None,
        )

    async def transactions(self, limit: int) -> tuple[Transaction, ...]:
        """As the port says, page by page, since a relay carries only so much at once."""
        found: list[Transaction] = []
        while len(found) < limit:
            wanted = min(limit - len(found), _PAGE)
            given = {"limit": wanted, "offset": len(found), "unpaid": False}
            page = (await self._link.call(LIST_TRANSACTIONS, given, _CALL_SECONDS)).get("transactions")
            if not isinstance(page, list) or not all(isinstance(row, dict) for row in page):
                raise LightningError("the wallet's answer should hold a list of transactions, it does not")
            found += map(read_transaction, page[:wanted])
            if len(page) < wanted:
                break
        return tuple(found)

    # ── invoices ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _begin(self, request: InvoiceRequest) -> BookedInvoice:
        """Write down a preimage of our own before the wallet hears of its hash; the wallet's own needs no such care."""
        if request.preimage is None:
            return BookedInvoice(request.label, "", request.amount_msat, request.description, "", Timestamp(0))
        payment_hash = hashlib.sha256(request.preimage).hexdigest()
        until = Timestamp(self._clock().timestamp + request.expiry_seconds)
        booked = BookedInvoice(
            request.label, payment_hash, request.amount_msat, request.description, "", until, request.preimage
        )
        await self._book.put(booked)
        return booked

    async def _finish(self, booked: BookedInvoice, request: InvoiceRequest) -> BookedInvoice:
        """Let the wallet issue it, check what it says, and write it down."""
        parameters: dict[str, Any] = {
            "amount": int(request.amount_msat),
            "description": request.description,
            "expiry": request.expiry_seconds,
        }
        if booked.preimage is None:
            asked = await self._link.ask(MAKE_INVOICE, parameters, _CALL_SECONDS)
            try:
                with anyio.move_on_after(_CALL_SECONDS):
                    await asked.ended.wait()
                text = read_text(asked.result(), "invoice")
            finally:
                self._link.forget(asked)
        else:
            text = await self._make_hold_invoice({**parameters, "payment_hash": booked.payment_hash})
        finished = await booked.issued_as(text)
        await self._book.put(finished)
        return finished

    async def _make_hold_invoice(self, parameters: dict[str, Any]) -> str:
        """The text of the hold invoice, whether it is issued now or was before; asking twice issues it once."""
        try:
            return read_text(await self._link.call(MAKE_HOLD_INVOICE, parameters, _CALL_SECONDS), "invoice")
        except WalletRefused as refused:
            try:
                known = {"payment_hash": parameters["payment_hash"]}
                return read_text(await self._link.call(LOOKUP_INVOICE, known, _CALL_SECONDS), "invoice")
            except LightningError:
                raise refused from None

    async def _look(self, booked: BookedInvoice) -> InvoiceState:
        """Where it stands; one whose payment is there is settled first."""
        try:
            found = await self._link.call(LOOKUP_INVOICE, {"payment_hash": booked.payment_hash}, _CALL_SECONDS)
        except WalletRefused as refused:
            if refused.code != NOT_FOUND:
                raise
            is_over = self._clock().timestamp >= booked.expires_at
            return InvoiceState(InvoiceStatus.EXPIRED if is_over else InvoiceStatus.ABSENT, AmountMsat(0))
        if booked.preimage is not None and found.get("state") == "accepted":
            await self._settle(booked)
            found = await self._link.call(LOOKUP_INVOICE, {"payment_hash": booked.payment_hash}, _CALL_SECONDS)
        return read_invoice_state(found, self._clock().timestamp)

    # ── payments that are held for a preimage of ours ─────────────────────────────────────────────────────────────

    async def _settle_what_is_held(self) -> None:
        """Whatever was accepted, now or while nobody was connected: tell its preimage."""
        while True:
            self._is_accepted = anyio.Event()
            accepted, self._accepted = self._accepted, set()
            try:
                held = await self._book.held()
                for booked in held:
                    if booked.payment_hash in accepted or not accepted:
                        await self._settle_if_accepted(booked)
            except PortError:
                pass  # the wallet or the book does not answer: as much as nothing was heard
            with anyio.move_on_after(_HELD_PAUSE_SECONDS):
                await self._is_accepted.wait()

    async def _settle_if_accepted(self, booked: BookedInvoice) -> None:
        state = await self._look(booked)
        is_begun = not booked.bolt11 and self._clock().timestamp < booked.expires_at
        if state.status is not InvoiceStatus.OPEN and not is_begun:
            await self._book.put(replace(booked, is_over=True))
            self._wake(booked.payment_hash)

    async def _settle(self, booked: BookedInvoice) -> None:
        assert booked.preimage is not None
        with suppress(WalletRefused):  # settled by an earlier request, or held no more: the next look-up tells
            await self._link.call(SETTLE_HOLD_INVOICE, {"preimage": booked.preimage.hex()}, _CALL_SECONDS)

    def _hear(self, told: WalletNotification) -> None:
        payment_hash = told.transaction.get("payment_hash")
        if not isinstance(payment_hash, str):
            return
        if told.name == HOLD_INVOICE_ACCEPTED:
            self._accepted.add(payment_hash)
            self._is_accepted.set()
        self._wake(payment_hash)

    def _wake(self, payment_hash: str) -> None:
        paid = self._paid.pop(payment_hash, None)
        if paid is not None:
            paid.set()


def _book_of(connection: WalletConnection) -> tuple[bytes, bytes]:
    """What the connection's book is kept under."""
    return connection.key.reveal_secret(), bytes.fromhex(connection.wallet)
