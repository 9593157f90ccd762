"""Settlement: who pays what, when, and what is known about it (RM-03, "Settlement").

Two machines, one table. The node's `SellerSettlement` (seller_settlement.py) asks for invoices and learns that they
were paid; the client's `BuyerSettlement` (buyer_settlement.py) checks invoices, pays them and learns what became of the
payment. Here is what they share: the contract, the table, what happens to them and what they want done. Every step is
stored before it has an effect. A payment has three outcomes; *unknown* is a state that only the wallet's word ends.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from relaymesh.machines.machine import TransitionTable
from relaymesh.machines.records import LedgerRecord, Side, Store, TrancheRecord, TrancheState
from relaymesh.machines.session_funds import FundsAsked, FundsChanged, FundsRefused, FundsReserved
from relaymesh.market.pricing import TranchePlan
from relaymesh.nostr.event import PublicKey
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.fields import Order
from relaymesh.protocol.payment import InvoiceReading, PaymentLookup
from relaymesh.protocol.refusal import Refusal
from relaymesh.protocol.session_messages import InvoiceMessage, JobId
from relaymesh.units import AmountMsat, Moment

_KEY_CHARACTERS_IN_LABEL: Final = 32

_State = TrancheState
TRANCHE_TRANSITIONS: Final = TransitionTable(
    _State.OFFERED,
    (
        (_State.OFFERED, "invoice", _State.INVOICED),
        (_State.OFFERED, "refuse", _State.FAILED),
        (_State.INVOICED, "pay", _State.PAYING),
        (_State.INVOICED, "settle", _State.PAID),
        (_State.INVOICED, "refuse", _State.FAILED),
        (_State.INVOICED, "lapse", _State.EXPIRED),
        (_State.PAYING, "settle", _State.PAID),
        (_State.PAYING, "fail", _State.FAILED),
        (_State.PAYING, "lose sight", _State.UNKNOWN),
        (_State.UNKNOWN, "settle", _State.PAID),
        (_State.UNKNOWN, "fail", _State.FAILED),
        (_State.PAID, "account", _State.RELEASED),
    ),
)
"""The life of a tranche; a seller's goes from INVOICED straight to PAID, a buyer's through PAYING."""


@dataclass(frozen=True, slots=True)
class SettlementContract:
    """What both sides agreed before the job began; never changed by one side.

    Args:
        side: Whose settlement this is.
        client: The client session key.
        job_id: The job.
        order: Who moves first; negotiated by index in the handshake.
        plan: The tranches and their prices, as this side computes them.
        is_input_known: Whether this side measured the input itself (bytes, jobs); token counts are the node's word.
        maximum_msat: The JOB's own limit.
        maximum_stake_msat: The exposure that the quote stated, the node's under `postpay`, else the buyer's: what is
            paid and not delivered, or delivered and not paid, never exceeds it.
        lightning_node_id: Who must be paid: the offer's `ln_pubkey`.
    """

    side: Side
    client: PublicKey
    job_id: JobId
    order: Order
    plan: TranchePlan
    is_input_known: bool
    maximum_msat: AmountMsat
    maximum_stake_msat: AmountMsat
    lightning_node_id: str


def agree_settlement(
    side: Side, contract: SessionContract, job_id: JobId, plan: TranchePlan, maximum_msat: AmountMsat
) -> SettlementContract:
    """The settlement that a session's contract means for one of its jobs, on one side.

    The node measures or states every input itself; a client cannot count tokens.
    """
    return SettlementContract(
        side=side,
        client=contract.client,
        job_id=job_id,
        order=contract.term.order,
        plan=plan,
        is_input_known=side == "node" or contract.quote.row.unit != "token",
        maximum_msat=maximum_msat,
        maximum_stake_msat=max(contract.term.exposure_buyer_msat, contract.term.exposure_node_msat),
        lightning_node_id=contract.lightning_node_id,
    )


# ── what happens to a settlement ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class TrancheWanted:
    """Seller: the next tranche is to be invoiced now.

    Args:
        tranche: The one after the last.
        units: Output units that it covers, to come (`prepay`) or delivered (`postpay`, `sealed`).
        preimage: k of a sealed tranche; None where the wallet draws one.
        records: What must be durable together with the tranche: what it is delivered as.
    """

    tranche: int
    units: int
    amount_msat: AmountMsat
    preimage: bytes | None = field(default=None, repr=False)
    records: tuple[LedgerRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class TrancheForgone:
    """Seller: what was delivered on credit will not be invoiced any more; it stays on the books as not paid."""

    units: int
    amount_msat: AmountMsat
    reason: str


@dataclass(frozen=True, slots=True)
class InvoiceIssued:
    """Seller: the wallet issued the tranche's invoice."""

    tranche: int
    bolt11: str
    payment_hash: str
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class InvoiceFailed:
    """Seller: the wallet would not issue the tranche's invoice; nobody can pay it."""

    tranche: int
    reason: str


@dataclass(frozen=True, slots=True)
class InvoiceResolved:
    """Seller: the wallet says the invoice was paid, or that it can no longer be."""

    tranche: int
    is_paid: bool


