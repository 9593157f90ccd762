"""What LND's REST interface says of invoices, payments and channels of the simulated network, in LND's words.

LND, `lnrpc/lightning.proto` as gRPC-gateway shows it: 64-bit numbers as text, bytes in base64, what is empty included.
"""

import base64
from dataclasses import dataclass
from typing import Any, Final

from relaymesh.errors import LightningError
from relaymesh.lightning_sim.answers import HOP_FAILED, NO_ROUTE, REFUSED_BY_PAYEE, TOO_EXPENSIVE
from relaymesh.lightning_sim.records import NETWORK, AttemptRecord, InvoiceRecord, NodeRecord
from relaymesh.lightning_sim.simulation import BLOCK_HEIGHT, Simulation
from relaymesh.units import MILLISECONDS_PER_SECOND

UNKNOWN: Final = 2
INVALID_ARGUMENT: Final = 3
NOT_FOUND: Final = 5
ALREADY_EXISTS: Final = 6
UNIMPLEMENTED: Final = 12
HTTP_STATUSES: Final = {UNKNOWN: 500, INVALID_ARGUMENT: 400, NOT_FOUND: 404, ALREADY_EXISTS: 409, UNIMPLEMENTED: 501}
"""gRPC's codes, and the HTTP statuses that gRPC-gateway makes of them."""

INSUFFICIENT_BALANCE: Final = -100
"""What an attempt that was recorded for LND failed with, where Core Lightning would have recorded none."""

Result = dict[str, Any]

_MSAT_PER_SAT: Final = 1_000
_INVOICE_STATES: Final = {"unpaid": "OPEN", "accepted": "ACCEPTED", "paid": "SETTLED", "expired": "CANCELED"}
_STATUSES: Final = {"pending": "IN_FLIGHT", "complete": "SUCCEEDED", "failed": "FAILED"}
_REASONS: Final = {
    REFUSED_BY_PAYEE: "FAILURE_REASON_INCORRECT_PAYMENT_DETAILS",
    NO_ROUTE: "FAILURE_REASON_NO_ROUTE",
    TOO_EXPENSIVE: "FAILURE_REASON_NO_ROUTE",
    HOP_FAILED: "FAILURE_REASON_NO_ROUTE",
    INSUFFICIENT_BALANCE: "FAILURE_REASON_INSUFFICIENT_BALANCE",
}


