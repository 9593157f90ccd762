"""What the simulated network remembers: frozen records, replaced as a whole whenever something changes."""

from dataclasses import dataclass
from typing import Final

NETWORK: Final = "regtest"
CURRENCY: Final = "bcrt"


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A wallet, or the hub: one simulated Lightning node.

    Args:
        name: Its folder's name, unique in the network.
        secret: Its secret key, 64 hex characters.
        public_key: Its id (33 bytes, hex).
        is_hub: Whether it forwards for the others.
        invoices_created: How many invoices it has issued, as for the following: Core Lightning's indexes.
        invoices_updated: How many times one was paid or has expired.
        invoices_paid: How many were paid.
        payments_created: How many payment attempts it has made.
        fees_collected_msat: What it earned by forwarding.
    """

    name: str
    secret: str
    public_key: str
    is_hub: bool
    invoices_created: int = 0
    invoices_updated: int = 0
    invoices_paid: int = 0
    payments_created: int = 0
    fees_collected_msat: int = 0

    @property
    def key(self) -> str:
        """What it is stored under."""
        return self.name


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one side of a channel has offered to the other, and how much of it was taken."""

    payments_offered: int = 0
    offered_msat: int = 0
    payments_fulfilled: int = 0
    fulfilled_msat: int = 0


@dataclass(frozen=True, slots=True)
class ChannelRecord:
    """The channel between a wallet and the hub; both balances always add up to the capacity.

    Args:
        short_channel_id: For example `103x2x0`.
        wallet: The wallet's name.
        capacity_msat: What was put into it, by both.
        wallet_msat: What of it belongs to the wallet; the rest is the hub's.
        wallet_first: Whether the wallet's id sorts before the hub's, which makes its direction 0.
        from_wallet: What the wallet has sent.
        from_hub: What the hub has sent.
    """

    short_channel_id: str
    wallet: str
    capacity_msat: int
    wallet_msat: int
    wallet_first: bool
    from_wallet: Traffic = Traffic()
    from_hub: Traffic = Traffic()

    @property
    def key(self) -> str:
        """What it is stored under."""
        return self.wallet


@dataclass(frozen=True, slots=True)
class InvoiceRecord:
    """An invoice at its payee; the names are those of Core Lightning's `listinvoices`.

    Args:
        payee: The name of the node that issued it.
        label: Unique at that node.
        bolt11: The signed text.
        payment_hash: 64 hex characters.
        preimage: 64 hex characters; empty where the payee keeps it to itself until it settles (a hold invoice).
        payment_secret: 64 hex characters.
        amount_msat: None where the payer chooses.
        description: As given.
        expires_at: Unix seconds.
        created_index: Counts the node's invoices from 1.
        created_at: Unix seconds.
        status: `unpaid`, `paid` or `expired`; `accepted` while a payment is held.
        holds: The key of the attempt that is held; empty where none is.
        updated_index: Counts the node's changes to invoices; None while unpaid.
        pay_index: Counts the node's paid invoices; None unless paid, as the following.
        received_msat: What arrived.
        paid_at: Unix seconds.
    """

    payee: str
    label: str
    bolt11: str
    payment_hash: str
    preimage: str
    payment_secret: str
    amount_msat: int | None
    description: str
    expires_at: int
    created_index: int
    created_at: int = 0
    status: str = "unpaid"
    holds: str = ""
    updated_index: int | None = None
    pay_index: int | None = None
    received_msat: int | None = None
    paid_at: int | None = None

    @property
    def key(self) -> str:
        """What it is stored under; a node's name has no slash."""
        return f"{self.payee}/{self.label}"


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of a route: `amount_msat` goes over `wallet`'s channel, to the hub or from it."""

    wallet: str
    to_hub: bool
    amount_msat: int


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt to pay an invoice, from the payer's point of view.

    Args:
        payer: The name of the node that pays.
        index: Counts the node's attempts from 1.
        group: Core Lightning's `groupid`: a random number.
        payment_hash: 64 hex characters.
        payment_secret: As the invoice says.
        bolt11: The invoice.
        destination: The payee's id.
        amount_msat: What the payee is to get.
        label: What the payer called it, if anything.
        created_ms: Unix milliseconds.
        hops: The route; empty where a node pays itself.
        position: The hop where it is; the hops up to and including this one have their amounts locked.
        phase: `forward`, `settling` (the preimage travels back) or `failing`; `done` at the end.
        due_ms: When the next step is taken; None while it waits for a node that is down or for a release.
        status: `pending`, `complete` or `failed`.
        preimage: 64 hex characters once it is settling.
        completed_ms: Unix milliseconds; None while pending.
        failure_code: As Core Lightning numbers them; None unless it failed.
        failure_message: In Core Lightning's words.
    """

    payer: str
    index: int
    group: int
    payment_hash: str
    payment_secret: str
    bolt11: str
    destination: str
    amount_msat: int
    label: str | None
    created_ms: int
    hops: tuple[Hop, ...]
    position: int = 0
    phase: str = "forward"
    due_ms: int | None = None
    status: str = "pending"
    preimage: str | None = None
    completed_ms: int | None = None
    failure_code: int | None = None
    failure_message: str = ""

    @property
    def key(self) -> str:
        """What it is stored under."""
        return f"{self.payer}/{self.index}"

    @property
    def sent_msat(self) -> int:
        """Amount and fees."""
        return self.hops[0].amount_msat if self.hops else self.amount_msat


@dataclass(frozen=True, slots=True)
class ConstraintRecord:
    """That `payer` once saw `channel` fail in `direction`, so that it expects it to carry no more than so much."""

    payer: str
    channel: str
    maximum_msat: int
    timestamp: int

    @property
    def key(self) -> str:
        """What it is stored under."""
        return f"{self.payer}/{self.channel}"


Record = NodeRecord | ChannelRecord | InvoiceRecord | AttemptRecord | ConstraintRecord
RECORD_KINDS: Final = (NodeRecord, ChannelRecord, InvoiceRecord, AttemptRecord, ConstraintRecord)
