"""The client's side of sealed delivery: leaves and commitment come in, are checked, paid for and opened (RM-03).

Pure, and bounded whatever the node sends. Nothing is paid unless everything is here and agrees; after that the preimage
alone opens it, also when the node is gone.
"""

from typing import Final

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.machines.records import EvidenceRecord, SealedRecord
from relaymesh.nostr.event import Event, VerifiedEvent
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.evidence import Verifier
from relaymesh.protocol.payment import DecodedInvoice
from relaymesh.protocol.sealed_commitment import (
    MAXIMUM_LEAF_CIPHERTEXT_BYTES,
    MAXIMUM_LEAVES,
    SignedCommitment,
    read_sealed_commitment,
)
from relaymesh.protocol.sealed_leaves import bound_units, find_leaf_mismatch, open_leaves
from relaymesh.protocol.session_messages import JobId
from relaymesh.units import AmountMsat, Moment

MAXIMUM_CLOCK_DIFFERENCE_SECONDS: Final = 60


class SealedPurchase:
    """One sealed tranche, as its buyer sees it.

    Args:
        contract: The session's: who sells, to whom, under which quote.
        job_id: The job.
        tranche: Which tranche, from 0.
        verify: Checks the commitment's id and signature.
    """

    def __init__(self, contract: SessionContract, job_id: JobId, tranche: int, verify: Verifier) -> None:
        self._contract, self._job_id, self._tranche, self._verify = contract, job_id, tranche, verify
        self._leaves: dict[int, bytes] = {}
        self._signed: SignedCommitment | None = None
        self.contradiction: VerifiedEvent | None = None
        """A second, different commitment to this tranche by this node, which proves it an equivocator (RM-05)."""

    @property
    def text_bytes(self) -> int:
        """The text that the leaves hold as stated, in bytes; 0 until the commitment is here."""
        return sum(self._signed.commitment.leaf_bytes) if self._signed is not None else 0

    @property
    def is_complete(self) -> bool:
        """Whether commitment and leaves are all here and the leaves are those that it commits to."""
        return self._find_incompleteness() is None

    def take_leaf(self, leaf: int, ciphertext: bytes) -> None:
        """Keep one leaf; the same one may come again after a reconnect.

        Raises:
            RemoteProtocolError: There cannot be such a leaf, or another one came under this number before.
        """
        if not 0 <= leaf < MAXIMUM_LEAVES:
            raise RemoteProtocolError(f"a sealed tranche has at most {MAXIMUM_LEAVES} leaves, and number {leaf} came")
        if len(ciphertext) > MAXIMUM_LEAF_CIPHERTEXT_BYTES:
            raise RemoteProtocolError(f"a leaf must be at most {MAXIMUM_LEAF_CIPHERTEXT_BYTES} bytes")
        if self._leaves.setdefault(leaf, ciphertext) != ciphertext:
            raise RemoteProtocolError(f"leaf {leaf} of tranche {self._tranche} came twice and differs")

    def take_commitment(self, event: Event, now: Moment) -> None:
        """Keep the commitment; the same one may come again after a reconnect.

        Raises:
            RemoteProtocolError: It is no valid commitment by this node, to this client, to this tranche under this
                quote; or it differs from the one that came before (see `contradiction`).
        """
        if self._signed is not None and event == self._signed.event:
            return
        signed = read_sealed_commitment(self._verify(event))
        flaw = self._find_flaw(signed, now)
        if flaw is not None:
            raise RemoteProtocolError(flaw)
        if self._signed is None:
            self._signed = signed
        elif signed.commitment != self._signed.commitment:
            self.contradiction = signed.event
            raise RemoteProtocolError(f"the node committed twice to tranche {self._tranche}, and differently")

    def find_mismatch(self, decoded: DecodedInvoice, amount_msat: AmountMsat, units: int) -> str | None:
        """Why this tranche must not be paid under this invoice, or None (RM-03, "Sealed delivery").

        Args:
            decoded: What the BOLT 11 invoice says.
            amount_msat: INVOICE's `msat`.
            units: INVOICE's `units`.
        """
        incomplete = self._find_incompleteness()
        if incomplete is not None or self._signed is None:
            return incomplete
        commitment = self._signed.commitment
        if decoded.payment_hash != commitment.payment_hash:
            return "the invoice's payment hash is not the one that the node committed to"
        if not amount_msat == decoded.amount_msat == commitment.msat:
            return f"the invoice asks for {decoded.amount_msat} msat where the node committed to {commitment.msat}"
        if units != commitment.units:
            return f"the invoice is for {units} units where the node committed to {commitment.units}"
        unit = self._contract.quote.row.unit
        if units != bound_units(unit, units, self.text_bytes):
            return f"the node asks for {units} {unit}s of output for {self.text_bytes} bytes of text"
        return None

    def records(self) -> tuple[SealedRecord | EvidenceRecord, ...]:
        """What the ledger keeps, in one transaction with the tranche's row as PAYING, before anything is paid."""
        if self._signed is None:
            raise LocalProtocolError("a sealed tranche is not kept before its commitment is here")
        leaves = tuple(self._leaves[place] for place in sorted(self._leaves))
        client, commitment = self._contract.client, self._signed.event
        sealed = SealedRecord("client", client, self._job_id, self._tranche, commitment, leaves)
        return sealed, *self.evidence()

    def evidence(self) -> tuple[EvidenceRecord, ...]:
        """The commitments alone: of a tranche that is not paid, they are all that may be worth keeping."""
        signed = () if self._signed is None else (self._signed.event,)
        other = () if self.contradiction is None else (self.contradiction,)
        return tuple(EvidenceRecord("client", self._job_id, event) for event in (*signed, *other))

    def open(self, preimage: bytes) -> tuple[str, ...]:
        """The pieces of output, in order, with the preimage that was paid for (32 bytes).

        Raises:
            RemoteProtocolError: What was sold is not what was committed to; the sentence names the leaf, and a fraud
                proof shows it to others (`relaymesh.market.prosecution`).
        """
        if self._signed is None:
            raise LocalProtocolError("a sealed tranche is not opened before its commitment is here")
        leaves = tuple(self._leaves[place] for place in sorted(self._leaves))
        return open_leaves(self._signed.commitment, leaves, preimage)

    def _find_flaw(self, signed: SignedCommitment, now: Moment) -> str | None:
        commitment, contract = signed.commitment, self._contract
        if signed.event.public_key != contract.node:
            return "the commitment is signed by another node"
        if signed.client != contract.client:
            return "the commitment is made to another client"
        if commitment.quote_id != contract.quote_event.id:
            return "the commitment cites another quote"
        if (commitment.job, commitment.tranche) != (self._job_id, self._tranche):
            return "the commitment is to another job or tranche"
        if signed.event.created_at > now.timestamp + MAXIMUM_CLOCK_DIFFERENCE_SECONDS:
            return "the commitment was signed in the future"
        return None

    def _find_incompleteness(self) -> str | None:
        if self._signed is None:
            return f"the node asks to be paid for tranche {self._tranche} without a commitment to it"
        commitment = self._signed.commitment
        count = len(commitment.leaf_sha256)
        for leaf in range(count):
            ciphertext = self._leaves.get(leaf)
            if ciphertext is None:
                return f"leaf {leaf} of tranche {self._tranche} has not come"
            mismatch = find_leaf_mismatch(commitment, leaf, ciphertext)
            if mismatch is not None:
                return mismatch
        if len(self._leaves) != count:
            return f"more leaves came than the {count} that the node committed to"
        return None
