"""The client's side of settlement: check, store, pay once, and learn what became of it (RM-03, "Settlement")."""

from collections.abc import Collection
from typing import Final

from relaymesh.machines.invoice_checks import find_invoice_mismatch
from relaymesh.machines.machine import earliest
from relaymesh.machines.records import Store, TrancheRecord, TrancheState
from relaymesh.machines.settlement import (
    BuyerEffect,
    BuyerInput,
    InvoiceOffered,
    JobAccounted,
    LookUpPayment,
    Pay,
    PaymentInDoubt,
    PaymentResolved,
    SettlementContract,
    SettlementStopped,
    TrancheFunded,
    Tranches,
)
from relaymesh.protocol.metering import MeteringRecord
from relaymesh.protocol.payment import (
    OVER_LIMIT,
    DecodedInvoice,
    PaymentAbsent,
    PaymentFailed,
    PaymentLookup,
    PaymentSucceeded,
    PaymentUnknown,
)
from relaymesh.protocol.refusal import RefusalCode, refuse
from relaymesh.units import AmountMsat, Instant, Moment

FIRST_LOOK_UP_MS: Final = 250
LONGEST_LOOK_UP_MS: Final = 30_000
_State = TrancheState


class BuyerSettlement:
    """The client's side: check, pay once, and never take *unknown* for *failed*.

    Args:
        contract: What was agreed.
        known_payment_hashes: Hashes that other tranches already used; an invoice that repeats one is refused.
    """

    def __init__(self, contract: SettlementContract, *, known_payment_hashes: Collection[str] = ()) -> None:
        self._tranches = Tranches(contract)
        self._contract = contract
        self._known_hashes = known_payment_hashes
        self._look_ups: dict[int, tuple[Instant, int]] = {}
        self._early: InvoiceOffered | None = None
        self._effects: list[BuyerEffect] = []

    @property
    def records(self) -> tuple[TrancheRecord, ...]:
        """Every tranche so far, in order."""
        return tuple(self._tranches.records)

    @property
    def paid_msat(self) -> AmountMsat:
        """What is known to have been paid to the node."""
        return self._tranches.sum_of(_State.PAID, _State.RELEASED)

    @property
    def committed_msat(self) -> AmountMsat:
        """What was paid or may have been: unknown counts as paid against the budget."""
        return self._tranches.sum_of(_State.PAID, _State.RELEASED, _State.PAYING, _State.UNKNOWN)

    @property
    def fees_msat(self) -> AmountMsat:
        """What routing cost on top."""
        return AmountMsat(sum(record.fee_msat for record in self._tranches.records))

    @property
    def is_in_doubt(self) -> bool:
        """Whether some payment is out, or its outcome is unknown."""
        return any(record.state in (_State.PAYING, _State.UNKNOWN) for record in self._tranches.records)

    @property
    def is_unknown(self) -> bool:
        """Whether the wallet could not say what became of some payment."""
        return any(record.state is _State.UNKNOWN for record in self._tranches.records)

    @property
    def is_own(self) -> bool:
        """Whether the job is paid by itself: its steps then wait for the ledger."""
        return True

    def take_record(self, record: MeteringRecord, *, is_fair: bool) -> None:
        """The job's metering record is here: nothing to do where its tranches are its own."""

    def receive(self, message: BuyerInput, now: Moment) -> None:
        """Take in an invoice or what the wallet said."""
        match message:
            case InvoiceOffered():
                self._offered(message, now)
            case PaymentResolved(tranche, lookup):
                self._resolved(tranche, lookup, now)
            case JobAccounted():
                self._effects.append(Store(self._tranches.account()))

    def deadline(self) -> Instant | None:
        """When the next look-up of an unknown payment is due."""
        return earliest(*[instant for instant, _ in self._look_ups.values()])

    def handle_deadline(self, now: Moment) -> None:
        """Look up every payment whose time has come, each time after a longer pause."""
        for tranche, (instant, pause_ms) in list(self._look_ups.items()):
            if instant <= now.instant:
                pause_ms = min(2 * pause_ms, LONGEST_LOOK_UP_MS)
                self._look_ups[tranche] = (now.after_ms(pause_ms), pause_ms)
                self._effects.append(LookUpPayment(tranche, self._tranches.records[tranche].payment_hash))

    def effects(self) -> tuple[BuyerEffect, ...]:
        """What is to be done, once, in order."""
        effects, self._effects = tuple(self._effects), []
        return effects

    def _offered(self, offered: InvoiceOffered, now: Moment) -> None:
        records = self._tranches.records
        if offered.tranche < len(records):
            if records[offered.tranche].bolt11 != offered.bolt11:
                self._refuse(offered.tranche, "a tranche is invoiced once")
            return
        if self.is_in_doubt:
            self._early = offered  # the payee saw the money before our own wallet answered: the wallet's word first
            return
        if self._contract.order == "prepay":
            self._open_free_tranches(offered.tranche, now)
        complaint = find_invoice_mismatch(self._contract, self.records, offered, self._known_hashes, now)
        if complaint is not None or not isinstance(offered.decoded, DecodedInvoice):
            self._refuse(offered.tranche, complaint or "the invoice cannot be read")
            return
        tranche, payment_hash = offered.tranche, offered.decoded.payment_hash
        self._tranches.open_next(offered.amount_msat, offered.units, now)
        self._tranches.change(tranche, "invoice", _State.INVOICED, bolt11=offered.bolt11, payment_hash=payment_hash)
        record = self._tranches.change(tranche, "pay", _State.PAYING)
        self._effects += [
            Store((record, *offered.records)),
            Pay(tranche, offered.bolt11, payment_hash, offered.amount_msat),
        ]

    def _open_free_tranches(self, tranche: int, now: Moment) -> None:
        """Tranches that cost nothing have no invoice: those before `tranche` count as paid, if they are such."""
        plan = self._contract.plan
        while len(self._tranches.records) < min(tranche, plan.count):
            number = len(self._tranches.records)
            if self._contract.is_input_known and plan.price(number) > 0:
                return
            self._tranches.open_next(AmountMsat(0), plan.units(number), now)
            self._tranches.change(number, "invoice", _State.INVOICED)
            self._tranches.change(number, "settle", _State.PAID)

    def _refuse(self, tranche: int, complaint: str) -> None:
        self._effects.append(SettlementStopped(tranche, refuse(RefusalCode.PAYMENT_MISMATCH, complaint)))

    def _resolved(self, tranche: int, lookup: PaymentLookup, now: Moment) -> None:
        state = self._tranches.records[tranche].state
        if state not in (_State.PAYING, _State.UNKNOWN):
            return
        match lookup:
            case PaymentSucceeded(preimage, _, fee_msat):
                self._look_ups.pop(tranche, None)
                record = self._tranches.change(tranche, "settle", _State.PAID, fee_msat=fee_msat, preimage=preimage)
                self._effects += [Store((record,)), TrancheFunded(tranche)]
                early, self._early = self._early, None
                if early is not None:
                    self._offered(early, now)
            case PaymentFailed(code, reason):
                self._fail(tranche, reason, RefusalCode.OVER_BUDGET if code == OVER_LIMIT else None)
            case PaymentAbsent():
                self._fail(tranche, "the wallet never sent the payment")
            case PaymentUnknown(reason) if state is _State.PAYING:
                record = self._tranches.change(tranche, "lose sight", _State.UNKNOWN, reason=reason)
                self._look_ups[tranche] = (now.after_ms(FIRST_LOOK_UP_MS), FIRST_LOOK_UP_MS)
                self._effects += [Store((record,)), PaymentInDoubt(tranche)]
            case PaymentUnknown():
                pass

    def _fail(self, tranche: int, reason: str, code: RefusalCode | None = None) -> None:
        self._look_ups.pop(tranche, None)
        record = self._tranches.change(tranche, "fail", _State.FAILED, reason=reason)
        refusal = refuse(code or RefusalCode.PAYMENT_REQUIRED, f"the payment failed: {reason}")
        self._effects += [Store((record,)), SettlementStopped(tranche, refusal)]
