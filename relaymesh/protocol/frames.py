"""The frames of a session: the greeting in the clear, then arrays of messages, padded and encrypted (RM-02, "Frames").

This module lays bytes out; `relaymesh.protocol.key_schedule` has the keys. A machine gets those as `SessionKeys`, so
that the simulator can bring tokens instead of ciphers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import orjson

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.nostr.event import is_hex_32
from relaymesh.protocol.session_codec import MAXIMUM_PARTS, decode_message, encode_message, parse_message
from relaymesh.protocol.session_messages import PartMessage, SessionId, SessionMessage

NONCE_BYTES: Final = 32
MAC_BYTES: Final = 32
TAG_BYTES: Final = 16
LENGTH_BYTES: Final = 4
PADDING_BYTES: Final = 256
MAXIMUM_JSON_BYTES: Final = 65_536
"""The JSON of one frame; a message that needs more travels as PARTs."""
MAXIMUM_PLAINTEXT_BYTES: Final = -(-(LENGTH_BYTES + MAXIMUM_JSON_BYTES) // PADDING_BYTES) * PADDING_BYTES
MAXIMUM_FRAME_BYTES: Final = MAXIMUM_PLAINTEXT_BYTES + TAG_BYTES
MAXIMUM_MESSAGE_BYTES: Final = 2 * 1024 * 1024
"""The JSON of one message, however many PARTs it takes."""
MAXIMUM_GREETING_CHARACTERS: Final = 512

_MAXIMUM_ALONE: Final = MAXIMUM_JSON_BYTES - 2
_PART_TEXT_BYTES: Final = 48_000


class FrameCipher(Protocol):
    """One direction of one connection; the counter says which frame it is and is never sent."""

    def seal(self, counter: int, plaintext: bytes) -> bytes:
        """Encrypt the `counter`th frame; a counter is used once."""
        ...

    def open(self, counter: int, frame: bytes) -> bytes:
        """Decrypt the `counter`th frame; RemoteProtocolError if it is not authentic."""
        ...


@dataclass(frozen=True, slots=True)
class ConnectionCiphers:
    """Both directions of one connection."""

    client_to_node: FrameCipher
    node_to_client: FrameCipher


class SessionKeys(Protocol):
    """What a session machine needs of the key schedule."""

    def hello_mac(self, session_id: SessionId, client_nonce: bytes) -> bytes:
        """What proves that a HELLO comes from the client."""
        ...

    def ready_mac(self, client_nonce: bytes, node_nonce: bytes) -> bytes:
        """What proves that a READY comes from the node."""
        ...

    def is_same_mac(self, expected: bytes, received: bytes) -> bool:
        """Compare two macs in constant time."""
        ...

    def connection_ciphers(self, client_nonce: bytes, node_nonce: bytes) -> ConnectionCiphers:
        """The two ciphers of the connection that these nonces opened."""
        ...

    def erase(self) -> None:
        """Forget everything; called once, when the session ends."""
        ...


@dataclass(frozen=True, slots=True)
class Hello:
    """The client's greeting: which session, a nonce never used before, and the proof of knowing its keys."""

    session_id: SessionId
    client_nonce: bytes
    mac: bytes

    def to_text(self) -> str:
        """The text frame."""
        return orjson.dumps(["HELLO", self.session_id, self.client_nonce.hex(), self.mac.hex()]).decode()


@dataclass(frozen=True, slots=True)
class Ready:
    """The node's answer: its own nonce, and the proof of knowing the session's keys."""

    node_nonce: bytes
    mac: bytes

    def to_text(self) -> str:
        """The text frame."""
        return orjson.dumps(["READY", self.node_nonce.hex(), self.mac.hex()]).decode()


def parse_hello(frame: bytes | str) -> Hello:
    """Read the first frame of a connection on the node's side; RemoteProtocolError if it is no HELLO."""
    session_id, client_nonce, mac = _parse_greeting(frame, "HELLO", 3)
    return Hello(SessionId(session_id), bytes.fromhex(client_nonce), bytes.fromhex(mac))


def parse_ready(frame: bytes | str) -> Ready:
    """Read the first frame of a connection on the client's side; RemoteProtocolError if it is no READY."""
    node_nonce, mac = _parse_greeting(frame, "READY", 2)
    return Ready(bytes.fromhex(node_nonce), bytes.fromhex(mac))


def _parse_greeting(frame: bytes | str, kind: str, values: int) -> list[str]:
    if not isinstance(frame, str) or len(frame) > MAXIMUM_GREETING_CHARACTERS:
        raise RemoteProtocolError(f"a connection must begin with a {kind} in a short text frame")
    try:
        greeting: Any = orjson.loads(frame)
    except ValueError as error:
        raise RemoteProtocolError(f"a {kind} must be valid JSON") from error
    if type(greeting) is not list or len(greeting) != values + 1 or greeting[0] != kind:
        raise RemoteProtocolError(f"a connection must begin with a {kind} of {values + 1} elements")
    if not all(map(is_hex_32, greeting[1:])):
        raise RemoteProtocolError(f"a {kind} must hold 64 lowercase hex characters each")
    return greeting[1:]


