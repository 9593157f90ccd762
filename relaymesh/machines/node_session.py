"""The node's side of a session: accepts connections, one replacing the other; keeps to its credit (RM-02, "Sessions").

Whoever drives it reads the HELLO of each new connection (within 5 s), finds the session that it names, and hands it
over as `HelloReceived`.
"""

from collections.abc import Callable
from typing import Final, assert_never

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.machine import TransitionTable
from relaymesh.machines.session import Link, Session, later
from relaymesh.machines.session_interface import (
    CloseConnection,
    ConnectionLost,
    Deliver,
    EndSession,
    FrameReceived,
    HelloReceived,
    JobFinished,
    NodeInput,
    PauseOutput,
    ResumeOutput,
    SendFrame,
    SendMessages,
    SessionEnd,
    SessionSettings,
    SessionState,
)
from relaymesh.machines.session_outbox import CreditGate
from relaymesh.protocol.frames import Ready, SessionKeys
from relaymesh.protocol.session_codec import compute_job_id
from relaymesh.protocol.session_messages import (
    CancelMessage,
    CreditMessage,
    EndMessage,
    ErrorMessage,
    InvoiceMessage,
    JobId,
    JobMessage,
    OutputMessage,
    PaidMessage,
    ReceiptMessage,
    ResumeMessage,
    SealedMessage,
    SessionId,
    SessionMessage,
)
from relaymesh.units import Instant, Moment

NODE_SESSION_TRANSITIONS: Final = TransitionTable(
    SessionState.CONNECTING,
    [
        (SessionState.CONNECTING, "hello", SessionState.GREETING),
        (SessionState.GREETING, "hello", SessionState.GREETING),
        (SessionState.GREETING, "authentic-frame", SessionState.OPEN),
        (SessionState.OPEN, "authentic-frame", SessionState.OPEN),
        (SessionState.GREETING, "connection-lost", SessionState.CONNECTING),
        (SessionState.OPEN, "connection-lost", SessionState.CONNECTING),
        (SessionState.OPEN, "connection-lost", SessionState.GREETING),
        (SessionState.CONNECTING, "disconnected", SessionState.CLOSED),
        (SessionState.GREETING, "disconnected", SessionState.CLOSED),
        (SessionState.OPEN, "peer-left", SessionState.CLOSED),
        (SessionState.OPEN, "idle", SessionState.CLOSED),
        (SessionState.CONNECTING, "ended", SessionState.CLOSED),
        (SessionState.GREETING, "ended", SessionState.CLOSED),
        (SessionState.OPEN, "ended", SessionState.CLOSED),
    ],
)


