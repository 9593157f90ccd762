"""Sessions without cryptography and without a network: token keys, a hand-turned clock, a wire that can be cut."""

import hashlib
from dataclasses import dataclass, field

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.client_session import ClientSession
from relaymesh.machines.node_session import NodeSession
from relaymesh.machines.session_interface import (
    CloseConnection,
    ConnectionLost,
    ConnectionOpened,
    Deliver,
    Dial,
    FrameReceived,
    HelloReceived,
    SendFrame,
    SendMessages,
    SessionEffect,
    SessionSettings,
)
from relaymesh.nostr.event import EventId
from relaymesh.protocol.frames import ConnectionCiphers, parse_hello
from relaymesh.protocol.session_codec import compute_job_id
from relaymesh.protocol.session_messages import JobId, JobMessage, SessionId, SessionMessage
from relaymesh.units import AmountMsat, Instant, Moment

SESSION = SessionId("5e" * 32)


def at_ms(milliseconds: int) -> Moment:
    """A moment on the hand-turned clock."""
    return Moment(Instant(1_000_000 + milliseconds * 1_000), 1_750_000_000_000 + milliseconds)


def make_job(number: int = 0, body: str = "{}") -> JobMessage:
    """A JOB of this session; another number makes another job."""
    nonce = number.to_bytes(32)
    job_id = compute_job_id(SESSION, nonce)
    return JobMessage(job_id, nonce.hex(), EventId("ab" * 32), "tiny", "chat", body, 64, AmountMsat(1_000))


def job_id_of(number: int = 0) -> JobId:
    """The id of that job."""
    return make_job(number).job_id


class TokenCipher:
    """Seals by writing the key's name, the counter and a checksum before the plaintext."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def seal(self, counter: int, plaintext: bytes) -> bytes:
        return self._tag(counter, plaintext) + plaintext

    def open(self, counter: int, frame: bytes) -> bytes:
        if frame[:16] != self._tag(counter, frame[16:]):
            raise RemoteProtocolError("a frame is not authentic")
        return frame[16:]

    def _tag(self, counter: int, plaintext: bytes) -> bytes:
        return hashlib.sha256(self._name + counter.to_bytes(8) + plaintext).digest()[:16]


class TokenKeys:
    """Session keys without secrets, for machines that must not care."""

    def __init__(self, name: bytes = b"session") -> None:
        self._name = name
        self.is_erased = False

    def hello_mac(self, session_id: SessionId, client_nonce: bytes) -> bytes:
        return self._mac(b"hello" + bytes.fromhex(session_id) + client_nonce)

    def ready_mac(self, client_nonce: bytes, node_nonce: bytes) -> bytes:
        return self._mac(b"ready" + client_nonce + node_nonce)

    def is_same_mac(self, expected: bytes, received: bytes) -> bool:
        return expected == received

    def connection_ciphers(self, client_nonce: bytes, node_nonce: bytes) -> ConnectionCiphers:
        nonces = self._name + client_nonce + node_nonce
        return ConnectionCiphers(TokenCipher(b"c2n" + nonces), TokenCipher(b"n2c" + nonces))

    def erase(self) -> None:
        self.is_erased = True

    def _mac(self, message: bytes) -> bytes:
        assert not self.is_erased
        return hashlib.sha256(self._name + message).digest()


@dataclass
class Pair:
    """A client's and a node's machine, joined by wires that carry frames at once or are cut."""

    settings: SessionSettings = field(default_factory=SessionSettings)
    now: Moment = field(default_factory=lambda: at_ms(0))

    def __post_init__(self) -> None:
        self.client_keys, self.node_keys = TokenKeys(), TokenKeys()
        self.client = ClientSession(SESSION, self.client_keys, self.settings)
        self.node = NodeSession(SESSION, self.node_keys, self.settings)
        self.client_said: list[SessionEffect] = []
        self.node_said: list[SessionEffect] = []
        self.wires: set[int] = set()
        self.frames: list[tuple[str, bytes | str]] = []
        self.is_reachable = True
        self._nonces = 0

    def start(self) -> "Pair":
        """Start both machines and let them greet each other."""
        self.client.start(self.now)
        self.node.start(self.now)
        self.settle()
        return self

    def settle(self) -> None:
        """Carry frames to and fro until both sides are silent."""
        while True:
            client, node = self.client.effects(), self.node.effects()
            if not client and not node:
                return
            self.client_said += client
            self.node_said += node
            for effect in client:
                self._carry_out_for_client(effect)
            for effect in node:
                self._carry_out_for_node(effect)

    def client_sends(self, *messages: SessionMessage) -> None:
        self.client.receive(SendMessages(messages), self.now)
        self.settle()

    def node_sends(self, *messages: SessionMessage, job_id: JobId | None = None) -> None:
        self.node.receive(SendMessages(messages, job_id), self.now)
        self.settle()

    def pass_ms(self, milliseconds: int) -> None:
        """Let time pass, from one deadline to the next."""
        end = Instant(self.now.instant + milliseconds * 1_000)
        while True:
            deadlines = [each for each in (self.client.deadline(), self.node.deadline()) if each is not None]
            if not deadlines or min(deadlines) > end:
                break
            self._turn_to(max(min(deadlines), self.now.instant))
            self.client.handle_deadline(self.now)
            self.node.handle_deadline(self.now)
            self.settle()
        self._turn_to(end)

    def cut(self, *, told: bool = True) -> None:
        """Break every connection; `told` says whether the two sides notice."""
        wires, self.wires = self.wires, set()
        if told:
            for number in wires:
                self.client.receive(ConnectionLost(number), self.now)
                self.node.receive(ConnectionLost(number), self.now)
        self.settle()

    def client_got(self) -> list[SessionMessage]:
        """What was delivered to the client."""
        return [effect.message for effect in self.client_said if isinstance(effect, Deliver)]

    def node_got(self) -> list[SessionMessage]:
        """What was delivered to the node."""
        return [effect.message for effect in self.node_said if isinstance(effect, Deliver)]

    def _turn_to(self, instant: Instant) -> None:
        passed_ms = (instant - self.now.instant) // 1_000
        self.now = Moment(instant, self.now.unix_ms + passed_ms)

    def _nonce(self) -> bytes:
        self._nonces += 1
        return self._nonces.to_bytes(32)

    def _carry_out_for_client(self, effect: SessionEffect) -> None:
        match effect:
            case Dial(number) if self.is_reachable:
                self.wires.add(number)
                self.client.receive(ConnectionOpened(number, self._nonce()), self.now)
            case Dial(number):
                self.client.receive(ConnectionLost(number), self.now)
            case SendFrame(number, frame) if number in self.wires:
                self.frames.append(("client", frame))
                if isinstance(frame, str):
                    self.node.receive(HelloReceived(number, parse_hello(frame), self._nonce()), self.now)
                else:
                    self.node.receive(FrameReceived(number, frame), self.now)
            case CloseConnection(number) if number in self.wires:
                self.wires.discard(number)
                self.node.receive(ConnectionLost(number), self.now)

    def _carry_out_for_node(self, effect: SessionEffect) -> None:
        match effect:
            case SendFrame(number, frame) if number in self.wires:
                self.frames.append(("node", frame))
                self.client.receive(FrameReceived(number, frame), self.now)
            case CloseConnection(number) if number in self.wires:
                self.wires.discard(number)
                self.client.receive(ConnectionLost(number), self.now)
