"""Sealed delivery: what a node seals its client opens, and whatever else a node does is found before money moves."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.machines.sealed_purchase import SealedPurchase
from relaymesh.machines.sealed_tranche import (
    MAXIMUM_SEALED_TRANCHE_BYTES,
    packed_bytes,
    sealed_messages,
    tranche_secret,
)
from relaymesh.nostr.event import VerifiedEvent, parse_event
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.sealed_commitment import (
    MAXIMUM_LEAF_CIPHERTEXT_BYTES,
    MAXIMUM_LEAVES,
    SealedCommitment,
    read_sealed_commitment,
)
from relaymesh.protocol.session_messages import SessionMessage
from relaymesh.units import AmountMsat
from tests.machines.pair import CLIENT, NODE, moment
from tests.machines.sealed import (
    BY_TOKEN,
    CONTRACT,
    PIECES,
    SEALING_SECRET,
    commit,
    deliver,
    give,
    invoice_for,
    purchase,
    seal,
)

UNITS = len("".join(PIECES).encode())
pieces_of_output = st.lists(st.text(min_size=1), min_size=1, max_size=40).filter(
    lambda pieces: sum(map(packed_bytes, pieces)) <= MAXIMUM_SEALED_TRANCHE_BYTES
)


@given(pieces_of_output, st.integers(0, 31), st.randoms(use_true_random=False))
def test_what_a_node_seals_its_client_opens_in_whatever_order_it_comes(
    pieces: list[str], tranche: int, order: Random
) -> None:
    sealed, bought = seal(*pieces, tranche=tranche), purchase(tranche)
    messages: list[SessionMessage] = [*sealed.messages(), *sealed.messages()]  # all of it twice, as after a reconnect
    order.shuffle(messages)
    for message in messages:
        give(message, bought)
    text_bytes = len("".join(pieces).encode())
    assert bought.is_complete and bought.text_bytes == text_bytes
    assert bought.find_mismatch(invoice_for(sealed), AmountMsat(90), text_bytes) is None
    assert bought.open(sealed.secret) == tuple(pieces)


def test_both_sides_keep_the_same_of_it_and_it_is_sent_again_byte_for_byte() -> None:
    sealed, bought = seal(), purchase()
    deliver(sealed, bought)
    theirs, evidence = sealed.records()
    assert bought.records() == (replace(theirs, side="client"), replace(evidence, side="client"))
    assert sealed_messages(theirs) == sealed.messages()
    assert theirs.leaves == sealed.leaves and theirs.commitment == sealed.commitment
    assert sealed.payment_hash == hashlib.sha256(sealed.secret).hexdigest()
    assert "secret" not in repr(sealed)


def test_each_tranche_has_a_key_of_its_own() -> None:
    secrets = {tranche_secret(SEALING_SECRET, tranche) for tranche in range(32)}
    assert len(secrets) == 32 and all(len(secret) == 32 for secret in secrets)
    assert tranche_secret(b"\x08" * 32, 0) not in secrets
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        tranche_secret(b"short", 0)


def test_nothing_is_complete_until_the_last_message_is_there() -> None:
    sealed = seal("a" * 20_000)
    units = AmountMsat(90), 20_000
    for skip in range(len(sealed.messages())):
        bought = purchase()
        deliver(sealed, bought, skip=skip)
        complaint = bought.find_mismatch(invoice_for(sealed), *units)
        assert complaint is not None and ("has not come" in complaint or "without a commitment" in complaint)
        deliver(sealed, bought)
        assert bought.is_complete and bought.find_mismatch(invoice_for(sealed), *units) is None


@given(st.data())
def test_a_leaf_that_is_altered_anywhere_is_refused_before_it_is_paid(data: st.DataObject) -> None:
    sealed, bought = seal("a" * 9_000, "b" * 9_000), purchase()
    altered = data.draw(st.integers(0, len(sealed.leaves) - 1))
    ciphertext = bytearray(sealed.leaves[altered])
    ciphertext[data.draw(st.integers(0, len(ciphertext) - 1))] ^= data.draw(st.integers(1, 255))
    for place, leaf in enumerate(sealed.leaves):
        bought.take_leaf(place, bytes(ciphertext) if place == altered else leaf)
    bought.take_commitment(sealed.commitment, moment())
    complaint = bought.find_mismatch(invoice_for(sealed), AmountMsat(90), 18_000)
    assert complaint == f"leaf {altered} is not the one that was committed to"


Commit = Callable[[SealedCommitment], SealedCommitment]
LIES: dict[str, tuple[Commit, str]] = {
    "another amount": (lambda said: said.model_copy(update={"msat": AmountMsat(91)}), "committed to 91"),
    "other units": (lambda said: said.model_copy(update={"units": UNITS - 1}), f"committed to {UNITS - 1}"),
    "another payment hash": (lambda said: said.model_copy(update={"payment_hash": "0d" * 32}), "payment hash"),
    "another leaf": (lambda said: said.model_copy(update={"leaf_sha256": ("0d" * 32,)}), "leaf 0 is not the one"),
    "one leaf more": (
        lambda said: said.model_copy(update={"leaf_sha256": said.leaf_sha256 * 2, "leaf_bytes": said.leaf_bytes * 2}),
        "leaf 1 of tranche 0 has not come",
    ),
    "more text than the leaf can hold": (
        lambda said: said.model_copy(update={"leaf_bytes": (UNITS + len(PIECES),)}),
        f"leaf 0 is too short for the {UNITS + len(PIECES)} bytes",
    ),
    "less text than it is sold as": (
        lambda said: said.model_copy(update={"leaf_bytes": (UNITS - 1,)}),
        f"asks for {UNITS} bytes of output for {UNITS - 1} bytes of text",
    ),
}


def honest() -> SealedCommitment:
    """What the node of these tests says while it is honest."""
    return read_sealed_commitment(seal().commitment).commitment


def take(event: VerifiedEvent, agreed: SessionContract = CONTRACT) -> SealedPurchase:
    """A client who was given honest leaves and this commitment."""
    bought = purchase(agreed=agreed)
    for place, leaf in enumerate(seal().leaves):
        bought.take_leaf(place, leaf)
    bought.take_commitment(event, moment())
    return bought


@pytest.mark.parametrize("name", LIES)
def test_a_commitment_that_lies_about_what_can_be_seen_is_refused_before_it_is_paid(name: str) -> None:
    change, sentence = LIES[name]
    complaint = take(commit(change(honest()))).find_mismatch(invoice_for(seal()), AmountMsat(90), UNITS)
    assert complaint is not None and sentence in complaint


def test_an_invoice_that_differs_from_the_commitment_is_refused() -> None:
    bought = take(commit(honest()))
    assert bought.find_mismatch(invoice_for(seal()), AmountMsat(90), UNITS) is None
    for decoded, amount_msat, units, sentence in (
        (invoice_for(seal(), payment_hash="0d" * 32), 90, UNITS, "payment hash"),
        (invoice_for(seal(), 91), 90, UNITS, "asks for 91 msat where the node committed to 90"),
        (invoice_for(seal()), 91, UNITS, "committed to 90"),
        (invoice_for(seal(), 91), 91, UNITS, "committed to 90"),
        (invoice_for(seal()), 90, UNITS + 1, f"committed to {UNITS}"),
    ):
        complaint = bought.find_mismatch(decoded, AmountMsat(amount_msat), units)
        assert complaint is not None and sentence in complaint


def test_tokens_are_at_most_as_many_as_bytes() -> None:
    for units, is_fine in ((1, True), (UNITS, True), (UNITS + 1, False)):
        sealed = seal(units=units, agreed=BY_TOKEN)
        bought = purchase(agreed=BY_TOKEN)
        deliver(sealed, bought)
        assert (bought.find_mismatch(invoice_for(sealed), AmountMsat(90), units) is None) == is_fine


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: commit(honest(), signer=CLIENT), "signed by another node"),
        (lambda: commit(honest(), client=NODE), "made to another client"),
        (lambda: commit(honest().model_copy(update={"quote_id": "0d" * 32})), "cites another quote"),
        (lambda: commit(honest().model_copy(update={"job": "0d" * 32})), "another job or tranche"),
        (lambda: commit(honest().model_copy(update={"tranche": 1})), "another job or tranche"),
        (lambda: commit(honest(), at_ms=61_000), "signed in the future"),
        (lambda: commit(honest().model_copy(update={"leaf_bytes": (1, 1)})), "a length for each leaf"),
    ],
)
def test_a_commitment_to_something_else_is_none(make: Callable[[], VerifiedEvent], sentence: str) -> None:
    bought = purchase()
    with pytest.raises(RemoteProtocolError, match=sentence):
        bought.take_commitment(make(), moment())
    assert not bought.is_complete and bought.evidence() == ()


def test_a_forged_commitment_is_none() -> None:
    forged = parse_event({**seal().commitment.to_json(), "kind": 8774, "sig": "00" * 64})
    with pytest.raises(RemoteProtocolError, match="signature"):
        purchase().take_commitment(forged, moment())


def test_a_second_commitment_that_differs_is_kept_as_evidence_and_one_that_does_not_is_nothing() -> None:
    bought = take(commit(honest()))
    bought.take_commitment(commit(honest(), at_ms=1_000), moment())
    assert bought.evidence() == take(commit(honest())).evidence()
    other = commit(honest().model_copy(update={"msat": AmountMsat(89)}))
    with pytest.raises(RemoteProtocolError, match="committed twice to tranche 0"):
        bought.take_commitment(other, moment())
    assert bought.contradiction == other
    assert [each.event for each in bought.evidence()] == [commit(honest()), other]


def test_what_a_hostile_node_sends_is_bounded() -> None:
    bought = purchase()
    for leaf in (-1, MAXIMUM_LEAVES, 10**9):
        with pytest.raises(RemoteProtocolError, match="at most 32 leaves"):
            bought.take_leaf(leaf, b"x" * 17)
    with pytest.raises(RemoteProtocolError, match="at most 8208 bytes"):
        bought.take_leaf(0, b"x" * (MAXIMUM_LEAF_CIPHERTEXT_BYTES + 1))
    bought.take_leaf(0, b"x" * 17)
    with pytest.raises(RemoteProtocolError, match="came twice and differs"):
        bought.take_leaf(0, b"y" * 17)
    bought = take(seal().commitment)
    bought.take_leaf(1, b"x" * 17)
    complaint = bought.find_mismatch(invoice_for(seal()), AmountMsat(90), UNITS)
    assert complaint == "more leaves came than the 1 that the node committed to"


def test_nothing_is_kept_or_opened_before_the_commitment_is_there() -> None:
    uses: tuple[Callable[[], object], ...] = (purchase().records, lambda: purchase().open(bytes(32)))
    for use in uses:
        with pytest.raises(LocalProtocolError, match="before its commitment is here"):
            use()


def test_another_preimage_opens_nothing() -> None:
    with pytest.raises(RemoteProtocolError, match="preimage"):
        take(seal().commitment).open(bytes(32))
