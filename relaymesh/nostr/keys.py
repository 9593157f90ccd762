"""Keys: BIP-340 signing and verification, NIP-44 sealing, and the shared secret of two keys.

The only module that touches `secp256k1` and `coincurve`. secp256k1 signs (fastest with a cached key), coincurve
verifies and multiplies (it checks lengths); where secp256k1 has no wheel coincurve signs too.
"""

import secrets
from functools import lru_cache
from typing import Any, Final, Self

import coincurve

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.nostr import encryption
from relaymesh.nostr.event import Event, EventId, PublicKey, UnsignedEvent, VerifiedEvent

try:
    import secp256k1
except ImportError:  # no wheel for this platform: coincurve signs instead, slower
    secp256k1 = None

CURVE_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_CONVERSATIONS_CACHED: Final = 1024
_NO_RANDOMNESS: Final = bytes(32)
"""BIP-340's auxiliary randomness left out, so that both libraries make the same signature."""


class KeyPair:
    """A secret key and its public key: signs, seals and opens (`relaymesh.nostr.event.Signer`).

    Args:
        secret: 32 bytes, as a big-endian number from 1 to the curve order − 1.

    Raises:
        LocalProtocolError: The secret has another length or is out of range.
    """

    __slots__ = ("_coincurve", "_conversations", "_secp256k1", "_secret", "public_key")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32 or not 0 < int.from_bytes(secret) < CURVE_ORDER:
            raise LocalProtocolError("a secret key must be 32 bytes between 1 and the curve order")
        self._secret = secret
        self._coincurve = coincurve.PrivateKey(secret)
        self._secp256k1: Any = None  # made when the key first signs, which the keys of a session never do
        self._conversations: dict[PublicKey, bytes] = {}
        self.public_key = PublicKey(self._coincurve.public_key.format(compressed=True)[1:].hex())

    @classmethod
    def generate(cls) -> Self:
        """A new key from the system's randomness."""
        while True:
            secret = secrets.token_bytes(32)
            if 0 < int.from_bytes(secret) < CURVE_ORDER:
                return cls(secret)

    def __repr__(self) -> str:
        return f"KeyPair({self.public_key[:8]}…)"

    def reveal_secret(self) -> bytes:
        """The 32 secret bytes; for key files and session key schedules only, never for a message or a log."""
        return self._secret

    def sign_digest(self, digest: bytes) -> bytes:
        """A BIP-340 signature (64 bytes) over a 32-byte digest."""
        if len(digest) != 32:
            raise LocalProtocolError("only 32-byte digests are signed")
        if self._secp256k1 is None and secp256k1 is not None:
            self._secp256k1 = secp256k1.PrivateKey(self._secret, raw=True)
        if self._secp256k1 is not None:
            return bytes(self._secp256k1.schnorr_sign(digest, None, raw=True))
        return bytes(self._coincurve.sign_schnorr(digest, _NO_RANDOMNESS))

    def sign(self, event: UnsignedEvent) -> VerifiedEvent:
        """Give the event its id and signature (NIP-01).

        Raises:
            LocalProtocolError: The event names another author, or a field is of the wrong type or range.
        """
        event.check_shape()
        if event.public_key != self.public_key:
            raise LocalProtocolError("an event is signed only by the key it names as its author")
        event_id = event.compute_id()
        signature = self.sign_digest(bytes.fromhex(event_id)).hex()
        return VerifiedEvent(
            event.public_key, event.created_at, event.kind, event.tags, event.content, event_id, signature
        )

    def shared_secret(self, public_key: PublicKey) -> bytes:
        """The 32-byte x coordinate of this secret times `public_key` (unhashed ECDH, as NIP-44 uses it).

        Raises:
            RemoteProtocolError: `public_key` is not the x coordinate of a point on the curve.
        """
        try:
            point = coincurve.PublicKey(b"\x02" + bytes.fromhex(public_key))
        except ValueError as error:
            raise RemoteProtocolError("a public key must be the x coordinate of a curve point") from error
        return bytes(point.multiply(self._secret).format(compressed=True)[1:])

    def seal(self, plaintext: str, recipient: PublicKey, nonce: bytes) -> str:
        """Encrypt `plaintext` to `recipient` (NIP-44 version 2); `nonce` is 32 random bytes, used once."""
        return encryption.encrypt(plaintext, self._conversation_key(recipient), nonce)

    def open(self, payload: str, author: PublicKey) -> str:
        """Decrypt what `author` sealed to this key; RemoteProtocolError if it does not open (NIP-44)."""
        return encryption.decrypt(payload, self._conversation_key(author))

    def _conversation_key(self, peer: PublicKey) -> bytes:
        key = self._conversations.get(peer)
        if key is None:
            key = encryption.derive_conversation_key(self.shared_secret(peer))
            if len(self._conversations) >= _CONVERSATIONS_CACHED:
                self._conversations.pop(next(iter(self._conversations)))
            self._conversations[peer] = key
        return key