class LndFailure(LightningError):
    """A no, with gRPC's code and LND's words."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def to_json(self) -> Result:
        """The error as gRPC-gateway shows it."""
        return {"code": self.code, "message": self.message, "details": []}


@dataclass(frozen=True, slots=True)
class Following:
    """An answer that comes piece by piece: whatever `NodeView.look` says next, until it is final."""

    payment_hash: str
    of_invoice: bool
    only_final: bool = False


def describe_invoice(invoice: InvoiceRecord) -> Result:
    """`lnrpc.Invoice`."""
    received_msat = invoice.received_msat or 0
    return {
        "memo": invoice.description,
        "r_preimage": encode(bytes.fromhex(invoice.preimage)),
        "r_hash": encode(bytes.fromhex(invoice.payment_hash)),
        "value": str((invoice.amount_msat or 0) // _MSAT_PER_SAT),
        "value_msat": str(invoice.amount_msat or 0),
        "settled": invoice.status == "paid",
        "creation_date": str(invoice.created_at),
        "settle_date": str(invoice.paid_at or 0),
        "payment_request": invoice.bolt11,
        "description_hash": "",
        "expiry": str(invoice.expires_at - invoice.created_at),
        "fallback_addr": "",
        "private": False,
        "add_index": str(invoice.created_index),
        "settle_index": str(invoice.pay_index or 0),
        "amt_paid": str(received_msat),
        "amt_paid_sat": str(received_msat // _MSAT_PER_SAT),
        "amt_paid_msat": str(received_msat),
        "state": _INVOICE_STATES[invoice.status],
        "htlcs": [],
        "is_keysend": False,
        "payment_addr": encode(bytes.fromhex(invoice.payment_secret)),
        "is_amp": False,
    }


def describe_payment(attempt: AttemptRecord) -> Result:
    """`lnrpc.Payment`."""
    is_complete = attempt.status == "complete"
    fee_msat = attempt.sent_msat - attempt.amount_msat if is_complete else 0
    is_failed = attempt.status == "failed"
    reason = _REASONS.get(attempt.failure_code or 0, "FAILURE_REASON_ERROR") if is_failed else "FAILURE_REASON_NONE"
    return {
        "payment_hash": attempt.payment_hash,
        "value": str(attempt.amount_msat // _MSAT_PER_SAT),
        "creation_date": str(attempt.created_ms // MILLISECONDS_PER_SECOND),
        "fee": str(fee_msat // _MSAT_PER_SAT),
        "payment_preimage": attempt.preimage if is_complete else "00" * 32,
        "value_sat": str(attempt.amount_msat // _MSAT_PER_SAT),
        "value_msat": str(attempt.amount_msat),
        "payment_request": attempt.bolt11,
        "status": _STATUSES[attempt.status],
        "fee_sat": str(fee_msat // _MSAT_PER_SAT),
        "fee_msat": str(fee_msat),
        "creation_time_ns": str(attempt.created_ms * 1_000_000),
        "htlcs": [],
        "payment_index": str(attempt.index),
        "failure_reason": reason,
    }


def describe_node(node: NodeRecord) -> Result:
    """`lnrpc.GetInfoResponse`."""
    return {
        "version": "0.20.0-beta simulated",
        "identity_pubkey": node.public_key,
        "alias": node.name,
        "color": f"#{node.public_key[:6]}",
        "num_active_channels": 1,
        "num_peers": 1,
        "block_height": BLOCK_HEIGHT,
        "synced_to_chain": True,
        "synced_to_graph": True,
        "chains": [{"chain": "bitcoin", "network": NETWORK}],
        "uris": [],
        "features": {},
    }


def describe_balance(simulation: Simulation, node: NodeRecord) -> Result:
    """`lnrpc.ChannelBalanceResponse`: what is on its way out has left the balance."""
    ledger = simulation.ledger
    channels = ledger.channels_of(node)
    local_msat = sum(ledger.spendable_msat(channel, by_hub=node.is_hub) for channel in channels)
    remote_msat = sum(ledger.spendable_msat(channel, by_hub=not node.is_hub) for channel in channels)
    return {
        "balance": str(local_msat // _MSAT_PER_SAT),
        "pending_open_balance": "0",
        "local_balance": _amount(local_msat),
        "remote_balance": _amount(remote_msat),
        "unsettled_local_balance": _amount(0),
        "unsettled_remote_balance": _amount(ledger.balance_msat(node) - local_msat),
        "pending_open_local_balance": _amount(0),
        "pending_open_remote_balance": _amount(0),
    }


def describe_channels(simulation: Simulation, node: NodeRecord) -> Result:
    """`lnrpc.ListChannelsResponse`."""
    ledger = simulation.ledger
    return {
        "channels": [
            {
                "active": ledger.hub.name not in simulation.faults.down,
                "remote_pubkey": ledger.hub.public_key,
                "capacity": str(channel.capacity_msat // _MSAT_PER_SAT),
                "local_balance": str(ledger.spendable_msat(channel, by_hub=False) // _MSAT_PER_SAT),
                "remote_balance": str(ledger.spendable_msat(channel, by_hub=True) // _MSAT_PER_SAT),
                "private": False,
                "local_constraints": {"chan_reserve_sat": "0"},
                "remote_constraints": {"chan_reserve_sat": "0"},
            }
            for channel in ledger.channels_of(node)
        ]
    }


def encode(data: bytes) -> str:
    """Bytes, as LND shows them."""
    return base64.b64encode(data).decode()


def _amount(msat: int) -> Result:
    return {"sat": str(msat // _MSAT_PER_SAT), "msat": str(msat)}
