"""What a simulated wallet can be asked over a wallet connection: the methods of NIP-47, in its words."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from relaymesh.errors import LightningError
from relaymesh.lightning_sim.answers import (
    ALREADY_PAID,
    BAD_PARAMETERS,
    INJECTION_FAILED,
    LABEL_TAKEN,
    PREIMAGE_TAKEN,
    Result,
    RpcFailure,
)
from relaymesh.lightning_sim.invoicing import InvoiceTerms, issue
from relaymesh.lightning_sim.records import AttemptRecord, InvoiceRecord, NodeRecord
from relaymesh.lightning_sim.server import LightningNetwork
from relaymesh.lightning_sim.simulation import BLOCK_HEIGHT, Simulation
from relaymesh.nostr import wallet_connect as nip47
from relaymesh.nostr.event import is_hex_32
from relaymesh.nostr.wallet_connect import WalletError, WalletRequest, WalletResponse
from relaymesh.units import MAXIMUM_INTEGER, MILLISECONDS_PER_SECOND

LONGEST_PAGE: Final = 20
NOTIFICATIONS: Final = frozenset({nip47.PAYMENT_RECEIVED, nip47.PAYMENT_SENT, nip47.HOLD_INVOICE_ACCEPTED})

_NETWORK: Final = "regtest"
_DEFAULT_EXPIRY_SECONDS: Final = 3_600
_STATES: Final = {"unpaid": "pending", "accepted": "accepted", "paid": "settled", "expired": "expired"}
_PAYMENT_STATES: Final = {"pending": "pending", "complete": "settled", "failed": "failed"}


class WalletFailure(LightningError):
    """A no, with a code of NIP-47."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.error = WalletError(code, message)


async def answer_wallet(network: LightningNetwork, name: str, request: WalletRequest) -> WalletResponse:
    """Carry out a request addressed to one wallet of the network."""
    command = COMMANDS.get(request.method)
    try:
        if command is None:
            raise WalletFailure(nip47.NOT_IMPLEMENTED, f"{request.method} is not known here")
        return WalletResponse(request.method, await command(network, name, request.parameters))
    except WalletFailure as failure:
        return WalletResponse(request.method, error=failure.error)
    except RpcFailure as failure:
        code = nip47.OTHER if failure.code == BAD_PARAMETERS else nip47.INTERNAL
        return WalletResponse(request.method, error=WalletError(code, failure.message))


def describe_incoming(invoice: InvoiceRecord) -> Result:
    """An invoice of the wallet's, as a transaction (NIP-47, `lookup_invoice`)."""
    transaction: Result = {
        "type": "incoming",
        "state": _STATES[invoice.status],
        "invoice": invoice.bolt11,
        "description": invoice.description,
        "payment_hash": invoice.payment_hash,
        "amount": invoice.amount_msat if invoice.received_msat is None else invoice.received_msat,
        "fees_paid": 0,
        "created_at": invoice.created_at,
        "expires_at": invoice.expires_at,
    }
    if invoice.status == "paid":
        transaction |= {"preimage": invoice.preimage, "settled_at": invoice.paid_at}
    return transaction


def describe_outgoing(simulation: Simulation, attempt: AttemptRecord) -> Result:
    """A payment of the wallet's, as a transaction."""
    invoice = simulation.ledger.invoice_with_text(attempt.bolt11)
    transaction: Result = {
        "type": "outgoing",
        "state": _PAYMENT_STATES[attempt.status],
        "invoice": attempt.bolt11,
        "description": "" if invoice is None else invoice.description,
        "payment_hash": attempt.payment_hash,
        "amount": attempt.amount_msat,
        "fees_paid": attempt.sent_msat - attempt.amount_msat,
        "created_at": attempt.created_ms // MILLISECONDS_PER_SECOND,
    }
    if attempt.status == "complete":
        settled_at = (attempt.completed_ms or 0) // MILLISECONDS_PER_SECOND
        transaction |= {"preimage": attempt.preimage, "settled_at": settled_at}
    return transaction


