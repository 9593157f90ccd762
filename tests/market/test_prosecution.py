"""From what a buyer kept come all proofs that hold, and from an honest node's evidence none."""

from relaymesh.market.prosecution import PaidLeaves, prove_fraud
from relaymesh.nostr.keys import verify
from relaymesh.protocol.fraud_proof import Disclosure, build_fraud_proof, read_fraud_proof
from relaymesh.protocol.sealed_commitment import MAXIMUM_LEAVES
from tests.market import fraud_builders
from tests.market.evidence_builders import ROW, STRANGER, make_tranche
from tests.market.fraud_builders import NOW, SECRET

OFFER = fraud_builders.offer()
QUOTE = fraud_builders.quote(OFFER)


def test_each_proof_that_holds_is_found_once() -> None:
    evidence = [
        QUOTE,
        Disclosure(fraud_builders.record(QUOTE, charged_msat=341)),
        Disclosure(fraud_builders.record(QUOTE)),
        fraud_builders.quote(OFFER, ROW.model_copy(update={"input_msat": 41})),
        Disclosure(OFFER),
        Disclosure(fraud_builders.commit(fraud_builders.leaves(), quote_id=QUOTE.event.id)),
        Disclosure(fraud_builders.commit(fraud_builders.leaves(), quote_id=QUOTE.event.id, tranche=2, msat=1)),
    ]
    bad = (b"\x00" * 40, b"\x01" * 40)
    paid = [
        PaidLeaves(fraud_builders.commit(bad), bad, SECRET),
        PaidLeaves(fraud_builders.commit(fraud_builders.leaves()), fraud_builders.leaves(), SECRET),
    ]
    for kept in (evidence, evidence[::-1]):
        found = prove_fraud(kept, paid, verify)
        assert sorted(each.verdict.claim for each in found) == [
            "bad-ciphertext",
            "equivocation",  # two records
            "equivocation",  # the commitment against one record
            "equivocation",  # and the other
            "price-over-quote",  # the record
            "price-over-quote",  # the commitment to tranche 1
            "quote-over-offer",
        ]
        assert all(each.verdict.is_proven and each.verdict.key for each in found)
        leaf = next(each.proof.leaf for each in found if each.verdict.claim == "bad-ciphertext")
        assert leaf is not None and leaf.index == 0


def test_an_honest_nodes_evidence_proves_nothing() -> None:
    leaves = fraud_builders.leaves(quote_id=QUOTE.event.id)
    commitment = fraud_builders.commit(leaves, quote_id=QUOTE.event.id, msat=4)
    record = fraud_builders.record(QUOTE, tranches=(make_tranche(336, 2_464, 2_464), make_tranche(4, 36, 36)))
    evidence = [QUOTE, Disclosure(record), Disclosure(OFFER), Disclosure(commitment)]
    assert prove_fraud(evidence, [PaidLeaves(commitment, leaves, SECRET)], verify) == ()
    assert prove_fraud([], [], verify) == ()


def test_the_largest_leaf_and_commitment_still_fit_a_proof() -> None:
    bad = tuple(bytes((place,)) * 8_208 for place in range(MAXIMUM_LEAVES))
    sealed = fraud_builders.commit(bad, texts=(b"x" * 8_192,) * MAXIMUM_LEAVES, units=10**9, msat=2**53 - 1)
    (found,) = prove_fraud([], [PaidLeaves(sealed, bad, SECRET)], verify)
    event = STRANGER.sign(build_fraud_proof(found.proof, STRANGER.public_key, NOW))
    assert read_fraud_proof(event).proof == found.proof
