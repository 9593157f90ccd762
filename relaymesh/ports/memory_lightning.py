"""A Lightning network in memory: wallets that implement the port exactly, hold, fail and lose answers when told to.

For tests on any clock and for whoever builds on the port: no sockets, no threads, no signatures. Its invoices are text
that only `decode_memory_invoice` reads. Money moves within one `MemoryLightning` and is conserved to the msat: the
balances of all wallets and `fees_collected_msat` always add up to what the wallets began with.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import anyio

from relaymesh.errors import LightningError, RemoteProtocolError
from relaymesh.ports.lightning import (
    BAD_INVOICE,
    MAXIMUM_INVOICE_LABEL_BYTES,
    NOT_SENT,
    DecodedInvoice,
    Direction,
    Invoice,
    InvoiceRequest,
    InvoiceState,
    InvoiceStatus,
    PaymentAbsent,
    PaymentFailed,
    PaymentLookup,
    PaymentOutcome,
    PaymentRequest,
    PaymentSucceeded,
    PaymentUnknown,
    Transaction,
    TransactionState,
    WalletInfo,
)
from relaymesh.units import AmountMsat, Timestamp

_TEXT_PREFIX: Final = "lnmemory1"
_EPOCH: Final = 1_700_000_000
_MAXIMUM_DESCRIPTION_BYTES: Final = 639

CODE_REFUSED_BY_PAYEE: Final = 203
CODE_NO_ROUTE: Final = 205
CODE_TOO_EXPENSIVE: Final = 206
CODE_EXPIRED: Final = 207


@dataclass(frozen=True, slots=True)
class FailPayment:
    """The next payment fails with this code and reason; no money moves."""

    code: int = CODE_NO_ROUTE
    reason: str = "no route was found"


@dataclass(frozen=True, slots=True)
class HoldPayment:
    """The next payment hangs on its way until `MemoryWallet.release` is called with its payment hash."""


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """The next payment's answer never arrives; the money moved if `paid`, as a look-up by payment hash then tells."""

    paid: bool


PaymentFault = FailPayment | HoldPayment | LoseAnswer


@dataclass(slots=True)
class _Issued:
    """An invoice at its payee."""

    invoice: Invoice
    description: str
    preimage: bytes
    payee: "MemoryWallet"
    received_msat: int = 0
    changed: anyio.Event = field(default_factory=anyio.Event)


@dataclass(slots=True)
class _Sent:
    """A payment at its payer: `outcome` is None while it is on its way."""

    issued: _Issued
    fee_msat: int
    outcome: PaymentOutcome | None = None
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def cost_msat(self) -> int:
        """Amount and fee."""
        return self.issued.invoice.amount_msat + self.fee_msat


def decode_memory_invoice(text: str) -> DecodedInvoice:
    """Read what a memory wallet issued; RemoteProtocolError for anything else."""
    try:
        fields = json.loads(bytes.fromhex(text.removeprefix(_TEXT_PREFIX)))
        decoded = DecodedInvoice(bolt11=text, **fields)
    except (ValueError, TypeError) as error:
        raise RemoteProtocolError("the invoice cannot be read: it was not issued by a memory wallet") from error
    if encode_memory_invoice(decoded) != text:
        raise RemoteProtocolError("the invoice cannot be read: it was not written by a memory wallet")
    return decoded


def encode_memory_invoice(invoice: DecodedInvoice) -> str:
    """Write what the decoded value says (its `bolt11` is not looked at); tests forge invoices with it."""
    names = ("payment_hash", "amount_msat", "payee", "network", "created_at", "expires_at", "description")
    fields = {name: getattr(invoice, name) for name in names}
    return _TEXT_PREFIX + json.dumps(fields, sort_keys=True).encode().hex()


class MemoryLightning:
    """A network without channels: every wallet reaches every other for a fixed fee.

    Args:
        fee_msat: What each payment costs its payer beyond the amount.
        clock: Unix seconds for expiry; the default follows the event loop's clock, so a virtual clock drives it.
    """

    def __init__(self, fee_msat: int = 1, clock: Callable[[], Timestamp] | None = None) -> None:
        self.fee_msat = fee_msat
        self.fees_collected_msat = 0
        self.wallets: dict[str, MemoryWallet] = {}
        self._issued: dict[str, _Issued] = {}
        self._clock = clock

    def wallet(self, name: str, balance_msat: int = 0) -> "MemoryWallet":
        """A new wallet with that much money in it; names are unique."""
        if name in self.wallets:
            raise LightningError(f"a memory wallet's name must be new, {name!r} is taken")
        self.wallets[name] = MemoryWallet(self, name, balance_msat)
        return self.wallets[name]

    def now(self) -> Timestamp:
        """Unix seconds on this network's clock."""
        return Timestamp(_EPOCH + int(anyio.current_time())) if self._clock is None else self._clock()