@dataclass(frozen=True, slots=True)
class InvoiceOffered:
    """Buyer: the node wants this tranche paid.

    Args:
        decoded: What the invoice says; None when it cannot be read.
        delivered_bytes: The output that has come so far, sealed or in clear.
        records: What must be durable before the invoice is paid: the sealed tranche that it opens.
    """

    tranche: int
    order: str
    amount_msat: AmountMsat
    units: int
    bolt11: str
    decoded: InvoiceReading
    delivered_bytes: int
    records: tuple[LedgerRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class PaymentResolved:
    """Buyer: what the wallet said about the payment, when paying or when looked up."""

    tranche: int
    lookup: PaymentLookup


@dataclass(frozen=True, slots=True)
class JobAccounted:
    """Buyer: the job is over; what was paid is now spent."""


SellerInput = (
    TrancheWanted | TrancheForgone | InvoiceIssued | InvoiceFailed | InvoiceResolved | FundsReserved | FundsRefused
)
BuyerInput = InvoiceOffered | PaymentResolved | JobAccounted | FundsChanged | FundsRefused

# ── what a settlement wants done ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class CreateInvoice:
    """Seller's wallet: issue this invoice; the same label always means the same invoice."""

    tranche: int
    label: str
    amount_msat: AmountMsat
    description: str
    expiry_seconds: int
    preimage: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class OfferInvoice:
    """Send INVOICE."""

    tranche: int
    message: InvoiceMessage


@dataclass(frozen=True, slots=True)
class WatchInvoice:
    """Seller's wallet: say when the invoice is paid or has expired."""

    tranche: int
    label: str


@dataclass(frozen=True, slots=True)
class Pay:
    """Buyer's wallet: pay this invoice, once."""

    tranche: int
    bolt11: str
    payment_hash: str
    amount_msat: AmountMsat


@dataclass(frozen=True, slots=True)
class LookUpPayment:
    """Buyer's wallet: what became of this payment?"""

    tranche: int
    payment_hash: str


@dataclass(frozen=True, slots=True)
class TrancheFunded:
    """The tranche is paid; what it covers may be delivered."""

    tranche: int


@dataclass(frozen=True, slots=True)
class SettlementStopped:
    """The tranche will not be paid: the job cannot go on under this contract."""

    tranche: int
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class PaymentInDoubt:
    """The outcome of this tranche's payment is unknown; it is being looked up."""

    tranche: int


SellerEffect = Store | CreateInvoice | OfferInvoice | WatchInvoice | TrancheFunded | SettlementStopped | FundsAsked
BuyerEffect = Store | Pay | LookUpPayment | TrancheFunded | SettlementStopped | PaymentInDoubt


class Tranches:
    """The tranches of one job and their states, as the table allows them to change."""

    def __init__(self, contract: SettlementContract) -> None:
        self.contract = contract
        self.records: list[TrancheRecord] = []

    def open_next(self, amount_msat: AmountMsat, units: int, now: Moment, label: str = "") -> TrancheRecord:
        """Begin the tranche after the last one, as OFFERED."""
        contract = self.contract
        record = TrancheRecord(
            side=contract.side,
            client=contract.client,
            job_id=contract.job_id,
            tranche=len(self.records),
            state=TRANCHE_TRANSITIONS.initial,
            order=contract.order,
            units=units,
            amount_msat=amount_msat,
            invoice_label=label,
            opened_at_ms=now.unix_ms,
        )
        self.records.append(record)
        return record

    def change(self, tranche: int, trigger: str, target: TrancheState, **fields: object) -> TrancheRecord:
        """Move a tranche as the table allows, and note what is newly known about it."""
        record = self.records[tranche]
        state = TRANCHE_TRANSITIONS.move(record.state, trigger, target)
        record = replace(record, state=state, **fields)  # type: ignore[arg-type]  # field names are this module's own
        self.records[tranche] = record
        return record

    def note(self, tranche: int, **fields: object) -> TrancheRecord:
        """Note what is newly known about a tranche that stays where it is."""
        record = replace(self.records[tranche], **fields)  # type: ignore[arg-type]  # field names are this module's own
        self.records[tranche] = record
        return record

    def sum_of(self, *states: TrancheState) -> AmountMsat:
        """The amounts of all tranches in these states."""
        return AmountMsat(sum(record.amount_msat for record in self.records if record.state in states))

    def account(self) -> tuple[TrancheRecord, ...]:
        """Release every paid tranche: the metering record accounts for it."""
        paid = [record.tranche for record in self.records if record.state is _State.PAID]
        return tuple(self.change(tranche, "account", _State.RELEASED) for tranche in paid)


def invoice_label(client: PublicKey, job_id: str, tranche: int) -> str:
    """The invoice label of one tranche: the same for ever, so that a restart never invoices twice.

    Half of the client's key keeps it within the 128 bytes that Core Lightning takes, and nobody finds another key with
    the same half.
    """
    return f"relaymesh/{client[:_KEY_CHARACTERS_IN_LABEL]}/{job_id}/{tranche}"
