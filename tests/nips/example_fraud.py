"""The examples of stake and fraud: what the node has at stake, and what became of a node that cheated."""

import hashlib
from functools import cache
from typing import Final

import coincurve

from relaymesh.adapters.invoices import find_node_id
from relaymesh.market.fraud import decide
from relaymesh.nostr.event import PublicKey, VerifiedEvent
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.protocol.fraud_proof import (
    Disclosure,
    accuse,
    build_fraud_proof,
    read_fraud_proof,
)
from relaymesh.protocol.lightning_message import encode_signature
from relaymesh.protocol.slash import build_slash, make_slash
from relaymesh.protocol.stake import LightningBacking, StakeCommitment, build_stake
from relaymesh.units import AmountMsat, Timestamp
from tests.market import evidence_builders, fraud_builders
from tests.nips.example_market import LIGHTNING_SECRET, NODE, ROUTER, START_MS

CHEAT: Final = KeyPair(b"\x0a" * 32)
NOW: Final = Timestamp(START_MS // 1_000)
DAY: Final = 86_400


def sign_message(text: str, secret: bytes = LIGHTNING_SECRET) -> str:
    """What a Lightning node's `signmessage` gives for this text."""
    digest = hashlib.sha256(hashlib.sha256(b"Lightning Signed Message:" + text.encode()).digest()).digest()
    signature = coincurve.PrivateKey(secret).sign_recoverable(digest, hasher=None)
    return encode_signature(signature[:64], signature[64])


def backed(stake: StakeCommitment, author: PublicKey, secret: bytes = LIGHTNING_SECRET) -> StakeCommitment:
    """The stake with a Lightning node's signature."""
    signature = sign_message(stake.text(author), secret)
    return stake.model_copy(
        update={"backing": LightningBacking(type="lightning", ln_pubkey=find_node_id(secret), signature=signature)}
    )


@cache
def make_stake() -> VerifiedEvent:
    """The node's 38775."""
    stake = StakeCommitment(seq=NOW, units=50_000, issued_at=NOW, valid_until=Timestamp(NOW + 90 * DAY))
    return NODE.sign(build_stake(backed(stake, NODE.public_key), NODE.public_key, NOW))


@cache
def make_proof() -> VerifiedEvent:
    """An 8772: a node charged 341 msat for what cost 340 as it had quoted."""
    quote = evidence_builders.make_quote(author=CHEAT)
    case = evidence_builders.make_case(quote=quote, node=CHEAT, charged_msat=AmountMsat(341))
    proof = accuse("price-over-quote", Disclosure(quote.event, quote.plaintext), Disclosure(case.metering()))
    return ROUTER.sign(build_fraud_proof(proof, ROUTER.public_key, NOW))


@cache
def make_slash_event() -> VerifiedEvent:
    """The 8773 that follows from it."""
    proof = make_proof()
    verdict = decide(read_fraud_proof(proof).proof, verify)
    assert verdict.is_proven
    slash = make_slash(verdict.claim, verdict.accused, verdict.evidence, proof.id)
    return ROUTER.sign(build_slash(slash, ROUTER.public_key, NOW))


@cache
def make_commitment() -> VerifiedEvent:
    """The node's 8774."""
    return fraud_builders.commit(fraud_builders.leaves(), author=NODE)
