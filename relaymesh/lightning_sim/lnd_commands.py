"""What a simulated wallet can be asked by LND's REST interface, and what it does (LND, `lnrpc/*.yaml`)."""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from relaymesh.lightning_sim.answers import LABEL_TAKEN, NO_ROUTE, PREIMAGE_TAKEN, RpcFailure
from relaymesh.lightning_sim.invoicing import InvoiceTerms, issue
from relaymesh.lightning_sim.lnd_answers import (
    ALREADY_EXISTS,
    INSUFFICIENT_BALANCE,
    INVALID_ARGUMENT,
    NOT_FOUND,
    UNKNOWN,
    Following,
    LndFailure,
    Result,
    describe_balance,
    describe_channels,
    describe_invoice,
    describe_node,
    describe_payment,
    encode,
)
from relaymesh.lightning_sim.records import AttemptRecord, NodeRecord
from relaymesh.lightning_sim.simulation import Bill, PaymentOrder, Simulation
from relaymesh.units import MAXIMUM_INTEGER, MILLISECONDS_PER_SECOND

MAXIMUM_MEMO_BYTES: Final = 639
_DEFAULT_EXPIRY_SECONDS: Final = 86_400
_HASH_BYTES: Final = 32


def answer_lnd(
    simulation: Simulation, name: str, path: tuple[str, ...], given: Mapping[str, Any], now_ms: int
) -> Result | Following:
    """Carry out a request addressed to one node; `path` begins with the HTTP method.

    Raises:
        LndFailure: As LND would refuse it.
    """
    node = simulation.ledger.nodes[name]
    match path:
        case "GET", "v1", "getinfo":
            return describe_node(node)
        case "GET", "v1", "balance", "channels":
            return describe_balance(simulation, node)
        case "GET", "v1", "channels":
            return describe_channels(simulation, node)
        case "POST", "v1", "invoices":
            return _add_invoice(simulation, node, given, now_ms)
        case "GET", "v1", "invoices":
            return _list_invoices(simulation, node, given)
        case "GET", "v1", "invoice", text:
            return _lookup_invoice(simulation, node, text)
        case "GET", "v2", "invoices", "subscribe", text:
            return Following(_read_hash(text), of_invoice=True)
        case "POST", "v2", "router", "send":
            return _send_payment(simulation, node, given, now_ms)
        case "GET", "v2", "router", "track", text:
            return _track_payment(simulation, node, text, given)
        case "GET", "v1", "payments":
            return _list_payments(simulation, node, given)
    raise LndFailure(NOT_FOUND, "Not Found")


def look(simulation: Simulation, name: str, following: Following) -> tuple[Result | None, bool]:
    """What a stream would say now, and whether that is its end; nothing of an invoice that LND does not know."""
    if following.of_invoice:
        invoice = simulation.ledger.invoice_with_hash(name, following.payment_hash)
        if invoice is None:
            return None, False
        return describe_invoice(invoice), invoice.status in ("paid", "expired")
    attempt = _find_payment(simulation, name, following.payment_hash)
    if attempt is None:
        return None, False
    is_final = attempt.status != "pending"
    return (describe_payment(attempt) if is_final or not following.only_final else None), is_final


def _add_invoice(simulation: Simulation, node: NodeRecord, given: Mapping[str, Any], now_ms: int) -> Result:
    memo, preimage = given.get("memo", ""), _bytes(given.get("r_preimage", ""))
    if not isinstance(memo, str) or len(preimage) not in (0, _HASH_BYTES):
        raise LndFailure(UNKNOWN, f"invalid preimage length of {len(preimage)}, want {_HASH_BYTES}")
    if len(memo.encode()) > MAXIMUM_MEMO_BYTES:
        words = f"memo too large: {len(memo.encode())} bytes (maxsize={MAXIMUM_MEMO_BYTES})"
        raise LndFailure(UNKNOWN, words)
    amount_msat = _integer(given, "value_msat") or _integer(given, "value") * 1_000
    terms = InvoiceTerms(
        label=f"lnd-{hashlib.sha256(simulation.entropy(16)).hexdigest()}",
        amount_msat=amount_msat or None,
        description=memo,
        expiry_seconds=_integer(given, "expiry") or _DEFAULT_EXPIRY_SECONDS,
        preimage=preimage or None,
        final_cltv=80,
    )
    try:
        invoice = issue(simulation.ledger, node, terms, simulation.entropy, now_ms)
    except RpcFailure as failure:
        is_known = failure.code in (LABEL_TAKEN, PREIMAGE_TAKEN)
        raise LndFailure(
            UNKNOWN, "invoice with payment hash already exists" if is_known else failure.message
        ) from failure
    told = describe_invoice(invoice)
    return {name: told[name] for name in ("r_hash", "payment_request", "add_index", "payment_addr")}


def _lookup_invoice(simulation: Simulation, node: NodeRecord, text: str) -> Result:
    try:
        payment_hash = bytes.fromhex(text)
    except ValueError as error:
        raise LndFailure(UNKNOWN, "encoding/hex: invalid byte") from error
    if len(payment_hash) != _HASH_BYTES:
        words = f"payment hash must be exactly {_HASH_BYTES} bytes, is instead {len(payment_hash)}"
        raise LndFailure(UNKNOWN, words)
    invoice = simulation.ledger.invoice_with_hash(node.name, payment_hash.hex())
    if invoice is None:
        raise LndFailure(NOT_FOUND, "unable to locate invoice")
    return describe_invoice(invoice)


