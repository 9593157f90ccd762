"""The commands about the node itself: who it is, what it holds, what an invoice says, what it remembers."""

from typing import Any, Final

from relaymesh.adapters.invoices import InvoiceFields, read_invoice
from relaymesh.errors import RemoteProtocolError
from relaymesh.lightning_sim.answers import BAD_PARAMETERS, Answer, Result, RpcFailure
from relaymesh.lightning_sim.parameters import Parameter, as_number, as_text
from relaymesh.lightning_sim.records import NETWORK, ChannelRecord, NodeRecord
from relaymesh.lightning_sim.simulation import BLOCK_HEIGHT, Simulation

VERSION: Final = "v26.06.6-simulated"

_HTLC_EXPIRY_BLOCKS: Final = 17
_UNLIMITED_MSAT: Final = 2**64 - 1
_REMEMBERING_LAYER: Final = "xpay"

_UNCHANGING: Final[Result] = {
    "channel_type": {"bits": [12, 22], "names": ["static_remotekey/even", "anchors/even"]},
    "ignore_fee_limits": True,
    "state": "CHANNELD_NORMAL",
    "lost_state": False,
    "funding_outnum": 0,
    "private": False,
    "features": ["option_static_remotekey", "option_anchors"],
    "dust_limit_msat": 0,
    "their_max_htlc_value_in_flight_msat": _UNLIMITED_MSAT,
    "our_max_htlc_value_in_flight_msat": _UNLIMITED_MSAT,
    "their_reserve_msat": 0,
    "our_reserve_msat": 0,
    "minimum_htlc_in_msat": 0,
    "minimum_htlc_out_msat": 0,
    "their_to_self_delay": 6,
    "our_to_self_delay": 6,
    "max_accepted_htlcs": 483,
    "state_changes": [],
    "status": ["CHANNELD_NORMAL:Channel ready for use."],
}

GETINFO: Final = ()
DECODE: Final = (Parameter("string", as_text, is_required=True),)
LISTFUNDS: Final = (Parameter("spent", as_text),)
LISTPEERCHANNELS: Final = (Parameter("id", as_text), Parameter("short_channel_id", as_text))
ASKRENE_AGE: Final = (
    Parameter("layer", as_text, is_required=True),
    Parameter("cutoff", as_number, is_required=True),
)


def getinfo(simulation: Simulation, node: NodeRecord, _given: dict[str, Any], _now_ms: int) -> Answer:
    """`getinfo`: who this is."""
    count = len(simulation.ledger.channels_of(node))
    return {
        "id": node.public_key,
        "alias": node.name,
        "color": node.public_key[:6],
        "num_peers": count,
        "num_pending_channels": 0,
        "num_active_channels": count,
        "num_inactive_channels": 0,
        "address": [],
        "binding": [],
        "version": VERSION,
        "blockheight": BLOCK_HEIGHT,
        "network": NETWORK,
        "fees_collected_msat": node.fees_collected_msat,
        "lightning-dir": f"/{NETWORK}/{node.name}",
        "our_features": {
            "init": "800898880a8a59a1",
            "node": "808898880a8a59a1",
            "channel": "",
            "invoice": "02000002024100",
        },
    }


def decode(_simulation: Simulation, _node: NodeRecord, given: dict[str, Any], _now_ms: int) -> Answer:
    """`decode`: what an invoice says."""
    text = given["string"]
    try:
        fields = read_invoice(text)
    except RemoteProtocolError as error:
        raise RpcFailure(BAD_PARAMETERS, f"string: Bad bech32 string: invalid token '\"{text}\"'") from error
    result: Result = {
        "type": "bolt11 invoice",
        "currency": fields.network,
        "created_at": fields.created_at,
        "expiry": fields.expiry_seconds,
        "payee": fields.payee,
    }
    if fields.amount_msat is not None:
        result["amount_msat"] = fields.amount_msat
    if fields.description is not None:
        result["description"] = fields.description
    if fields.description_hash is not None:
        result["description_hash"] = fields.description_hash
    result["min_final_cltv_expiry"] = fields.minimum_final_cltv_expiry
    result["payment_secret"] = fields.payment_secret
    result["features"] = _features_hex(fields)
    result["payment_hash"] = fields.payment_hash
    result["signature"] = _signature_der(fields.signature)
    result["valid"] = True
    return result


def listfunds(simulation: Simulation, node: NodeRecord, _given: dict[str, Any], _now_ms: int) -> Answer:
    """`listfunds`: what the node holds; all of it is in channels."""
    channels = [
        {
            "peer_id": _peer(simulation, node, channel).public_key,
            "connected": _is_connected(simulation, node, channel),
            "state": "CHANNELD_NORMAL",
            "channel_id": _funding(channel),
            "short_channel_id": channel.short_channel_id,
            "our_amount_msat": _balance_msat(node, channel),
            "amount_msat": channel.capacity_msat,
            "funding_txid": _funding(channel),
            "funding_output": 0,
        }
        for channel in simulation.ledger.channels_of(node)
    ]
    return {"outputs": [], "channels": channels}


def listpeerchannels(simulation: Simulation, node: NodeRecord, given: dict[str, Any], _now_ms: int) -> Answer:
    """`listpeerchannels`: the node's channels and what is on its way in them."""
    rows = [describe_channel(simulation, node, channel) for channel in simulation.ledger.channels_of(node)]
    return {
        "channels": [
            row
            for row in rows
            if given.get("id") in (None, row["peer_id"])
            and given.get("short_channel_id") in (None, row["short_channel_id"])
        ]
    }


