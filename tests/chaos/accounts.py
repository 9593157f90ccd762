"""What must be true when everything is over, held against both ledgers, both wallets and the journals of the dead."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from relaymesh.machines.records import SESSION_ACCOUNT, TrancheRecord, TrancheState
from relaymesh.market.pricing import cost
from relaymesh.nostr.keys import verify
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.ledger import LedgerJob
from relaymesh.ports.ledger_audit import audit
from relaymesh.ports.lightning import Direction, Transaction, TransactionState
from relaymesh.protocol.codec import read_plaintext
from relaymesh.protocol.evidence import read_metering
from relaymesh.protocol.metering import MeteringRecord
from relaymesh.protocol.quote import Quote
from tests.chaos.stage import Books

Wallet = tuple[int, tuple[Transaction, ...]]


@dataclass(frozen=True)
class Account:
    """Everything that a case left behind.

    Args:
        buyer: The buyer's books.
        node: The node's books, of this case alone.
        wallets: Buyer's and node's wallet, before and after.
        journals: What the processes noted, line by line.
    """

    buyer: Books
    node: Books
    wallets: tuple[tuple[Wallet, Wallet], tuple[Wallet, Wallet]]
    journals: tuple[dict[str, str], ...] = field(repr=False)

    def breaches(self) -> list[str]:
        """A sentence for everything that is not as it must be."""
        return [
            *self._open_rows(),
            *self._ledgers(),
            *self._payments(),
            *self._balances(),
            *self._exposures(),
            *self._evidence(),
        ]

    def _open_rows(self) -> Iterable[str]:
        for name, books in (("buyer", self.buyer), ("node", self.node)):
            yield from (f"a row of the {name}'s is left open: {row}" for row in books.unresolved)
            sealed = [each for each in books.sealed if each.job_id in {found.job.job_id for found in books.jobs}]
            for invariant in audit(books.jobs, sealed, (), now_ms=time.time_ns() // 1_000_000, open_ms=0):
                yield from (f"`ledger check` of the {name}: {sentence}" for sentence in invariant.broken)

    def _ledgers(self) -> Iterable[str]:
        charged, mine = _sum_charges(self.node.jobs), _sum_charges(self.buyer.jobs)
        for key, msat in mine.items():
            theirs = charged.pop(key, 0)
            if theirs != msat:
                yield f"a job cost the buyer {msat} msat and the node was paid {theirs} msat for it"
        yield from (
            f"the node was paid {msat} msat for a job that the buyer knows nothing of"
            for msat in charged.values()
            if msat
        )

    def _payments(self) -> Iterable[str]:
        settled = Counter(
            (each.direction, each.payment_hash)
            for _, after in self.wallets
            for each in after[1]
            if each.state is TransactionState.SETTLED
        )
        yield from (f"{key[1][:8]} was paid {count} times" for key, count in settled.items() if count > 1)
        released = {
            tranche.payment_hash for found in self.buyer.jobs for tranche in found.tranches if _is_spent(tranche)
        }
        (before, after), _ = self.wallets
        new = {each.payment_hash for each in after[1] if _is_outgoing(each)}
        new -= {each.payment_hash for each in before[1] if _is_outgoing(each)}
        yield from (f"{each[:8]} was paid and the buyer's ledger does not have it" for each in new - released)
        yield from (f"{each[:8]} is paid by the buyer's ledger, and not by its wallet" for each in released - new)
        asked = Counter(each["payment_hash"] for each in self.journals if each["what"] == "invoice")
        yield from (f"{each[:8]} was never invoiced" for each in released - asked.keys())

    def _balances(self) -> Iterable[str]:
        (buyer_before, buyer_after), (node_before, node_after) = self.wallets
        spent, earned = buyer_before[0] - buyer_after[0], node_after[0] - node_before[0]
        tranches = [each for found in self.buyer.jobs for each in found.tranches if _is_spent(each)]
        booked, fees = sum(each.amount_msat for each in tranches), sum(each.fee_msat for each in tranches)
        if booked != earned:
            yield f"the buyer's ledger says {booked} msat and the node's wallet got {earned} msat"
        if booked + fees != spent:
            yield f"the buyer's ledger says {booked + fees} msat with fees and its wallet spent {spent} msat"

    def _exposures(self) -> Iterable[str]:
        quotes = {
            each.event.id: read_plaintext(each.event, each.plaintext) for each in self.buyer.evidence if each.plaintext
        }
        for session in {found.job.session_id for found in self.buyer.jobs}:
            jobs = [found for found in self.buyer.jobs if found.job.session_id == session]
            quote = quotes[jobs[0].job.quote_id]
            assert isinstance(quote, Quote)
            tranches = [tranche for found in jobs for tranche in found.tranches]
            paid = sum(tranche.amount_msat for tranche in tranches if _is_spent(tranche))
            (term,) = quote.settlement
            # What came in clear counts, read or not; what came sealed counts once it was read.
            received = sum(max(self._value(quote, found, what) for what in ("received", "delivered")) for found in jobs)
            sent = sum(self._value(quote, found, "output") + self._sealed_msat(found) for found in jobs)
            if paid - received > term.exposure_buyer_msat:
                yield f"the buyer lost {paid - received} msat, and {term.exposure_buyer_msat} were at stake"
            if sent - paid > term.exposure_node_msat:
                yield f"the node lost {sent - paid} msat, and {term.exposure_node_msat} were at stake"

    def _value(self, quote: Quote, found: LedgerJob, what: str) -> int:
        mine = [each for each in self.journals if each.get("job") == found.job.job_id]
        pieces = {
            each.get("number", str(place)): each["data"] for place, each in enumerate(mine) if each["what"] == what
        }
        size = sum(len(data.encode()) for data in pieces.values())  # what was sent again after a reconnect counts once
        input_bytes = max((int(each["input_bytes"]) for each in mine if each["what"] == "job"), default=0)
        return cost(quote.row, input_bytes, size) if size else 0

    def _sealed_msat(self, found: LedgerJob) -> int:
        mine = [each for each in self.journals if each.get("job") == found.job.job_id and each["what"] == "sealed"]
        return sum({each["tranche"]: int(each["msat"]) for each in mine}.values())

    def _evidence(self) -> Iterable[str]:
        records = {each.job: each for each in self._records()}
        quoted = {each.event.id for each in self.buyer.evidence if each.event.kind == Kind.QUOTE}
        for found in self.buyer.jobs:
            if found.job.quote_id not in quoted:
                yield "a job was begun and its quote is not kept"
            record = records.get(found.job.job_id)
            is_recorded = record is not None and record.charged_msat == found.job.charged_msat
            if found.job.charged_msat and not is_recorded and found.job.job_type != SESSION_ACCOUNT:
                yield f"{found.job.charged_msat} msat were paid and no record of the node's says so"
            for tranche in found.tranches:
                if _is_spent(tranche) and tranche.amount_msat and not _is_proved(tranche):
                    yield "a payment was made and its preimage is not kept"

    def _records(self) -> Iterable[MeteringRecord]:
        for each in self.node.evidence:
            if each.event.kind == Kind.METERING:
                yield read_metering(verify(each.event)).record


def read_journals(paths: Iterable[str]) -> tuple[dict[str, str], ...]:
    """What was noted, by whoever lived long enough to note it."""
    return tuple(
        json.loads(line) for path in paths if Path(path).exists() for line in Path(path).read_text().splitlines()
    )


def _sum_charges(jobs: Iterable[LedgerJob]) -> dict[str, int]:
    """What each job cost; those of a prepaid session together, since a crash may leave one side without a record."""
    accounts = {found.job.session_id for found in jobs if found.job.job_type == SESSION_ACCOUNT}
    sums: dict[str, int] = {}
    for found in jobs:
        key = found.job.session_id if found.job.session_id in accounts else found.job.job_id
        sums[key] = sums.get(key, 0) + found.job.charged_msat
    return sums


def _is_spent(tranche: TrancheRecord) -> bool:
    return tranche.state in (TrancheState.PAID, TrancheState.RELEASED)


def _is_outgoing(transaction: Transaction) -> bool:
    return transaction.direction is Direction.OUTGOING and transaction.state is TransactionState.SETTLED


def _is_proved(tranche: TrancheRecord) -> bool:
    return tranche.preimage is not None and hashlib.sha256(tranche.preimage).hexdigest() == tranche.payment_hash
