"""Messages signed by a Lightning node, as `signmessage` makes them: who signed one can be told offline.

65 bytes in zbase32: 31 + recovery id, then r and s of an ECDSA signature over the double SHA-256 of
`Lightning Signed Message:` and the text. The signer's key follows from it.
"""

import hashlib
from typing import Final

from relaymesh.nostr.keys import recover_public_key

_ALPHABET: Final = "ybndrfg8ejkmcpqxot1uwisza345h769"
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}
_SIGNATURE_BYTES: Final = 65
_FIRST_RECOVERY_ID: Final = 31
_PREFIX: Final = b"Lightning Signed Message:"


def recover_signer(text: str, signature: str) -> str | None:
    """The Lightning node (33 bytes, hex) that signed this text; None if the signature is none.

    Any well-formed signature gives some key: compare it with the one that was claimed.
    """
    number = 0
    if len(signature) * 5 != _SIGNATURE_BYTES * 8:
        return None
    for character in signature:
        value = _VALUES.get(character)
        if value is None:
            return None
        number = number << 5 | value
    raw = number.to_bytes(_SIGNATURE_BYTES)
    digest = hashlib.sha256(hashlib.sha256(_PREFIX + text.encode()).digest()).digest()
    return recover_public_key(digest, raw[1:], raw[0] - _FIRST_RECOVERY_ID)


def encode_signature(signature: bytes, recovery_id: int) -> str:
    """r ‖ s and the recovery id in the form of `signmessage`."""
    number = int.from_bytes(bytes((_FIRST_RECOVERY_ID + recovery_id,)) + signature)
    places = range(_SIGNATURE_BYTES * 8 - 5, -1, -5)
    return "".join(_ALPHABET[number >> place & 31] for place in places)
