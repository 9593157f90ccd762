"""The node's side of sealed delivery: a tranche that was run, encrypted under a key that its payment reveals (RM-03).

Pure: what is sealed here is stored by the node's job, in one transaction with the tranche's row, before the first leaf
leaves. From then on the tranche is only ever sent again byte for byte; run again under the same key it would give both
texts away.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from relaymesh.errors import LocalProtocolError
from relaymesh.machines.records import EvidenceRecord, SealedRecord
from relaymesh.nostr.event import Signer, VerifiedEvent
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.sealed_commitment import SealedCommitment, build_sealed_commitment, seal_leaf
from relaymesh.protocol.sealed_leaves import MAXIMUM_SEALED_TRANCHE_BYTES as MAXIMUM_SEALED_TRANCHE_BYTES
from relaymesh.protocol.sealed_leaves import bound_units as bound_units
from relaymesh.protocol.sealed_leaves import count_text, pack_leaves
from relaymesh.protocol.sealed_leaves import packed_bytes as packed_bytes
from relaymesh.protocol.session_messages import CommitmentMessage, JobId, SealedMessage, SessionMessage
from relaymesh.units import AmountMsat, Moment

SECRET_BYTES: Final = 32
_TRANCHE_INFO: Final = b"relaymesh/1 tranche"


def tranche_secret(sealing_secret: bytes, tranche: int) -> bytes:
    """k of one tranche: HMAC-SHA256 of its number (u32be) under the job's sealing secret; both are 32 bytes.

    One secret for each job, drawn at random, is all that a job needs; no k tells anything about another.
    """
    if len(sealing_secret) != SECRET_BYTES:
        raise LocalProtocolError(f"a sealing secret must be {SECRET_BYTES} bytes")
    return hmac.digest(sealing_secret, _TRANCHE_INFO + tranche.to_bytes(4), "sha256")


@dataclass(frozen=True, slots=True)
class SealedTranche:
    """One tranche, sealed: what is stored, what is sent, and the key that the payment will reveal.

    Args:
        contract: The session's.
        job_id: The job.
        tranche: Which tranche, from 0.
        commitment: The signed 8774.
        leaves: The ciphertexts, in order.
        secret: k, 32 bytes: the preimage of the invoice.
    """

    contract: SessionContract
    job_id: JobId
    tranche: int
    commitment: VerifiedEvent
    leaves: tuple[bytes, ...]
    secret: bytes = field(repr=False)

    @property
    def payment_hash(self) -> str:
        """SHA-256(k), 64 lowercase hex characters."""
        return _digest(self.secret)

    def records(self) -> tuple[SealedRecord, EvidenceRecord]:
        """What the ledger keeps of it, in one transaction with the tranche's row, before anything is sent."""
        sealed = SealedRecord("node", self.contract.client, self.job_id, self.tranche, self.commitment, self.leaves)
        return sealed, EvidenceRecord("node", self.job_id, self.commitment)

    def messages(self) -> tuple[SessionMessage, ...]:
        """What the client is sent: every leaf in order, then the commitment. The invoice follows."""
        return sealed_messages(self.records()[0])


def seal_tranche(
    contract: SessionContract,
    job_id: JobId,
    tranche: int,
    pieces: Sequence[str],
    *,
    units: int,
    amount_msat: AmountMsat,
    secret: bytes,
    signer: Signer,
    now: Moment,
) -> SealedTranche:
    """Encrypt what a tranche's run produced, and sign the commitment to it.

    Args:
        contract: The session's; its quote prices the job.
        job_id: The job.
        tranche: Which tranche, from 0.
        pieces: The output, in order; `packed_bytes` of all of them at most `MAXIMUM_SEALED_TRANCHE_BYTES`.
        units: Output units, at most what `bound_units` allows: a client pays for no more.
        amount_msat: What the invoice will ask for.
        secret: k, 32 bytes (`tranche_secret`), never used before.

    Raises:
        LocalProtocolError: The tranche holds nothing, or more than fits 32 leaves.
    """
    quote_id, plaintexts = contract.quote_event.id, pack_leaves(pieces)
    leaves = tuple(seal_leaf(secret, (quote_id, job_id), tranche, place, each) for place, each in enumerate(plaintexts))
    commitment = SealedCommitment(
        quote_id=quote_id,
        job=job_id,
        tranche=tranche,
        payment_hash=_digest(secret),
        leaf_sha256=tuple(map(_digest, leaves)),
        leaf_bytes=tuple(map(count_text, plaintexts)),
        units=units,
        msat=amount_msat,
    )
    event = build_sealed_commitment(commitment, author=contract.node, client=contract.client, created_at=now.timestamp)
    return SealedTranche(contract, job_id, tranche, signer.sign(event), leaves, secret)


def sealed_messages(record: SealedRecord) -> tuple[SessionMessage, ...]:
    """The messages that carry a stored tranche, byte for byte as they were sent before (after a reconnect)."""
    leaves = (
        SealedMessage(JobId(record.job_id), record.tranche, place, leaf) for place, leaf in enumerate(record.leaves)
    )
    return (*leaves, CommitmentMessage(record.commitment))


def _digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()
