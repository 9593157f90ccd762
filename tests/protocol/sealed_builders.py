"""Sealed tranches of whatever a node says is text."""

import hashlib

from relaymesh.protocol.sealed_commitment import SealedCommitment, seal_leaf
from relaymesh.protocol.sealed_leaves import count_text
from relaymesh.units import AmountMsat
from tests.market.fraud_builders import JOB, QUOTE_ID, SECRET


def sealed(*plaintexts: bytes, lengths: tuple[int, ...] | None = None) -> tuple[SealedCommitment, tuple[bytes, ...]]:
    """A commitment to whatever is said to be text, and its leaves."""
    leaves = tuple(seal_leaf(SECRET, (QUOTE_ID, JOB), 1, place, text) for place, text in enumerate(plaintexts))
    commitment = SealedCommitment.model_validate(
        {
            "quote_id": QUOTE_ID,
            "job": JOB,
            "tranche": 1,
            "payment_hash": hashlib.sha256(SECRET).hexdigest(),
            "leaf_sha256": tuple(hashlib.sha256(leaf).hexdigest() for leaf in leaves),
            "leaf_bytes": lengths or tuple(count_text(each) for each in plaintexts),
            "units": 1,
            "msat": AmountMsat(1),
        }
    )
    return commitment, leaves
