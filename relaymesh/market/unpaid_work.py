"""Unpaid work: how much a node does before it is paid, for keys it knows and for all others (RM-03, "Postpay").

`postpay` is work on credit: within a line for each long-term key, less what it left unpaid. `sealed` is work for
anybody: within one limit for all, since a stranger who leaves costs nothing to be. A job counts with the most that it
can cost the node, from its admission until it is over.
"""

from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from relaymesh.nostr.event import PublicKey
from relaymesh.protocol.fields import Order
from relaymesh.protocol.quote import QuotedTerm
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat

DEFAULT_UNKNOWN_MSAT: Final = AmountMsat(1_000_000)
RETRY_IN_MS: Final = 5_000
"""When to ask again once unpaid work is at its limit: a guess, since payments take a second and those that never come
a minute."""
MAXIMUM_BARRED: Final = 65_536
"""So many keys that left a tranche unpaid are remembered, the latest."""


@dataclass(frozen=True, slots=True)
class Trust:
    """How much work a node would begin for somebody now, before it is paid.

    Args:
        credit_msat: Under `postpay`; None where nobody whom the node knows vouches for him.
        unknown_msat: Under `sealed`.
        is_barred: Whether he has left such work unpaid.
    """

    credit_msat: AmountMsat | None = None
    unknown_msat: AmountMsat = AmountMsat(0)
    is_barred: bool = False

    def refuse(self, order: Order, exposure_msat: AmountMsat) -> Refusal | None:
        """Why work that can cost the node so much is not begun under this order; None if it is."""
        if order == "prepay" or (order == "sealed" and exposure_msat == 0):
            return None
        if self.is_barred:
            return _pay_first("work was left unpaid under this key; here it now pays beforehand")
        if order == "postpay" and self.credit_msat is None:
            return _pay_first("this node gives credit only to keys it knows: bring the guarantee of one, or pay before")
        room_msat = (self.credit_msat or AmountMsat(0)) if order == "postpay" else self.unknown_msat
        if exposure_msat <= room_msat:
            return None
        said = "this node has as much unpaid work under way as it takes on: pay before, or ask again later"
        if order == "postpay":
            said = f"this may cost {exposure_msat} msat, and of the credit {room_msat} msat are left: pay what is open"
        return _pay_first(said, RETRY_IN_MS)

    def narrow(self, terms: tuple[QuotedTerm, ...]) -> tuple[QuotedTerm, ...] | Refusal:
        """Those of the terms under which the node would work; or, where there is none, why not."""
        refusals = [self.refuse(term.order, term.exposure_node_msat) for term in terms]
        kept = tuple(term for term, refusal in zip(terms, refusals, strict=True) if refusal is None)
        return kept or next((refusal for refusal in refusals if refusal is not None), ())


FULL_TRUST: Final = Trust(AmountMsat(MAXIMUM_INTEGER), AmountMsat(MAXIMUM_INTEGER))


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """One job's part of what the node risks; `guarantor` is None for a stranger's."""

    guarantor: PublicKey | None
    exposure_msat: AmountMsat


@dataclass(frozen=True, slots=True)
class Debt:
    """What was delivered on credit and never paid.

    Args:
        job: Which job, as the ledger keys it: session key and job id.
    """

    guarantor: PublicKey
    job: tuple[PublicKey, str]
    tranche: int
    amount_msat: AmountMsat


class UnpaidWork:
    """What a node has at stake now, in jobs under way and in debts.

    Args:
        unknown_limit_msat: What all jobs under `sealed` may cost together.
        lines: Which long-term keys get credit, and how much.
        forgiven: Jobs, by id, whose debts do not count.
    """

    def __init__(
        self,
        unknown_limit_msat: AmountMsat = DEFAULT_UNKNOWN_MSAT,
        lines: Mapping[PublicKey, AmountMsat] | None = None,
        forgiven: Collection[str] = (),
    ) -> None:
        self._unknown_limit_msat, self.lines = unknown_limit_msat, dict(lines or {})
        self._forgiven = frozenset(forgiven)
        self._reserved: set[Reservation] = set()
        self._at_stake: Counter[PublicKey | None] = Counter()
        self._debts: dict[tuple[tuple[PublicKey, str], int], Debt] = {}
        self._barred: OrderedDict[PublicKey, None] = OrderedDict()

    @property
    def debts(self) -> tuple[Debt, ...]:
        """What was left unpaid, in the order in which it became known."""
        return tuple(self._debts.values())

    def at_stake_msat(self, guarantor: PublicKey | None) -> AmountMsat:
        """What is under way and what is owed for this key, or for all strangers (None)."""
        return AmountMsat(self._at_stake[guarantor])

    def trust(self, client: PublicKey, guarantor: PublicKey | None = None) -> Trust:
        """How much would be begun now for this session key, for which `guarantor` vouches, or nobody."""
        line_msat = None if guarantor is None else self.lines.get(guarantor)
        credit_msat = None if line_msat is None else _left(line_msat, self.at_stake_msat(guarantor))
        unknown_msat = _left(self._unknown_limit_msat, self.at_stake_msat(None))
        return Trust(credit_msat, unknown_msat, client in self._barred)

    def reserve(
        self, client: PublicKey, guarantor: PublicKey | None, order: Order, exposure_msat: AmountMsat
    ) -> Reservation | Refusal | None:
        """Take a job on; None where the node risks nothing. What is reserved must be released, however the job ends."""
        if order == "prepay":
            return None
        refusal = self.trust(client, guarantor).refuse(order, exposure_msat)
        if refusal is not None:
            return refusal
        reservation = Reservation(guarantor if order == "postpay" else None, exposure_msat)
        self._reserved.add(reservation)
        self._at_stake[reservation.guarantor] += exposure_msat
        return reservation

    def release(self, reservation: Reservation | None) -> None:
        """The job is over; once more does no harm, nor does a job that risked nothing."""
        if reservation is not None and reservation in self._reserved:
            self._reserved.remove(reservation)
            self._at_stake[reservation.guarantor] -= reservation.exposure_msat

    def owe(self, debt: Debt) -> None:
        """What was delivered on credit will not be paid any more; told twice it counts once."""
        is_forgiven = debt.job[1] in self._forgiven
        if not is_forgiven and (debt.job, debt.tranche) not in self._debts:
            self._debts[debt.job, debt.tranche] = debt
            self._at_stake[debt.guarantor] += debt.amount_msat

    def settle(self, job: tuple[PublicKey, str], tranche: int) -> None:
        """What counted as owed was paid after all."""
        debt = self._debts.pop((job, tranche), None)
        if debt is not None:
            self._at_stake[debt.guarantor] -= debt.amount_msat

    def bar(self, client: PublicKey) -> None:
        """This session key left a sealed tranche unpaid: nothing is done for it any more before it has paid."""
        self._barred[client] = None
        if len(self._barred) > MAXIMUM_BARRED:
            self._barred.popitem(last=False)


def _left(limit_msat: AmountMsat, used_msat: AmountMsat) -> AmountMsat:
    return AmountMsat(max(limit_msat - used_msat, 0))


def _pay_first(reason: str, retry_in_ms: int | None = None) -> Refusal:
    return refuse(RefusalCode.PAYMENT_REQUIRED, reason, retry_in_ms)
