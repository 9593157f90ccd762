"""The fraud proof (kind 8772): a broken promise, with everything that proves it inside (RM-05, "Fraud proof").

Nobody is believed: not the proof's author, who may be anyone, only what the accused signed. `relaymesh.market.fraud`
decides.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.nostr.event import Event, EventId, PublicKey, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.codec import TOPIC, check_size
from relaymesh.protocol.content import MAXIMUM_EVENT_BYTES, MAXIMUM_PLAINTEXT_BYTES, WireValue, encode_content
from relaymesh.protocol.fields import Hex32, PublicKeyField, Version
from relaymesh.protocol.sealed_commitment import MAXIMUM_LEAF_CIPHERTEXT_BYTES, MAXIMUM_LEAVES
from relaymesh.units import Timestamp

FraudClaim = Literal["price-over-quote", "quote-over-offer", "equivocation", "bad-ciphertext"]
MAXIMUM_EVIDENCE: Final = 2
_MAXIMUM_LEAF_CHARACTERS: Final = 4 * -(-MAXIMUM_LEAF_CIPHERTEXT_BYTES // 3)


class DisclosedEvent(WireValue):
    """One piece of evidence: an event that the accused signed, opened where it was sealed.

    Args:
        event: The complete signed event, as the JSON object of NIP-01.
        plaintext: Of a sealed event, what its `x` tag commits to; None for any other.
    """

    event: dict[str, Any]
    plaintext: Annotated[str, Field(max_length=MAXIMUM_PLAINTEXT_BYTES)] | None = None


class DisclosedLeaf(WireValue):
    """One leaf of a sealed tranche that is not what was vouched for, and the key that was paid for.

    A leaf that opens and is of another length than was stated, or not UTF-8, is disclosed with it.

    Args:
        index: Which leaf of the commitment, from 0.
        ciphertext: The leaf as it was delivered, in base64.
        preimage: The k that the payment gave.
    """

    index: Annotated[int, Field(ge=0, le=MAXIMUM_LEAVES - 1)]
    ciphertext: Annotated[str, Field(max_length=_MAXIMUM_LEAF_CHARACTERS)]
    preimage: Hex32

    def ciphertext_bytes(self) -> bytes:
        """The leaf; RemoteProtocolError if it is not base64."""
        try:
            return base64.b64decode(self.ciphertext, validate=True)
        except (binascii.Error, ValueError):
            raise RemoteProtocolError("a leaf's ciphertext must be base64") from None


class FraudProof(WireValue):
    """What an 8772 says: who broke which promise, and by which of its own words.

    Args:
        claim: Which promise was broken.
        accused: Who broke it, and signed all of the evidence.
        evidence: The events that prove it, no more and no fewer than the claim needs.
        leaf: For `bad-ciphertext`, the leaf that is bad; None for any other claim.
    """

    v: Version = 1
    claim: FraudClaim
    accused: PublicKeyField
    evidence: Annotated[tuple[DisclosedEvent, ...], Field(min_length=1, max_length=MAXIMUM_EVIDENCE)]
    leaf: DisclosedLeaf | None = None


@dataclass(frozen=True, slots=True)
class SignedFraudProof:
    """A fraud proof and the verified event it came in."""

    event: VerifiedEvent
    proof: FraudProof


@dataclass(frozen=True, slots=True)
class Disclosure:
    """An event of the accused, with the plaintext where it was sealed: what a proof is built from."""

    event: Event
    plaintext: str | None = None


def accuse(claim: FraudClaim, *evidence: Disclosure, leaf: DisclosedLeaf | None = None) -> FraudProof:
    """The proof that makes this claim against the author of this evidence; whether it holds is not decided here."""
    if not evidence:
        raise LocalProtocolError("a fraud proof needs evidence")
    return FraudProof(
        claim=claim,
        accused=evidence[0].event.public_key,
        evidence=tuple(
            DisclosedEvent(event={**each.event.to_json(), "kind": int(each.event.kind)}, plaintext=each.plaintext)
            for each in evidence
        ),
        leaf=leaf,
    )


def build_fraud_proof(proof: FraudProof, author: PublicKey, created_at: Timestamp) -> UnsignedEvent:
    """The 8772 that publishes this proof.

    Raises:
        RemoteProtocolError: The evidence is too large for an event of at most 16,384 bytes.
    """
    ids = sorted(str(each.event.get("id")) for each in proof.evidence)
    tags = (
        ("t", TOPIC),
        ("p", proof.accused),
        *(("e", EventId(each)) for each in ids),
        ("alt", f"RelayMesh fraud proof: {proof.claim}"),
    )
    try:
        content = encode_content(proof.to_fields())
    except LocalProtocolError:
        raise RemoteProtocolError(_too_large()) from None
    unsigned = UnsignedEvent(author, created_at, Kind.FRAUD_PROOF, tags, content)
    if len(unsigned.serialise()) + 192 > MAXIMUM_EVENT_BYTES:  # with an id of 64 and a signature of 128 characters
        raise RemoteProtocolError(_too_large())
    return unsigned


def read_fraud_proof(event: VerifiedEvent) -> SignedFraudProof:
    """Read an 8772; RemoteProtocolError if it is not a valid fraud proof. Whether it proves anything is not asked."""
    if event.kind != Kind.FRAUD_PROOF:
        raise RemoteProtocolError(f"expected an event of kind {int(Kind.FRAUD_PROOF)}, not {event.kind}")
    check_size(event)
    proof = FraudProof.from_text(event.content)
    if event.tag_values("p") != (proof.accused,):
        raise RemoteProtocolError("a fraud proof's p tag must be the accused")
    return SignedFraudProof(event, proof)


def _too_large() -> str:
    return f"evidence too large for a fraud proof: it must fit an event of {MAXIMUM_EVENT_BYTES} bytes"
