"""The simulated network as one value: its records, its faults, and time as an argument."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from relaymesh.adapters.invoices import find_node_id, read_invoice
from relaymesh.errors import RemoteProtocolError
from relaymesh.lightning_sim.answers import (
    ALREADY_PAID,
    BAD_PARAMETERS,
    INJECTION_FAILED,
    INVOICE_EXPIRED,
    RpcFailure,
)
from relaymesh.lightning_sim.faults import Faults
from relaymesh.lightning_sim.invoicing import expire_invoices
from relaymesh.lightning_sim.ledger import Ledger
from relaymesh.lightning_sim.payments import Payments
from relaymesh.lightning_sim.plan import HUB_NAME, NetworkPlan, WalletPlan
from relaymesh.lightning_sim.records import CURRENCY, NETWORK, AttemptRecord, ChannelRecord, Hop, NodeRecord
from relaymesh.lightning_sim.routes import check_fee, expire_constraints, find_route
from relaymesh.units import MILLISECONDS_PER_SECOND

BLOCK_HEIGHT: Final = 108
_FUNDING_BLOCK: Final = 103
_GROUP_BITS: Final = 63


@dataclass(frozen=True, slots=True)
class PaymentOrder:
    """What a payer was told to pay.

    Args:
        text: The invoice.
        amount_msat: Only where the invoice leaves it to the payer.
        maximum_fee_msat: None for the node's own limit.
        label: What to call it.
    """

    text: str
    amount_msat: int | None = None
    maximum_fee_msat: int | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Bill:
    """What a payer needs to know of an invoice; `payee` is a node's id, `amount_msat` None where the payer chooses."""

    bolt11: str
    payment_hash: str
    payment_secret: str
    payee: str
    amount_msat: int | None
    expires_at: int


