"""NIP-44 version 2: what is sealed to one key opens only for that key and its author."""

import base64
import binascii
import hashlib
import hmac
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from relaymesh.errors import LocalProtocolError, RemoteProtocolError

VERSION: Final = 2
_SALT: Final = b"nip44-v2"


def derive_conversation_key(shared_x: bytes) -> bytes:
    """The 32-byte key two parties share for good: HKDF-Extract of their ECDH x coordinate (NIP-44, "Encryption")."""
    return hmac.digest(_SALT, shared_x, "sha256")


def encrypt(plaintext: str, conversation_key: bytes, nonce: bytes) -> str:
    raise NotImplementedError


def decrypt(payload: str, conversation_key: bytes) -> str:
    raise NotImplementedError
