"""Core Lightning's replies, read into the port's values; what is missing or misshapen is an error, never a guess."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from relaymesh.errors import LightningError
from relaymesh.ports.lightning import (
    Direction,
    Invoice,
    InvoiceState,
    InvoiceStatus,
    PaymentAbsent,
    PaymentFailed,
    PaymentLookup,
    PaymentSucceeded,
    PaymentUnknown,
    Transaction,
    TransactionState,
)
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat, Timestamp

FAILED_BEFORE: Final = -1
"""The code of a payment that the node lists as failed: its list does not say why."""

_OLDER_AMOUNT: Final = re.compile(r"[0-9]{1,16}(msat)?")

_STATUSES: Final = {
    "unpaid": InvoiceStatus.OPEN,
    "paid": InvoiceStatus.PAID,
    "expired": InvoiceStatus.EXPIRED,
}


def read_text(reply: Mapping[str, Any], name: str) -> str:
    """The text called `name`."""
    value = reply.get(name)
    if not isinstance(value, str):
        raise LightningError(f"the Lightning node's answer should hold the text {name!r}, it does not")
    return value


def read_integer(reply: Mapping[str, Any], name: str) -> int:
    """The whole number called `name`, from 0 to 2^53 − 1."""
    value = reply.get(name)
    if type(value) is not int or not 0 <= value <= MAXIMUM_INTEGER:
        raise LightningError(f"the Lightning node's answer should hold the number {name!r}, it does not")
    return value


def read_msat(reply: Mapping[str, Any], name: str) -> AmountMsat:
    """The amount called `name`: a plain number, or one with `msat` behind it (before v23.08)."""
    value = reply.get(name)
    if isinstance(value, str) and _OLDER_AMOUNT.fullmatch(value):
        reply = {name: int(value.removesuffix("msat"))}
    return AmountMsat(read_integer(reply, name))


def read_rows(reply: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The list of objects called `name`."""
    rows = reply.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise LightningError(f"the Lightning node's answer should hold the list {name!r}, it does not")
    return rows


def read_invoice(reply: Mapping[str, Any], label: str, amount_msat: AmountMsat) -> Invoice:
    """An invoice of ours, from `invoice` or from a row of `listinvoices`."""
    return Invoice(
        label=label,
        bolt11=read_text(reply, "bolt11"),
        payment_hash=read_text(reply, "payment_hash"),
        amount_msat=amount_msat,
        expires_at=Timestamp(read_integer(reply, "expires_at")),
    )


def read_invoice_state(row: Mapping[str, Any]) -> InvoiceState:
    """Where an invoice of ours stands, from `waitinvoice` or from a row of `listinvoices`."""
    status = _STATUSES.get(read_text(row, "status"))
    if status is None:
        raise LightningError("an invoice should be unpaid, paid or expired, the Lightning node says something else")
    received_msat = read_msat(row, "amount_received_msat") if status is InvoiceStatus.PAID else AmountMsat(0)
    return InvoiceState(status, received_msat)


def read_success(reply: Mapping[str, Any], payment_hash: str, preimage_name: str) -> PaymentSucceeded | PaymentUnknown:
    """A payment that the node calls complete; believed only with a preimage that hashes to the payment hash."""
    preimage = bytes.fromhex(_hex_or_nothing(reply.get(preimage_name)))
    if hashlib.sha256(preimage).hexdigest() != payment_hash:
        return PaymentUnknown("the Lightning node calls the payment complete without the right preimage")
    amount_sent_msat = read_msat(reply, "amount_sent_msat")
    amount_msat = read_msat(reply, "amount_msat") if "amount_msat" in reply else amount_sent_msat
    return PaymentSucceeded(preimage, amount_msat, AmountMsat(max(amount_sent_msat - amount_msat, 0)))


def read_payment(rows: list[dict[str, Any]], payment_hash: str) -> PaymentLookup:
    """What the rows of `listpays` for one payment hash add up to.

    There may be several: one for each time it was tried. Any that is complete decides, else any that is pending, and
    only where all failed has it failed. No row at all means that nothing was ever sent.
    """
    by_status = {str(row.get("status")): row for row in rows if row.get("payment_hash") == payment_hash}
    if "complete" in by_status:
        return read_success(by_status["complete"], payment_hash, "preimage")
    if by_status.keys() - {"failed"}:
        return PaymentUnknown("the payment is still on its way")
    if by_status:
        return PaymentFailed(FAILED_BEFORE, "every attempt to pay it has failed")
    return PaymentAbsent()


def read_received(row: Mapping[str, Any]) -> Transaction:
    """A paid invoice, from a row of `listinvoices`."""
    return Transaction(
        Direction.INCOMING,
        TransactionState.SETTLED,
        read_text(row, "payment_hash"),
        read_msat(row, "amount_received_msat"),
        AmountMsat(0),
        str(row.get("description") or ""),
        Timestamp(read_integer(row, "paid_at")),
    )


def read_sent(row: Mapping[str, Any]) -> Transaction:
    """A payment, from a row of `listpays`; what failed has no amounts there."""
    states = {"complete": TransactionState.SETTLED, "failed": TransactionState.FAILED}
    state = states.get(str(row.get("status")), TransactionState.PENDING)
    sent_msat = read_msat(row, "amount_sent_msat") if "amount_sent_msat" in row else AmountMsat(0)
    amount_msat = read_msat(row, "amount_msat") if "amount_msat" in row else sent_msat
    at = row.get("completed_at", row.get("created_at"))
    return Transaction(
        Direction.OUTGOING,
        state,
        read_text(row, "payment_hash"),
        amount_msat,
        AmountMsat(max(sent_msat - amount_msat, 0) if state is TransactionState.SETTLED else 0),
        str(row.get("description") or ""),
        Timestamp(int(at) if isinstance(at, int | float) else 0),
    )


def _hex_or_nothing(value: object) -> str:
    is_preimage = isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value)
    return str(value) if is_preimage else ""
