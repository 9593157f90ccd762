"""Invoices at their payees: issued, paid once, expired; signed as BOLT 11 wants it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from relaymesh.adapters.invoices import MAXIMUM_DESCRIPTION_BYTES, InvoiceDraft, encode_invoice
from relaymesh.lightning_sim.answers import BAD_PARAMETERS, LABEL_TAKEN, PREIMAGE_TAKEN, RpcFailure
from relaymesh.lightning_sim.ledger import Ledger
from relaymesh.lightning_sim.records import CURRENCY, AttemptRecord, InvoiceRecord, NodeRecord
from relaymesh.ports.lightning import MAXIMUM_INVOICE_LABEL_BYTES
from relaymesh.units import MILLISECONDS_PER_SECOND, AmountMsat, Timestamp


@dataclass(frozen=True, slots=True)
class InvoiceTerms:
    """What `invoice` was asked for.

    Args:
        label: Unique at the node, at most 128 bytes.
        amount_msat: None where the payer is to choose.
        description: At most 639 bytes, unless only its hash goes into the invoice.
        expiry_seconds: At least 0.
        preimage: 32 bytes, or None to draw one.
        final_cltv: The blocks that the last hop must leave.
        hash_only: Whether the invoice holds only the description's hash.
        payment_hash: Of a preimage that the payee tells when it settles (a hold invoice); None otherwise.
    """

    label: str
    amount_msat: int | None
    description: str
    expiry_seconds: int
    preimage: bytes | None = None
    final_cltv: int = 10
    hash_only: bool = False
    payment_hash: str | None = None


def issue(
    ledger: Ledger, payee: NodeRecord, terms: InvoiceTerms, entropy: Callable[[int], bytes], now_ms: int
) -> InvoiceRecord:
    """Sign an invoice and remember it.

    Raises:
        RpcFailure: −32602, 900 or 901.
    """
    if len(terms.label.encode()) > MAXIMUM_INVOICE_LABEL_BYTES:
        raise RpcFailure(BAD_PARAMETERS, f"Label '{terms.label}' over {MAXIMUM_INVOICE_LABEL_BYTES} bytes")
    length = len(terms.description.encode())
    if length > MAXIMUM_DESCRIPTION_BYTES and not terms.hash_only:
        raise RpcFailure(
            BAD_PARAMETERS,
            f"Description greater than {MAXIMUM_DESCRIPTION_BYTES} bytes invalid (description length {length})",
        )
    preimage = entropy(32) if terms.preimage is None else terms.preimage
    payment_hash = terms.payment_hash or hashlib.sha256(preimage).hexdigest()
    if ledger.invoice_with_hash(payee.name, payment_hash) is not None:
        raise RpcFailure(PREIMAGE_TAKEN, "preimage already used")
    if terms.label in ledger.invoices.get(payee.name, {}):
        raise RpcFailure(LABEL_TAKEN, f"Duplicate label '{terms.label}'")
    payment_secret = entropy(32).hex()
    created_at = now_ms // MILLISECONDS_PER_SECOND
    record = InvoiceRecord(
        payee=payee.name,
        label=terms.label,
        bolt11=encode_invoice(_draft(terms, payment_hash, payment_secret, created_at), bytes.fromhex(payee.secret)),
        payment_hash=payment_hash,
        preimage=preimage.hex() if terms.payment_hash is None else "",
        payment_secret=payment_secret,
        amount_msat=terms.amount_msat,
        description=terms.description,
        expires_at=created_at + terms.expiry_seconds,
        created_index=payee.invoices_created + 1,
        created_at=created_at,
    )
    ledger.put(replace(payee, invoices_created=record.created_index))
    ledger.put(record)
    return record


def find_payable(ledger: Ledger, payee: NodeRecord, attempt: AttemptRecord, now_ms: int) -> InvoiceRecord | None:
    """The invoice that this payment pays, if the payee takes it (BOLT 4, the final node's checks)."""
    invoice = ledger.invoice_with_hash(payee.name, attempt.payment_hash)
    if invoice is None or invoice.status != "unpaid" or is_expired(invoice, now_ms):
        return None
    if invoice.payment_secret != attempt.payment_secret:
        return None
    asked_msat = attempt.amount_msat if invoice.amount_msat is None else invoice.amount_msat
    return invoice if asked_msat <= attempt.amount_msat <= 2 * asked_msat else None


def take_payment(ledger: Ledger, invoice: InvoiceRecord, received_msat: int, now_ms: int) -> None:
    """Mark an unpaid invoice as paid."""
    payee = ledger.nodes[invoice.payee]
    payee = replace(payee, invoices_paid=payee.invoices_paid + 1, invoices_updated=payee.invoices_updated + 1)
    ledger.put(payee)
    ledger.put(
        replace(
            invoice,
            status="paid",
            pay_index=payee.invoices_paid,
            updated_index=payee.invoices_updated,
            received_msat=received_msat,
            paid_at=now_ms // MILLISECONDS_PER_SECOND,
        )
    )


def is_expired(invoice: InvoiceRecord, now_ms: int) -> bool:
    """Whether its time is over."""
    return now_ms >= invoice.expires_at * MILLISECONDS_PER_SECOND


def expire_invoices(ledger: Ledger, now_ms: int) -> None:
    """Mark every unpaid invoice whose time is over."""
    for invoice in [invoice for invoice in ledger.unpaid.values() if is_expired(invoice, now_ms)]:
        payee = ledger.nodes[invoice.payee]
        payee = replace(payee, invoices_updated=payee.invoices_updated + 1)
        ledger.put(payee)
        ledger.put(replace(invoice, status="expired", updated_index=payee.invoices_updated))


def _draft(terms: InvoiceTerms, payment_hash: str, payment_secret: str, created_at: int) -> InvoiceDraft:
    return InvoiceDraft(
        network=CURRENCY,
        amount_msat=None if terms.amount_msat is None else AmountMsat(terms.amount_msat),
        payment_hash=payment_hash,
        payment_secret=payment_secret,
        created_at=Timestamp(created_at),
        expiry_seconds=terms.expiry_seconds,
        description=None if terms.hash_only else terms.description,
        description_hash=hashlib.sha256(terms.description.encode()).hexdigest() if terms.hash_only else None,
        minimum_final_cltv_expiry=terms.final_cltv,
    )
