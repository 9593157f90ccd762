"""All sealed tranches of one job, as its buyer receives, pays and opens them, one after the other (RM-03)."""

from dataclasses import replace

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.records import EvidenceRecord, LedgerRecord, SealedRecord
from relaymesh.machines.sealed_purchase import SealedPurchase
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.evidence import Verifier
from relaymesh.protocol.payment import DecodedInvoice
from relaymesh.protocol.session_messages import CommitmentMessage, InvoiceMessage, JobId, SealedMessage
from relaymesh.units import Moment


class SealedDeliveries:
    """At most one tranche beyond those that were paid for is held, whatever a node sends.

    Args:
        contract: The session's.
        job_id: The job.
        verify: Checks commitments.
    """

    def __init__(self, contract: SessionContract, job_id: JobId, verify: Verifier) -> None:
        self._contract, self._job_id, self._verify = contract, job_id, verify
        self._purchases: list[SealedPurchase] = []
        self._opened = 0
        self._current = 0

    @property
    def is_unopened(self) -> bool:
        """Whether something came that has not been opened yet: what comes after it must wait."""
        return self._opened < len(self._purchases)

    @property
    def unopened_bytes(self) -> int:
        """The text in what has not been opened yet, as the node committed to it."""
        return sum(purchase.text_bytes for purchase in self._purchases[self._opened :])

    def take(self, message: SealedMessage | CommitmentMessage, paid: int, now: Moment) -> None:
        """Keep a leaf or a commitment; a commitment is to the tranche whose leaves came before it.

        Args:
            paid: How many tranches were paid or are being paid: the one after them may come now, no further one.

        Raises:
            RemoteProtocolError: It cannot be part of what was agreed.
        """
        if isinstance(message, SealedMessage):
            self._current = message.tranche
            if message.tranche == len(self._purchases) <= paid:
                self._purchases.append(SealedPurchase(self._contract, self._job_id, message.tranche, self._verify))
        if self._current >= len(self._purchases):
            raise RemoteProtocolError(f"sealed tranche {self._current} came where {len(self._purchases)} is next")
        purchase = self._purchases[self._current]
        if isinstance(message, SealedMessage):
            purchase.take_leaf(message.leaf, message.ciphertext)
        else:
            purchase.take_commitment(message.event, now)

    def find_mismatch(self, tranche: int, decoded: DecodedInvoice, message: InvoiceMessage) -> str | None:
        """Why what was delivered must not be paid under this invoice, or None."""
        if tranche >= len(self._purchases):
            return f"the invoice is for sealed tranche {tranche}, of which nothing came"
        return self._purchases[tranche].find_mismatch(decoded, message.msat, message.units)

    def records(self, tranche: int) -> tuple[LedgerRecord, ...]:
        """What must be durable before this tranche is paid."""
        return self._purchases[tranche].records()

    def evidence(self) -> list[EvidenceRecord]:
        """The commitments of all tranches, paid or not."""
        return [record for purchase in self._purchases for record in purchase.evidence()]

    def open(self, tranche: int, preimage: bytes) -> tuple[str, ...]:
        """The pieces of output in a tranche that was paid for.

        Raises:
            RemoteProtocolError: What was sold is not what was committed to.
        """
        pieces = self._purchases[tranche].open(preimage)
        self._opened = max(self._opened, tranche + 1)
        return pieces

    def erasure(self) -> tuple[SealedRecord, ...]:
        """The records of all tranches that were opened, without their ciphertext."""
        kept = [record for purchase in self._purchases[: self._opened] for record in purchase.records()]
        return tuple(replace(record, leaves=()) for record in kept if isinstance(record, SealedRecord))
