"""Fraud is proven where it was committed, and nowhere else."""

import hashlib
import json
from dataclasses import replace

import pytest

from relaymesh.errors import RemoteProtocolError
from relaymesh.market.fraud import decide
from relaymesh.nostr.event import Event, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.keys import verify
from relaymesh.protocol.fraud_proof import (
    Disclosure,
    accuse,
    build_fraud_proof,
    read_fraud_proof,
)
from relaymesh.protocol.slash import slash_key
from tests.market import fraud_builders
from tests.market.evidence_builders import NODE, ROW, STRANGER
from tests.market.fraud_builders import NOW, FraudCase

CASES = fraud_builders.cases()
PROVEN = [case for case in CASES if case.is_proven]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.proof.claim}: {case.what}")
def test_each_case_is_decided_as_the_specification_says(case: FraudCase) -> None:
    verdict = decide(case.proof, verify)
    assert verdict.is_proven == case.is_proven, verdict.sentence
    assert verdict.sentence and (verdict.claim, verdict.accused) == (case.proof.claim, case.proof.accused)
    assert bool(verdict.key) == case.is_proven


@pytest.mark.parametrize("case", PROVEN, ids=lambda case: case.what)
def test_a_proof_travels_as_an_event_and_any_order_of_evidence_gives_one_key(case: FraudCase) -> None:
    event = STRANGER.sign(build_fraud_proof(case.proof, STRANGER.public_key, NOW))
    read = read_fraud_proof(event).proof
    turned = read.model_copy(update={"evidence": read.evidence[::-1]})
    verdict = decide(read, verify)
    assert verdict.is_proven and decide(turned, verify) == verdict
    ids = [each.event["id"] for each in read.evidence]
    assert verdict.key == slash_key(read.claim, NODE.public_key, ids)


@pytest.mark.parametrize("case", PROVEN, ids=lambda case: case.what)
def test_evidence_that_is_forged_added_or_of_another_proves_nothing(case: FraudCase) -> None:
    def refuse(event: Event) -> VerifiedEvent:
        raise RemoteProtocolError("the event's signature was not made by its author")

    assert not decide(case.proof, refuse).is_proven
    assert not decide(case.proof.model_copy(update={"accused": STRANGER.public_key}), verify).is_proven
    more = accuse("equivocation", Disclosure(fraud_builders.offer(label="more"))).evidence[0]
    assert decide(case.proof, verify).is_proven
    assert not decide(case.proof.model_copy(update={"evidence": (*case.proof.evidence, more)}), verify).is_proven
    for place, each in enumerate(case.proof.evidence):
        fewer = case.proof.evidence[:place] + case.proof.evidence[place + 1 :]
        assert not decide(case.proof.model_copy(update={"evidence": fewer}), verify).is_proven
        forged = each.model_copy(update={"event": {**each.event, "sig": "00" * 64}})
        evidence = (*fewer, forged)
        assert not decide(case.proof.model_copy(update={"evidence": evidence}), verify).is_proven
        unreadable = each.model_copy(update={"event": {"id": 1}})
        assert not decide(case.proof.model_copy(update={"evidence": (*fewer, unreadable)}), verify).is_proven


@pytest.mark.parametrize("case", PROVEN, ids=lambda case: case.what)
def test_a_proof_of_one_claim_proves_no_other(case: FraudCase) -> None:
    for claim in ("price-over-quote", "quote-over-offer", "equivocation", "bad-ciphertext"):
        verdict = decide(case.proof.model_copy(update={"claim": claim}), verify)
        assert verdict.is_proven == (claim == case.proof.claim)


def test_content_that_is_written_otherwise_says_the_same() -> None:
    one = fraud_builders.offer()
    spaced = one.content.replace(",", ", ")
    turned = json.dumps(dict(reversed(json.loads(one.content).items())))
    for content in (spaced, turned):
        assert content != one.content
        again = NODE.sign(_unsigned(replace(one, content=content)))
        verdict = decide(accuse("equivocation", Disclosure(one), Disclosure(again)), verify)
        assert not verdict.is_proven and "republication" in verdict.sentence


def test_a_quote_of_another_version_proves_nothing() -> None:
    offered = fraud_builders.offer()
    quoted = fraud_builders.quote(offered, ROW.model_copy(update={"input_msat": 41}))
    plaintext = (quoted.plaintext or "").replace('"v":1', '"v":2')
    digest = hashlib.sha256(plaintext.encode()).hexdigest()
    tags = tuple(("x", digest) if tag[0] == "x" else tag for tag in quoted.event.tags)
    other = NODE.sign(_unsigned(replace(quoted.event, tags=tags)))
    proof = accuse("quote-over-offer", Disclosure(other, plaintext), Disclosure(offered))
    assert "version" in decide(proof, verify).sentence and not decide(proof, verify).is_proven


def test_evidence_that_is_valid_nowhere_proves_nothing() -> None:
    one = fraud_builders.offer()
    broken = NODE.sign(_unsigned(replace(one, content=one.content.replace("}", ',"x":1.5}', 1))))
    assert not decide(accuse("equivocation", Disclosure(one), Disclosure(broken)), verify).is_proven


def test_evidence_that_does_not_fit_an_event_is_refused_before_it_is_signed() -> None:
    one = fraud_builders.offer()
    large = NODE.sign(_unsigned(replace(one, content=one.content[:-1] + ',"x":"' + "x" * 9_000 + '"}')))
    other = NODE.sign(_unsigned(replace(one, content=one.content[:-1] + ',"x":"' + "y" * 9_000 + '"}')))
    with pytest.raises(RemoteProtocolError, match="too large"):
        build_fraud_proof(accuse("equivocation", Disclosure(large), Disclosure(other)), NODE.public_key, NOW)


def test_the_figures_are_those_that_decided() -> None:
    case = next(each for each in CASES if each.what == "charged one millisatoshi above the price")
    verdict = decide(case.proof, verify)
    assert dict(verdict.figures) == {
        "charged_msat": 341,
        "cost_msat": 340,
        "input_units": 1_000,
        "output_units": 2_500,
    }
    assert "341 msat" in verdict.sentence and "340 msat" in verdict.sentence


def _unsigned(event: Event) -> UnsignedEvent:
    return UnsignedEvent(event.public_key, event.created_at, event.kind, event.tags, event.content)
