"""The commands that pay, and that look payments up."""

from typing import Any, Final

from relaymesh.lightning_sim.answers import (
    BAD_PARAMETERS,
    NEVER_ATTEMPTED,
    REFUSED_BY_PAYEE,
    TRY_ANOTHER_ROUTE,
    UNSPECIFIED,
    WAIT_TIMED_OUT,
    Answer,
    Result,
    RpcFailure,
    Waiting,
)
from relaymesh.lightning_sim.parameters import (
    Parameter,
    as_anything,
    as_hex32,
    as_label,
    as_msat,
    as_number,
    as_small_number,
    as_text,
)
from relaymesh.lightning_sim.records import AttemptRecord, NodeRecord
from relaymesh.lightning_sim.simulation import PaymentOrder, Simulation
from relaymesh.units import MILLISECONDS_PER_SECOND

_LIST_LAG_MS: Final = 40
"""How long `xpay` takes to clear up; a real node needs 20 to 60 ms.

Meanwhile `listpays` calls failed attempts pending, so one look proves nothing.
"""

XPAY: Final = (
    Parameter("invstring", as_text, is_required=True),
    Parameter("amount_msat", as_msat),
    Parameter("maxfee", as_msat),
    Parameter("layers", as_anything),
    Parameter("retry_for", as_number),
    Parameter("partial_msat", as_anything),
    Parameter("maxdelay", as_number),
    Parameter("payer_note", as_text),
)
PAY: Final = (
    Parameter("bolt11", as_text, is_required=True),
    Parameter("amount_msat", as_msat),
    Parameter("label", as_label),
    Parameter("riskfactor", as_anything),
    Parameter("maxfeepercent", as_anything),
    Parameter("retry_for", as_number),
    Parameter("maxdelay", as_number),
    Parameter("exemptfee", as_anything),
    Parameter("localinvreqid", as_anything),
    Parameter("exclude", as_anything),
    Parameter("maxfee", as_msat),
    Parameter("description", as_text),
)
LISTPAYS: Final = (
    Parameter("bolt11", as_text),
    Parameter("payment_hash", as_hex32),
    Parameter("status", as_text),
)
WAITSENDPAY: Final = (
    Parameter("payment_hash", as_hex32, is_required=True),
    Parameter("timeout", as_small_number),
    Parameter("partid", as_number),
    Parameter("groupid", as_number),
)


def xpay(simulation: Simulation, node: NodeRecord, given: dict[str, Any], now_ms: int) -> Answer:
    """`xpay`: pay, and wait for the outcome however long it takes."""
    order = PaymentOrder(given["invstring"], given.get("amount_msat"), given.get("maxfee"))
    attempt = simulation.begin_payment(node, order, now_ms)

    def check(_now_ms: int) -> Result | None:
        outcome = _outcome(simulation, attempt)
        if outcome is None:
            return None
        return {
            "payment_preimage": outcome.preimage,
            "amount_msat": outcome.amount_msat,
            "amount_sent_msat": outcome.sent_msat,
            "failed_parts": 0,
            "successful_parts": 1,
        }

    return check(now_ms) or Waiting(check)


