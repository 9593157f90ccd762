"""Price and charge: what a job costs, what a tranche of it costs, what an amount still buys (RM-01, "Prices").

One formula with one division, `max(minimum, ceil((input × input rate + output × output rate) / per))`, serves estimate,
quote, invoice, charge and fraud proof alike; everything else here only asks it questions.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from relaymesh.errors import LocalProtocolError
from relaymesh.protocol.fields import MAXIMUM_QUANTITY, SettlementForm, Unit
from relaymesh.protocol.metering import MeteredUnits
from relaymesh.protocol.offer import PriceRow, SettlementTerm
from relaymesh.protocol.quote import JobShape, QuotedTerm
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat

MAXIMUM_TRANCHES: Final = 32
AHEAD_DIVISOR: Final = 4
"""The next prepaid tranche is asked for when this part of the last one is left to deliver."""
SESSION_RESERVE_DIVISOR: Final = 4
"""The next session tranche is asked for when less than this part of one is left."""
UNBOUNDED_MSAT: Final = AmountMsat(MAXIMUM_INTEGER)


class Priced(Protocol):
    """Whatever has a price: a `PriceRow`, or the facts about one."""

    @property
    def unit(self) -> Unit:
        """What is counted."""
        ...

    @property
    def per(self) -> int:
        """How many units the two rates are for."""
        ...

    @property
    def input_msat(self) -> int:
        """Rate for input units."""
        ...

    @property
    def output_msat(self) -> int:
        """Rate for output units."""
        ...

    @property
    def minimum_msat(self) -> int:
        """What a job costs at least."""
        ...


def cost(row: Priced, input_units: int, output_units: int) -> AmountMsat:
    """What so many units cost under a price row, rounded up once to a whole millisatoshi.

    RM-01, "Prices".

    Args:
        row: The price row.
        input_units: Input in the row's unit, 0 … 10^9.
        output_units: Output in the row's unit, 0 … 10^9.

    Returns:
        At least `row.minimum_msat`.

    Raises:
        LocalProtocolError: A quantity is negative or above the protocol's bound, or the result exceeds 2^53 − 1.
            Whoever prices what a peer sent asks `cost_within`, which refuses instead.
    """
    amount = _exact_cost(row, input_units, output_units)
    if amount > MAXIMUM_INTEGER:
        raise LocalProtocolError("a cost must be at most 2^53 − 1 msat")
    return AmountMsat(amount)


def cost_within(row: Priced, input_units: int, output_units: int, maximum_msat: AmountMsat) -> AmountMsat | None:
    """What so many units cost, or None when that is more than `maximum_msat` (and so also when it overflows).

    RM-01, "Prices". The quantities must be in range, as every parsed value's are; LocalProtocolError otherwise.
    """
    amount = _exact_cost(row, input_units, output_units)
    return AmountMsat(amount) if amount <= min(maximum_msat, MAXIMUM_INTEGER) else None


def charge(row: PriceRow, units: MeteredUnits) -> AmountMsat:
    """Price what was delivered, rounded up once to a whole millisatoshi.

    RM-01, "Prices".

    Args:
        row: The price row that was valid when the job was accepted.
        units: Everything that was counted; the row's unit picks what is charged.

    Returns:
        At least `row.minimum_msat`.

    Raises:
        LocalProtocolError: The result exceeds 2^53 − 1.
    """
    return cost(row, *units.of(row.unit))


def estimate(row: PriceRow, shape: JobShape) -> AmountMsat:
    """What a job of this shape would cost if it used all it asks for; seconds cannot be foreseen and count as 0.

    RM-01, "Prices".

    Raises:
        LocalProtocolError: The result exceeds 2^53 − 1.
    """
    return cost(row, *shape.units(row.unit))


def price_ceiling(row: PriceRow, shape: JobShape, budget_msat: AmountMsat) -> AmountMsat | None:
    """The most that a job of this shape can cost under a row, or None when the budget does not cover it.

    RM-01, "Prices". Nobody can foresee seconds: a job that is priced by them may take the whole budget, so that is what
    it is reckoned at, by the node that promises a limit and by the buyer who compares.
    """
    return ceiling_within(row, shape.units(row.unit), budget_msat)


def ceiling_within(price: Priced, units: tuple[int, int], budget_msat: AmountMsat) -> AmountMsat | None:
    """The same for input and output in the price's unit."""
    foreseen = cost_within(price, *units, budget_msat)
    if foreseen is not None and price.unit == "second" and price.output_msat > 0:
        return budget_msat
    return foreseen


