"""What network to simulate: the wallets, what they hold, what forwarding costs and how long a payment takes."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Final

from relaymesh.errors import UsageError
from relaymesh.units import MAXIMUM_INTEGER

HUB_NAME: Final = "hub"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")


@dataclass(frozen=True, slots=True)
class WalletPlan:
    """One wallet and its channel with the hub.

    Args:
        name: Its folder's name: letters, digits, `-` and `_`; not `hub`.
        balance_msat: What it holds when it is first made.
        inbound_msat: What it can receive at first (the hub's side of the channel).
    """

    name: str
    balance_msat: int
    inbound_msat: int = 1_000_000_000


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """The whole network. Wallets that a folder holds already keep what they have; new ones are added.

    Args:
        wallets: In the order of their channels.
        fee_base_msat: What the hub takes per payment …
        fee_proportional_millionths: … and of each million it forwards.
        payment_latency_ms: How long a payment takes over one channel, there and back.
        hold_ms: For these wallets, how long each payment to them is held before it is taken.
    """

    wallets: tuple[WalletPlan, ...]
    fee_base_msat: int = 1
    fee_proportional_millionths: int = 10
    payment_latency_ms: int = 40
    hold_ms: tuple[tuple[str, int], ...] = ()

    def check(self) -> None:
        """UsageError where the plan cannot be carried out."""
        names = Counter(wallet.name for wallet in self.wallets)
        for name, count in names.items():
            if _NAME.fullmatch(name) is None or name == HUB_NAME or count > 1:
                raise UsageError(
                    f"a wallet's name must be 1 to 32 letters, digits, - or _, not {HUB_NAME!r} and not there twice: "
                    f"{name!r} is not"
                )
        amounts = [amount for wallet in self.wallets for amount in (wallet.balance_msat, wallet.inbound_msat)]
        amounts += [self.fee_base_msat, self.fee_proportional_millionths, self.payment_latency_ms]
        if min(amounts) < 0 or max(amounts) > MAXIMUM_INTEGER:
            raise UsageError("balances, fees and times of the simulated network must be whole numbers from 0 to 2^53")
        unknown = {name for name, _ in self.hold_ms} - names.keys()
        if unknown:
            raise UsageError(f"payments can be held only for wallets of this network, {min(unknown)!r} is none")
