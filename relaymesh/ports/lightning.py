"""The port to a Lightning wallet: issue invoices, pay invoices, look things up. Nobody holds anybody's money.

What every adapter promises, and what `tests/conformance/lightning` holds it to (RM-03, "Wallets"):

- **A label is one invoice.** `create_invoice` under a label that is in use gives the invoice that was issued before,
  also after a restart and a lost answer, and refuses a request that differs from it. A preimage serves one invoice.
- **A payment hash is paid once.** `pay` may be called as often as one likes, one after the other, at the same time and
  after a restart: what was paid is answered with its preimage, what is on its way is waited for, and only what the
  wallet calls failed is tried again.
- **A payment has three outcomes.** `PaymentSucceeded` carries a preimage that hashes to the payment hash.
  `PaymentFailed` says that no money moved and none will: nothing was sent, or the wallet itself said so and agrees when
  it is asked again. Everything else is `PaymentUnknown`: a deadline, a lost answer, a wallet that is away, an answer
  that makes no sense. It is looked up by its payment hash, and no time that passes turns it into a failure.
- **A look-up that finds nothing counts** only where no request to pay can be carried out any more.
- **Every wait ends when it is cancelled**, and none holds up another.
- **Nothing shows a secret**: no preimage, no credential, in no error, log line or `repr`.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from relaymesh.protocol.payment import OVER_LIMIT as OVER_LIMIT
from relaymesh.protocol.payment import DecodedInvoice as DecodedInvoice
from relaymesh.protocol.payment import PaymentAbsent as PaymentAbsent
from relaymesh.protocol.payment import PaymentFailed as PaymentFailed
from relaymesh.protocol.payment import PaymentLookup as PaymentLookup
from relaymesh.protocol.payment import PaymentOutcome as PaymentOutcome
from relaymesh.protocol.payment import PaymentSucceeded as PaymentSucceeded
from relaymesh.protocol.payment import PaymentUnknown as PaymentUnknown
from relaymesh.units import AmountMsat, Timestamp

MAXIMUM_INVOICE_LABEL_BYTES: Final = 128
"""What Core Lightning takes; a longer label is refused."""

NOT_SENT: Final = -1
"""The code of a payment that never left this process."""

BAD_INVOICE: Final = -32602
"""The code of an invoice that must not be paid: broken, our own, or another one than was meant."""


@dataclass(frozen=True, slots=True)
class InvoiceRequest:
    """What a payee asks its wallet for.

    Args:
        label: The invoice label, at most 128 bytes; the same label always means the same invoice.
        amount_msat: At least 1.
        description: At most 639 bytes (BOLT 11); never anything about the prompt.
        expiry_seconds: How long it can be paid.
        preimage: 32 bytes, when the payee chooses it (sealed delivery); None lets the wallet draw one.
    """

    label: str
    amount_msat: AmountMsat
    description: str
    expiry_seconds: int
    preimage: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice as issued: `bolt11` text and what it says; `payment_hash` and `payee` in lowercase hex."""

    label: str
    bolt11: str
    payment_hash: str
    amount_msat: AmountMsat
    expires_at: Timestamp


class InvoiceStatus(Enum):
    """Where an invoice of ours stands."""

    OPEN = "open"
    PAID = "paid"
    EXPIRED = "expired"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class InvoiceState:
    """An invoice's status; `received_msat` is what arrived (0 unless paid)."""

    status: InvoiceStatus
    received_msat: AmountMsat


@dataclass(frozen=True, slots=True)
class PaymentRequest:
    """What a payer asks its wallet for.

    Args:
        bolt11: The invoice; it names its amount.
        payment_hash: Its payment hash, lowercase hex, as the payer read it (what unknown outcomes are looked up by).
        maximum_fee_msat: Routing fees above this fail the payment.
        deadline_ms: How long to wait for an outcome before answering `PaymentUnknown`.
        job_id: The job (or prepaid session) that is paid for, empty where it is none: spending limits go by it, and no
            wallet is told.
    """

    bolt11: str
    payment_hash: str
    maximum_fee_msat: AmountMsat
    deadline_ms: int = 30_000
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class WalletInfo:
    """Who the wallet is and what it can do right now.

    Args:
        public_key: The Lightning node's id (33 bytes, hex).
        alias: What it calls itself.
        network: As Core Lightning calls it: `bitcoin`, `testnet`, `signet` or `regtest`.
        balance_msat: What is in it.
        spendable_msat: What of it can be sent now.
        receivable_msat: What can be received now; None where the wallet does not say.
    """

    public_key: str
    alias: str
    network: str
    balance_msat: AmountMsat
    spendable_msat: AmountMsat
    receivable_msat: AmountMsat | None


class Direction(Enum):
    """Which way money went."""

    INCOMING = "incoming"
    OUTGOING = "outgoing"


class TransactionState(Enum):
    """Whether money moved."""

    SETTLED = "settled"
    PENDING = "pending"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Transaction:
    """An invoice of the wallet's that was paid, or a payment that it made or tried to make.

    Args:
        direction: Which way.
        state: What became of it.
        payment_hash: 64 lowercase hex characters.
        amount_msat: Without the fee.
        fee_msat: What routing cost on top; 0 where nothing was paid by us.
        description: As the invoice says; empty where the wallet does not keep it.
        at: When it was settled, or was begun otherwise.
    """

    direction: Direction
    state: TransactionState
    payment_hash: str
    amount_msat: AmountMsat
    fee_msat: AmountMsat
    description: str
    at: Timestamp


class InvoiceIssuer(Protocol):
    """A wallet that can be paid."""

    async def create_invoice(self, request: InvoiceRequest) -> Invoice:
        """Issue the invoice, or hand back the one already issued under this label.

        Raises:
            LightningError: The wallet is out of reach, the label or preimage is taken by a different invoice, or the
                label is too long.
        """
        ...

    async def lookup_invoice(self, label: str) -> InvoiceState:
        """Where the invoice with this label stands, now."""
        ...

    async def wait_invoice(self, label: str) -> InvoiceState:
        """Wait until the invoice is paid or expired (or was never there); cancellation ends the wait at once."""
        ...


class Payer(Protocol):
    """A wallet that can pay."""

    async def pay(self, request: PaymentRequest) -> PaymentOutcome:
        """Pay once, however often it is called with the same payment hash.

        A wallet that cannot be reached before anything was sent answers `PaymentFailed`; once something may have been
        sent, only the wallet's own word counts, and without it the answer is `PaymentUnknown`. Never raises for those.
        """
        ...

    async def lookup_payment(self, payment_hash: str) -> PaymentLookup:
        """What became of the payment with this hash; any doubt is `PaymentUnknown`."""
        ...


class WalletHistory(Protocol):
    """A wallet that remembers, for a person to look at; nothing is decided by it."""

    async def transactions(self, limit: int) -> tuple[Transaction, ...]:
        """The newest transactions, newest first, at most so many; invoices that nobody paid are left out.

        Raises:
            LightningError: The wallet did not answer.
        """
        ...


class Wallet(InvoiceIssuer, Payer, WalletHistory, Protocol):
    """All of it, and who it is."""

    async def info(self) -> WalletInfo:
        """The wallet's identity and balances; LightningError if it does not answer."""
        ...
