"""Finding the way through the hub, and explaining in Core Lightning's words why there is none."""

from relaymesh.lightning_sim.answers import NO_ROUTE, TOO_EXPENSIVE, RpcFailure
from relaymesh.lightning_sim.faults import Faults
from relaymesh.lightning_sim.ledger import Ledger
from relaymesh.lightning_sim.plan import NetworkPlan
from relaymesh.lightning_sim.records import ChannelRecord, Hop, NodeRecord

_UNUSABLE = "Failed: We could not find a usable set of paths."
_CONSTRAINT_SECONDS = 3600


def forwarding_fee_msat(plan: NetworkPlan, amount_msat: int) -> int:
    """What the hub takes for forwarding this amount (BOLT 7, "HTLC Fees")."""
    return plan.fee_base_msat + amount_msat * plan.fee_proportional_millionths // 1_000_000


def directed(channel: ChannelRecord, *, to_hub: bool) -> str:
    """The channel's id with its direction: 0 from the node whose id sorts first."""
    return f"{channel.short_channel_id}/{0 if to_hub is channel.wallet_first else 1}"


def find_route(
    ledger: Ledger, faults: Faults, plan: NetworkPlan, payer: NodeRecord, payee: NodeRecord | None, amount_msat: int
) -> tuple[Hop, ...]:
    """The hops from payer to payee, as far as the payer can know: it sees its own balance, not the hub's.

    Raises:
        RpcFailure: 205, with the reason that `xpay` would give.
    """
    channels = ledger.channels_of(payer)
    if payee is None or not channels or not ledger.channels_of(payee):
        raise RpcFailure(NO_ROUTE, f"{_UNUSABLE} There is no connection between source and destination at all")
    capacity_msat = sum(channel.capacity_msat for channel in channels)
    if amount_msat > capacity_msat:
        raise RpcFailure(
            NO_ROUTE,
            f"{_UNUSABLE} Total source capacity is only {capacity_msat}msat (in {len(channels)} channels).",
        )
    hops = _lay_out(plan, payer, payee, amount_msat)
    first_receiver = ledger.hub.name if hops[0].to_hub else hops[0].wallet
    if first_receiver in faults.down:
        raise RpcFailure(NO_ROUTE, f"{_UNUSABLE} All {len(channels)} channels to the source are disabled.")
    _check_limits(ledger, payer, hops)
    return hops


def check_fee(hops: tuple[Hop, ...], amount_msat: int, maximum_fee_msat: int | None) -> None:
    """RpcFailure 206 where the route costs more; without a limit it is 1 %, or 5,000 msat if that is more."""
    limit_msat = max(5_000, amount_msat // 100) if maximum_fee_msat is None else maximum_fee_msat
    if hops[0].amount_msat - amount_msat > limit_msat:
        raise RpcFailure(TOO_EXPENSIVE, "Failed: Could not find route without excessive cost")


def expire_constraints(ledger: Ledger, now_seconds: int) -> None:
    """Forget what failed more than an hour ago."""
    for constraint in [c for c in ledger.constraints.values() if c.timestamp <= now_seconds - _CONSTRAINT_SECONDS]:
        ledger.remove(constraint)


def _lay_out(plan: NetworkPlan, payer: NodeRecord, payee: NodeRecord, amount_msat: int) -> tuple[Hop, ...]:
    if payer.is_hub:
        return (Hop(payee.name, False, amount_msat),)
    if payee.is_hub:
        return (Hop(payer.name, True, amount_msat),)
    fee_msat = forwarding_fee_msat(plan, amount_msat)
    return (Hop(payer.name, True, amount_msat + fee_msat), Hop(payee.name, False, amount_msat))


def _check_limits(ledger: Ledger, payer: NodeRecord, hops: tuple[Hop, ...]) -> None:
    path = "->".join(ledger.channels[hop.wallet].short_channel_id for hop in hops)
    for position, hop in enumerate(hops):
        channel = ledger.channels[hop.wallet]
        name = directed(channel, to_hub=hop.to_hub)
        remembered = ledger.constraints.get(f"{payer.name}/{name}")
        if position == 0:
            layer, maximum_msat = "auto.localchans", ledger.spendable_msat(channel, by_hub=payer.is_hub)
        elif remembered is not None:
            layer, maximum_msat = "xpay", remembered.maximum_msat
        else:
            layer, maximum_msat = "gossip", channel.capacity_msat
        if hop.amount_msat > maximum_msat:
            raise RpcFailure(
                NO_ROUTE,
                f"{_UNUSABLE} The shortest path is {path}, but {name} layer {layer} says max is {maximum_msat}msat",
            )
