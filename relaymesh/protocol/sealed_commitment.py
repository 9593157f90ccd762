"""The sealed commitment (kind 8774): what a sealed tranche holds, and how its leaves open (RM-03, "Sealed delivery").

A node signs it before the first leaf leaves it. Together with the preimage that the payment gave, a leaf that does not
open proves that what was sold was worthless.
"""

from dataclasses import dataclass
from typing import Annotated, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import PublicKey, Tags, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.codec import TOPIC, check_size
from relaymesh.protocol.content import WireValue, encode_content
from relaymesh.protocol.evidence import read_subject
from relaymesh.protocol.fields import EventIdField, Hex32, Msat, Quantity, Version
from relaymesh.units import Timestamp

MAXIMUM_LEAVES: Final = 32
MAXIMUM_LEAF_BYTES: Final = 8_192
AUTHENTICATION_BYTES: Final = 16
MAXIMUM_LEAF_CIPHERTEXT_BYTES: Final = MAXIMUM_LEAF_BYTES + AUTHENTICATION_BYTES
_NONCE: Final = bytes(12)

LeafSize = Annotated[int, Field(ge=0, le=MAXIMUM_LEAF_BYTES)]
"""Bytes of text in one leaf, 0 … 8,192."""


class SealedCommitment(WireValue):
    """What an 8774 says of one sealed tranche.

    Args:
        quote_id: The quote whose row prices the job.
        job: The job id.
        tranche: Which tranche, from 0.
        payment_hash: SHA-256(k); the preimage of the payment is the key.
        leaf_sha256: SHA-256 of each leaf as it is delivered, encrypted.
        leaf_bytes: The UTF-8 length of each leaf's text.
        units: Output units of this tranche.
        msat: What it costs.
    """

    v: Version = 1
    quote_id: EventIdField
    job: Hex32
    tranche: Annotated[int, Field(ge=0, le=31)]
    payment_hash: Hex32
    leaf_sha256: Annotated[tuple[Hex32, ...], Field(min_length=1, max_length=MAXIMUM_LEAVES)]
    leaf_bytes: Annotated[tuple[LeafSize, ...], Field(min_length=1, max_length=MAXIMUM_LEAVES)]
    units: Quantity
    msat: Msat


@dataclass(frozen=True, slots=True)
class SignedCommitment:
    """A sealed commitment and the verified event it came in; `client` is the session key it was made for."""

    event: VerifiedEvent
    commitment: SealedCommitment
    client: PublicKey


def build_sealed_commitment(
    commitment: SealedCommitment, *, author: PublicKey, client: PublicKey, created_at: Timestamp
) -> UnsignedEvent:
    """The 8774 that commits to this tranche."""
    tags: Tags = (("t", TOPIC), ("p", client), ("alt", "RelayMesh sealed commitment"))
    return UnsignedEvent(author, created_at, Kind.SEALED_COMMITMENT, tags, encode_content(commitment.to_fields()))


def read_sealed_commitment(event: VerifiedEvent) -> SignedCommitment:
    """Read an 8774; RemoteProtocolError if it is not a valid sealed commitment."""
    client = read_subject(event, Kind.SEALED_COMMITMENT)
    check_size(event)
    commitment = SealedCommitment.from_text(event.content)
    if len(commitment.leaf_bytes) != len(commitment.leaf_sha256):
        raise RemoteProtocolError("a sealed commitment must state a length for each leaf")
    return SignedCommitment(event, commitment, client)


def seal_leaf(secret: bytes, commitment_to: tuple[str, str], tranche: int, leaf: int, plaintext: bytes) -> bytes:
    """Encrypt one leaf of a tranche under k (`secret`, 32 bytes); `commitment_to` is (quote id, job id), in hex."""
    return ChaCha20Poly1305(_leaf_key(secret, commitment_to, tranche, leaf)).encrypt(_NONCE, plaintext, None)


def open_leaf(secret: bytes, commitment: SealedCommitment, leaf: int, ciphertext: bytes) -> bytes:
    """Decrypt one leaf; RemoteProtocolError if it does not open under k (`secret`, 32 bytes)."""
    key = _leaf_key(secret, (commitment.quote_id, commitment.job), commitment.tranche, leaf)
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, ciphertext, None)
    except InvalidTag:
        raise RemoteProtocolError(f"leaf {leaf} does not open under the preimage that was paid for") from None


def _leaf_key(secret: bytes, commitment_to: tuple[str, str], tranche: int, leaf: int) -> bytes:
    info = b"relaymesh/1 sealed" + tranche.to_bytes(4) + leaf.to_bytes(4)
    return HKDF(SHA256(), 32, bytes.fromhex("".join(commitment_to)), info).derive(secret)
