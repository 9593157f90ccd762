"""NIP-44 version 2: what is sealed to one key opens only for that key and its author."""

import binascii
import hmac
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from relaymesh.errors import LocalProtocolError, RemoteProtocolError

VERSION: Final = 2
MAXIMUM_PLAINTEXT_BYTES: Final = 1024 * 1024
"""Our own bound, as NIP-44 asks for one; a market message is at most 6 KiB."""

_SALT: Final = b"nip44-v2"
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 32
_MAC_BYTES: Final = 32
_MINIMUM_PAYLOAD_CHARACTERS: Final = 132
_MINIMUM_PAYLOAD_BYTES: Final = 99
_MAXIMUM_PAYLOAD_CHARACTERS: Final = -(-(1 + _NONCE_BYTES + 6 + MAXIMUM_PLAINTEXT_BYTES + _MAC_BYTES) // 3) * 4
"""Base64 of the longest payload; a plaintext of a power of two bytes is padded by nothing."""
_EXTENDED_LENGTH: Final = 65_536
"""From here on the length no longer fits the two-byte prefix: two zero bytes and a u32 stand instead."""


class MessageKeys(NamedTuple):
    """The three keys of one message (NIP-44, "Encryption", step 3)."""

    chacha_key: bytes
    chacha_nonce: bytes
    hmac_key: bytes


def derive_conversation_key(shared_x: bytes) -> bytes:
    """The 32-byte key two parties share for good: HKDF-Extract of their ECDH x coordinate (NIP-44, "Encryption")."""
    return hmac.digest(_SALT, shared_x, "sha256")


def derive_message_keys(conversation_key: bytes, nonce: bytes) -> MessageKeys:
    """The keys of the message with this nonce: HKDF-Expand to 76 bytes (NIP-44, "Encryption", step 3).

    Raises:
        LocalProtocolError: The conversation key or the nonce is not 32 bytes.
    """
    if len(conversation_key) != _KEY_BYTES or len(nonce) != _NONCE_BYTES:
        raise LocalProtocolError("a conversation key and a nonce must be 32 bytes each")
    # Three blocks of HKDF by hand: a tenth of the time of a key-derivation object, and the same bytes.
    first = hmac.digest(conversation_key, nonce + b"\x01", "sha256")
    second = hmac.digest(conversation_key, first + nonce + b"\x02", "sha256")
    third = hmac.digest(conversation_key, second + nonce + b"\x03", "sha256")
    return MessageKeys(first, second[:12], second[12:] + third[:12])


def padded_length(length: int) -> int:
    """How many bytes a plaintext of `length` bytes (at least 1) is padded to, length prefix not counted (NIP-44)."""
    if length <= 32:
        return 32
    next_power = 1 << (length - 1).bit_length()
    chunk = max(32, next_power // 8)
    return chunk * ((length - 1) // chunk + 1)


def encrypt(plaintext: str, conversation_key: bytes, nonce: bytes) -> str:
    """Seal `plaintext` (NIP-44, "Encryption").

    Args:
        plaintext: 1 … `MAXIMUM_PLAINTEXT_BYTES` bytes of UTF-8.
        conversation_key: From `derive_conversation_key`.
        nonce: 32 random bytes, never used before.

    Returns:
        The payload, in base64.

    Raises:
        LocalProtocolError: The plaintext is empty, too long or no valid UTF-8, or a key or nonce is not 32 bytes.
    """
    try:
        padded = _pad(plaintext.encode())
    except UnicodeEncodeError as error:
        raise LocalProtocolError("what is sealed must be valid UTF-8, without lone surrogates") from error
    keys = derive_message_keys(conversation_key, nonce)
    ciphertext = _apply_chacha20(keys, padded)
    mac = hmac.digest(keys.hmac_key, nonce + ciphertext, "sha256")
    return binascii.b2a_base64(bytes((VERSION,)) + nonce + ciphertext + mac, newline=False).decode("ascii")


def decrypt(payload: str, conversation_key: bytes) -> str:
    """Open a payload (NIP-44, "Decryption"); the signature of the event around it must be checked before.

    Raises:
        RemoteProtocolError: The payload is of another version, malformed, or not sealed under this key.
        LocalProtocolError: The conversation key is not 32 bytes.
    """
    data = _decode_payload(payload)
    nonce, ciphertext, mac = data[1:33], data[33:-_MAC_BYTES], data[-_MAC_BYTES:]
    keys = derive_message_keys(conversation_key, nonce)
    if not hmac.compare_digest(hmac.digest(keys.hmac_key, nonce + ciphertext, "sha256"), mac):
        raise RemoteProtocolError("the payload was not sealed by this author to this recipient, or was altered")
    try:
        return _unpad(_apply_chacha20(keys, ciphertext)).decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("what was sealed must be valid UTF-8") from error


def _pad(plaintext: bytes) -> bytes:
    length = len(plaintext)
    if not 1 <= length <= MAXIMUM_PLAINTEXT_BYTES:
        raise LocalProtocolError(f"what is sealed must be 1 to {MAXIMUM_PLAINTEXT_BYTES} bytes, not {length}")
    prefix = length.to_bytes(2) if length < _EXTENDED_LENGTH else b"\0\0" + length.to_bytes(4)
    return prefix + plaintext + bytes(padded_length(length) - length)


def _unpad(padded: bytes) -> bytes:
    length, prefix_length = int.from_bytes(padded[:2]), 2
    if length == 0:
        length, prefix_length = int.from_bytes(padded[2:6]), 6
        if length < _EXTENDED_LENGTH:
            raise RemoteProtocolError("a payload's padding must use the shortest length prefix")
    if len(padded) != prefix_length + padded_length(length):
        raise RemoteProtocolError("a payload's padding must fit the length of what was sealed")
    return padded[prefix_length : prefix_length + length]


def _decode_payload(payload: str) -> bytes:
    if payload.startswith("#"):
        raise RemoteProtocolError("the payload's encryption version is not supported; expected version 2")
    if not _MINIMUM_PAYLOAD_CHARACTERS <= len(payload) <= _MAXIMUM_PAYLOAD_CHARACTERS:
        raise RemoteProtocolError(
            f"a payload must be {_MINIMUM_PAYLOAD_CHARACTERS} to {_MAXIMUM_PAYLOAD_CHARACTERS} characters"
        )
    try:
        data = binascii.a2b_base64(payload, strict_mode=True)
    except ValueError as error:  # also what binascii raises for characters outside ASCII
        raise RemoteProtocolError("a payload must be valid base64") from error
    if len(data) != len(payload) // 4 * 3 - payload.count("="):  # strict mode lets a whole group of padding pass
        raise RemoteProtocolError("a payload must be valid base64")
    if data[0] != VERSION:
        raise RemoteProtocolError(f"the payload's encryption version is {data[0]}; expected version 2")
    if len(data) < _MINIMUM_PAYLOAD_BYTES:
        raise RemoteProtocolError(f"a payload must decode to at least {_MINIMUM_PAYLOAD_BYTES} bytes")
    return data


def _apply_chacha20(keys: MessageKeys, data: bytes) -> bytes:
    # The library's nonce is the block counter (four bytes, from zero) followed by the nonce of RFC 8439.
    return Cipher(ChaCha20(keys.chacha_key, bytes(4) + keys.chacha_nonce), mode=None).encryptor().update(data)