@lru_cache(maxsize=4096)
def _parse_public_key(public_key: str) -> coincurve.PublicKeyXOnly | None:
    try:
        return coincurve.PublicKeyXOnly(bytes.fromhex(public_key))
    except ValueError:
        return None


def is_curve_point(public_key: PublicKey) -> bool:
    """Whether this is the x coordinate of a curve point, which half of all 32-byte strings are (BIP-340)."""
    return _parse_public_key(public_key) is not None


def is_valid_signature(public_key: PublicKey, digest: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) over `digest` (32 bytes) was made by `public_key` (BIP-340)."""
    if len(signature) != 64 or len(digest) != 32:
        return False
    key = _parse_public_key(public_key)
    return key is not None and bool(key.verify(signature, digest))


def recover_public_key(digest: bytes, signature: bytes, recovery_id: int) -> str | None:
    """The compressed key (33 bytes, hex) whose ECDSA signature (r and s, 64 bytes) over `digest` this is, or None."""
    if len(signature) != 64 or len(digest) != 32 or not 0 <= recovery_id <= 3:
        return None
    try:
        key = coincurve.PublicKey.from_signature_and_message(signature + bytes((recovery_id,)), digest, hasher=None)
    except ValueError:
        return None
    return bytes(key.format(compressed=True)).hex()


def has_valid_id(event: Event) -> bool:
    """Whether the claimed id is the one that the event's own bytes hash to (NIP-01)."""
    try:
        return event.compute_id() == event.id
    except LocalProtocolError:
        return False


class SignatureMemory:
    """Signatures that were found good, so that the same event, met again, costs a hash and no signature.

    Safe in several threads. Holds between `size` and twice as many.

    Args:
        size: So many are remembered at least.
    """

    def __init__(self, size: int = 16_384) -> None:
        self._size = size
        self._newer: dict[EventId, str] = {}
        self._older: dict[EventId, str] = {}

    def verify(self, event: Event) -> VerifiedEvent:
        """As `verify`; the id is always checked, since all else follows from it."""
        if (self._newer.get(event.id) or self._older.get(event.id)) == event.signature and has_valid_id(event):
            return _as_verified(event)
        verified = verify(event)
        if len(self._newer) >= self._size:
            self._newer, self._older = {}, self._newer
        self._newer[event.id] = event.signature
        return verified


def verify(event: Event) -> VerifiedEvent:
    """Check the claimed id and the signature, and hand the event back as one that may be believed.

    Raises:
        RemoteProtocolError: The id is not the hash of the event, or the signature is not the author's.
    """
    if isinstance(event, VerifiedEvent):
        return event
    if not has_valid_id(event):
        raise RemoteProtocolError("the event's id is not the hash of its content")
    try:
        signature = bytes.fromhex(event.signature)
    except ValueError as error:
        raise RemoteProtocolError("an event's sig must be 128 lowercase hex characters") from error
    if not is_valid_signature(event.public_key, bytes.fromhex(event.id), signature):
        raise RemoteProtocolError("the event's signature was not made by its author")
    return _as_verified(event)


def _as_verified(event: Event) -> VerifiedEvent:
    return VerifiedEvent(
        event.public_key,
        event.created_at,
        event.kind,
        event.tags,
        event.content,
        EventId(event.id),
        event.signature,
    )
