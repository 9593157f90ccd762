"""The text of a BOLT 11 invoice, taken apart: checksum, tagged fields, and who signed it.

Only the reading, and only what a payer decides on; made of integers and tables instead of bit strings, since it happens
on the event loop for each payment. `relaymesh.adapters.invoices` says what a reader must refuse besides.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.keys import recover_public_key

_CHARSET: Final = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_DIGITS: Final = b"0123456789abcdefghijklmnopqrstuv"
_NO_SYMBOL: Final = 255
_SYMBOLS: Final = bytes(_CHARSET.find(byte) if byte in _CHARSET else _NO_SYMBOL for byte in range(256))
_AS_DIGITS: Final = bytes(_DIGITS[byte] if byte < len(_DIGITS) else 0 for byte in range(256))
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CARRIES: Final = tuple(
    (_GENERATOR[0] * (top & 1))
    ^ (_GENERATOR[1] * (top >> 1 & 1))
    ^ (_GENERATOR[2] * (top >> 2 & 1))
    ^ (_GENERATOR[3] * (top >> 3 & 1))
    ^ (_GENERATOR[4] * (top >> 4 & 1))
    for top in range(32)
)
"""What five bits that leave the checksum's register put back into it (BIP 173)."""

_CHECKSUM_SYMBOLS: Final = 6
_TIMESTAMP_SYMBOLS: Final = 7
_SIGNATURE_SYMBOLS: Final = 104
_SIGNATURE_BYTES: Final = 65
_HASH_SYMBOLS: Final = 52
_KEY_SYMBOLS: Final = 53
_FIELD_SIZES: Final = {"p": _HASH_SYMBOLS, "h": _HASH_SYMBOLS, "s": _HASH_SYMBOLS, "n": _KEY_SYMBOLS}
_HALF_ORDER: Final = 0x7FFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_5D576E73_57A4501D_DFE92F46_681B20A0


@dataclass(frozen=True, slots=True)
class InvoiceText:
    """What an invoice's text holds, its checksum and signature found good.

    Args:
        created_at: Unix seconds.
        fields: Of each tagged field that can be read the first, by its letter, as symbols of five bits each.
        payee: Whose signature it is (33 bytes, hex).
        signature: R and S, 64 bytes.
    """

    created_at: int
    fields: dict[str, bytes]
    payee: str
    signature: bytes


def take_apart(text: str) -> InvoiceText:
    """Read an invoice's text, all in lower case.

    BOLT 11, "Requirements" of a reader: fields of unknown letters, or of another length than theirs, are skipped; where
    there is an `n` field the signature must be its.

    Raises:
        RemoteProtocolError: It is no Bech32, its checksum, a field's length or its signature is wrong.
    """
    if not text.isascii():
        raise _unreadable()
    prefix, _, tail = text.rpartition("1")
    symbols = tail.encode().translate(_SYMBOLS)
    least = _TIMESTAMP_SYMBOLS + _SIGNATURE_SYMBOLS + _CHECKSUM_SYMBOLS
    if not prefix or len(symbols) < least or _NO_SYMBOL in symbols:
        raise _unreadable()
    if _checksum(prefix.encode(), symbols) != 1:
        raise _unreadable()
    signed = symbols[: -_SIGNATURE_SYMBOLS - _CHECKSUM_SYMBOLS]
    signature = to_bytes(symbols[len(signed) : -_CHECKSUM_SYMBOLS])
    fields = _read_fields(signed[_TIMESTAMP_SYMBOLS:])
    padding = -5 * len(signed) % 8
    message = (to_number(signed) << padding).to_bytes((5 * len(signed) + padding) // 8)
    digest = hashlib.sha256(prefix.encode() + message).digest()
    return InvoiceText(
        to_number(signed[:_TIMESTAMP_SYMBOLS]), fields, _find_signer(digest, signature, fields.get("n")), signature[:64]
    )


def to_number(symbols: bytes) -> int:
    """Symbols of five bits each as one number, the first ones highest; 0 of none."""
    return int(symbols.translate(_AS_DIGITS), 32) if symbols else 0


def to_bytes(symbols: bytes) -> bytes:
    """Symbols of five bits each as bytes; what does not fill a byte is padding."""
    bits = 5 * len(symbols)
    return (to_number(symbols) >> bits % 8).to_bytes(bits // 8)


def _checksum(prefix: bytes, symbols: bytes) -> int:
    register = 1
    for value in (*(byte >> 5 for byte in prefix), 0, *(byte & 31 for byte in prefix), *symbols):
        register = (register & 0x1FFFFFF) << 5 ^ value ^ _CARRIES[register >> 25]
    return register


def _read_fields(symbols: bytes) -> dict[str, bytes]:
    fields: dict[str, bytes] = {}
    start = 0
    while start < len(symbols):
        if start + 3 > len(symbols):
            raise _unreadable()
        letter = chr(_CHARSET[symbols[start]])
        end = start + 3 + 32 * symbols[start + 1] + symbols[start + 2]
        if end > len(symbols):
            raise _unreadable()
        if _FIELD_SIZES.get(letter, end - start - 3) == end - start - 3:
            fields.setdefault(letter, symbols[start + 3 : end])
        start = end
    return fields


def _find_signer(digest: bytes, signature: bytes, stated: bytes | None) -> str:
    """Who signed; where a payee is stated only that one will do, whichever of the four keys it is."""
    if stated is None:
        signer = recover_public_key(digest, signature[:64], signature[64])
        if signer is None:
            raise _unreadable()
        return signer
    payee = to_bytes(stated).hex()
    is_normal = int.from_bytes(signature[32:64]) <= _HALF_ORDER
    if is_normal and any(recover_public_key(digest, signature[:64], number) == payee for number in range(4)):
        return payee
    raise _unreadable()


def _unreadable() -> RemoteProtocolError:
    return RemoteProtocolError("the invoice cannot be read: its encoding or its signature is broken")
