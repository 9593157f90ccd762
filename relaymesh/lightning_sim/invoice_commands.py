"""The commands that issue, watch and list invoices."""

from typing import Any, Final

from relaymesh.lightning_sim.answers import (
    EXPIRED_DURING_WAIT,
    UNKNOWN_INVOICE,
    UNSPECIFIED,
    WAIT_ANY_TIMED_OUT,
    WRONG_STATUS,
    Answer,
    Result,
    RpcFailure,
    Waiting,
)
from relaymesh.lightning_sim.invoicing import InvoiceTerms, issue
from relaymesh.lightning_sim.parameters import (
    ANY_AMOUNT,
    Parameter,
    as_anything,
    as_flag,
    as_hex32,
    as_label,
    as_number,
    as_positive_msat,
    as_small_number,
    as_text,
)
from relaymesh.lightning_sim.records import InvoiceRecord, NodeRecord
from relaymesh.lightning_sim.simulation import Simulation
from relaymesh.units import MILLISECONDS_PER_SECOND

_ONE_WEEK_SECONDS: Final = 604_800
_SHORTEST_FINAL_CLTV: Final = 10

INVOICE: Final = (
    Parameter("amount_msat", as_positive_msat, is_required=True),
    Parameter("label", as_label, is_required=True),
    Parameter("description", as_text, is_required=True),
    Parameter("expiry", as_small_number),
    Parameter("fallbacks", as_anything),
    Parameter("preimage", as_hex32),
    Parameter("exposeprivatechannels", as_anything),
    Parameter("cltv", as_small_number),
    Parameter("deschashonly", as_flag),
)
LISTINVOICES: Final = (
    Parameter("label", as_label),
    Parameter("invstring", as_text),
    Parameter("payment_hash", as_hex32),
)
WAITINVOICE: Final = (Parameter("label", as_label, is_required=True),)
WAITANYINVOICE: Final = (Parameter("lastpay_index", as_number), Parameter("timeout", as_small_number))
DELINVOICE: Final = (
    Parameter("label", as_label, is_required=True),
    Parameter("status", as_text, is_required=True),
)


def invoice(simulation: Simulation, node: NodeRecord, given: dict[str, Any], now_ms: int) -> Answer:
    """`invoice`: issue one."""
    terms = InvoiceTerms(
        label=given["label"],
        amount_msat=None if given["amount_msat"] == ANY_AMOUNT else given["amount_msat"],
        description=given["description"],
        expiry_seconds=given.get("expiry", _ONE_WEEK_SECONDS),
        preimage=bytes.fromhex(given["preimage"]) if "preimage" in given else None,
        final_cltv=given.get("cltv", _SHORTEST_FINAL_CLTV),
        hash_only=given.get("deschashonly", False),
    )
    record = issue(simulation.ledger, node, terms, simulation.entropy, now_ms)
    result: Result = {
        "payment_hash": record.payment_hash,
        "expires_at": record.expires_at,
        "bolt11": record.bolt11,
        "payment_secret": record.payment_secret,
        "created_index": record.created_index,
    }
    receivable_msat = sum(
        simulation.ledger.spendable_msat(channel, by_hub=not node.is_hub)
        for channel in simulation.ledger.channels_of(node)
    )
    if receivable_msat < (record.amount_msat or 0):
        result["warning_capacity"] = "Insufficient incoming channel capacity to pay invoice"
    return result


def listinvoices(simulation: Simulation, node: NodeRecord, given: dict[str, Any], _now_ms: int) -> Answer:
    """`listinvoices`: all, or the one with that label, text or payment hash."""
    of_node = simulation.ledger.invoices.get(node.name, {})
    found = list(of_node.values())
    if "label" in given:
        found = [of_node[given["label"]]] if given["label"] in of_node else []
    if "payment_hash" in given:
        by_hash = simulation.ledger.invoice_with_hash(node.name, given["payment_hash"])
        found = [] if by_hash is None else [by_hash]
    if "invstring" in given:
        found = [record for record in found if record.bolt11 == given["invstring"].lower()]
    return {"invoices": [describe_invoice(record) for record in found]}


def waitinvoice(simulation: Simulation, node: NodeRecord, given: dict[str, Any], now_ms: int) -> Answer:
    """`waitinvoice`: until it is paid or has expired."""
    label = given["label"]

    def check(_now_ms: int) -> Result | None:
        record = simulation.ledger.invoices.get(node.name, {}).get(label)
        if record is None:
            raise RpcFailure(UNSPECIFIED, "Label not found")
        if record.status == "expired":
            raise RpcFailure(EXPIRED_DURING_WAIT, "invoice expired during wait", describe_invoice(record))
        return describe_invoice(record) if record.status == "paid" else None

    return check(now_ms) or Waiting(check)


def waitanyinvoice(simulation: Simulation, node: NodeRecord, given: dict[str, Any], now_ms: int) -> Answer:
    """`waitanyinvoice`: until an invoice is paid after the one with that index."""
    last_index = given.get("lastpay_index", 0)
    until_ms = now_ms + given["timeout"] * MILLISECONDS_PER_SECOND if "timeout" in given else None

    def check(now_ms: int) -> Result | None:
        paid = [
            (record.pay_index, record)
            for record in simulation.ledger.invoices.get(node.name, {}).values()
            if record.pay_index is not None and record.pay_index > last_index
        ]
        if paid:
            return describe_invoice(min(paid, key=lambda numbered: numbered[0])[1])
        if until_ms is not None and now_ms >= until_ms:
            raise RpcFailure(WAIT_ANY_TIMED_OUT, "Timed out while waiting for invoice to be paid")
        return None

    return check(now_ms) or Waiting(check, until_ms)


def delinvoice(simulation: Simulation, node: NodeRecord, given: dict[str, Any], _now_ms: int) -> Answer:
    """`delinvoice`: forget one that has the given status."""
    record = simulation.ledger.invoices.get(node.name, {}).get(given["label"])
    if record is None:
        raise RpcFailure(UNKNOWN_INVOICE, "Unknown invoice")
    if record.status != given["status"]:
        states = {"current_status": record.status, "expected_status": given["status"]}
        raise RpcFailure(WRONG_STATUS, f"Invoice status is {record.status} not {given['status']}", states)
    simulation.ledger.remove(record)
    return describe_invoice(record)


def describe_invoice(record: InvoiceRecord) -> Result:
    """A row of `listinvoices`."""
    row: Result = {"label": record.label, "bolt11": record.bolt11, "payment_hash": record.payment_hash}
    if record.amount_msat is not None:
        row["amount_msat"] = record.amount_msat
    row["status"] = "unpaid" if record.status == "accepted" else record.status
    if record.status == "paid":
        row["pay_index"] = record.pay_index
        row["amount_received_msat"] = record.received_msat
        row["paid_at"] = record.paid_at
        row["payment_preimage"] = record.preimage
    row["description"] = record.description
    row["expires_at"] = record.expires_at
    row["created_index"] = record.created_index
    if record.updated_index is not None:
        row["updated_index"] = record.updated_index
    return row
