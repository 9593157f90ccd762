"""The node's side of settlement: one invoice per tranche, in order (RM-03, "Settlement")."""

from typing import Final

from relaymesh.errors import LocalProtocolError
from relaymesh.machines.records import Store, TrancheRecord, TrancheState
from relaymesh.machines.settlement import (
    CreateInvoice,
    InvoiceFailed,
    InvoiceIssued,
    InvoiceResolved,
    OfferInvoice,
    SellerEffect,
    SellerInput,
    SettlementContract,
    SettlementStopped,
    TrancheForgone,
    TrancheFunded,
    Tranches,
    TrancheWanted,
    WatchInvoice,
    invoice_label,
)
from relaymesh.market.pricing import MAXIMUM_TRANCHES
from relaymesh.protocol.refusal import RefusalCode, refuse
from relaymesh.protocol.session_messages import InvoiceMessage
from relaymesh.units import AmountMsat, Moment

INVOICE_DESCRIPTION: Final = "RelayMesh job"
_State = TrancheState


class SellerSettlement:
    """The node's side: one invoice per tranche, in order, each stored before it is offered.

    Args:
        contract: What was agreed.
        invoice_expiry_seconds: How long the client has to pay one.
        restored: The ledger's rows of this job after a restart, in tranche order.
    """

    def __init__(
        self,
        contract: SettlementContract,
        *,
        invoice_expiry_seconds: int = 60,
        restored: tuple[TrancheRecord, ...] = (),
    ) -> None:
        self._tranches = Tranches(contract)
        self._tranches.records.extend(restored)
        self._contract = contract
        self._expiry_seconds = invoice_expiry_seconds
        self._effects: list[SellerEffect] = []

    @property
    def records(self) -> tuple[TrancheRecord, ...]:
        """Every tranche so far, in order."""
        return tuple(self._tranches.records)

    @property
    def paid_msat(self) -> AmountMsat:
        """What has been paid under this job."""
        return self._tranches.sum_of(_State.PAID, _State.RELEASED)

    @property
    def asked_msat(self) -> AmountMsat:
        """What all tranches so far come to, paid or not."""
        return AmountMsat(sum(record.amount_msat for record in self._tranches.records))

    @property
    def asked_units(self) -> int:
        """Output units of all tranches so far, paid or not."""
        return sum(record.units for record in self._tranches.records)

    @property
    def paid_units(self) -> int:
        """Output units of all tranches that were paid and not accounted for yet."""
        return sum(record.units for record in self._tranches.records if record.state is _State.PAID)

    def is_open(self, tranche: int) -> bool:
        """Whether this tranche may still be paid."""
        return self._tranches.records[tranche].state in (_State.OFFERED, _State.INVOICED)

    @property
    def has_open(self) -> bool:
        """Whether some tranche may still be paid."""
        return any(self.is_open(record.tranche) for record in self._tranches.records)

    def receive(self, message: SellerInput, now: Moment) -> None:
        """Take in what the job needs or what the wallet said."""
        match message:
            case TrancheWanted():
                self._want(message, now)
            case TrancheForgone():
                self._forgo(message, now)
            case InvoiceIssued():
                self._issued(message)
            case InvoiceFailed(tranche, reason):
                self._failed(tranche, reason)
            case InvoiceResolved(tranche, is_paid):
                self._resolved(tranche, is_paid)

    def account(self) -> tuple[TrancheRecord, ...]:
        """Release what was paid: whatever the job came to, this is in it. Stored together with the job."""
        return self._tranches.account()

    def effects(self) -> tuple[SellerEffect, ...]:
        """What is to be done, once, in order."""
        effects, self._effects = tuple(self._effects), []
        return effects

    def resume(self) -> None:
        """After a restart: ask the wallet again about every tranche that was not settled."""
        for record in self._tranches.records:
            if record.state is _State.OFFERED:
                self._effects.append(self._create_invoice(record))
            elif record.state is _State.INVOICED:
                self._effects.append(WatchInvoice(record.tranche, record.invoice_label))

    def _want(self, wanted: TrancheWanted, now: Moment) -> None:
        contract, tranche = self._contract, wanted.tranche
        if tranche != len(self._tranches.records) or tranche >= MAXIMUM_TRANCHES:
            raise LocalProtocolError(f"tranche {tranche} is not the next one")
        label = invoice_label(contract.client, contract.job_id, tranche)
        record = self._tranches.open_next(wanted.amount_msat, wanted.units, now, label)
        if record.amount_msat == 0:
            # A tranche that costs nothing has no invoice: it is funded as soon as it is wanted.
            self._tranches.change(tranche, "invoice", _State.INVOICED)
            record = self._tranches.change(tranche, "settle", _State.PAID)
            self._effects += [Store((record,)), TrancheFunded(tranche)]
            return
        if wanted.preimage is not None:
            record = self._tranches.note(tranche, preimage=wanted.preimage)
        self._effects += [Store((record, *wanted.records)), self._create_invoice(record)]

    def _forgo(self, forgone: TrancheForgone, now: Moment) -> None:
        record = self._tranches.open_next(forgone.amount_msat, forgone.units, now)
        record = self._tranches.change(record.tranche, "refuse", _State.FAILED, reason=forgone.reason)
        self._effects.append(Store((record,)))

    def _create_invoice(self, record: TrancheRecord) -> CreateInvoice:
        return CreateInvoice(
            record.tranche,
            record.invoice_label,
            record.amount_msat,
            INVOICE_DESCRIPTION,
            self._expiry_seconds,
            record.preimage,
        )

    def _issued(self, issued: InvoiceIssued) -> None:
        if self._tranches.records[issued.tranche].state is not _State.OFFERED:
            return  # the wallet said it before
        record = self._tranches.change(
            issued.tranche, "invoice", _State.INVOICED, bolt11=issued.bolt11, payment_hash=issued.payment_hash
        )
        message = InvoiceMessage(
            job_id=self._contract.job_id,
            tranche=record.tranche,
            order=self._contract.order,
            bolt11=record.bolt11,
            msat=record.amount_msat,
            units=record.units,
            expires_at_ms=issued.expires_at_ms,
        )
        self._effects += [
            Store((record,)),
            OfferInvoice(record.tranche, message),
            WatchInvoice(record.tranche, record.invoice_label),
        ]

    def _failed(self, tranche: int, reason: str) -> None:
        if self._tranches.records[tranche].state is not _State.OFFERED:
            return
        record = self._tranches.change(tranche, "refuse", _State.FAILED, reason=reason)
        refusal = refuse(RefusalCode.INTERNAL, "the node's wallet issues no invoice; try another node")
        self._effects += [Store((record,)), SettlementStopped(tranche, refusal)]

    def _resolved(self, tranche: int, is_paid: bool) -> None:
        if self._tranches.records[tranche].state is not _State.INVOICED:
            return
        if is_paid:
            record = self._tranches.change(tranche, "settle", _State.PAID)
            self._effects += [Store((record,)), TrancheFunded(tranche)]
            return
        record = self._tranches.change(tranche, "lapse", _State.EXPIRED)
        refusal = refuse(RefusalCode.PAYMENT_TIMEOUT, "the invoice expired before it was paid")
        self._effects += [Store((record,)), SettlementStopped(tranche, refusal)]