def is_no_dearer(quoted: PriceRow, offered: PriceRow) -> bool:
    """Whether nothing costs more as quoted than as offered (RM-01, "Prices").

    Rates are compared by multiplying across, never by dividing; that the two rows are of one thing is for the caller.
    """
    return (
        quoted.input_msat * offered.per <= offered.input_msat * quoted.per
        and quoted.output_msat * offered.per <= offered.output_msat * quoted.per
        and quoted.minimum_msat <= offered.minimum_msat
    )


def affordable_output_units(row: PriceRow, input_units: int, maximum_msat: AmountMsat, ceiling: int) -> int | None:
    """The largest output that, together with this input, costs at most `maximum_msat` (RM-01, "Prices").

    Args:
        row: The price row.
        input_units: Input in the row's unit.
        maximum_msat: What may be spent.
        ceiling: The most output that is wanted, 0 … 10^9.

    Returns:
        0 … `ceiling`; None when even no output at all is too expensive.
    """
    _check_quantities(input_units, ceiling)
    if cost_within(row, input_units, 0, maximum_msat) is None:
        return None
    if row.output_msat == 0:
        return ceiling
    # ceil(x / per) ≤ maximum  ⇔  x ≤ maximum × per: no search and no rounding
    return min(ceiling, (maximum_msat * row.per - input_units * row.input_msat) // row.output_msat)


def planned_units(row: PriceRow, shape: JobShape, maximum_msat: AmountMsat) -> tuple[int, int]:
    """Input and output that payment is planned for; in seconds, as many as `maximum_msat` buys (RM-01, "Prices")."""
    if row.unit != "second":
        return shape.units(row.unit)
    return 0, affordable_output_units(row, 0, maximum_msat, MAXIMUM_QUANTITY) or 0


@dataclass(frozen=True, slots=True)
class TranchePlan:
    """How the price of one job falls into tranches (RM-03, "Tranches").

    The price of a tranche is what all units through it cost, less what was asked before: the prices add up to the price
    of the job to the msat, the input is paid with the first, and the minimum applies once. Under a high minimum later
    tranches may therefore cost 0: they need no invoice.

    Args:
        row: The price row of the quote.
        input_units: Input in the row's unit, known before the first invoice.
        output_units: The most output that will be delivered.
        tranche_units: Output units per tranche; None means that the whole job is one. Raised where the output would
            need more than `MAXIMUM_TRANCHES`.

    Raises:
        LocalProtocolError: A quantity is out of range, or the whole costs more than 2^53 − 1 msat.
    """

    row: PriceRow
    input_units: int
    output_units: int
    tranche_units: int | None

    def __post_init__(self) -> None:
        if self.tranche_units is not None and self.tranche_units < 1:
            raise LocalProtocolError("a tranche must hold at least one unit")
        cost(self.row, self.input_units, self.output_units)

    @property
    def effective_units(self) -> int:
        """Output units per tranche once at most `MAXIMUM_TRANCHES` are needed; at least 1."""
        if self.tranche_units is None:
            return max(self.output_units, 1)
        return max(self.tranche_units, -(-self.output_units // MAXIMUM_TRANCHES))

    @property
    def count(self) -> int:
        """How many tranches there are: 1 … `MAXIMUM_TRANCHES`, also for a job without output."""
        return max(1, -(-self.output_units // self.effective_units))

    @property
    def total_msat(self) -> AmountMsat:
        """What all tranches cost together."""
        return cost(self.row, self.input_units, self.output_units)

    @property
    def arrears_msat(self) -> AmountMsat:
        """The most that one tranche can cost where it is invoiced for what was delivered: `postpay` and `sealed`.

        RM-03, "Orders". Such a tranche may end a little before its last unit, since no piece of output is cut; so this
        is the price of the first, or of so many units wherever they begin.
        """
        units = min(self.effective_units, self.output_units)
        return max(self.price(0), self.output_price(units))

    def output_price(self, units: int) -> AmountMsat:
        """What so many output units cost at the most, whatever came before them: one rounding, no minimum."""
        return AmountMsat(-(-units * self.row.output_msat // self.row.per))

    @property
    def prepaid_msat(self) -> AmountMsat:
        """The most that can be paid and not delivered under `prepay`, whose next tranche is paid ahead of its need.

        RM-03, "Orders": two tranches that follow one another, where there are so many.
        """
        two = (self._cost_through(i) - (self._cost_through(i - 2) if i > 1 else 0) for i in range(1, self.count))
        return AmountMsat(max(two, default=self.total_msat))

    def units_through(self, index: int) -> int:
        """Output units of the tranches 0 … `index` together."""
        if not 0 <= index < self.count:
            raise LocalProtocolError(f"a tranche's index must be 0 … {self.count - 1}, not {index}")
        return min((index + 1) * self.effective_units, self.output_units)

    def units(self, index: int) -> int:
        """Output units of tranche `index` alone."""
        return self.units_through(index) - (self.units_through(index - 1) if index else 0)

    def units_ahead(self, index: int) -> int:
        """Output units after which a node asks for prepaid tranche `index`: all but a quarter of what is paid last.

        RM-03, "Prepay": the payment is made while the rest is delivered, so that it does not stop the stream.
        """
        return self.units_through(index - 1) - self.units(index - 1) // AHEAD_DIVISOR if index else 0

    def units_due(self, index: int) -> int:
        """Output units that a buyer must have before it pays tranche `index`: all but those of the tranche before it.

        A token has at least one byte, so that a buyer who cannot count tokens compares bytes.
        """
        return self.units_through(index - 2) if index > 1 else 0

    def price(self, index: int) -> AmountMsat:
        """What tranche `index` costs: the cost of all through it, less the cost of all before it."""
        return AmountMsat(self._cost_through(index) - (self._cost_through(index - 1) if index else 0))

    def _cost_through(self, index: int) -> AmountMsat:
        return cost(self.row, self.input_units, self.units_through(index))


def quote_terms(
    row: PriceRow,
    shape: JobShape,
    terms: tuple[SettlementTerm, ...],
    forms: tuple[SettlementForm, ...],
    maximum_msat: AmountMsat = UNBOUNDED_MSAT,
) -> tuple[QuotedTerm, ...]:
    """The node's terms that the buyer accepts, with what each side can lose under them (RM-03, "Orders").

    Args:
        row: The price row of the quote.
        shape: What is to be priced.
        terms: What the node offers, in its order of preference. Passed over are a session's tranche that does not hold
            the job, and whatever but `prepay` for a price by the second, which the buyer could not check.
        forms: What the buyer accepts, best first; the answer is in this order.
        maximum_msat: The most the job may cost: it alone bounds a job priced by the second.

    Returns:
        Empty when the two have no form in common.
    """
    input_units, output_units = planned_units(row, shape, maximum_msat)
    quoted: list[QuotedTerm] = []
    for form in dict.fromkeys(forms):
        for term in terms:
            if term.form != form or (row.unit == "second" and form != "prepay"):
                continue
            exposure = _exposure(term, row, input_units, output_units)
            if exposure is not None:
                buyer_msat, node_msat = exposure
                quoted.append(QuotedTerm(**dict(term), exposure_buyer_msat=buyer_msat, exposure_node_msat=node_msat))
    return tuple(quoted)


def session_exposure(tranche_msat: int) -> AmountMsat:
    """What a buyer can lose under prepaid session tranches of this amount: one, and a quarter that is left of another.

    RM-03, "Session tranches": the next tranche is paid ahead of its need.
    """
    return AmountMsat(tranche_msat + tranche_msat // SESSION_RESERVE_DIVISOR)


def _exposure(
    term: SettlementTerm, row: PriceRow, input_units: int, output_units: int
) -> tuple[AmountMsat, AmountMsat] | None:
    """What buyer and node can lose; None where a job of this size cannot be settled so."""
    if term.scope == "session":
        tranche_msat = AmountMsat(term.tranche_units or 0)
        if term.order != "prepay" or cost_within(row, input_units, output_units, tranche_msat) is None:
            return None
        return session_exposure(tranche_msat), AmountMsat(0)
    plan = TranchePlan(row, input_units, output_units, term.tranche_units)
    match term.order:
        case "prepay":
            return plan.prepaid_msat, AmountMsat(0)
        case "postpay":
            return AmountMsat(0), plan.arrears_msat
        case "sealed":
            return plan.arrears_msat, plan.arrears_msat


def _exact_cost(row: Priced, input_units: int, output_units: int) -> int:
    _check_quantities(input_units, output_units)
    return max(row.minimum_msat, -(-(input_units * row.input_msat + output_units * row.output_msat) // row.per))


def _check_quantities(*quantities: int) -> None:
    for quantity in quantities:
        if not 0 <= quantity <= MAXIMUM_QUANTITY:
            raise LocalProtocolError(f"a quantity must be 0 … {MAXIMUM_QUANTITY}, not {quantity}")