class NodeSession(Session):
    """Waits for the client's connections; a new one takes over with its first authentic frame.

    Args:
        session_id: From the 28773.
        keys: The session's keys; erased when it ends.
        settings: Timing and limits.
    """

    table = NODE_SESSION_TRANSITIONS
    accepted = frozenset(
        {JobMessage, PaidMessage, ReceiptMessage, CreditMessage, CancelMessage, ErrorMessage, ResumeMessage}
    )

    def __init__(self, session_id: SessionId, keys: SessionKeys, settings: SessionSettings | None = None) -> None:
        super().__init__(session_id, keys, settings or SessionSettings())
        self._gate = CreditGate(self._settings)
        self._nonces: set[bytes] = set()
        self._candidate: Link | None = None
        self._candidate_until = Instant(0)
        self._alone_since = Instant(0)

    def start(self, now: Moment) -> None:
        """Wait for the client."""
        self._alone_since = now.instant

    def receive(self, message: NodeInput, now: Moment) -> None:
        """Take in what happened."""
        match message:
            case FrameReceived():
                self._frame_received(message, now)
            case SendMessages():
                self._send(message, now)
            case HelloReceived():
                self._hello_received(message, now)
            case ConnectionLost():
                self._connection_lost(message.connection, now)
            case JobFinished():
                self._gate.forget_job(message.job_id)
            case EndSession():
                if self._state is not SessionState.CLOSED:
                    self._end(SessionEnd.ENDED, message.reason, message.reason)
            case _:
                assert_never(message)

    def _timers(self) -> list[tuple[Instant, Callable[[Moment], None]]]:
        timers = super()._timers()
        if self._state is SessionState.CLOSED:
            return timers
        if self._candidate is not None:
            timers.append((self._candidate_until, self._drop_candidate))
        if self._state is SessionState.CONNECTING:
            timers.append((later(self._alone_since, self._settings.reconnect_in_ms), self._end_disconnected))
        elif self._state is SessionState.GREETING:  # who greets again and again and says nothing is not there
            patience_ms = self._settings.reconnect_in_ms + self._settings.ready_in_ms
            timers.append((later(self._alone_since, patience_ms), self._end_disconnected))
        elif self._state is SessionState.OPEN:
            timers.append((later(self._spoke_at, self._settings.idle_in_ms), self._end_idle))
        return timers

    def _hello_received(self, received: HelloReceived, now: Moment) -> None:
        """Answer a proven HELLO with READY; first verify, then remember its nonce, so that no stranger can burn one."""
        nonce = received.hello.client_nonce
        mac = self._keys.hello_mac(self.session_id, nonce) if self._may_greet(received) else None
        if mac is None or not self._keys.is_same_mac(mac, received.hello.mac):
            self._effects.append(CloseConnection(received.connection))
            return
        self._nonces.add(nonce)
        if self._candidate is not None:
            self._effects.append(CloseConnection(self._candidate.connection))
        if self._state is not SessionState.OPEN:
            self._move("hello", SessionState.GREETING)
        ciphers = self._keys.connection_ciphers(nonce, received.nonce)
        self._candidate = Link(received.connection, ciphers.node_to_client, ciphers.client_to_node)
        self._candidate_until = now.after_ms(self._settings.ready_in_ms)
        ready = Ready(received.nonce, self._keys.ready_mac(nonce, received.nonce))
        self._effects.append(SendFrame(received.connection, ready.to_text()))

    def _may_greet(self, received: HelloReceived) -> bool:
        return (
            self._state is not SessionState.CLOSED
            and received.hello.session_id == self.session_id
            and received.hello.client_nonce not in self._nonces
            and len(self._nonces) < self._settings.maximum_connections
        )

    def _frame_received(self, received: FrameReceived, now: Moment) -> None:
        link, candidate = self._link, self._candidate
        try:
            if link is not None and received.connection == link.connection:
                self._receive_frame(link, received.frame, now)
            elif candidate is not None and received.connection == candidate.connection:
                messages = candidate.open_frame(received.frame)
                self._take_over(candidate, now)
                self._take_all(messages, now)
        except RemoteProtocolError:
            self._effects.append(CloseConnection(received.connection))
            self._connection_lost(received.connection, now)

    def _take_over(self, candidate: Link, now: Moment) -> None:
        if self._link is not None:
            self._effects.append(CloseConnection(self._link.connection))
            self._drop_link()
        self._candidate = None
        self._open_link(candidate, "authentic-frame", now)

    def _connection_lost(self, connection: int, now: Moment) -> None:
        if self._link is not None and connection == self._link.connection:
            self._lose(now)
        elif self._candidate is not None and connection == self._candidate.connection:
            self._candidate = None
            if self._state is SessionState.GREETING:
                self._move("connection-lost", SessionState.CONNECTING)

    def _drop_candidate(self, now: Moment) -> None:
        assert self._candidate is not None
        self._effects.append(CloseConnection(self._candidate.connection))
        self._connection_lost(self._candidate.connection, now)

    def _lose(self, now: Moment) -> None:
        if self._state is not SessionState.OPEN:
            return
        self._drop_link()
        self._alone_since = now.instant
        is_greeting = self._candidate is not None
        self._move("connection-lost", SessionState.GREETING if is_greeting else SessionState.CONNECTING)

    def _end_disconnected(self, now: Moment) -> None:
        self._end(SessionEnd.DISCONNECTED, "the client did not come back", None)

    def _end_idle(self, now: Moment) -> None:
        self._end(SessionEnd.IDLE, "nothing was said for too long", "idle")

    def _take_job_message(self, message: SessionMessage, now: Moment) -> None:
        if isinstance(message, CreditMessage):
            released, may_resume = self._gate.grant(message.job_id, message.amount_bytes)
            for each in released:
                self._release(each, message.job_id, now)
            if may_resume:
                self._effects.append(ResumeOutput(message.job_id))
            return
        if isinstance(message, JobMessage):
            made_in = message.session or self.session_id
            if compute_job_id(made_in, bytes.fromhex(message.client_nonce)) != message.job_id:
                raise RemoteProtocolError("a job id must be the SHA-256 of its session's id and its nonce")
        if isinstance(message, JobMessage | ResumeMessage):
            self._gate.admit_job(message.job_id)
        self._effects.append(Deliver(message))

    def _queue(self, message: SessionMessage, inputs: SendMessages, now: Moment) -> None:
        """Send at once, or, when the job's credit is used up, hold the message and everything of that job behind it."""
        job_id = inputs.job_id or _job_of(message)
        must_pause = None if job_id is None else self._gate.hold(job_id, message)
        if job_id is None or must_pause is None:
            self._release(message, job_id, now)
        elif must_pause:
            self._effects.append(PauseOutput(job_id))

    def _release(self, message: SessionMessage, job_id: JobId | None, now: Moment) -> None:
        self._outbox.add(message, now)
        if job_id is not None and isinstance(message, EndMessage | ErrorMessage):
            self._gate.forget_job(job_id)

    def _end(self, end: SessionEnd, reason: str, farewell: str | None) -> None:
        super()._end(end, reason, farewell)
        self._candidate = None

    def _connections(self) -> list[int]:
        return [link.connection for link in (self._link, self._candidate) if link is not None]

    def _void_credit(self) -> None:
        self._gate.void()


def _job_of(message: SessionMessage) -> JobId | None:
    if isinstance(message, OutputMessage | EndMessage | ErrorMessage | InvoiceMessage | SealedMessage):
        return message.job_id
    return None