async def _get_info(network: LightningNetwork, name: str, _given: Mapping[str, Any]) -> Result:
    node = _node(network, name)
    return {
        "alias": node.name,
        "color": f"#{node.public_key[:6]}",
        "pubkey": node.public_key,
        "network": _NETWORK,
        "block_height": BLOCK_HEIGHT,
        "block_hash": "00" * 32,
        "methods": sorted(COMMANDS),
        "notifications": sorted(NOTIFICATIONS),
    }


async def _get_balance(network: LightningNetwork, name: str, _given: Mapping[str, Any]) -> Result:
    ledger = network.simulation.ledger
    channels = ledger.channels_of(_node(network, name))
    return {"balance": sum(ledger.spendable_msat(channel, by_hub=False) for channel in channels)}


async def _make_invoice(network: LightningNetwork, name: str, given: Mapping[str, Any]) -> Result:
    return _issue(network, name, given, None)


async def _make_hold_invoice(network: LightningNetwork, name: str, given: Mapping[str, Any]) -> Result:
    return _issue(network, name, given, _payment_hash(given))


async def _lookup_invoice(network: LightningNetwork, name: str, given: Mapping[str, Any]) -> Result:
    simulation = network.simulation
    if given.get("payment_hash") is not None:
        payment_hash = _payment_hash(given)
    else:
        payment_hash = simulation.read_bill(_text(given, "invoice").lower()).payment_hash
    invoice = simulation.ledger.invoice_with_hash(name, payment_hash)
    if invoice is not None:
        return describe_incoming(invoice)
    attempts = simulation.ledger.attempts_with_hash(name, payment_hash)
    for status in ("complete", "pending", "failed"):
        for attempt in reversed(attempts):
            if attempt.status == status:
                return describe_outgoing(simulation, attempt)
    raise WalletFailure(nip47.NOT_FOUND, "nothing with this payment hash is known here")


async def _pay_invoice(network: LightningNetwork, name: str, given: Mapping[str, Any]) -> Result:
    text, simulation = _text(given, "invoice").lower(), network.simulation
    bill = simulation.read_bill(text)
    if bill.payee == _node(network, name).public_key:
        raise WalletFailure(nip47.OTHER, "the invoice is this wallet's own")
    parameters: Result = {"invstring": text}
    if bill.amount_msat is None:
        parameters["amount_msat"] = _integer(given, "amount")
    try:
        await network.ask(name, "xpay", parameters)
    except RpcFailure as failure:
        if failure.code not in (ALREADY_PAID, INJECTION_FAILED):
            code = nip47.OTHER if failure.code == BAD_PARAMETERS else nip47.PAYMENT_FAILED
            raise WalletFailure(code, failure.message) from failure
        await _wait_for_the_other(network, name, bill.payment_hash)
    attempts = simulation.ledger.attempts_with_hash(name, bill.payment_hash)
    paid = next(attempt for attempt in attempts if attempt.status == "complete")
    return {"preimage": paid.preimage, "fees_paid": paid.sent_msat - paid.amount_msat}


async def _wait_for_the_other(network: LightningNetwork, name: str, payment_hash: str) -> None:
    """It was paid before, or is being paid: that is what this request is answered with."""
    try:
        await network.ask(name, "waitsendpay", {"payment_hash": payment_hash})
    except RpcFailure as failure:
        raise WalletFailure(nip47.PAYMENT_FAILED, failure.message) from failure


async def _settle_hold_invoice(network: LightningNetwork, name: str, given: Mapping[str, Any]) -> Result:
    text = _text(given, "preimage").lower()
    preimage = bytes.fromhex(text) if is_hex_32(text) else b""
    if not network.change(lambda simulation, now_ms: simulation.settle_held(name, preimage, now_ms)):
        raise WalletFailure(nip47.NOT_FOUND, "no payment is held for this preimage")
    return {}


