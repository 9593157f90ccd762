"""The keys of a session: from two shared secrets to macs, ciphers and commitments (RM-02, "Keys").

Both sides derive the same pseudo-random key from two ECDH values; each connection derives its own pair of cipher keys
from it and from both sides' nonces. When the session ends everything is forgotten, so that a key stolen later opens
nothing that was said.
"""

import hmac
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.nostr.event import EventId
from relaymesh.protocol.frames import NONCE_BYTES, ConnectionCiphers
from relaymesh.protocol.session_messages import JobId, SessionId

KEY_BYTES: Final = 32

_HELLO: Final = b"relaymesh/1 hello"
_READY: Final = b"relaymesh/1 ready"
_CLIENT_TO_NODE: Final = b"relaymesh/1 c2n"
_NODE_TO_CLIENT: Final = b"relaymesh/1 n2c"


def derive_session_secrets(
    request_id: EventId, accept_id: EventId, ephemeral_x: bytes, static_x: bytes
) -> "SessionSecrets":
    """HKDF-Extract the session's pseudo-random key (RFC 5869).

    Args:
        request_id: The id of the 28772.
        accept_id: The id of the 28773.
        ephemeral_x: ECDH of the two ephemeral keys: 32 bytes, the x coordinate.
        static_x: ECDH of the client's ephemeral key and the node's identity key: 32 bytes, the x coordinate.

    Raises:
        LocalProtocolError: A value is not 32 bytes long.
    """
    salt = bytes.fromhex(request_id) + bytes.fromhex(accept_id)
    if len(salt) != 64 or len(ephemeral_x) != KEY_BYTES or len(static_x) != KEY_BYTES:
        raise LocalProtocolError("a session's keys come from two event ids and two shared secrets of 32 bytes each")
    return SessionSecrets(hmac.digest(salt, ephemeral_x + static_x, "sha256"))


class SessionSecrets:
    """The pseudo-random key of one session, and all that comes from it (`relaymesh.protocol.frames.SessionKeys`).

    Args:
        pseudo_random_key: 32 bytes; kept in memory of its own, which `erase` overwrites.
    """

    __slots__ = ("_key",)

    def __init__(self, pseudo_random_key: bytes) -> None:
        if len(pseudo_random_key) != KEY_BYTES:
            raise LocalProtocolError(f"a session's pseudo-random key must be {KEY_BYTES} bytes")
        self._key = bytearray(pseudo_random_key)

    def __repr__(self) -> str:
        return "SessionSecrets(…)"

    def hello_mac(self, session_id: SessionId, client_nonce: bytes) -> bytes:
        """HMAC over session id ‖ client nonce."""
        return hmac.digest(self._expand(_HELLO), bytes.fromhex(session_id) + client_nonce, "sha256")

    def ready_mac(self, client_nonce: bytes, node_nonce: bytes) -> bytes:
        """HMAC over client nonce ‖ node nonce."""
        return hmac.digest(self._expand(_READY), client_nonce + node_nonce, "sha256")

    def is_same_mac(self, expected: bytes, received: bytes) -> bool:
        """Compare two macs in constant time."""
        return hmac.compare_digest(expected, received)

    def connection_ciphers(self, client_nonce: bytes, node_nonce: bytes) -> ConnectionCiphers:
        """The two ciphers of the connection that these nonces opened."""
        nonces = client_nonce + node_nonce
        if len(client_nonce) != NONCE_BYTES or len(node_nonce) != NONCE_BYTES:
            raise LocalProtocolError(f"a connection's nonces must be {NONCE_BYTES} bytes each")
        return ConnectionCiphers(
            client_to_node=ChaChaFrameCipher(self._expand(_CLIENT_TO_NODE + nonces)),
            node_to_client=ChaChaFrameCipher(self._expand(_NODE_TO_CLIENT + nonces)),
        )

    def commitment_key(self, what: Literal["prompt", "output", "payment"], job_id: JobId) -> bytes:
        """The key under which a job's prompt, output or payments are committed to; kept with the job."""
        return self._expand(b"relaymesh/1 " + what.encode() + bytes.fromhex(job_id))

    def erase(self) -> None:
        """Overwrite the key; whatever is asked for afterwards is a LocalProtocolError."""
        self._key[:] = bytes(KEY_BYTES)
        self._key.clear()

    def _expand(self, info: bytes) -> bytes:
        """The first block of HKDF-Expand (RFC 5869), which is all that 32 bytes need."""
        if not self._key:
            raise LocalProtocolError("the session has ended and its keys are erased")
        return hmac.digest(self._key, info + b"\x01", "sha256")


class ChaChaFrameCipher:
    """ChaCha20-Poly1305 under one key; the nonce is four zero bytes and the counter as u64be."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)

    def seal(self, counter: int, plaintext: bytes) -> bytes:
        """Encrypt the `counter`th frame; a counter is used once."""
        return self._cipher.encrypt(counter.to_bytes(12), plaintext, None)

    def open(self, counter: int, frame: bytes) -> bytes:
        """Decrypt the `counter`th frame; RemoteProtocolError if it is not authentic."""
        try:
            return self._cipher.decrypt(counter.to_bytes(12), frame, None)
        except InvalidTag as error:
            raise RemoteProtocolError("a frame is not authentic") from error