def askrene_age(simulation: Simulation, node: NodeRecord, given: dict[str, Any], _now_ms: int) -> Answer:
    """`askrene-age`: forget what was remembered before the cutoff."""
    if given["layer"] != _REMEMBERING_LAYER:
        token = given["layer"]
        raise RpcFailure(BAD_PARAMETERS, f"layer: Unknown layer: invalid token '\"{token}\"'")
    old = [
        constraint
        for constraint in simulation.ledger.constraints.values()
        if constraint.payer == node.name and constraint.timestamp < given["cutoff"]
    ]
    for constraint in old:
        simulation.ledger.remove(constraint)
    return {"layer": given["layer"], "num_removed": len(old)}


def describe_channel(simulation: Simulation, node: NodeRecord, channel: ChannelRecord) -> Result:
    """A row of `listpeerchannels`; what only a real transaction could say is left out."""
    peer = _peer(simulation, node, channel)
    is_connected = _is_connected(simulation, node, channel)
    row: Result = {
        "peer_id": peer.public_key,
        "peer_connected": is_connected,
        "updates": {"local": _update(simulation, channel), "remote": _update(simulation, channel)},
        "short_channel_id": channel.short_channel_id,
        "direction": 0 if node.public_key < peer.public_key else 1,
        "channel_id": _funding(channel),
        "funding_txid": _funding(channel),
        "opener": "local" if node.is_hub else "remote",
        "to_us_msat": _balance_msat(node, channel),
        "total_msat": channel.capacity_msat,
        "fee_base_msat": simulation.plan.fee_base_msat,
        "fee_proportional_millionths": simulation.plan.fee_proportional_millionths,
        "maximum_htlc_out_msat": channel.capacity_msat,
        "spendable_msat": simulation.ledger.spendable_msat(channel, by_hub=node.is_hub),
        "receivable_msat": simulation.ledger.spendable_msat(channel, by_hub=not node.is_hub),
        **_UNCHANGING,
        **_describe_traffic(node, channel),
        "htlcs": _describe_htlcs(simulation, node, channel),
    }
    if is_connected:
        row |= {"reestablished": True, "owner": "channeld"}
    return row


def _describe_traffic(node: NodeRecord, channel: ChannelRecord) -> Result:
    sent, received = channel.from_wallet, channel.from_hub
    if node.is_hub:
        sent, received = received, sent
    return {
        "in_payments_offered": received.payments_offered,
        "in_offered_msat": received.offered_msat,
        "in_payments_fulfilled": received.payments_fulfilled,
        "in_fulfilled_msat": received.fulfilled_msat,
        "out_payments_offered": sent.payments_offered,
        "out_offered_msat": sent.offered_msat,
        "out_payments_fulfilled": sent.payments_fulfilled,
        "out_fulfilled_msat": sent.fulfilled_msat,
    }


def _describe_htlcs(simulation: Simulation, node: NodeRecord, channel: ChannelRecord) -> list[Result]:
    return [
        {
            "direction": "in" if to_hub is node.is_hub else "out",
            "id": attempt.index,
            "amount_msat": amount_msat,
            "expiry": BLOCK_HEIGHT + _HTLC_EXPIRY_BLOCKS,
            "payment_hash": attempt.payment_hash,
            "state": "RCVD_ADD_ACK_REVOCATION" if to_hub is node.is_hub else "SENT_ADD_ACK_REVOCATION",
        }
        for attempt, to_hub, amount_msat in simulation.ledger.locked_in(channel)
    ]


def _update(simulation: Simulation, channel: ChannelRecord) -> Result:
    return {
        "htlc_minimum_msat": 0,
        "htlc_maximum_msat": channel.capacity_msat,
        "cltv_expiry_delta": 6,
        "fee_base_msat": simulation.plan.fee_base_msat,
        "fee_proportional_millionths": simulation.plan.fee_proportional_millionths,
    }


def _peer(simulation: Simulation, node: NodeRecord, channel: ChannelRecord) -> NodeRecord:
    return simulation.ledger.nodes[channel.wallet] if node.is_hub else simulation.ledger.hub


def _is_connected(simulation: Simulation, node: NodeRecord, channel: ChannelRecord) -> bool:
    return _peer(simulation, node, channel).name not in simulation.faults.down


def _balance_msat(node: NodeRecord, channel: ChannelRecord) -> int:
    return channel.capacity_msat - channel.wallet_msat if node.is_hub else channel.wallet_msat


def _funding(channel: ChannelRecord) -> str:
    """A transaction id that no chain has: the channel's number."""
    return channel.short_channel_id.replace("x", "").zfill(64)


def _features_hex(fields: InvoiceFields) -> str:
    return fields.features.to_bytes((fields.features.bit_length() + 7) // 8).hex()


def _signature_der(signature: str) -> str:
    """R and S in DER, as `decode` prints them (ITU-T X.690, 8.3: no needless zeroes, none negative)."""
    parts = b""
    for number in (signature[:64], signature[64:]):
        value = int(number, 16)
        encoded = value.to_bytes(value.bit_length() // 8 + 1)
        parts += bytes([2, len(encoded)]) + encoded
    return (bytes([0x30, len(parts)]) + parts).hex()
