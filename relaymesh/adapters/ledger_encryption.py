"""Encryption at rest: the ledger's sensitive fields under a key that lies outside the ledger (RM-03, "Privacy").

ChaCha20-Poly1305 under a key of this one ledger, derived with HKDF from the operator's key and the ledger's own salt.
Every value has a nonce of its own, drawn at random (2^32 values under one key are safe by a wide margin), and is bound
to its row and column: a value moved elsewhere does not open.
"""

import secrets
from typing import Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from relaymesh.errors import LedgerError, LocalProtocolError

KEY_BYTES: Final = 32
SALT_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_PURPOSE: Final = b"relaymesh/1 ledger"
_PROOF: Final = b"relaymesh ledger"
_PROOF_PLACE: Final = ("seal", "proof")


class LedgerCipher:
    """Seals and opens the sensitive fields of one ledger.

    Args:
        key: The operator's ledger key, 32 bytes.
        salt: The ledger's own 32 bytes.

    Raises:
        LocalProtocolError: The key has another length.
    """

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes, salt: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise LocalProtocolError(f"a ledger key must be {KEY_BYTES} bytes")
        self._cipher = ChaCha20Poly1305(HKDF(SHA256(), KEY_BYTES, salt, _PURPOSE).derive(key))

    def __repr__(self) -> str:
        return "LedgerCipher(…)"

    def seal(self, plaintext: bytes, *place: str | int) -> bytes:
        """Encrypt a value for this place in the ledger: table, column and what identifies the row."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plaintext, orjson.dumps(place))

    def open(self, sealed: bytes, *place: str | int) -> bytes:
        """Decrypt what was sealed for this place.

        Raises:
            LedgerError: It was sealed under another key or for another place, or it was altered.
        """
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, ciphertext, orjson.dumps(place))
        except (InvalidTag, ValueError) as error:  # ValueError: shorter than a nonce
            raise LedgerError("an encrypted field of the ledger does not open: its file was altered") from error


def bind_to_key(key: bytes) -> tuple[bytes, bytes]:
    """The salt of a new ledger, and a constant sealed under its key: what does not open it is another key."""
    salt = secrets.token_bytes(SALT_BYTES)
    return salt, LedgerCipher(key, salt).seal(_PROOF, *_PROOF_PLACE)


def unlock(key: bytes, salt: bytes, proof: bytes, name: str) -> LedgerCipher:
    """The cipher of a ledger, once the key is proved to be the one it was made with; `name` says which ledger it is.

    Raises:
        LedgerError: It is another key.
    """
    cipher = LedgerCipher(key, salt)
    try:
        cipher.open(proof, *_PROOF_PLACE)
    except LedgerError:
        raise LedgerError(f"{name} was made with another key; give the key file it was made with") from None
    return cipher