def _list_invoices(simulation: Simulation, node: NodeRecord, given: Mapping[str, Any]) -> Result:
    """A page: oldest first, and where the next one begins."""
    invoices = list(simulation.ledger.invoices.get(node.name, {}).values())
    page = _page(invoices, lambda each: each.created_index, given, "num_max_invoices")
    return {"invoices": [describe_invoice(each) for each in page], **_offsets([each.created_index for each in page])}


def _list_payments(simulation: Simulation, node: NodeRecord, given: Mapping[str, Any]) -> Result:
    attempts = list(simulation.ledger.attempts.get(node.name, {}).values())
    if given.get("include_incomplete") != "true":
        attempts = [each for each in attempts if each.status == "complete"]
    latest = list({each.payment_hash: each for each in attempts}.values())  # LND keeps one payment for each hash
    page = _page(latest, lambda each: each.index, given, "max_payments")
    return {"payments": [describe_payment(each) for each in page], **_offsets([each.index for each in page])}


def _send_payment(simulation: Simulation, node: NodeRecord, given: Mapping[str, Any], now_ms: int) -> Following:
    """`SendPaymentV2`: what cannot be sent at once is a payment that has failed, and is on record."""
    text = str(given.get("payment_request", "")).lower()
    try:
        bill = simulation.read_bill(text)
    except RpcFailure as failure:
        raise LndFailure(UNKNOWN, f"invalid index of 1: {failure.message}") from failure
    if bill.amount_msat is None:
        raise LndFailure(UNKNOWN, "amount must be specified when paying a zero amount invoice")
    if now_ms > bill.expires_at * MILLISECONDS_PER_SECOND:
        until = datetime.fromtimestamp(bill.expires_at, UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
        raise LndFailure(UNKNOWN, f"invoice expired. Valid until {until}")
    if bill.payee == node.public_key:
        raise LndFailure(UNKNOWN, "self-payments not allowed")
    known = _find_payment(simulation, node.name, bill.payment_hash)
    if known is not None and known.status == "complete":
        raise LndFailure(ALREADY_EXISTS, "invoice is already paid")
    if known is not None and known.status == "pending":
        raise LndFailure(ALREADY_EXISTS, "payment is in transition")
    try:
        simulation.begin_payment(node, PaymentOrder(text, None, _integer(given, "fee_limit_msat")), now_ms)
    except RpcFailure as failure:
        _record_failure(simulation, node, bill, failure, now_ms)
    return Following(bill.payment_hash, of_invoice=False, only_final=given.get("no_inflight_updates") is True)


def _record_failure(simulation: Simulation, node: NodeRecord, bill: Bill, failure: RpcFailure, now_ms: int) -> None:
    ledger, amount_msat = simulation.ledger, bill.amount_msat or 0
    spendable_msat = sum(ledger.spendable_msat(each, by_hub=node.is_hub) for each in ledger.channels_of(node))
    is_short = failure.code == NO_ROUTE and amount_msat > spendable_msat
    node = ledger.nodes[node.name]
    ledger.put(replace(node, payments_created=node.payments_created + 1))
    ledger.put(
        AttemptRecord(
            payer=node.name,
            index=node.payments_created + 1,
            group=0,
            payment_hash=bill.payment_hash,
            payment_secret=bill.payment_secret,
            bolt11=bill.bolt11,
            destination=bill.payee,
            amount_msat=amount_msat,
            label=None,
            created_ms=now_ms,
            hops=(),
            phase="done",
            status="failed",
            completed_ms=now_ms,
            failure_code=INSUFFICIENT_BALANCE if is_short else failure.code,
            failure_message=failure.message,
        )
    )


def _track_payment(simulation: Simulation, node: NodeRecord, text: str, given: Mapping[str, Any]) -> Following:
    payment_hash = _read_hash(text)
    if _find_payment(simulation, node.name, payment_hash) is None:
        raise LndFailure(NOT_FOUND, "payment isn't initiated")
    return Following(payment_hash, of_invoice=False, only_final=given.get("no_inflight_updates") == "true")


def _find_payment(simulation: Simulation, payer: str, payment_hash: str) -> AttemptRecord | None:
    """The payment with this hash: its latest attempt, which is the complete one if there is such a one."""
    attempts = simulation.ledger.attempts_with_hash(payer, payment_hash)
    return attempts[-1] if attempts else None


def _page(rows: list[Any], index: Any, given: Mapping[str, Any], size_name: str) -> list[Any]:
    size, offset = _integer(given, size_name) or 100, _integer(given, "index_offset")
    if given.get("reversed") == "true":
        return [each for each in rows if offset == 0 or index(each) < offset][-size:]
    return [each for each in rows if index(each) > offset][:size]


def _offsets(indexes: list[int]) -> Result:
    first, last = (indexes[0], indexes[-1]) if indexes else (0, 0)
    return {"first_index_offset": str(first), "last_index_offset": str(last)}


def _read_hash(text: str) -> str:
    """A payment hash in a path: base64, URL-safe."""
    data = _bytes(text.replace("-", "+").replace("_", "/"))
    if len(data) != _HASH_BYTES:
        raise LndFailure(UNKNOWN, f"invalid hash length of {len(data)}, want {_HASH_BYTES}")
    return data.hex()


def _bytes(value: object) -> bytes:
    try:
        return base64.b64decode(str(value), validate=True)
    except binascii.Error as error:
        raise LndFailure(INVALID_ARGUMENT, f"type mismatch: illegal base64 data in {encode(b'')!r}") from error


def _integer(given: Mapping[str, Any], name: str) -> int:
    value = given.get(name, 0)
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value)
    if type(value) is not int or not 0 <= value <= MAXIMUM_INTEGER:
        raise LndFailure(INVALID_ARGUMENT, f"invalid value for int64 field {name}")
    return value
