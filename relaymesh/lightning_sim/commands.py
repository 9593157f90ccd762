"""JSON-RPC 2.0 as Core Lightning speaks it: one request in, one answer out, unknown methods refused."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from relaymesh.lightning_sim import invoice_commands, node_commands, payment_commands
from relaymesh.lightning_sim.answers import BAD_PARAMETERS, UNKNOWN_METHOD, Answer, Result, RpcFailure
from relaymesh.lightning_sim.parameters import Parameter, read_parameters
from relaymesh.lightning_sim.records import NodeRecord
from relaymesh.lightning_sim.simulation import Simulation


@dataclass(frozen=True, slots=True)
class Command:
    """A method: what it takes and what it does."""

    run: Callable[[Simulation, NodeRecord, dict[str, Any], int], Answer]
    parameters: tuple[Parameter, ...]


COMMANDS: Final = {
    "getinfo": Command(node_commands.getinfo, node_commands.GETINFO),
    "invoice": Command(invoice_commands.invoice, invoice_commands.INVOICE),
    "xpay": Command(payment_commands.xpay, payment_commands.XPAY),
    "pay": Command(payment_commands.pay, payment_commands.PAY),
    "waitinvoice": Command(invoice_commands.waitinvoice, invoice_commands.WAITINVOICE),
    "waitanyinvoice": Command(invoice_commands.waitanyinvoice, invoice_commands.WAITANYINVOICE),
    "listinvoices": Command(invoice_commands.listinvoices, invoice_commands.LISTINVOICES),
    "listpays": Command(payment_commands.listpays, payment_commands.LISTPAYS),
    "listsendpays": Command(payment_commands.listsendpays, payment_commands.LISTPAYS),
    "waitsendpay": Command(payment_commands.waitsendpay, payment_commands.WAITSENDPAY),
    "delinvoice": Command(invoice_commands.delinvoice, invoice_commands.DELINVOICE),
    "decode": Command(node_commands.decode, node_commands.DECODE),
    "listfunds": Command(node_commands.listfunds, node_commands.LISTFUNDS),
    "listpeerchannels": Command(node_commands.listpeerchannels, node_commands.LISTPEERCHANNELS),
    "askrene-age": Command(node_commands.askrene_age, node_commands.ASKRENE_AGE),
}
"""Everything the simulated nodes can do; anything else is −32601."""


def answer(simulation: Simulation, node_name: str, method: object, parameters: object, now_ms: int) -> Answer:
    """Carry out a request addressed to one node.

    Raises:
        RpcFailure: As a real node would refuse it.
    """
    if not isinstance(method, str):
        raise RpcFailure(BAD_PARAMETERS, "Invalid method: should be a string")
    command = COMMANDS.get(method)
    if command is None:
        raise RpcFailure(UNKNOWN_METHOD, f"Unknown command '{method}'")
    given = read_parameters(command.parameters, {} if parameters is None else parameters)
    return command.run(simulation, simulation.ledger.nodes[node_name], given, now_ms)


def encode_reply(request_id: object, reply: Result | RpcFailure) -> bytes:
    """A reply as it goes over the socket: JSON, then an empty line."""
    body: Result = {"jsonrpc": "2.0", "id": request_id}
    if isinstance(reply, RpcFailure):
        body["error"] = reply.to_json()
    else:
        body["result"] = reply
    return json.dumps(body).encode() + b"\n\n"
