"""Identifiers for people: `npub`, `nsec`, `note`, `nprofile`, `nevent` and `naddr` (NIP-19).

At the edges only; inside, keys and ids are lowercase hex. The one module that touches `pynostr`, for bech32 alone: its
own `from_npub` takes an `nsec` and its decoder cuts a trailing zero byte off a key.
"""

import re
from dataclasses import dataclass
from typing import Final

from pynostr.bech32 import Encoding, bech32_decode, bech32_encode, convertbits

from relaymesh.errors import LocalProtocolError, UsageError
from relaymesh.nostr.event import MAXIMUM_KIND, EventId, PublicKey
from relaymesh.nostr.keys import CURVE_ORDER

MAXIMUM_CHARACTERS: Final = 5000
"""NIP-19 asks for this bound."""

_HEX = re.compile(r"[0-9a-fA-F]{64}\Z")
_MEANINGS: Final = {
    "npub": "a public key",
    "nsec": "a secret key",
    "note": "an event id",
    "nprofile": "a profile",
    "nevent": "an event",
    "naddr": "an addressable event",
    "ncryptsec": "an encrypted secret key",
}
_SPECIAL, _RELAY, _AUTHOR, _KIND = 0, 1, 2, 3

_Fields = list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class ProfilePointer:
    """Someone, and relays where that one is likely found: what an `nprofile` says."""

    public_key: PublicKey
    relay_urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EventPointer:
    """One event, and where to look for it: what an `nevent` says."""

    event_id: EventId
    relay_urls: tuple[str, ...] = ()
    author: PublicKey | None = None
    kind: int | None = None


@dataclass(frozen=True, slots=True)
class AddressPointer:
    """An addressable event, whichever version is current: what an `naddr` says.

    Args:
        identifier: Its `d` tag; empty for a replaceable event.
        author: Who signs it.
        kind: Its kind.
        relay_urls: Relays where it is likely found.
    """

    identifier: str
    author: PublicKey
    kind: int
    relay_urls: tuple[str, ...] = ()


def encode_bech32(prefix: str, data: bytes) -> str:
    """Bytes as bech32 text with this prefix (BIP-173, without its length limit)."""
    return str(bech32_encode(prefix, convertbits(data, 8, 5), Encoding.BECH32))


def decode_bech32(prefix: str, text: str) -> bytes:
    """The bytes of bech32 text that must have this prefix.

    Raises:
        UsageError: The text is no bech32, was mistyped, or stands for something else.
    """
    expected = f"expected {_MEANINGS[prefix]} ({prefix}1…)"
    if len(text) > MAXIMUM_CHARACTERS:
        raise UsageError(f"{expected}, got more than {MAXIMUM_CHARACTERS} characters")
    found, values, encoding = bech32_decode(text)
    if found is None or encoding is not Encoding.BECH32:
        raise UsageError(f"{expected}, got text that is no such identifier or was mistyped; copy it again in full")
    if found != prefix:
        meaning = _MEANINGS.get(found, "something unknown")
        raise UsageError(f"{expected}, got {meaning}{f' ({found}1…)' if found in _MEANINGS else ''}")
    data = convertbits(values, 5, 8, False)
    if data is None:
        raise UsageError(f"{expected}, got text with stray bits at its end; copy it again in full")
    return bytes(data)


def encode_public_key(public_key: PublicKey) -> str:
    """A public key as `npub1…`."""
    return encode_bech32("npub", bytes.fromhex(public_key))


def decode_public_key(text: str) -> PublicKey:
    """A public key from `npub1…` or from 64 hex characters.

    Raises:
        UsageError: It is neither; above all not an `nsec`, which nobody should show.
    """
    return PublicKey(_decode_32("npub", text, hex_allowed=True).hex())


def encode_secret_key(secret: bytes) -> str:
    """A secret key as `nsec1…`; for key files and for its owner's eyes, never for a message or a log."""
    return encode_bech32("nsec", secret)


def decode_secret_key(text: str) -> bytes:
    """The 32 secret bytes from `nsec1…`; hex is refused, since it may as well be a public key.

    Raises:
        UsageError: It is something else, or no valid secret key.
    """
    secret = _decode_32("nsec", text, hex_allowed=False)
    if not 0 < int.from_bytes(secret) < CURVE_ORDER:
        raise UsageError("expected a secret key (nsec1…), got a number that is no key of the curve secp256k1")
    return secret


def encode_event_id(event_id: EventId) -> str:
    """An event id as `note1…`."""
    return encode_bech32("note", bytes.fromhex(event_id))


def decode_event_id(text: str) -> EventId:
    """An event id from `note1…` or from 64 hex characters; UsageError if it is neither."""
    return EventId(_decode_32("note", text, hex_allowed=True).hex())


def encode_profile(profile: ProfilePointer) -> str:
    """A profile as `nprofile1…`.

    Raises:
        LocalProtocolError: A relay URL is not ASCII or is longer than 255 characters.
    """
    return _encode_fields("nprofile", [(_SPECIAL, bytes.fromhex(profile.public_key)), *_relays(profile.relay_urls)])


def decode_profile(text: str) -> ProfilePointer:
    """A profile from `nprofile1…`; UsageError if it is something else or malformed."""
    fields = _decode_fields("nprofile", text)
    return ProfilePointer(PublicKey(_require(fields, "nprofile", _SPECIAL, 32).hex()), _read_relays(fields, "nprofile"))