async def _cancel_hold_invoice(network: LightningNetwork, name: str, given: Mapping[str, Any]) -> Result:
    payment_hash = _payment_hash(given)
    if not network.change(lambda simulation, now_ms: simulation.cancel_held(name, payment_hash, now_ms)):
        raise WalletFailure(nip47.NOT_FOUND, "no hold invoice with this payment hash is open")
    return {}


async def _list_transactions(network: LightningNetwork, name: str, given: Mapping[str, Any]) -> Result:
    simulation = network.simulation
    since, until = _integer(given, "from", 0), _integer(given, "until", MAXIMUM_INTEGER)
    limit = min(_integer(given, "limit", LONGEST_PAGE), LONGEST_PAGE)
    offset, kind = _integer(given, "offset", 0), given.get("type")
    found: list[Result] = []
    if kind in (None, "incoming"):
        invoices = simulation.ledger.invoices.get(name, {}).values()
        found += [describe_incoming(each) for each in invoices if each.status == "paid" or given.get("unpaid")]
    if kind in (None, "outgoing"):
        attempts = simulation.ledger.attempts.get(name, {}).values()
        found += [describe_outgoing(simulation, each) for each in attempts]
    found = [each for each in found if since <= each["created_at"] <= until]
    found.sort(key=lambda each: (-int(each["created_at"]), str(each["payment_hash"])))
    return {"transactions": found[offset : offset + limit]}


COMMANDS: Final[Mapping[str, Callable[[LightningNetwork, str, Mapping[str, Any]], Awaitable[Result]]]] = {
    nip47.GET_INFO: _get_info,
    nip47.GET_BALANCE: _get_balance,
    nip47.MAKE_INVOICE: _make_invoice,
    nip47.MAKE_HOLD_INVOICE: _make_hold_invoice,
    nip47.SETTLE_HOLD_INVOICE: _settle_hold_invoice,
    nip47.CANCEL_HOLD_INVOICE: _cancel_hold_invoice,
    nip47.LOOKUP_INVOICE: _lookup_invoice,
    nip47.LIST_TRANSACTIONS: _list_transactions,
    nip47.PAY_INVOICE: _pay_invoice,
}
"""Everything that can be asked; anything else is NOT_IMPLEMENTED."""


def _issue(network: LightningNetwork, name: str, given: Mapping[str, Any], payment_hash: str | None) -> Result:
    amount_msat = _integer(given, "amount")
    description = given.get("description") or ""
    if amount_msat < 1 or not isinstance(description, str):
        raise WalletFailure(nip47.OTHER, "an invoice needs an amount, and a description that is text")
    label = hashlib.sha256(network.simulation.entropy(16)).hexdigest()
    terms = InvoiceTerms(
        label=f"wallet-connect-{label}",
        amount_msat=amount_msat,
        description=description,
        expiry_seconds=_integer(given, "expiry", _DEFAULT_EXPIRY_SECONDS),
        payment_hash=payment_hash,
    )

    def work(simulation: Simulation, now_ms: int) -> InvoiceRecord:
        return issue(simulation.ledger, _node(network, name), terms, simulation.entropy, now_ms)

    try:
        return describe_incoming(network.change(work))
    except RpcFailure as failure:
        if failure.code in (LABEL_TAKEN, PREIMAGE_TAKEN):
            raise WalletFailure(nip47.OTHER, "there is an invoice with this payment hash already") from failure
        raise


def _node(network: LightningNetwork, name: str) -> NodeRecord:
    return network.simulation.ledger.nodes[name]


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise WalletFailure(nip47.OTHER, f"the text {name!r} is missing")
    return value


def _payment_hash(given: Mapping[str, Any]) -> str:
    value = _text(given, "payment_hash").lower()
    if not is_hex_32(value):
        raise WalletFailure(nip47.OTHER, "a payment hash has 64 hex characters")
    return value


def _integer(given: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = given.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 0 <= value <= MAXIMUM_INTEGER:
        raise WalletFailure(nip47.OTHER, f"the whole number {name!r} is missing or out of range")
    return value