def pack_plaintext(messages: Sequence[bytes]) -> bytes:
    """Lay encoded messages out as one frame's plaintext: length ‖ JSON array ‖ zeros to a multiple of 256 bytes.

    Raises:
        LocalProtocolError: Together they are longer than a frame may be.
    """
    text = b"[" + b",".join(messages) + b"]"
    length = len(text)
    if length > MAXIMUM_JSON_BYTES:
        raise LocalProtocolError(f"a frame must hold at most {MAXIMUM_JSON_BYTES} bytes of JSON, not {length}")
    return length.to_bytes(LENGTH_BYTES) + text + bytes(-(LENGTH_BYTES + length) % PADDING_BYTES)


def unpack_plaintext(plaintext: bytes) -> list[SessionMessage]:
    """Read the messages of one decrypted frame.

    Raises:
        RemoteProtocolError: The layout, the padding or a message is malformed.
    """
    if len(plaintext) % PADDING_BYTES or not 0 < len(plaintext) <= MAXIMUM_PLAINTEXT_BYTES:
        raise RemoteProtocolError(f"a frame must be padded to a multiple of {PADDING_BYTES} bytes")
    end = LENGTH_BYTES + int.from_bytes(plaintext[:LENGTH_BYTES])
    if end > len(plaintext) or plaintext.count(0, end) != len(plaintext) - end:
        raise RemoteProtocolError("a frame's length must lie within it, and its padding must be zeros")
    try:
        values = orjson.loads(plaintext[LENGTH_BYTES:end])
    except orjson.JSONDecodeError as error:
        raise RemoteProtocolError("a frame must hold valid JSON") from error
    if type(values) is not list or not values:
        raise RemoteProtocolError("a frame must hold a JSON array of at least one message")
    return [parse_message(value) for value in values]


def split_into_frames(messages: Iterable[bytes]) -> list[bytes]:
    """Pack encoded messages, in order, into as few plaintexts as their sizes allow."""
    plaintexts: list[bytes] = []
    batch: list[bytes] = []
    size = 2
    for message in messages:
        if batch and size + len(message) > MAXIMUM_JSON_BYTES:
            plaintexts.append(pack_plaintext(batch))
            batch, size = [], 2
        batch.append(message)
        size += len(message) + 1
    if batch:
        plaintexts.append(pack_plaintext(batch))
    return plaintexts


def encode_parts(encoded: bytes, part_id: int) -> list[bytes]:
    """Cut an encoded message that is too long for one frame into PARTs, each of which fits; others stay whole.

    Raises:
        LocalProtocolError: It is longer than 2 MiB or needs more than 64 parts.
    """
    if len(encoded) <= _MAXIMUM_ALONE:
        return [encoded]
    if len(encoded) > MAXIMUM_MESSAGE_BYTES:
        raise LocalProtocolError(f"a message must be at most {MAXIMUM_MESSAGE_BYTES} bytes, not {len(encoded)}")
    slices = _slice_text(encoded)
    if len(slices) > MAXIMUM_PARTS:
        raise LocalProtocolError(f"a message must fit into {MAXIMUM_PARTS} parts")
    return [encode_message(PartMessage(part_id, index, len(slices), text)) for index, text in enumerate(slices)]


def _slice_text(encoded: bytes) -> list[str]:
    """Cut at character boundaries; quotes and backslashes double inside a PART, so slices full of them are halved."""
    slices: list[str] = []
    start = 0
    while start < len(encoded):
        length = _PART_TEXT_BYTES
        while True:
            end = min(start + length, len(encoded))
            while end < len(encoded) and encoded[end] & 0xC0 == 0x80:
                end -= 1
            text = encoded[start:end].decode()
            if len(orjson.dumps(text)) <= _MAXIMUM_ALONE - 64:
                break
            length //= 2
        slices.append(text)
        start = end
    return slices


@dataclass(slots=True)
class _Incomplete:
    total: int
    texts: list[str] = field(default_factory=list)
    size: int = 0


class PartAssembler:
    """Puts PARTs together again: the parts of one message come in order, other messages may lie between them.

    Args:
        maximum_incomplete: How many messages may be incomplete at once.
    """

    def __init__(self, maximum_incomplete: int = 4) -> None:
        self._maximum_incomplete = maximum_incomplete
        self._incomplete: dict[int, _Incomplete] = {}

    def add(self, part: PartMessage) -> SessionMessage | None:
        """Take one part; the whole message once it was the last, else None.

        Raises:
            RemoteProtocolError: The part is out of order, there is too much of it, or the whole is no message.
        """
        known = self._incomplete.setdefault(part.part_id, _Incomplete(part.total))
        if len(self._incomplete) > self._maximum_incomplete:
            raise RemoteProtocolError(f"at most {self._maximum_incomplete} messages may be incomplete at once")
        if part.total != known.total or part.index != len(known.texts):
            raise RemoteProtocolError("the PARTs of a message must come in order")
        known.texts.append(part.text)
        known.size += len(part.text.encode())
        if known.size > MAXIMUM_MESSAGE_BYTES:
            raise RemoteProtocolError(f"a message must be at most {MAXIMUM_MESSAGE_BYTES} bytes")
        if len(known.texts) < known.total:
            return None
        del self._incomplete[part.part_id]
        message = decode_message("".join(known.texts))
        if isinstance(message, PartMessage):
            raise RemoteProtocolError("a PART must not hold a PART")
        return message