def encode_event_pointer(pointer: EventPointer) -> str:
    """An event with where to find it, as `nevent1…`.

    Raises:
        LocalProtocolError: A relay URL is not ASCII or is longer than 255 characters, or the kind is out of range.
    """
    fields = [(_SPECIAL, bytes.fromhex(pointer.event_id)), *_relays(pointer.relay_urls)]
    if pointer.author is not None:
        fields.append((_AUTHOR, bytes.fromhex(pointer.author)))
    if pointer.kind is not None:
        fields.append(_kind(pointer.kind))
    return _encode_fields("nevent", fields)


def decode_event_pointer(text: str) -> EventPointer:
    """An event with where to find it, from `nevent1…`; UsageError if it is something else or malformed."""
    fields = _decode_fields("nevent", text)
    author = _find(fields, "nevent", _AUTHOR, 32)
    kind = _find(fields, "nevent", _KIND, 4)
    return EventPointer(
        EventId(_require(fields, "nevent", _SPECIAL, 32).hex()),
        _read_relays(fields, "nevent"),
        None if author is None else PublicKey(author.hex()),
        None if kind is None else _read_kind("nevent", kind),
    )


def encode_address_pointer(pointer: AddressPointer) -> str:
    """An addressable event as `naddr1…`.

    Raises:
        LocalProtocolError: The identifier or a relay URL is longer than 255 bytes, a relay URL is not ASCII, or the
            kind is out of range.
    """
    try:
        identifier = pointer.identifier.encode()
    except UnicodeEncodeError as error:
        raise LocalProtocolError("an identifier must be valid UTF-8, without lone surrogates") from error
    author = (_AUTHOR, bytes.fromhex(pointer.author))
    fields = [(_SPECIAL, identifier), *_relays(pointer.relay_urls), author, _kind(pointer.kind)]
    return _encode_fields("naddr", fields)


def decode_address_pointer(text: str) -> AddressPointer:
    """An addressable event from `naddr1…`; UsageError if it is something else or malformed."""
    fields = _decode_fields("naddr", text)
    try:
        identifier = _require(fields, "naddr", _SPECIAL, None).decode()
    except UnicodeDecodeError as error:
        raise UsageError("an naddr's identifier must be valid UTF-8") from error
    return AddressPointer(
        identifier,
        PublicKey(_require(fields, "naddr", _AUTHOR, 32).hex()),
        _read_kind("naddr", _require(fields, "naddr", _KIND, 4)),
        _read_relays(fields, "naddr"),
    )


def _decode_32(prefix: str, text: str, *, hex_allowed: bool) -> bytes:
    text = text.strip()
    if _HEX.match(text) is not None:
        if hex_allowed:
            return bytes.fromhex(text)
        raise UsageError(f"expected {_MEANINGS[prefix]} ({prefix}1…), got bare hex, which may be anything")
    data = decode_bech32(prefix, text)
    if len(data) != 32:
        raise UsageError(f"expected {_MEANINGS[prefix]} of 32 bytes ({prefix}1…), got {len(data)} bytes")
    return data


def _relays(relay_urls: tuple[str, ...]) -> _Fields:
    try:
        return [(_RELAY, url.encode("ascii")) for url in relay_urls]
    except UnicodeEncodeError as error:
        raise LocalProtocolError("a relay URL in an identifier must be ASCII") from error


def _kind(kind: int) -> tuple[int, bytes]:
    if not 0 <= kind <= MAXIMUM_KIND:
        raise LocalProtocolError(f"a kind must be 0 to {MAXIMUM_KIND}, not {kind}")
    return _KIND, kind.to_bytes(4)


def _encode_fields(prefix: str, fields: _Fields) -> str:
    if any(len(value) > 255 for _, value in fields):
        raise LocalProtocolError("a relay URL or identifier must be at most 255 bytes to fit into an identifier")
    return encode_bech32(prefix, b"".join(bytes((kind, len(value))) + value for kind, value in fields))


def _decode_fields(prefix: str, text: str) -> _Fields:
    data = decode_bech32(prefix, text.strip())
    fields: _Fields = []
    while data:
        if len(data) < 2 or len(data) < 2 + data[1]:
            raise UsageError(f"an {prefix} must not end in the middle of a field")
        fields.append((data[0], data[2 : 2 + data[1]]))
        data = data[2 + data[1] :]
    return fields


def _find(fields: _Fields, prefix: str, kind: int, length: int | None) -> bytes | None:
    for found, value in fields:
        if found == kind:
            if length is not None and len(value) != length:
                raise UsageError(f"field {kind} of an {prefix} must be {length} bytes, not {len(value)}")
            return value
    return None


def _require(fields: _Fields, prefix: str, kind: int, length: int | None) -> bytes:
    value = _find(fields, prefix, kind, length)
    if value is None:
        raise UsageError(f"an {prefix} must have field {kind}")
    return value


def _read_relays(fields: _Fields, prefix: str) -> tuple[str, ...]:
    try:
        return tuple(value.decode("ascii") for kind, value in fields if kind == _RELAY)
    except UnicodeDecodeError as error:
        raise UsageError(f"a relay URL in an {prefix} must be ASCII") from error


def _read_kind(prefix: str, value: bytes) -> int:
    kind = int.from_bytes(value)
    if kind > MAXIMUM_KIND:
        raise UsageError(f"the kind in an {prefix} must be at most {MAXIMUM_KIND}, not {kind}")
    return kind
