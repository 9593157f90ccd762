"""Stakes, fraud proofs, slashes and sealed commitments as events: read back as built, refused when they contradict."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.adapters.invoices import find_node_id
from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import UnsignedEvent, VerifiedEvent
from relaymesh.protocol.fraud_proof import read_fraud_proof
from relaymesh.protocol.lightning_message import encode_signature, recover_signer
from relaymesh.protocol.sealed_commitment import open_leaf, read_sealed_commitment
from relaymesh.protocol.slash import read_slash
from relaymesh.protocol.stake import build_stake, read_stake
from relaymesh.units import Timestamp
from tests.market import builders, fraud_builders
from tests.nips import example_fraud
from tests.nips.example_market import NODE

READERS: dict[str, tuple[Callable[[VerifiedEvent], Any], Callable[[], VerifiedEvent]]] = {
    "stake": (read_stake, example_fraud.make_stake),
    "fraud proof": (read_fraud_proof, example_fraud.make_proof),
    "slash": (read_slash, example_fraud.make_slash_event),
    "commitment": (read_sealed_commitment, example_fraud.make_commitment),
}

# What stands in the event, and what an adversary would rather have there.
CONTRADICTIONS = {
    "a slash with another key": ("slash", '"key":"', '"key":"00'),
    "a slash that takes more": ("slash", '"share_milli":250', '"share_milli":500'),
    "a slash for another claim": ("slash", "price-over-quote", "quote-over-offer"),
    "a slash of unsorted evidence": ("slash", "EVIDENCE", ""),
    "a stake that lasts for ever": ("stake", '"valid_until":18', '"valid_until":98'),
    "a stake without end": ("stake", '"issued_at":1800000000', '"issued_at":1807776000'),
    "a stake with a backing of nothing": ("stake", '"type":"lightning"', '"type":"promise"'),
    "a commitment of another length": ("commitment", '"leaf_bytes":[', '"leaf_bytes":[1,'),
    "a commitment that is none": ("commitment", '"leaf_sha256"', '"leaves"'),
    "a proof of a claim that is none": ("fraud proof", "price-over-quote", "it-was-slow"),
}


def tampered(event: VerifiedEvent, **changes: Any) -> VerifiedEvent:
    names = ("public_key", "created_at", "kind", "tags", "content")
    fields = {name: getattr(event, name) for name in names} | changes
    return builders.sign(UnsignedEvent(**fields))


@pytest.mark.parametrize("name", READERS)
def test_what_was_built_is_read_back(name: str) -> None:
    read, make = READERS[name]
    assert read(make()).event == make()


@pytest.mark.parametrize("name", READERS)
def test_another_kind_and_other_tags_are_refused(name: str) -> None:
    read, make = READERS[name]
    for changes in ({"kind": 1}, {"tags": (("t", "relaymesh"),)}):
        with pytest.raises(RemoteProtocolError):
            read(tampered(make(), **changes))


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_content_that_contradicts_itself_is_refused(case: str) -> None:
    name, there, instead = CONTRADICTIONS[case]
    read, make = READERS[name]
    event = make()
    content = event.content.replace(there, instead)
    if there == "EVIDENCE":
        slash = read_slash(event).slash
        first, second = slash.evidence
        content = event.content.replace(f'"{first}","{second}"', f'"{second}","{first}"')
    assert content != event.content
    with pytest.raises(RemoteProtocolError):
        read(tampered(event, content=content))


def test_a_stake_is_not_issued_after_it_was_signed_and_expires_when_it_ends() -> None:
    event = example_fraud.make_stake()
    with pytest.raises(RemoteProtocolError, match="issued"):
        read_stake(tampered(event, created_at=event.created_at - 1))
    later = tuple(("expiration", "1900000000") if tag[0] == "expiration" else tag for tag in event.tags)
    with pytest.raises(RemoteProtocolError, match="expiration"):
        read_stake(tampered(event, tags=later))
    named = tuple(("d", "other") if tag[0] == "d" else tag for tag in event.tags)
    with pytest.raises(RemoteProtocolError, match="d=stake"):
        read_stake(tampered(event, tags=named))


def test_a_stake_lasts_a_second_at_least_and_366_days_at_most() -> None:
    said = read_stake(example_fraud.make_stake()).stake
    for seconds, is_read in ((0, False), (1, True), (366 * 86_400, True), (366 * 86_400 + 1, False)):
        changed = said.model_copy(update={"valid_until": Timestamp(said.issued_at + seconds)})
        event = builders.sign(build_stake(changed, NODE.public_key, said.issued_at))
        if is_read:
            read_stake(event)
        else:
            with pytest.raises(RemoteProtocolError, match="within 31622400 seconds"):
                read_stake(event)


def test_every_leaf_opens_under_its_own_key_only() -> None:
    commitment = read_sealed_commitment(example_fraud.make_commitment()).commitment
    leaves = fraud_builders.leaves()
    for place, text in enumerate(fraud_builders.TEXTS):
        assert open_leaf(fraud_builders.SECRET, commitment, place, leaves[place]) == text
        with pytest.raises(RemoteProtocolError):
            open_leaf(fraud_builders.SECRET, commitment, 1 - place, leaves[place])
    other = commitment.model_copy(update={"tranche": 2})
    with pytest.raises(RemoteProtocolError):
        open_leaf(fraud_builders.SECRET, other, 0, leaves[0])


# ── Lightning messages ────────────────────────────────────────────────────────────────────────────────────────────

# Made by lnd, and checked by Core Lightning's own tests.
LND_SIGNATURE = (
    "rbgfioj114mh48d8egqx8o9qxqw4fmhe8jbeeabdioxnjk8z3t1ma1hu1fiswpakgucwwzwo6ofycffbsqusqdimugbh41n1g698hr9t"
)
LND_SIGNER = "02b80cabdf82638aac86948e4c06e82064f547768dcef977677b9ea931ea75bab5"


def test_a_message_that_lnd_signed_names_its_signer() -> None:
    assert recover_signer("is this compatible?", LND_SIGNATURE) == LND_SIGNER
    assert recover_signer("is this compatible!", LND_SIGNATURE) != LND_SIGNER


@given(st.text(max_size=80), st.integers(1, 2**255).map(lambda secret: secret.to_bytes(32)))
def test_what_a_lightning_node_signs_names_it(text: str, secret: bytes) -> None:
    assert recover_signer(text, example_fraud.sign_message(text, secret)) == find_node_id(secret)


@given(st.text(max_size=110))
def test_no_text_is_a_signature_by_accident(signature: str) -> None:
    if len(signature) != 104:
        assert recover_signer("anything", signature) is None


def test_signatures_that_are_none_are_told() -> None:
    assert recover_signer("text", "0" * 104) is None
    assert recover_signer("text", "y" * 104) is None
    assert recover_signer("text", encode_signature(b"\xff" * 64, 0)) is None
    assert recover_signer("text", encode_signature(hashlib.sha512(b"").digest(), 9)) is None
