"""A secret key under a password: `ncryptsec` (NIP-49)."""

import unicodedata
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from relaymesh.errors import LocalProtocolError, UsageError
from relaymesh.nostr.identifiers import decode_bech32, encode_bech32

VERSION: Final = 2
DEFAULT_LOG_N: Final = 16
"""64 MiB and about a tenth of a second."""
MAXIMUM_LOG_N: Final = 22
"""4 GiB: more than anybody asks for, and a bound on what somebody else's text can make us do."""
ENTROPY_BYTES: Final = 40

_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 24
_TOTAL_BYTES: Final = 91
_CHACHA_CONSTANTS: Final = b"expand 32-byte k"


class KeySecurity(IntEnum):
    """What is known about how the key was treated before it was encrypted (NIP-49)."""

    HANDLED_INSECURELY = 0
    NOT_HANDLED_INSECURELY = 1
    UNKNOWN = 2


def encrypt_secret_key(
    secret: bytes,
    password: str,
    entropy: bytes,
    *,
    log_n: int = DEFAULT_LOG_N,
    security: KeySecurity = KeySecurity.UNKNOWN,
) -> str:
    """A secret key as `ncryptsec1…`; slow on purpose, so call it in a thread.

    Args:
        secret: 32 bytes.
        password: Any text; normalised to NFKC, so that it can be typed on another machine.
        entropy: 40 fresh random bytes: salt and nonce.
        log_n: scrypt's cost, 2^log_n rounds and 2^(log_n + 10) bytes of memory; 1 … 22.
        security: Written into the text, authenticated, in clear.

    Raises:
        LocalProtocolError: A length or the cost is out of range.
        UsageError: This machine lacks the memory for this cost.
    """
    if len(secret) != 32 or len(entropy) != ENTROPY_BYTES or not 1 <= log_n <= MAXIMUM_LOG_N:
        raise LocalProtocolError(
            f"a key is encrypted from 32 secret and {ENTROPY_BYTES} random bytes at a cost of 1 to {MAXIMUM_LOG_N}"
        )
    salt, nonce = entropy[:_SALT_BYTES], entropy[_SALT_BYTES:]
    key = _derive_key(password, salt, log_n)
    associated = bytes((security,))
    ciphertext = _xchacha20_poly1305(key, nonce).encrypt(_short_nonce(nonce), secret, associated)
    return encode_bech32("ncryptsec", bytes((VERSION, log_n)) + salt + nonce + associated + ciphertext)


def decrypt_secret_key(text: str, password: str) -> bytes:
    """The 32 secret bytes of `ncryptsec1…`; slow on purpose, so call it in a thread.

    Raises:
        UsageError: The text is something else or was altered, the password is wrong, or the memory does not suffice.
    """
    data = decode_bech32("ncryptsec", text.strip())
    if len(data) != _TOTAL_BYTES or data[0] != VERSION:
        raise UsageError(f"an encrypted secret key (ncryptsec1…) must be {_TOTAL_BYTES} bytes of version {VERSION}")
    log_n = data[1]
    if not 1 <= log_n <= MAXIMUM_LOG_N:
        raise UsageError(f"the key's encryption cost must be 1 to {MAXIMUM_LOG_N}, not {log_n}")
    salt, nonce, associated, ciphertext = data[2:18], data[18:42], data[42:43], data[43:]
    key = _derive_key(password, salt, log_n)
    try:
        return _xchacha20_poly1305(key, nonce).decrypt(_short_nonce(nonce), ciphertext, associated)
    except InvalidTag:
        raise UsageError("the password is wrong, or the encrypted key was altered") from None


def _derive_key(password: str, salt: bytes, log_n: int) -> bytes:
    try:
        normalised = unicodedata.normalize("NFKC", password).encode()
    except UnicodeEncodeError:
        raise UsageError("the password must be valid Unicode text") from None  # the cause would show the password
    try:
        return Scrypt(salt=salt, length=32, n=1 << log_n, r=8, p=1).derive(normalised)
    except MemoryError as error:
        raise UsageError(
            f"this key needs {1 << log_n >> 10} MiB of free memory; free some or use a lower cost"
        ) from error


def _xchacha20_poly1305(key: bytes, nonce: bytes) -> ChaCha20Poly1305:
    """The cipher under the subkey that XChaCha20 makes of the key and the first 16 bytes of its long nonce."""
    return ChaCha20Poly1305(hchacha20(key, nonce[:16]))


def _short_nonce(nonce: bytes) -> bytes:
    return bytes(4) + nonce[16:]


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """HChaCha20 (draft-irtf-cfrg-xchacha, section 2.2): 32 bytes from a 32-byte key and a 16-byte nonce.

    It is ChaCha20's block without the last addition, so the library's block minus what was added gives it.
    """
    block = Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(64))
    return _subtract_words(block[:16], _CHACHA_CONSTANTS) + _subtract_words(block[48:], nonce)


def _subtract_words(left: bytes, right: bytes) -> bytes:
    """Subtract little-endian 32-bit words, each modulo 2^32."""
    return b"".join(
        ((int.from_bytes(left[i : i + 4], "little") - int.from_bytes(right[i : i + 4], "little")) % 2**32).to_bytes(
            4, "little"
        )
        for i in range(0, len(left), 4)
    )