class Simulation:
    """Nodes, channels, invoices and payments.

    Args:
        plan: What the network is to look like.
        ledger: Empty, or what an earlier run left behind.
        entropy: Gives that many random bytes: keys, preimages, secrets.
    """

    def __init__(self, plan: NetworkPlan, ledger: Ledger, entropy: Callable[[int], bytes]) -> None:
        plan.check()
        self.plan = plan
        self.ledger = ledger
        self.entropy = entropy
        self.faults = Faults.holding(dict(plan.hold_ms))
        self.payments = Payments(ledger, self.faults, plan)

    def open(self, now_ms: int) -> None:
        """Add what the plan has and the ledger has not, and go on with what an earlier run left half done."""
        if HUB_NAME not in self.ledger.nodes:
            self._add_node(HUB_NAME, is_hub=True)
        for wallet in self.plan.wallets:
            if wallet.name not in self.ledger.nodes:
                self._add_wallet(wallet)
        for attempt in list(self.ledger.pending.values()):
            if attempt.due_ms is None:
                self.ledger.put(replace(attempt, due_ms=now_ms))

    def deadline(self) -> int | None:
        """When `advance` must be called at the latest, in Unix milliseconds; None while nothing is timed."""
        expiry = min((invoice.expires_at for invoice in self.ledger.unpaid.values()), default=None)
        deadlines = (self.payments.deadline(), None if expiry is None else expiry * MILLISECONDS_PER_SECOND)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def advance(self, now_ms: int) -> None:
        """Do what is due by now."""
        self.payments.advance(now_ms)
        expire_invoices(self.ledger, now_ms)

    def take_down(self, name: str) -> None:
        """A node neither forwards nor takes nor settles until it is brought up again."""
        self.faults.down.add(name)

    def bring_up(self, name: str, now_ms: int) -> None:
        """The node is back, and what waited for it goes on."""
        self.faults.down.discard(name)
        self.payments.wake(now_ms)

    def release(self, name: str, now_ms: int) -> None:
        """Hold no more payments to this node, and let those that are held go on."""
        self.faults.hold_ms.pop(name, None)
        self.payments.release(name, now_ms)

    def settle_held(self, payee: str, preimage: bytes, now_ms: int) -> bool:
        """Tell the preimage of a hold invoice whose payment is there; whether it is settled now, or was before."""
        invoice = self.ledger.invoice_with_hash(payee, hashlib.sha256(preimage).hexdigest())
        if invoice is not None and invoice.status == "accepted":
            self.payments.settle_held(invoice, preimage.hex(), now_ms)
            return True
        return invoice is not None and invoice.status == "paid"

    def cancel_held(self, payee: str, payment_hash: str, now_ms: int) -> bool:
        """Give up a hold invoice that is not settled; whether there is such a one."""
        invoice = self.ledger.invoice_with_hash(payee, payment_hash)
        if invoice is None or invoice.preimage or invoice.status == "paid":
            return False
        self.payments.cancel_held(invoice, now_ms)
        return True

    def begin_payment(self, payer: NodeRecord, order: PaymentOrder, now_ms: int) -> AttemptRecord:
        """What `xpay` does until it waits for the outcome.

        Raises:
            RpcFailure: The payment was not sent.
        """
        bill = self.read_bill(order.text)
        amount_msat = _choose_amount(bill, order)
        late_seconds = now_ms // MILLISECONDS_PER_SECOND - bill.expires_at
        if late_seconds > 0:
            raise RpcFailure(INVOICE_EXPIRED, f"Invoice expired {late_seconds} seconds ago")
        expire_constraints(self.ledger, now_ms // MILLISECONDS_PER_SECOND)
        hops: tuple[Hop, ...] = ()
        if bill.payee != payer.public_key:
            payee = self.ledger.node_with_key(bill.payee)
            hops = find_route(self.ledger, self.faults, self.plan, payer, payee, amount_msat)
            check_fee(hops, amount_msat, order.maximum_fee_msat)
        self._refuse_second_payment(payer, bill.payment_hash)
        attempt = AttemptRecord(
            payer=payer.name,
            index=payer.payments_created + 1,
            group=int.from_bytes(self.entropy(8)) >> (64 - _GROUP_BITS),
            payment_hash=bill.payment_hash,
            payment_secret=bill.payment_secret,
            bolt11=bill.bolt11,
            destination=bill.payee,
            amount_msat=amount_msat,
            label=order.label,
            created_ms=now_ms,
            hops=hops,
        )
        self.payments.send(attempt)
        return self.ledger.attempts[payer.name][attempt.index]

    def read_bill(self, text: str) -> Bill:
        """Read an invoice that is to be paid; one of this network's own is known and need not be decoded.

        Raises:
            RpcFailure: −32602, in the words of `xpay`.
        """
        known = self.ledger.invoice_with_text(text)
        if known is not None:
            payee = self.ledger.nodes[known.payee].public_key
            return Bill(text, known.payment_hash, known.payment_secret, payee, known.amount_msat, known.expires_at)
        try:
            fields = read_invoice(text)
        except RemoteProtocolError as error:
            raise RpcFailure(BAD_PARAMETERS, "Invalid bolt11 invoice: Bad bech32 string") from error
        if fields.network != CURRENCY:
            raise RpcFailure(BAD_PARAMETERS, f"Invalid bolt11 invoice: Prefix {fields.network} is not for {NETWORK}")
        expires_at = fields.created_at + fields.expiry_seconds
        return Bill(
            fields.bolt11, fields.payment_hash, fields.payment_secret, fields.payee, fields.amount_msat, expires_at
        )

    def _refuse_second_payment(self, payer: NodeRecord, payment_hash: str) -> None:
        for attempt in self.ledger.attempts_with_hash(payer.name, payment_hash):
            if attempt.status == "complete":
                raise RpcFailure(ALREADY_PAID, "Already paid this invoice successfully")
            if attempt.status == "pending":
                words = f"Payment with groupid={attempt.group} still in progress, cannot retry before that completes."
                inner = f'{{"code":200,"message":"{words}"}}'
                raise RpcFailure(INJECTION_FAILED, f"Unexpected injectpaymentonion error 200: {inner}")

    def _add_node(self, name: str, *, is_hub: bool) -> NodeRecord:
        secret = self.entropy(32)
        record = NodeRecord(name, secret.hex(), find_node_id(secret), is_hub)
        self.ledger.put(record)
        return record

    def _add_wallet(self, wallet: WalletPlan) -> None:
        node = self._add_node(wallet.name, is_hub=False)
        self.ledger.put(
            ChannelRecord(
                short_channel_id=f"{_FUNDING_BLOCK}x{len(self.ledger.channels) + 1}x0",
                wallet=wallet.name,
                capacity_msat=wallet.balance_msat + wallet.inbound_msat,
                wallet_msat=wallet.balance_msat,
                wallet_first=node.public_key < self.ledger.hub.public_key,
            )
        )


def _choose_amount(invoice: Bill, order: PaymentOrder) -> int:
    if invoice.amount_msat is None:
        if order.amount_msat is None:
            raise RpcFailure(BAD_PARAMETERS, "amount_msat required")
        return order.amount_msat
    if order.amount_msat is not None:
        raise RpcFailure(BAD_PARAMETERS, "amount_msat unnecessary")
    return invoice.amount_msat