def pay(simulation: Simulation, node: NodeRecord, given: dict[str, Any], now_ms: int) -> Answer:
    """`pay`: the older name; paying a second time repeats the first answer."""
    earlier = _find_complete(simulation, node, given["bolt11"])
    if earlier is not None:
        return _describe_pay(earlier, earlier.created_ms // MILLISECONDS_PER_SECOND)
    order = PaymentOrder(given["bolt11"], given.get("amount_msat"), given.get("maxfee"), given.get("label"))
    attempt = simulation.begin_payment(node, order, now_ms)

    def check(_now_ms: int) -> Result | None:
        outcome = _outcome(simulation, attempt)
        return None if outcome is None else _describe_pay(outcome, outcome.created_ms / MILLISECONDS_PER_SECOND)

    return check(now_ms) or Waiting(check)


def listpays(simulation: Simulation, node: NodeRecord, given: dict[str, Any], now_ms: int) -> Answer:
    """`listpays`: payments by invoice or hash, one row for each time they were tried."""
    rows = [_describe_in_listpays(simulation, attempt, now_ms) for attempt in _select(simulation, node, given)]
    return {"pays": [row for row in rows if given.get("status") in (None, row["status"])]}


def listsendpays(simulation: Simulation, node: NodeRecord, given: dict[str, Any], _now_ms: int) -> Answer:
    """`listsendpays`: the parts of payments; here each payment is one part."""
    rows = [_describe_in_listsendpays(attempt) for attempt in _select(simulation, node, given)]
    return {"payments": [row for row in rows if given.get("status") in (None, row["status"])]}


def waitsendpay(simulation: Simulation, node: NodeRecord, given: dict[str, Any], now_ms: int) -> Answer:
    """`waitsendpay`: wait for a payment that is out already."""
    until_ms = now_ms + given["timeout"] * MILLISECONDS_PER_SECOND if "timeout" in given else None
    group, part = given.get("groupid"), given.get("partid", 0)

    def check(now_ms: int) -> Result | None:
        attempts = simulation.ledger.attempts_with_hash(node.name, given["payment_hash"])
        attempts = [attempt for attempt in attempts if group in (None, attempt.group)]
        if not attempts or part not in (0, 1):
            payment_hash = given["payment_hash"]
            raise RpcFailure(NEVER_ATTEMPTED, f"Never attempted payment part {part} for '{payment_hash}'")
        latest = attempts[-1]
        if latest.status == "complete":
            return _describe_in_listsendpays(latest)
        if latest.status == "failed":
            is_refusal = latest.failure_code == REFUSED_BY_PAYEE
            code = REFUSED_BY_PAYEE if is_refusal else TRY_ANOTHER_ROUTE
            raise RpcFailure(code, latest.failure_message, _describe_in_listsendpays(latest))
        if until_ms is not None and now_ms >= until_ms:
            raise RpcFailure(WAIT_TIMED_OUT, "Timed out while waiting")
        return None

    return check(now_ms) or Waiting(check, until_ms)


def _outcome(simulation: Simulation, attempt: AttemptRecord) -> AttemptRecord | None:
    latest = simulation.ledger.attempts[attempt.payer][attempt.index]
    if latest.status == "failed":
        raise RpcFailure(latest.failure_code or UNSPECIFIED, latest.failure_message)
    return latest if latest.status == "complete" else None


def _find_complete(simulation: Simulation, node: NodeRecord, text: str) -> AttemptRecord | None:
    payment_hash = simulation.read_bill(text).payment_hash
    attempts = simulation.ledger.attempts_with_hash(node.name, payment_hash)
    return next((attempt for attempt in attempts if attempt.status == "complete"), None)


def _select(simulation: Simulation, node: NodeRecord, given: dict[str, Any]) -> list[AttemptRecord]:
    if "bolt11" in given and "payment_hash" in given:
        raise RpcFailure(BAD_PARAMETERS, "Can only specify one of {bolt11} or {payment_hash}")
    if "bolt11" in given:
        payment_hash = simulation.read_bill(given["bolt11"]).payment_hash
    elif "payment_hash" in given:
        payment_hash = given["payment_hash"]
    else:
        return list(simulation.ledger.attempts.get(node.name, {}).values())
    return simulation.ledger.attempts_with_hash(node.name, payment_hash)


def _describe_pay(attempt: AttemptRecord, created_at: float) -> Result:
    return {
        "payment_preimage": attempt.preimage,
        "amount_msat": attempt.amount_msat,
        "amount_sent_msat": attempt.sent_msat,
        "parts": 1,
        "destination": attempt.destination,
        "payment_hash": attempt.payment_hash,
        "status": attempt.status,
        "created_at": created_at,
    }


def _is_busy(simulation: Simulation, attempt: AttemptRecord, now_ms: int) -> bool:
    """Whether the payer is still busy with that payment hash, be it with another attempt."""
    return any(
        other.completed_ms is None or now_ms < other.completed_ms + _LIST_LAG_MS
        for other in simulation.ledger.attempts_with_hash(attempt.payer, attempt.payment_hash)
    )


def _describe_in_listpays(simulation: Simulation, attempt: AttemptRecord, now_ms: int) -> Result:
    row: Result = {
        "bolt11": attempt.bolt11,
        "destination": attempt.destination,
        "payment_hash": attempt.payment_hash,
        "status": attempt.status,
        "created_at": attempt.created_ms // MILLISECONDS_PER_SECOND,
    }
    if attempt.label is not None:
        row["label"] = attempt.label
    if attempt.status == "complete":
        row["completed_at"] = (attempt.completed_ms or 0) // MILLISECONDS_PER_SECOND
        row["preimage"] = attempt.preimage
    if attempt.status == "failed":
        if _is_busy(simulation, attempt, now_ms):
            row["status"] = "pending"
        row["amount_sent_msat"] = 0
    else:
        row["amount_msat"] = attempt.amount_msat
        row["amount_sent_msat"] = attempt.sent_msat
    row["created_index"] = attempt.index
    if attempt.status != "pending":
        row["updated_index"] = attempt.index
    return row


def _describe_in_listsendpays(attempt: AttemptRecord) -> Result:
    row: Result = {
        "created_index": attempt.index,
        "id": attempt.index,
        "payment_hash": attempt.payment_hash,
        "groupid": attempt.group,
        "partid": 1,
        "destination": attempt.destination,
        "amount_msat": attempt.amount_msat,
        "amount_sent_msat": attempt.sent_msat,
        "created_at": attempt.created_ms // MILLISECONDS_PER_SECOND,
        "status": attempt.status,
        "bolt11": attempt.bolt11,
    }
    if attempt.completed_ms is not None:
        row["updated_index"] = attempt.index
        row["completed_at"] = attempt.completed_ms // MILLISECONDS_PER_SECOND
    if attempt.status == "complete":
        row["payment_preimage"] = attempt.preimage
    return row
