"""Every fraud proof that holds, out of what a buyer kept of one job (RM-05, "Fraud proof").

Nothing new is decided here: what could be claimed is put together, and `relaymesh.market.fraud` says what of it holds.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from relaymesh.market.fraud import Verdict, decide
from relaymesh.nostr.event import VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.evidence import Verifier
from relaymesh.protocol.fraud_proof import DisclosedLeaf, Disclosure, FraudProof, accuse

_CHARGES = (Kind.METERING, Kind.SEALED_COMMITMENT)


@dataclass(frozen=True, slots=True)
class PaidLeaves:
    """A sealed tranche that was paid for: its commitment, its leaves as they came, and the preimage (32 bytes)."""

    commitment: VerifiedEvent
    leaves: tuple[bytes, ...]
    preimage: bytes


@dataclass(frozen=True, slots=True)
class ProvenFraud:
    """A proof that holds, and the verdict on it."""

    proof: FraudProof
    verdict: Verdict


def prove_fraud(
    evidence: Sequence[Disclosure], paid: Sequence[PaidLeaves], verify: Verifier
) -> tuple[ProvenFraud, ...]:
    """Every proof against a seller that this evidence yields, each fraud once.

    Args:
        evidence: What was kept: quotes with their plaintexts, offers, metering records, commitments; others are of no
            use and do no harm.
        paid: The sealed tranches that were paid for.
        verify: Checks an event's id and signature.
    """
    found: dict[str, ProvenFraud] = {}
    for proof in (*_accuse_events(evidence), *_accuse_leaves(paid)):
        verdict = decide(proof, verify)
        if verdict.is_proven:
            found.setdefault(verdict.key, ProvenFraud(proof, verdict))
    return tuple(found.values())


def _accuse_events(evidence: Sequence[Disclosure]) -> Iterator[FraudProof]:
    for one, other in combinations(evidence, 2):
        for first, second in ((one, other), (other, one)):
            if first.event.kind == Kind.QUOTE and second.event.kind in _CHARGES:
                yield accuse("price-over-quote", first, second)
            elif first.event.kind == Kind.QUOTE and second.event.kind == Kind.OFFER:
                yield accuse("quote-over-offer", first, second)
        if one.event.kind != Kind.QUOTE and one.event.public_key == other.event.public_key:
            yield accuse("equivocation", one, other)


def _accuse_leaves(paid: Sequence[PaidLeaves]) -> Iterator[FraudProof]:
    """One proof for each tranche that has a bad leaf, of the first one: the evidence, and so the slash, is the same."""
    for tranche in paid:
        for place, ciphertext in enumerate(tranche.leaves):
            text = base64.b64encode(ciphertext).decode()
            leaf = DisclosedLeaf(index=place, ciphertext=text, preimage=tranche.preimage.hex())
            yield accuse("bad-ciphertext", Disclosure(tranche.commitment), leaf=leaf)
