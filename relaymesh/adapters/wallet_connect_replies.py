"""What a wallet service answers, read into the port's values; what is missing or misshapen is an error, never a guess.

NIP-47, "Commands". Times and states are optional there, so a transaction is read with the time: what a state would say
follows from `settled_at`, the preimage and `expires_at`.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from relaymesh.errors import LightningError
from relaymesh.nostr.event import is_hex, is_hex_32
from relaymesh.ports.lightning import (
    Direction,
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
"""The code of a payment that the wallet calls failed without saying why."""

NETWORKS: Final = {"mainnet": "bitcoin"}
"""What NIP-47 calls otherwise than Core Lightning."""


def read_text(result: Mapping[str, Any], name: str) -> str:
    """The text called `name`, not empty."""
    value = result.get(name)
    if not isinstance(value, str) or not value:
        raise LightningError(f"the wallet's answer should hold the text {name!r}, it does not")
    return value


def read_integer(result: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """The whole number called `name`, from 0 to 2^53 − 1; `default`, if there is one, where it is absent or null."""
    value = result.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 0 <= value <= MAXIMUM_INTEGER:
        raise LightningError(f"the wallet's answer should hold the number {name!r}, it does not")
    return value


def read_payment_hash(result: Mapping[str, Any]) -> str:
    """The transaction's payment hash."""
    value = result.get("payment_hash")
    if not isinstance(value, str) or not is_hex_32(value.lower()):
        raise LightningError("the wallet's answer should hold a payment hash, it does not")
    return value.lower()


def read_public_key(result: Mapping[str, Any]) -> str:
    """The Lightning node that is paid, from `get_info`."""
    value = result.get("pubkey")
    if not isinstance(value, str) or not is_hex(value.lower(), 33):
        raise LightningError("the wallet does not say which Lightning node it is, so nobody could check whom he pays")
    return value.lower()


def read_network(result: Mapping[str, Any]) -> str:
    """The network, as Core Lightning calls it."""
    network = read_text(result, "network")
    return NETWORKS.get(network, network)


def read_preimage(result: Mapping[str, Any], payment_hash: str) -> bytes | None:
    """The preimage, if there is one that hashes to the payment hash."""
    value = result.get("preimage")
    if not isinstance(value, str) or not is_hex_32(value.lower()):
        return None
    preimage = bytes.fromhex(value)
    return preimage if hashlib.sha256(preimage).hexdigest() == payment_hash else None


def read_invoice_state(result: Mapping[str, Any], now: Timestamp) -> InvoiceState:
    """Where an invoice of ours stands; one that is held (`accepted`) is open until it is settled."""
    state = result.get("state")
    if state == "settled" or (state is None and result.get("settled_at")):
        return InvoiceState(InvoiceStatus.PAID, AmountMsat(read_integer(result, "amount")))
    if state in ("expired", "failed"):
        return InvoiceState(InvoiceStatus.EXPIRED, AmountMsat(0))
    expires_at = read_integer(result, "expires_at", default=MAXIMUM_INTEGER)
    if state != "accepted" and 0 < expires_at <= now:
        return InvoiceState(InvoiceStatus.EXPIRED, AmountMsat(0))
    return InvoiceState(InvoiceStatus.OPEN, AmountMsat(0))


def read_payment(result: Mapping[str, Any], payment_hash: str) -> PaymentLookup:
    """What became of a payment: believed paid only with a preimage that hashes to the payment hash."""
    if result.get("type") == "incoming":
        return PaymentAbsent()
    preimage = read_preimage(result, payment_hash)
    if preimage is not None:
        fee_msat = AmountMsat(read_integer(result, "fees_paid", default=0))
        return PaymentSucceeded(preimage, AmountMsat(read_integer(result, "amount")), fee_msat)
    if result.get("state") == "failed":
        return PaymentFailed(FAILED_BEFORE, "every attempt to pay it has failed")
    if result.get("state") == "settled" or result.get("settled_at"):
        return PaymentUnknown("the wallet calls the payment settled without the right preimage")
    return PaymentUnknown("the payment is still on its way")


def read_transaction(result: Mapping[str, Any]) -> Transaction:
    """A row of `list_transactions`."""
    is_settled = result.get("state") == "settled" or (result.get("state") is None and result.get("settled_at"))
    state = TransactionState.SETTLED if is_settled else TransactionState.PENDING
    if result.get("state") in ("failed", "expired"):
        state = TransactionState.FAILED
    name = "settled_at" if is_settled and result.get("settled_at") else "created_at"
    return Transaction(
        Direction.INCOMING if result.get("type") == "incoming" else Direction.OUTGOING,
        state,
        read_payment_hash(result),
        AmountMsat(read_integer(result, "amount")),
        AmountMsat(read_integer(result, "fees_paid", default=0) if is_settled else 0),
        str(result.get("description") or ""),
        Timestamp(read_integer(result, name, default=0)),
    )
