"""What can become of a payment, and what an invoice says: values that settlement decides upon (RM-03, "Wallets").

A payment has three outcomes, and *unknown* never becomes *failed* by waiting.
"""

from dataclasses import dataclass, field
from typing import Final

from relaymesh.units import AmountMsat, Timestamp

OVER_LIMIT: Final = -2
"""The code of a payment that a spending limit of ours does not allow; it never left this process."""


@dataclass(frozen=True, slots=True)
class PaymentSucceeded:
    """Paid: `preimage` (32 bytes, hashes to the payment hash), what left the wallet beyond the amount as `fee_msat`."""

    preimage: bytes = field(repr=False)
    amount_msat: AmountMsat
    fee_msat: AmountMsat


@dataclass(frozen=True, slots=True)
class PaymentFailed:
    """Not paid and never will be by this attempt; no money moved. `reason` is one sentence for a person."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class PaymentUnknown:
    """Nobody can say yet: money may have moved or may still move. Look it up by payment hash until it resolves."""

    reason: str


@dataclass(frozen=True, slots=True)
class PaymentAbsent:
    """The wallet never sent such a payment (answers a look-up only)."""


PaymentOutcome = PaymentSucceeded | PaymentFailed | PaymentUnknown
PaymentLookup = PaymentOutcome | PaymentAbsent


@dataclass(frozen=True, slots=True)
class DecodedInvoice:
    """What a BOLT 11 invoice says, its signature checked.

    Args:
        bolt11: The text it was read from.
        payment_hash: 64 lowercase hex characters.
        amount_msat: At least 1; an invoice without an amount is refused when it is read.
        payee: The Lightning node that is paid (33 bytes, hex), recovered from the signature.
        network: The currency prefix: `bc`, `tb`, `bcrt`, …
        created_at: Unix seconds.
        expires_at: Unix seconds.
        description: What the payee wrote; empty when it committed to a hash instead.
    """

    bolt11: str
    payment_hash: str
    amount_msat: AmountMsat
    payee: str
    network: str
    created_at: Timestamp
    expires_at: Timestamp
    description: str


@dataclass(frozen=True, slots=True)
class BadInvoice:
    """An invoice that must not be paid whatever it was offered for; `reason` is one sentence for a person."""

    reason: str


InvoiceReading = DecodedInvoice | BadInvoice | None
"""What came of reading an invoice; None where nobody says why it cannot be read."""

CURRENCIES: Final = {"bitcoin": "bc", "testnet": "tb", "signet": "tbs", "regtest": "bcrt"}
"""What invoices of a network begin with, after `ln`."""


def find_network_flaw(invoice: DecodedInvoice, network: str) -> str | None:
    """Why a wallet on this network (`bitcoin`, `regtest`, …) cannot pay the invoice; None where it can."""
    currency = CURRENCIES.get(network, network)
    if invoice.network == currency:
        return None
    return f"the invoice is for another network: the wallet pays ln{currency}… and this one is ln{invoice.network}…"


def find_flaw(invoice: DecodedInvoice, *, network: str, now: Timestamp, payee: str | None = None) -> str | None:
    """Why an invoice that reads well must not be paid all the same; None where nothing speaks against it.

    Args:
        invoice: The invoice.
        network: What the wallet's network is called.
        now: What time it is.
        payee: Who is to be paid (a Lightning node's id, 33 bytes in hex), where that is known.
    """
    if invoice.amount_msat < 1:
        return "the invoice asks for nothing: an amount of at least 1 msat was expected"
    if (flaw := find_network_flaw(invoice, network)) is not None:
        return flaw
    if now >= invoice.expires_at:
        return f"the invoice expired {now - invoice.expires_at} seconds ago: ask for a new one"
    if payee is not None and invoice.payee != payee.lower():
        return f"the invoice pays {invoice.payee}, not {payee.lower()}"
    return None
