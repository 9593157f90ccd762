"""What is inside a sealed tranche: the pieces of output, packed into leaves (RM-03, "Sealed delivery").

A leaf's plaintext is text in UTF-8 with the byte 0xFF, which no UTF-8 text contains, after every piece of output. A
piece without its 0xFF goes on in the next leaf; a leaf is cut between characters only, so that each of them can be
judged alone: by the buyer who opens it, and by a stranger who is shown that one leaf in a fraud proof.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.protocol.fields import Unit
from relaymesh.protocol.sealed_commitment import (
    AUTHENTICATION_BYTES,
    MAXIMUM_LEAF_BYTES,
    MAXIMUM_LEAVES,
    SealedCommitment,
    open_leaf,
)

END_OF_PIECE: Final = b"\xff"
_LONGEST_CHARACTER_BYTES: Final = 4
_CONTINUATION_MASK, _CONTINUATION = 0b1100_0000, 0b1000_0000

MAXIMUM_SEALED_TRANCHE_BYTES: Final = MAXIMUM_LEAVES * (MAXIMUM_LEAF_BYTES - _LONGEST_CHARACTER_BYTES + 1)
"""The most `packed_bytes` of a tranche's pieces together: wherever leaves must be cut, these fit into 32."""


def packed_bytes(piece: str) -> int:
    """What a piece of output takes of `MAXIMUM_SEALED_TRANCHE_BYTES`: its text and the byte that ends it."""
    return len(piece.encode()) + len(END_OF_PIECE)


def pack_leaves(pieces: Sequence[str]) -> tuple[bytes, ...]:
    """The plaintexts of a tranche's leaves, each as full as it can be; an empty piece is none.

    Raises:
        LocalProtocolError: There is no output, more of it than 32 leaves hold, or it is no valid Unicode.
    """
    try:
        packed = b"".join(piece.encode() + END_OF_PIECE for piece in pieces if piece)
    except UnicodeEncodeError:
        raise LocalProtocolError("output must be valid Unicode to be sealed") from None
    leaves: list[bytes] = []
    start = 0
    while start < len(packed):
        end = _cut(packed, start)
        leaves.append(packed[start:end])
        start = end
    if not 1 <= len(leaves) <= MAXIMUM_LEAVES:
        raise LocalProtocolError(f"a sealed tranche must fill 1 to {MAXIMUM_LEAVES} leaves, not {len(leaves)}")
    return tuple(leaves)


def _cut(packed: bytes, start: int) -> int:
    """Where the leaf that begins at `start` ends: at most 8,192 bytes later, before the first byte of a character."""
    end = start + MAXIMUM_LEAF_BYTES
    if end >= len(packed):
        return len(packed)
    while packed[end] & _CONTINUATION_MASK == _CONTINUATION:
        end -= 1
    return end


def count_text(plaintext: bytes) -> int:
    """What `leaf_bytes` says of this leaf: the bytes of its text, without those that end pieces."""
    return len(plaintext) - plaintext.count(END_OF_PIECE)


def bound_units(unit: Unit, units: int, text_bytes: int) -> int:
    """The most output units that a sealed tranche of so much text can be sold as (RM-03, "Sealed delivery").

    In bytes they are the text's bytes; a token has at least one byte; otherwise what was counted.
    """
    if unit == "byte":
        return text_bytes
    return min(units, text_bytes) if unit == "token" else units


def read_leaf(secret: bytes, commitment: SealedCommitment, leaf: int, ciphertext: bytes) -> bytes:
    """Open one leaf and check what it holds against the commitment.

    Everything that is checked here is what the node vouched for, so that a failure is a `bad-ciphertext` (RM-05).

    Args:
        secret: k, 32 bytes: the preimage that was paid for.
        commitment: The tranche's; it has this leaf.
        leaf: Which one, from 0.
        ciphertext: As it was delivered; that it hashes to the commitment is for the caller to know.

    Raises:
        RemoteProtocolError: The leaf does not open, is not UTF-8, is of another length than was stated, or is the last
            one and its last piece does not end.
    """
    plaintext = open_leaf(secret, commitment, leaf, ciphertext)
    try:
        for part in plaintext.split(END_OF_PIECE):
            part.decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError(f"leaf {leaf} opens and is not UTF-8 text") from None
    stated, found = commitment.leaf_bytes[leaf], count_text(plaintext)
    if found != stated:
        raise RemoteProtocolError(f"leaf {leaf} holds {found} bytes of text where {stated} were stated")
    if leaf == len(commitment.leaf_bytes) - 1 and not plaintext.endswith(END_OF_PIECE):
        raise RemoteProtocolError(f"leaf {leaf} is the tranche's last and breaks off in the middle of a piece")
    return plaintext


def find_leaf_mismatch(commitment: SealedCommitment, leaf: int, ciphertext: bytes) -> str | None:
    """Why this leaf, still encrypted, cannot be the one that was committed to; None if it is."""
    if hashlib.sha256(ciphertext).hexdigest() != commitment.leaf_sha256[leaf]:
        return f"leaf {leaf} is not the one that was committed to"
    is_last = leaf == len(commitment.leaf_bytes) - 1
    if commitment.leaf_bytes[leaf] + is_last > len(ciphertext) - AUTHENTICATION_BYTES:
        return f"leaf {leaf} is too short for the {commitment.leaf_bytes[leaf]} bytes of text that were stated"
    return None


def open_leaves(commitment: SealedCommitment, leaves: Sequence[bytes], preimage: bytes) -> tuple[str, ...]:
    """The pieces of output of a whole tranche, in order, from its leaves and the preimage that was paid for.

    Raises:
        RemoteProtocolError: The preimage does not hash to the payment hash, a leaf is missing or not the one that was
            committed to, or a leaf is not what was vouched for (`read_leaf`); the sentence names the leaf.
    """
    if hashlib.sha256(preimage).hexdigest() != commitment.payment_hash:
        raise RemoteProtocolError("the preimage is not that of the payment hash that was committed to")
    if len(leaves) != len(commitment.leaf_sha256):
        raise RemoteProtocolError(f"the tranche has {len(commitment.leaf_sha256)} leaves, and {len(leaves)} are here")
    packed = b""
    for place, ciphertext in enumerate(leaves):
        mismatch = find_leaf_mismatch(commitment, place, ciphertext)
        if mismatch is not None:
            raise RemoteProtocolError(mismatch)
        packed += read_leaf(preimage, commitment, place, ciphertext)
    return tuple(piece.decode() for piece in packed.split(END_OF_PIECE) if piece)
