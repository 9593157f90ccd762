"""LND's replies, read into the port's values; what is missing or misshapen is an error, never a guess.

LND, `lnrpc/lightning.proto` as its REST interface shows it: numbers of 64 bits are text, bytes are base64, and what is
empty is there all the same. Older versions say less; what nothing depends on may be missing.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from relaymesh.errors import LightningError
from relaymesh.nostr.event import is_hex, is_hex_32
from relaymesh.ports.lightning import (
    Direction,
    InvoiceState,
    InvoiceStatus,
    PaymentFailed,
    PaymentSucceeded,
    PaymentUnknown,
    Transaction,
    TransactionState,
)
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat, Timestamp

REFUSED_BY_PAYEE: Final = 203
NO_ROUTE: Final = 205
ROUTE_FAILED: Final = 209
STOPPED: Final = 210
"""What Core Lightning's codes for the same are."""

_MSAT_PER_SAT: Final = 1_000
_NETWORKS: Final = {"mainnet": "bitcoin"}
_FAILURES: Final = {
    "FAILURE_REASON_TIMEOUT": (STOPPED, "no route worked before the time was up"),
    "FAILURE_REASON_NO_ROUTE": (NO_ROUTE, "no route within the fee limit was found, or none worked"),
    "FAILURE_REASON_ERROR": (ROUTE_FAILED, "an error that cannot be recovered from"),
    "FAILURE_REASON_INCORRECT_PAYMENT_DETAILS": (REFUSED_BY_PAYEE, "the payee does not know it, or takes it no more"),
    "FAILURE_REASON_INSUFFICIENT_BALANCE": (NO_ROUTE, "there is not enough in the channels"),
    "FAILURE_REASON_CANCELED": (STOPPED, "it was stopped"),
}
_STATES: Final = {
    "OPEN": InvoiceStatus.OPEN,
    "ACCEPTED": InvoiceStatus.OPEN,
    "SETTLED": InvoiceStatus.PAID,
    "CANCELED": InvoiceStatus.EXPIRED,
}


def read_text(reply: Mapping[str, Any], name: str) -> str:
    """The text called `name`, not empty."""
    value = reply.get(name)
    if not isinstance(value, str) or not value:
        raise LightningError(f"LND's answer should hold the text {name!r}, it does not")
    return value


def read_integer(reply: Mapping[str, Any], name: str) -> int:
    """The whole number called `name`, from 0 to 2^53 − 1: as text, as a number, or missing, which is 0."""
    value = reply.get(name, 0)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 16:
        value = int(value)
    if type(value) is not int or not 0 <= value <= MAXIMUM_INTEGER:
        raise LightningError(f"LND's answer should hold the number {name!r}, it does not")
    return value


def read_rows(reply: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The list of objects called `name`."""
    rows = reply.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise LightningError(f"LND's answer should hold the list {name!r}, it does not")
    return rows


def read_public_key(node: Mapping[str, Any]) -> str:
    """The Lightning node's id, from `getinfo`."""
    value = read_text(node, "identity_pubkey").lower()
    if not is_hex(value, 33):
        raise LightningError("LND's answer should hold its node's id, 33 bytes in hex, it does not")
    return value


def read_network(node: Mapping[str, Any]) -> str:
    """The network, as Core Lightning calls it, from `getinfo`."""
    chains = read_rows(node, "chains")
    if not chains:
        raise LightningError("LND's answer should say which network it is on, it does not")
    network = read_text(chains[0], "network")
    return _NETWORKS.get(network, network)


def read_amount(reply: Mapping[str, Any], name: str) -> AmountMsat:
    """The `Amount` called `name`, from `balance/channels`."""
    amount = reply.get(name)
    if not isinstance(amount, dict):
        raise LightningError(f"LND's answer should hold the amount {name!r}, it does not")
    return AmountMsat(read_integer(amount, "msat"))


def read_usable(channel: Mapping[str, Any], side: str) -> int:
    """What `local` or `remote` can send over a channel, in msat: its balance, less the reserve it has to leave."""
    constraints = channel.get(f"{side}_constraints")
    kept = read_integer(constraints, "chan_reserve_sat") if isinstance(constraints, dict) else 0
    return max(read_integer(channel, f"{side}_balance") - kept, 0) * _MSAT_PER_SAT


def read_invoice_state(invoice: Mapping[str, Any]) -> InvoiceState:
    """Where an invoice of ours stands: LND itself cancels what has expired, and until then it would take a payment."""
    status = _STATES.get(read_text(invoice, "state"))
    if status is None:
        raise LightningError("an invoice should be open, accepted, settled or cancelled, LND says something else")
    received_msat = read_integer(invoice, "amt_paid_msat") if status is InvoiceStatus.PAID else 0
    return InvoiceState(status, AmountMsat(received_msat))


def read_payment(payment: Mapping[str, Any], payment_hash: str) -> PaymentSucceeded | PaymentFailed | PaymentUnknown:
    """What became of a payment: believed paid only with a preimage that hashes to the payment hash.

    LND calls failed only what has no part under way any more, and it would tell a payment hash from another.
    """
    status = payment.get("status")
    if payment.get("payment_hash") != payment_hash:
        return PaymentUnknown("LND speaks of another payment than the one it was asked about")
    if status == "SUCCEEDED":
        text = payment.get("payment_preimage")
        preimage = bytes.fromhex(text) if isinstance(text, str) and is_hex_32(text) else b""
        if hashlib.sha256(preimage).hexdigest() != payment_hash:
            return PaymentUnknown("LND calls the payment complete without the right preimage")
        fee_msat = AmountMsat(read_integer(payment, "fee_msat"))
        return PaymentSucceeded(preimage, AmountMsat(read_integer(payment, "value_msat")), fee_msat)
    if status == "FAILED":
        code, words = _FAILURES.get(str(payment.get("failure_reason")), (STOPPED, "LND does not say why"))
        return PaymentFailed(code, f"the payment failed: {words}")
    return PaymentUnknown("the payment is still on its way")


def read_received(invoices: list[dict[str, Any]]) -> Iterator[Transaction]:
    """The paid ones of a page of `invoices`."""
    for invoice in invoices:
        if invoice.get("state") == "SETTLED":
            yield Transaction(
                Direction.INCOMING,
                TransactionState.SETTLED,
                _hex(read_text(invoice, "r_hash")),
                AmountMsat(read_integer(invoice, "amt_paid_msat")),
                AmountMsat(0),
                str(invoice.get("memo") or ""),
                Timestamp(read_integer(invoice, "settle_date")),
            )


def read_sent(payments: list[dict[str, Any]]) -> Iterator[Transaction]:
    """A page of `payments`; LND does not keep what their invoices say."""
    states = {"SUCCEEDED": TransactionState.SETTLED, "FAILED": TransactionState.FAILED}
    for payment in payments:
        state = states.get(str(payment.get("status")), TransactionState.PENDING)
        is_settled = state is TransactionState.SETTLED
        yield Transaction(
            Direction.OUTGOING,
            state,
            read_text(payment, "payment_hash"),
            AmountMsat(read_integer(payment, "value_msat")),
            AmountMsat(read_integer(payment, "fee_msat") if is_settled else 0),
            "",
            Timestamp(read_integer(payment, "creation_date")),
        )


def _hex(text: str) -> str:
    """Base64, as LND shows bytes, in hex."""
    try:
        return base64.b64decode(text, validate=True).hex()
    except binascii.Error as error:
        raise LightningError("LND's answer should hold base64, it does not") from error
