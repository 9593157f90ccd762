"""What every session of a client shares: wallet, ledger, clock, and what a payment may cost and take."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from relaymesh.machines.job_settings import ClientJobSettings
from relaymesh.ports.ledger import Ledger
from relaymesh.ports.lightning import DecodedInvoice, Payer
from relaymesh.roles.driver import Clock
from relaymesh.roles.experience import Experience
from relaymesh.units import AmountMsat

InvoiceReader = Callable[[str], Awaitable[DecodedInvoice]]
"""Decodes a BOLT 11 invoice; raises RemoteProtocolError where it is not valid."""


@dataclass(frozen=True, slots=True)
class PaymentPolicy:
    """What the client lets a payment cost and take.

    Args:
        base_fee_msat: Routing fees up to this are always fine.
        fee_ppm: Beyond that, so many millionths of the amount.
        deadline_ms: Then the outcome is unknown, and looked up.
    """

    base_fee_msat: int = 5_000
    fee_ppm: int = 10_000
    deadline_ms: int = 30_000

    def maximum_fee(self, amount_msat: AmountMsat) -> AmountMsat:
        """The most that routing this amount may cost."""
        return AmountMsat(max(self.base_fee_msat, amount_msat * self.fee_ppm // 1_000_000))


@dataclass(slots=True)
class ClientTools:
    """What every session of a client shares."""

    wallet: Payer
    ledger: Ledger
    read_invoice: InvoiceReader
    clock: Clock
    job_settings: ClientJobSettings = field(default_factory=ClientJobSettings)
    payment_policy: PaymentPolicy = field(default_factory=PaymentPolicy)
    known_payment_hashes: set[str] = field(default_factory=set)
    experience: Experience = field(default_factory=Experience)
