"""Whatever a node seals and says of it: refused before it is paid, or it opens as it was said, or is proven a fraud."""

import hashlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.errors import RemoteProtocolError
from relaymesh.market.prosecution import PaidLeaves, prove_fraud
from relaymesh.nostr.keys import verify
from relaymesh.protocol.fraud_proof import Disclosure
from relaymesh.protocol.sealed_commitment import SealedCommitment, seal_leaf
from relaymesh.units import AmountMsat
from tests.machines.pair import moment
from tests.machines.sealed import CONTRACT, JOB_ID, commit, invoice_for, purchase, seal

SECRET = bytes(range(32))
TEXT = st.sampled_from([b"a\xff", b"text", b"\xff", "é".encode()]).flatmap(
    lambda text: st.sampled_from([text] * 19 + [b"\xc3", b"\xa9", b"\xed\xa0\x80"])
)
PLAINTEXTS = st.lists(TEXT, max_size=3).map(b"".join)
USUALLY = [*[True] * 9, False]


@st.composite
def tranches(draw: st.DrawFn) -> tuple[SealedCommitment, tuple[bytes, ...]]:
    """A tranche of a node that seals what it likes under whatever key, and says of it what it likes."""
    plaintexts = draw(st.lists(PLAINTEXTS, min_size=1, max_size=3))
    if draw(st.sampled_from(USUALLY)):
        plaintexts[-1] += b"\xff"
    tranche = draw(st.integers(0, 1))
    keys = [SECRET if draw(st.sampled_from(USUALLY)) else bytes(32) for _ in plaintexts]
    leaves = tuple(
        seal_leaf(keys[place], (CONTRACT.quote_event.id, JOB_ID), tranche, place, plaintext)
        for place, plaintext in enumerate(plaintexts)
    )
    said: dict[str, Any] = {
        "quote_id": CONTRACT.quote_event.id,
        "job": JOB_ID,
        "tranche": tranche,
        "payment_hash": hashlib.sha256(SECRET).hexdigest(),
        "leaf_sha256": tuple(hashlib.sha256(leaf).hexdigest() for leaf in leaves),
        "leaf_bytes": tuple(
            max(len(text.replace(b"\xff", b"")) + draw(st.sampled_from([0, 0, 0, 1, -1])), 0) for text in plaintexts
        ),
        "msat": AmountMsat(draw(st.integers(0, 40))),
    }
    said["units"] = max(sum(said["leaf_bytes"]) + draw(st.sampled_from([0, 0, 0, 1])), 0)
    return SealedCommitment.model_validate(said), leaves


@settings(max_examples=300)
@given(tranches())
def test_no_lie_of_a_node_goes_both_unseen_and_unproven(sold: tuple[SealedCommitment, tuple[bytes, ...]]) -> None:
    said, leaves = sold
    bought, commitment = purchase(said.tranche), commit(said)
    for place, leaf in enumerate(leaves):
        bought.take_leaf(place, leaf)
    bought.take_commitment(commitment, moment())
    decoded = invoice_for(seal(), said.msat, payment_hash=said.payment_hash)
    is_refused = bought.find_mismatch(decoded, said.msat, said.units) is not None
    quote = Disclosure(CONTRACT.quote_event, CONTRACT.quote_plaintext)
    proven = prove_fraud((quote, Disclosure(commitment)), [PaidLeaves(commitment, leaves, SECRET)], verify)
    claims = {each.verdict.claim for each in proven}
    assert ("price-over-quote" in claims) == (
        said.tranche > 0 and said.msat > -(-sum(said.leaf_bytes) * 2_000 // 1_000)
    )
    try:
        text = "".join(bought.open(SECRET))
    except RemoteProtocolError:
        assert is_refused or "bad-ciphertext" in claims
    else:
        assert "bad-ciphertext" not in claims
        assert len(text.encode()) == sum(said.leaf_bytes)
        assert is_refused == (said.units != len(text.encode()))
