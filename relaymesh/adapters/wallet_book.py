"""What must not be forgotten of a wallet that knows no labels: which invoice each means, which payments were asked for.

RM-03, "Wallets". A wallet service (NIP-47) and LND know no labels, and say "not found" of a payment that they have yet
to hear of. So both are written down here first: an invoice under its label, whole, before anybody is told of it; a
payment before the wallet is asked to make it. SQLite, synced, since money follows; in a thread, one at a time.
Preimages are encrypted under what opens the wallet.
"""

import hashlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

import anyio
import anyio.to_thread

from relaymesh.adapters.invoices import decode_invoice_on_loop
from relaymesh.adapters.ledger_encryption import KEY_BYTES, LedgerCipher
from relaymesh.errors import LedgerError, LightningError, RemoteProtocolError
from relaymesh.ports.lightning import Invoice, InvoiceRequest
from relaymesh.units import AmountMsat, Timestamp

GRACE_SECONDS: Final = 60
"""Clocks differ, and a payment that reached its payee in time may still be on its way back."""

KEPT_SECONDS: Final = 90 * 86_400
"""So long after its expiry an invoice or a payment is remembered."""

_BUSY_MS: Final = 5_000
_FORMAT: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS invoice (
    label TEXT PRIMARY KEY, payment_hash TEXT NOT NULL UNIQUE, amount_msat INTEGER NOT NULL, description TEXT NOT NULL,
    bolt11 TEXT NOT NULL, expires_at INTEGER NOT NULL, preimage BLOB, is_over INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS invoice_held ON invoice (label) WHERE preimage IS NOT NULL AND NOT is_over;
CREATE TABLE IF NOT EXISTS payment (
    payment_hash TEXT PRIMARY KEY, payable_until INTEGER NOT NULL, is_answered INTEGER NOT NULL
) WITHOUT ROWID;
"""
_FIND_LABEL: Final = "SELECT * FROM invoice WHERE label = ?"
_HELD: Final = "SELECT * FROM invoice WHERE preimage IS NOT NULL AND NOT is_over"
_PUT: Final = """
INSERT INTO invoice VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (label) DO UPDATE SET
    payment_hash = excluded.payment_hash, amount_msat = excluded.amount_msat, description = excluded.description,
    bolt11 = excluded.bolt11, expires_at = excluded.expires_at, preimage = excluded.preimage, is_over = excluded.is_over
"""
_ASK: Final = (
    "INSERT INTO payment VALUES (?, ?, 0) ON CONFLICT (payment_hash) "
    "DO UPDATE SET payable_until = max(payable_until, excluded.payable_until), is_answered = 0"
)
_ANSWER: Final = "UPDATE payment SET is_answered = 1 WHERE payment_hash = ?"

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class BookedInvoice:
    """An invoice under its label.

    Args:
        label: As the port says.
        payment_hash: 64 lowercase hex characters.
        amount_msat: What is asked for.
        description: As it was asked for.
        bolt11: The text; empty while the wallet has not answered.
        expires_at: When it can no longer be paid.
        preimage: 32 bytes of our own, as long as the wallet has to be told; None where they are its.
        is_over: Whether a payment that waits for them is settled, or cannot come any more.
    """

    label: str
    payment_hash: str
    amount_msat: AmountMsat
    description: str
    bolt11: str
    expires_at: Timestamp
    preimage: bytes | None = field(default=None, repr=False)
    is_over: bool = False

    def check_is_same(self, request: InvoiceRequest) -> None:
        """LightningError where the label stands for another invoice than the one that is asked for."""
        differs = (request.amount_msat, request.description) != (self.amount_msat, self.description)
        if request.preimage is not None:
            differs = differs or hashlib.sha256(request.preimage).hexdigest() != self.payment_hash
        if differs:
            raise LightningError(f"the invoice label {request.label!r} is taken by a different invoice")

    async def issued_as(self, text: str) -> Self:
        """This invoice, now that the wallet has issued it; LightningError where that is not what was asked for."""
        try:
            invoice = await decode_invoice_on_loop(text)
        except RemoteProtocolError as error:
            raise LightningError(f"the wallet issued what is no invoice: {error}") from error
        if invoice.amount_msat != self.amount_msat:
            raise LightningError("the wallet issued the invoice for another amount than the one it was asked for")
        if self.preimage is not None and invoice.payment_hash != self.payment_hash:
            raise LightningError("the wallet issued the invoice for another preimage than the one it was asked for")
        return replace(self, payment_hash=invoice.payment_hash, bolt11=invoice.bolt11, expires_at=invoice.expires_at)

    def as_invoice(self) -> Invoice:
        """What the port says of it, once it is issued."""
        return Invoice(self.label, self.bolt11, self.payment_hash, self.amount_msat, self.expires_at)


class WalletBook:
    """The open file of one wallet; `open` makes one."""

    def __init__(self, database: sqlite3.Connection, cipher: LedgerCipher) -> None:
        self._database = database
        self._cipher = cipher
        self._turn = anyio.CapacityLimiter(1)

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, secret: bytes, wallet: bytes, now: Timestamp) -> AsyncIterator[Self]:
        """The book in this file, for its owner alone, made where there is none.

        Args:
            path: The file.
            secret: What opens the wallet, and with it the preimages in the file.
            wallet: Which wallet it is.
            now: What is long over by now is forgotten.

        Raises:
            LedgerError: The file cannot be used.
        """
        key = secret if len(secret) == KEY_BYTES else hashlib.sha256(secret).digest()
        cipher = LedgerCipher(key, hashlib.sha256(wallet).digest())
        book = cls(await anyio.to_thread.run_sync(_open, path, now), cipher)
        try:
            yield book
        finally:
            book._database.close()

    async def find(self, label: str) -> BookedInvoice | None:
        """The invoice under this label."""
        return await self._run(partial(self._find, _FIND_LABEL, label))

    async def held(self) -> tuple[BookedInvoice, ...]:
        """Those whose preimage is ours and whose payment may still come."""
        return await self._run(self._held)

    async def put(self, invoice: BookedInvoice) -> None:
        """Write it down, in the place of what its label meant before.

        Raises:
            LightningError: Another label has this payment hash.
        """
        await self._run(partial(self._put, invoice))

    async def ask_payment(self, payment_hash: str, payable_until: Timestamp) -> None:
        """Write down that the wallet is about to be asked for this payment, which nobody takes after that time."""
        await self._run(partial(self._write, _ASK, (payment_hash, payable_until)))

    async def answer_payment(self, payment_hash: str) -> None:
        """Write down that the wallet has answered, or was never reached: its look-ups count from now on."""
        await self._run(partial(self._write, _ANSWER, (payment_hash,)))

    async def may_still_be_sent(self, payment_hash: str, now: Timestamp) -> bool:
        """Whether the wallet was asked for this payment, did not answer, and could still make it."""
        return await self._run(partial(self._may_still_be_sent, payment_hash, now))

    async def _run(self, work: Callable[[], ResultT]) -> ResultT:
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._turn)
        except sqlite3.Error as error:
            raise LedgerError(f"the wallet's book cannot be used: {error}") from error

    def _find(self, query: str, value: str) -> BookedInvoice | None:
        row = self._database.execute(query, (value,)).fetchone()
        return None if row is None else self._read(row)

    def _held(self) -> tuple[BookedInvoice, ...]:
        return tuple(map(self._read, self._database.execute(_HELD).fetchall()))

    def _read(self, row: tuple[str, str, int, str, str, int, bytes | None, int]) -> BookedInvoice:
        label, payment_hash, amount_msat, description, bolt11, expires_at, sealed, is_over = row
        preimage = None if sealed is None else self._cipher.open(sealed, "preimage", payment_hash)
        return BookedInvoice(
            label,
            payment_hash,
            AmountMsat(amount_msat),
            description,
            bolt11,
            Timestamp(expires_at),
            preimage,
            bool(is_over),
        )

    def _put(self, invoice: BookedInvoice) -> None:
        sealed = None
        if invoice.preimage is not None:
            sealed = self._cipher.seal(invoice.preimage, "preimage", invoice.payment_hash)
        values = (
            invoice.label,
            invoice.payment_hash,
            invoice.amount_msat,
            invoice.description,
            invoice.bolt11,
            invoice.expires_at,
            sealed,
            invoice.is_over,
        )
        try:
            self._write(_PUT, values)
        except sqlite3.IntegrityError as error:
            raise LightningError("the preimage belongs to an invoice already, each invoice needs one") from error

    def _may_still_be_sent(self, payment_hash: str, now: Timestamp) -> bool:
        query = "SELECT payable_until FROM payment WHERE payment_hash = ? AND NOT is_answered"
        row = self._database.execute(query, (payment_hash,)).fetchone()
        return row is not None and now <= row[0]

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        self._database.execute(statement, values)


def _open(path: Path, now: Timestamp) -> sqlite3.Connection:
    try:
        path.touch(mode=0o600)
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        database.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        (written,) = database.execute("PRAGMA user_version").fetchone()
        if written not in (0, _FORMAT):
            raise LedgerError(f"the wallet's book {path} was written by another version")
        database.executescript(_SCHEMA)
        database.execute(f"PRAGMA user_version = {_FORMAT}")
        database.execute("DELETE FROM invoice WHERE expires_at < ?", (now - KEPT_SECONDS,))
        database.execute("DELETE FROM payment WHERE payable_until < ?", (now - KEPT_SECONDS,))
    except (OSError, sqlite3.Error) as error:
        raise LedgerError(f"the wallet's book {path} cannot be opened: {error}") from error
    return database
