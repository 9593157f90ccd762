"""Why an invoice must not be paid: every rule that a client can check by itself (RM-03, "Settlement")."""

from collections.abc import Collection
from typing import Final

from relaymesh.machines.records import TrancheRecord, TrancheState
from relaymesh.machines.settlement import InvoiceOffered, SettlementContract
from relaymesh.market.pricing import MAXIMUM_TRANCHES, cost
from relaymesh.protocol.payment import DecodedInvoice
from relaymesh.units import AmountMsat, Moment

INVOICE_MARGIN_SECONDS: Final = 2
_COUNTED_AS_PAID: Final = frozenset(
    {TrancheState.PAID, TrancheState.RELEASED, TrancheState.PAYING, TrancheState.UNKNOWN}
)


def find_invoice_mismatch(
    contract: SettlementContract,
    records: tuple[TrancheRecord, ...],
    offered: InvoiceOffered,
    known_hashes: Collection[str],
    now: Moment,
) -> str | None:
    """The first rule that this invoice breaks, as one clause for a person, or None (RM-03, "Settlement").

    Args:
        contract: What was agreed.
        records: The tranches so far.
        known_hashes: Payment hashes of other jobs' tranches.
    """
    decoded = offered.decoded
    if not isinstance(decoded, DecodedInvoice):
        return "the invoice cannot be read" if decoded is None else decoded.reason
    if any(record.state is not TrancheState.PAID for record in records):
        return "the next tranche is invoiced before the one before it was paid"
    if offered.order != contract.order:
        return "the invoice is of another order or tranche than agreed"
    find = _find_prepaid_mismatch if contract.order == "prepay" else _find_arrears_mismatch
    return (
        find(contract, records, offered)
        or _find_amount_mismatch(contract, records, offered, decoded)
        or _find_payment_mismatch(contract, records, decoded, known_hashes, now)
    )


def _find_prepaid_mismatch(
    contract: SettlementContract, records: tuple[TrancheRecord, ...], offered: InvoiceOffered
) -> str | None:
    """What is paid before it is delivered has the price and the size that were planned."""
    plan, tranche = contract.plan, offered.tranche
    if tranche != len(records) or tranche >= plan.count:
        return f"tranche {tranche} was invoiced where {len(records)} of {plan.count} is next"
    if offered.delivered_bytes < plan.units_due(tranche):
        return "the next tranche is invoiced before the output of those before the last one was delivered"
    units = plan.units(tranche)
    # Without the tokenizer we cannot know where the limit cuts the last tranche short; larger it never is.
    if not (offered.units == units if contract.is_input_known else offered.units <= units):
        return "the invoice is of another order or tranche than agreed"
    price = plan.price(tranche) if contract.is_input_known else plan.output_price(units)
    if (contract.is_input_known or tranche > 0) and offered.amount_msat > price:
        return f"the invoice asks for {offered.amount_msat} msat where {price} is the price"
    return None


def _find_arrears_mismatch(
    contract: SettlementContract, records: tuple[TrancheRecord, ...], offered: InvoiceOffered
) -> str | None:
    """What is paid after it was delivered costs what we can count of it, and no more."""
    if offered.tranche != len(records) or offered.tranche >= MAXIMUM_TRANCHES:
        return f"tranche {offered.tranche} was invoiced where {len(records)} is next"
    plan, in_hand = contract.plan, _units_in_hand(contract, offered)
    new = in_hand - (0 if contract.order == "sealed" else sum(record.units for record in records))
    if offered.units > new:
        return f"the invoice is for {offered.units} units of output, of which {max(new, 0)} came"
    if contract.is_input_known:
        whole = cost(plan.row, plan.input_units, min(in_hand, plan.output_units))
        price = AmountMsat(whole - _committed(records))
    else:
        price = plan.output_price(offered.units)
    if (contract.is_input_known or offered.tranche > 0) and offered.amount_msat > price:
        return f"the invoice asks for {offered.amount_msat} msat where what came costs {price}"
    return None


def _units_in_hand(contract: SettlementContract, offered: InvoiceOffered) -> int:
    """All output so far in the row's unit, as far as we can count: a token has at least one byte."""
    return min(offered.delivered_bytes, 1) if contract.plan.row.unit == "job" else offered.delivered_bytes


def _find_amount_mismatch(
    contract: SettlementContract,
    records: tuple[TrancheRecord, ...],
    offered: InvoiceOffered,
    decoded: DecodedInvoice,
) -> str | None:
    if decoded.amount_msat != offered.amount_msat:
        return f"the invoice asks for {decoded.amount_msat} msat where {offered.amount_msat} was announced"
    last_msat = records[-1].amount_msat if contract.order == "prepay" and records else 0
    if last_msat + offered.amount_msat > contract.maximum_stake_msat:
        return f"the invoice exceeds the {contract.maximum_stake_msat} msat that the quote puts at stake at once"
    if _committed(records) + offered.amount_msat > contract.maximum_msat:
        return f"the invoice would exceed the job's limit of {contract.maximum_msat} msat"
    return None


def _find_payment_mismatch(
    contract: SettlementContract,
    records: tuple[TrancheRecord, ...],
    decoded: DecodedInvoice,
    known_hashes: Collection[str],
    now: Moment,
) -> str | None:
    if decoded.payee != contract.lightning_node_id:
        return "the invoice pays another Lightning node than the offer names"
    is_known = decoded.payment_hash in known_hashes
    if is_known or any(record.payment_hash == decoded.payment_hash for record in records):
        return "the invoice repeats the payment hash of another tranche"
    if decoded.expires_at <= now.timestamp + INVOICE_MARGIN_SECONDS:
        return "the invoice has expired or is about to"
    return None


def _committed(records: tuple[TrancheRecord, ...]) -> int:
    return sum(record.amount_msat for record in records if record.state in _COUNTED_AS_PAID)
