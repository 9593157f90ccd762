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
