"""All records of the simulated network, with the look-ups that the rest needs; it alone knows what has changed."""

from collections.abc import Iterator
from dataclasses import dataclass

from relaymesh.lightning_sim.records import (
    AttemptRecord,
    ChannelRecord,
    ConstraintRecord,
    InvoiceRecord,
    NodeRecord,
    Record,
)


@dataclass(frozen=True, slots=True)
class Change:
    """A record that was written, or removed."""

    record: Record
    is_removed: bool = False


class Ledger:
    """Tables of records. Money is never created after a channel is opened: it only changes sides within one."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeRecord] = {}
        self.channels: dict[str, ChannelRecord] = {}
        self.invoices: dict[str, dict[str, InvoiceRecord]] = {}
        self.attempts: dict[str, dict[int, AttemptRecord]] = {}
        self.constraints: dict[str, ConstraintRecord] = {}
        self.unpaid: dict[str, InvoiceRecord] = {}
        self.pending: dict[str, AttemptRecord] = {}
        self._node_by_public_key: dict[str, NodeRecord] = {}
        self._invoice_labels: dict[tuple[str, str], str] = {}
        self._invoice_keys: dict[str, tuple[str, str]] = {}
        self._attempts_by_hash: dict[tuple[str, str], list[int]] = {}
        self._changes: dict[tuple[type[Record], str], Change] = {}

    def put(self, record: Record) -> None:
        """Write a record, in the place of the one with its key."""
        self._changes[type(record), record.key] = Change(record)
        match record:
            case NodeRecord():
                self.nodes[record.name] = self._node_by_public_key[record.public_key] = record
            case ChannelRecord():
                self.channels[record.wallet] = record
            case InvoiceRecord():
                self._put_invoice(record)
            case AttemptRecord():
                self._put_attempt(record)
            case ConstraintRecord():
                self.constraints[record.key] = record

    def remove(self, record: InvoiceRecord | ConstraintRecord) -> None:
        """Forget a record."""
        self._changes[type(record), record.key] = Change(record, is_removed=True)
        if isinstance(record, ConstraintRecord):
            del self.constraints[record.key]
            return
        del self.invoices[record.payee][record.label]
        del self._invoice_labels[record.payee, record.payment_hash]
        del self._invoice_keys[record.bolt11]
        self.unpaid.pop(record.key, None)

    def take_changes(self) -> tuple[Change, ...]:
        """What was written or removed since the last time, each record once, as it is now."""
        changes = tuple(self._changes.values())
        self._changes.clear()
        return changes

    @property
    def hub(self) -> NodeRecord:
        """The node that forwards."""
        return next(node for node in self.nodes.values() if node.is_hub)

    def node_with_key(self, public_key: str) -> NodeRecord | None:
        """The node with this id."""
        return self._node_by_public_key.get(public_key)

    def invoice_with_hash(self, payee: str, payment_hash: str) -> InvoiceRecord | None:
        """A node's invoice with this payment hash."""
        label = self._invoice_labels.get((payee, payment_hash))
        return None if label is None else self.invoices[payee][label]

    def invoice_with_text(self, text: str) -> InvoiceRecord | None:
        """The invoice that reads so, whoever issued it."""
        found = self._invoice_keys.get(text)
        return None if found is None else self.invoices[found[0]][found[1]]

    def attempts_with_hash(self, payer: str, payment_hash: str) -> list[AttemptRecord]:
        """A node's attempts to pay this hash, oldest first."""
        return [self.attempts[payer][index] for index in self._attempts_by_hash.get((payer, payment_hash), ())]

    def channels_of(self, node: NodeRecord) -> list[ChannelRecord]:
        """The hub has all of them, a wallet its own."""
        if node.is_hub:
            return list(self.channels.values())
        return [self.channels[node.name]] if node.name in self.channels else []

    def locked_in(self, channel: ChannelRecord) -> Iterator[tuple[AttemptRecord, bool, int]]:
        """What is on its way over a channel: the attempt, whether towards the hub, and the amount."""
        for attempt in self.pending.values():
            for hop in attempt.hops[: attempt.position + 1]:
                if hop.wallet == channel.wallet:
                    yield attempt, hop.to_hub, hop.amount_msat

    def spendable_msat(self, channel: ChannelRecord, *, by_hub: bool) -> int:
        """What one side of a channel can still send: its balance, less what is on its way."""
        balance_msat = channel.capacity_msat - channel.wallet_msat if by_hub else channel.wallet_msat
        return balance_msat - sum(amount for _, to_hub, amount in self.locked_in(channel) if to_hub is not by_hub)

    def balance_msat(self, node: NodeRecord) -> int:
        """What belongs to a node, payments on their way included."""
        channels = self.channels_of(node)
        if node.is_hub:
            return sum(channel.capacity_msat - channel.wallet_msat for channel in channels)
        return sum(channel.wallet_msat for channel in channels)

    def _put_invoice(self, record: InvoiceRecord) -> None:
        self.invoices.setdefault(record.payee, {})[record.label] = record
        self._invoice_labels[record.payee, record.payment_hash] = record.label
        self._invoice_keys[record.bolt11] = (record.payee, record.label)
        if record.status == "unpaid":
            self.unpaid[record.key] = record
        else:
            self.unpaid.pop(record.key, None)

    def _put_attempt(self, record: AttemptRecord) -> None:
        attempts = self.attempts.setdefault(record.payer, {})
        if record.index not in attempts:
            self._attempts_by_hash.setdefault((record.payer, record.payment_hash), []).append(record.index)
        attempts[record.index] = record
        if record.status == "pending":
            self.pending[record.key] = record
        else:
            self.pending.pop(record.key, None)