class MemoryWallet:
    """One wallet; implements `relaymesh.ports.lightning.Wallet`. `MemoryLightning.wallet` makes them.

    Attributes:
        reachable: Set it to False and the wallet stops answering: LightningError, or an outcome that says so.
    """

    def __init__(self, network: MemoryLightning, name: str, balance_msat: int) -> None:
        self.name = name
        self.public_key = "02" + hashlib.sha256(name.encode()).hexdigest()
        self.balance_msat = balance_msat
        self.reachable = True
        self._network = network
        self._invoices: dict[str, _Issued] = {}
        self._payments: dict[str, _Sent] = {}
        self._faults: deque[PaymentFault] = deque()

    def plan(self, *faults: PaymentFault) -> None:
        """What goes wrong with the next payments this wallet makes, one fault each, in order."""
        self._faults.extend(faults)

    def release(self, payment_hash: str, *, paid: bool = True) -> None:
        """Let a held payment arrive, or fail it; nothing happens where none is held."""
        payment = self._payments.get(payment_hash)
        if payment is not None and payment.outcome is None:
            self._finish(payment, FailPayment(209, "a hop on the way failed the payment") if not paid else None)

    async def create_invoice(self, request: InvoiceRequest) -> Invoice:
        """As the port says; a preimage of one's own makes the payment hash."""
        await self._reach()
        known = self._invoices.get(request.label)
        if known is not None:
            return self._same_invoice(known, request)
        if request.amount_msat < 1 or request.expiry_seconds < 1:
            raise LightningError("an invoice needs a positive amount and a positive expiry")
        if len(request.label.encode()) > MAXIMUM_INVOICE_LABEL_BYTES:
            raise LightningError(f"an invoice's label must have at most {MAXIMUM_INVOICE_LABEL_BYTES} bytes")
        if len(request.description.encode()) > _MAXIMUM_DESCRIPTION_BYTES:
            raise LightningError(f"an invoice's description must have at most {_MAXIMUM_DESCRIPTION_BYTES} bytes")
        drawn = hashlib.sha256(f"{self.name} {request.label}".encode()).digest()
        preimage = drawn if request.preimage is None else request.preimage
        payment_hash = hashlib.sha256(preimage).hexdigest()
        if payment_hash in self._network._issued:
            raise LightningError("an invoice's preimage must be new, this one is taken")
        now = self._network.now()
        issued = self._issue(request, preimage, payment_hash, now)
        self._invoices[request.label] = self._network._issued[payment_hash] = issued
        return issued.invoice

    async def lookup_invoice(self, label: str) -> InvoiceState:
        """As the port says."""
        await self._reach()
        issued = self._invoices.get(label)
        if issued is None:
            return InvoiceState(InvoiceStatus.ABSENT, AmountMsat(0))
        if issued.received_msat:
            return InvoiceState(InvoiceStatus.PAID, AmountMsat(issued.received_msat))
        expired = self._network.now() >= issued.invoice.expires_at
        return InvoiceState(InvoiceStatus.EXPIRED if expired else InvoiceStatus.OPEN, AmountMsat(0))

    async def wait_invoice(self, label: str) -> InvoiceState:
        """As the port says; waits on the event loop's clock."""
        while (state := await self.lookup_invoice(label)).status is InvoiceStatus.OPEN:
            issued = self._invoices[label]
            with anyio.move_on_after(max(issued.invoice.expires_at - self._network.now(), 1)):
                await issued.changed.wait()
        return state

    async def pay(self, request: PaymentRequest) -> PaymentOutcome:
        """As the port says; a planned fault takes its turn with each payment that is really sent."""
        await anyio.lowlevel.checkpoint()
        payment = self._payments.get(request.payment_hash)
        if not self.reachable:
            if payment is None:
                return PaymentFailed(NOT_SENT, "the wallet cannot be reached, nothing was sent")
            return PaymentUnknown("the wallet cannot be reached, though the payment was sent before")
        if payment is None or isinstance(payment.outcome, PaymentFailed):
            issued = self._find(request)
            if isinstance(issued, PaymentFailed):
                return issued
            payment = self._payments[request.payment_hash] = _Sent(issued, self._network.fee_msat)
            if self._start(payment):
                return PaymentUnknown("the wallet's answer did not arrive")
        with anyio.move_on_after(request.deadline_ms / 1000):
            while payment.outcome is None:
                await payment.changed.wait()
        return payment.outcome or PaymentUnknown("the payment is still on its way")

    async def lookup_payment(self, payment_hash: str) -> PaymentLookup:
        """As the port says."""
        await anyio.lowlevel.checkpoint()
        if not self.reachable:
            return PaymentUnknown("the wallet cannot be reached")
        payment = self._payments.get(payment_hash)
        if payment is None:
            return PaymentAbsent()
        return payment.outcome or PaymentUnknown("the payment is still on its way")

    async def info(self) -> WalletInfo:
        """As the port says; there is no limit on what can be received."""
        await self._reach()
        balance, spendable = AmountMsat(self.balance_msat), AmountMsat(self._spendable_msat())
        return WalletInfo(self.public_key, self.name, "memory", balance, spendable, AmountMsat(10**15))

    async def transactions(self, limit: int) -> tuple[Transaction, ...]:
        """As the port says, in the order in which they were begun."""
        await self._reach()
        received = [
            _describe(issued, Direction.INCOMING, TransactionState.SETTLED, 0)
            for issued in self._invoices.values()
            if issued.received_msat
        ]
        sent = [_describe(sent.issued, Direction.OUTGOING, *_became(sent)) for sent in self._payments.values()]
        return tuple(sorted(received + sent, key=lambda each: -each.at)[:limit])

    def _spendable_msat(self) -> int:
        """What is not locked up in payments on their way."""
        return self.balance_msat - sum(sent.cost_msat for sent in self._payments.values() if sent.outcome is None)

    async def _reach(self) -> None:
        await anyio.lowlevel.checkpoint()
        if not self.reachable:
            raise LightningError("the wallet cannot be reached", retryable=True)

    def _same_invoice(self, known: _Issued, request: InvoiceRequest) -> Invoice:
        preimage = known.preimage if request.preimage is None else request.preimage
        asked = (request.amount_msat, request.description, preimage)
        if asked != (known.invoice.amount_msat, known.description, known.preimage):
            raise LightningError("an invoice label stands for one invoice, this one is taken by a different invoice")
        return known.invoice

    def _issue(self, request: InvoiceRequest, preimage: bytes, payment_hash: str, now: Timestamp) -> _Issued:
        expires_at = Timestamp(now + request.expiry_seconds)
        decoded = DecodedInvoice(
            "", payment_hash, request.amount_msat, self.public_key, "memory", now, expires_at, request.description
        )
        decoded = replace(decoded, bolt11=encode_memory_invoice(decoded))
        invoice = Invoice(request.label, decoded.bolt11, payment_hash, request.amount_msat, expires_at)
        return _Issued(invoice, request.description, preimage, self)

    def _find(self, request: PaymentRequest) -> _Issued | PaymentFailed:
        """The invoice at its payee, or why it cannot be paid at all."""
        try:
            decoded = decode_memory_invoice(request.bolt11)
        except RemoteProtocolError as error:
            return PaymentFailed(BAD_INVOICE, str(error))
        if decoded.payment_hash != request.payment_hash:
            return PaymentFailed(BAD_INVOICE, "the invoice has another payment hash than the request")
        if decoded.payee == self.public_key:
            return PaymentFailed(BAD_INVOICE, "the invoice is this wallet's own")
        if self._network.now() >= decoded.expires_at:
            return PaymentFailed(CODE_EXPIRED, "the invoice has expired")
        if self._network.fee_msat > request.maximum_fee_msat:
            return PaymentFailed(CODE_TOO_EXPENSIVE, "the fee is above the limit")
        issued = self._network._issued.get(decoded.payment_hash)
        if issued is None or issued.invoice.bolt11 != request.bolt11 or not issued.payee.reachable:
            return PaymentFailed(CODE_REFUSED_BY_PAYEE, "the payee does not know the invoice or is away")
        if self._spendable_msat() < issued.invoice.amount_msat + self._network.fee_msat:
            return PaymentFailed(CODE_NO_ROUTE, "the wallet has not enough money")
        return issued

    def _start(self, payment: _Sent) -> bool:
        """Send it, as the next planned fault wants; True where the answer gets lost."""
        fault = self._faults.popleft() if self._faults else None
        if isinstance(fault, HoldPayment):
            return False
        if isinstance(fault, LoseAnswer):
            self._finish(payment, None if fault.paid else FailPayment())
            return True
        self._finish(payment, fault)
        return False

    def _finish(self, payment: _Sent, failure: FailPayment | None) -> None:
        issued, amount_msat = payment.issued, payment.issued.invoice.amount_msat
        if failure is None and (issued.received_msat or self._network.now() >= issued.invoice.expires_at):
            failure = FailPayment(CODE_REFUSED_BY_PAYEE, "the payee refuses the invoice: it is paid or has expired")
        if failure is None:
            self.balance_msat -= payment.cost_msat
            self._network.fees_collected_msat += payment.fee_msat
            issued.payee.balance_msat += amount_msat
            issued.received_msat = amount_msat
            payment.outcome = PaymentSucceeded(issued.preimage, amount_msat, AmountMsat(payment.fee_msat))
            issued.changed.set()
        else:
            payment.outcome = PaymentFailed(failure.code, failure.reason)
        payment.changed.set()


def _became(sent: _Sent) -> tuple[TransactionState, int]:
    if isinstance(sent.outcome, PaymentSucceeded):
        return TransactionState.SETTLED, sent.fee_msat
    return (TransactionState.PENDING if sent.outcome is None else TransactionState.FAILED), 0


def _describe(issued: _Issued, direction: Direction, state: TransactionState, fee_msat: int) -> Transaction:
    invoice = issued.invoice
    at = Timestamp(decode_memory_invoice(invoice.bolt11).created_at)
    return Transaction(
        direction, state, invoice.payment_hash, invoice.amount_msat, AmountMsat(fee_msat), issued.description, at
    )
