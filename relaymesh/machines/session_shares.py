"""What a job of a prepaid session has instead of a settlement of its own: its share of the session's money (RM-03).

Each is told and asks the same as the settlement in whose place it stands, so that a job lives as any other; but nothing
is invoiced or paid for it. The node's is one tranche, of all that the job can cost, funded when the session's funds
promise it; the client's books, once the record is here, what the job drew.
"""

from collections.abc import Callable, Collection

from relaymesh.machines.buyer_account import BuyerAccount
from relaymesh.machines.buyer_settlement import BuyerSettlement
from relaymesh.machines.records import TrancheRecord, TrancheState
from relaymesh.machines.seller_settlement import SellerSettlement
from relaymesh.machines.session_funds import (
    Draw,
    FundsAsked,
    FundsChanged,
    FundsRefused,
    FundsReserved,
    SessionFunds,
)
from relaymesh.machines.settlement import (
    BuyerInput,
    InvoiceOffered,
    SellerInput,
    SettlementContract,
    SettlementStopped,
    TrancheFunded,
    TrancheWanted,
)
from relaymesh.protocol.contract import Commitments
from relaymesh.protocol.metering import MeteringRecord, commit_to_payment
from relaymesh.protocol.refusal import RefusalCode, refuse
from relaymesh.units import AmountMsat, Instant, Moment

_State = TrancheState


class SellerShare(SellerSettlement):
    """The node's: asks the session's funds for what the job can cost, and draws what was delivered.

    Args:
        contract: Of the job; its plan is one tranche.
        funds: The session's.
    """

    def __init__(self, contract: SettlementContract, funds: SessionFunds) -> None:
        super().__init__(contract)
        self._funds = funds
        self._is_drawn = False

    def receive(self, message: SellerInput, now: Moment) -> None:
        """Take in that the job needs its money, and that it is there or will not come."""
        match message:
            case TrancheWanted(units=units, amount_msat=amount_msat):
                self._tranches.open_next(amount_msat, units, now)
                if self._funds.ask(self._contract.job_id, amount_msat):
                    self._fund()
                self._effects.append(FundsAsked(self._contract.job_id))
            case FundsReserved() if not self._is_drawn:
                self._fund()
            case FundsRefused(refusal) if not self._is_drawn:
                self._effects.append(SettlementStopped(0, refusal))
            case _:
                pass  # a job of a session has no invoices

    def draw(self, units: int, amount_msat: AmountMsat) -> None:
        """End the job's share: what was delivered is drawn, and the rest is the session's again.

        Args:
            units: Output delivered, in the row's unit.
            amount_msat: What it costs, with its input.
        """
        self._is_drawn = True
        asked_msat = self._tranches.records[0].amount_msat
        draws = self._funds.draw(self._contract.job_id, min(amount_msat, asked_msat))
        self._tranches.records = _as_tranches(self._contract, draws, units)

    def account(self) -> tuple[TrancheRecord, ...]:
        """None: the tranches are the session's."""
        return ()

    def _fund(self) -> None:
        self._tranches.change(0, "invoice", _State.INVOICED)
        self._tranches.change(0, "settle", _State.PAID)
        self._effects.append(TrancheFunded(0))


class BuyerShare(BuyerSettlement):
    """The client's: books what the metering record says the job drew, once our wallet has said that it was paid.

    Args:
        contract: Of the job.
        account: The session's.
        commit: The commitment to a payment hash at a position in the job's record.
    """

    def __init__(self, contract: SettlementContract, account: BuyerAccount, commit: Callable[[int, str], str]) -> None:
        super().__init__(contract)
        self._account, self._commit = account, commit
        self._stated: tuple[tuple[str, AmountMsat], ...] | None = None
        self._is_booked = False

    @property
    def is_own(self) -> bool:
        """False: what is paid is the session's, and what is paid already is in the ledger."""
        return False

    @property
    def committed_msat(self) -> AmountMsat:
        """What the job drew and, while nothing is booked, what may yet turn out to have been paid for it."""
        return AmountMsat(self.paid_msat + (0 if self._is_booked else self._account.doubtful_msat))

    @property
    def is_in_doubt(self) -> bool:
        """Whether a payment is out that this job may need: its record can name it before our wallet does."""
        return not self._is_booked and self._account.is_in_doubt

    @property
    def is_unknown(self) -> bool:
        """Whether the wallet could not say what became of such a payment."""
        return not self._is_booked and self._account.is_unknown

    def receive(self, message: BuyerInput, now: Moment) -> None:
        """Take in what became of the session's payments; a job of it has no invoices of its own."""
        match message:
            case InvoiceOffered():
                mismatch = refuse(RefusalCode.PAYMENT_MISMATCH, "a job of a prepaid session has no invoice of its own")
                self._effects.append(SettlementStopped(0, mismatch))
            case FundsRefused(refusal) if self._stated is None:
                self._effects.append(SettlementStopped(0, refusal))
            case FundsChanged():
                self._book()
            case _:
                pass  # nothing was paid for this job, so there is nothing to release

    def take_record(self, record: MeteringRecord, *, is_fair: bool) -> None:
        """Book what this record says the job drew; nothing if it charges more than is right."""
        payments = tuple((tranche.payment_commitment, AmountMsat(tranche.msat)) for tranche in record.tranches)
        if is_fair and record.charged_msat == sum(amount_msat for _, amount_msat in payments):
            self._stated = payments
            self._book()
        else:
            self._is_booked = True

    def deadline(self) -> Instant | None:
        """None: payments are looked up for the whole session."""
        return None

    def handle_deadline(self, now: Moment) -> None:
        """Nothing is ever due."""

    def _book(self) -> None:
        if self._stated is None or self._is_booked:
            return
        draws = self._account.funds.match(self._stated, self._commit)
        if draws is not None:
            self._tranches.records = _as_tranches(self._contract, draws, 0)
        self._is_booked = draws is not None or not self._account.is_in_doubt


def make_seller_settlement(
    contract: SettlementContract, funds: SessionFunds | None, invoice_expiry_seconds: int
) -> SellerSettlement:
    """A job's settlement at the node: a share of the session's funds where there are such."""
    if funds is not None:
        return SellerShare(contract, funds)
    return SellerSettlement(contract, invoice_expiry_seconds=invoice_expiry_seconds)


def make_buyer_settlement(
    contract: SettlementContract,
    account: BuyerAccount | None,
    commitments: Commitments,
    known_payment_hashes: Collection[str],
) -> BuyerSettlement:
    """A job's settlement at the client: a share of the session's money where that is prepaid."""
    if account is None:
        return BuyerSettlement(contract, known_payment_hashes=known_payment_hashes)
    return BuyerShare(
        contract, account, lambda position, hash_: commit_to_payment(commitments.payment_salt(position), hash_)
    )


def _as_tranches(contract: SettlementContract, draws: tuple[Draw, ...], units: int) -> list[TrancheRecord]:
    """A job's draws as tranches that were paid, in the order of its record; its units go with the money."""
    whole = sum(draw.amount_msat for draw in draws)
    records: list[TrancheRecord] = []
    for position, draw in enumerate(draws):
        is_last = position == len(draws) - 1
        part = units - sum(record.units for record in records) if is_last else units * draw.amount_msat // whole
        record = TrancheRecord(
            side=contract.side,
            client=contract.client,
            job_id=contract.job_id,
            tranche=position,
            state=_State.PAID,
            order=contract.order,
            units=part,
            amount_msat=draw.amount_msat,
            payment_hash=draw.payment_hash,
        )
        records.append(record)
    return records
