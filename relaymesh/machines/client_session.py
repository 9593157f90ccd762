"""The client's side of a session: dials, greets, reconnects; counts what it granted (RM-02, "Sessions")."""

from collections.abc import Callable
from typing import Final, assert_never

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.machine import TransitionTable
from relaymesh.machines.session import Link, Session
from relaymesh.machines.session_interface import (
    ClientInput,
    CloseConnection,
    ConnectionLost,
    ConnectionOpened,
    Deliver,
    Dial,
    EndSession,
    FrameReceived,
    JobFinished,
    SendFrame,
    SendMessages,
    SessionEnd,
    SessionSettings,
    SessionState,
)
from relaymesh.machines.session_outbox import CreditAccount
from relaymesh.protocol.frames import Hello, SessionKeys, parse_ready
from relaymesh.protocol.session_messages import (
    CommitmentMessage,
    CreditMessage,
    EndMessage,
    ErrorMessage,
    InvoiceMessage,
    MeteringMessage,
    OutputMessage,
    QuoteMessage,
    SealedMessage,
    SessionId,
    SessionMessage,
)
from relaymesh.units import Instant, Moment

CLIENT_SESSION_TRANSITIONS: Final = TransitionTable(
    SessionState.CONNECTING,
    [
        (SessionState.CONNECTING, "connection-opened", SessionState.GREETING),
        (SessionState.GREETING, "ready", SessionState.OPEN),
        (SessionState.CONNECTING, "connection-lost", SessionState.CONNECTING),
        (SessionState.GREETING, "connection-lost", SessionState.CONNECTING),
        (SessionState.OPEN, "connection-lost", SessionState.CONNECTING),
        (SessionState.CONNECTING, "unreachable", SessionState.CLOSED),
        (SessionState.OPEN, "peer-left", SessionState.CLOSED),
        (SessionState.CONNECTING, "ended", SessionState.CLOSED),
        (SessionState.GREETING, "ended", SessionState.CLOSED),
        (SessionState.OPEN, "ended", SessionState.CLOSED),
    ],
)


class ClientSession(Session):
    """Keeps one connection to the node open: a dial that fails, or a READY that does not come, is tried twice more.

    Messages given before the first connection is open go out with its first frame.

    Args:
        session_id: From the 28773.
        keys: The session's keys; erased when it ends.
        settings: Timing and limits.
    """

    table = CLIENT_SESSION_TRANSITIONS
    accepted = frozenset(
        {
            InvoiceMessage,
            OutputMessage,
            SealedMessage,
            CommitmentMessage,
            MeteringMessage,
            QuoteMessage,
            EndMessage,
            ErrorMessage,
        }
    )

    def __init__(self, session_id: SessionId, keys: SessionKeys, settings: SessionSettings | None = None) -> None:
        super().__init__(session_id, keys, settings or SessionSettings())
        self._account = CreditAccount()
        self._connection = 0
        self._nonce = b""
        self._tries = 0
        self._opened_at = Instant(0)
        self._give_up_at: Instant | None = None
        self._dial_at: Instant | None = None

    def start(self, now: Moment) -> None:
        """Dial for the first time."""
        self._dial(now)

    def receive(self, message: ClientInput, now: Moment) -> None:
        """Take in what happened."""
        match message:
            case FrameReceived():
                self._frame_received(message, now)
            case SendMessages():
                self._send(message, now)
            case ConnectionOpened():
                self._connection_opened(message, now)
            case ConnectionLost():
                if message.connection == self._connection and self._dial_at is None:
                    self._lose(now)
            case JobFinished():
                self._account.forget_job(message.job_id)
            case EndSession():
                if self._state is not SessionState.CLOSED:
                    self._end(SessionEnd.ENDED, message.reason, message.reason)
            case _:
                assert_never(message)

    def _timers(self) -> list[tuple[Instant, Callable[[Moment], None]]]:
        timers = super()._timers()
        if self._state in (SessionState.CONNECTING, SessionState.GREETING):
            if self._dial_at is not None:
                timers.append((self._dial_at, self._dial))
            elif self._give_up_at is not None:
                timers.append((self._give_up_at, self._give_connection_up))
        return timers

    def _dial(self, now: Moment) -> None:
        self._connection += 1
        self._dial_at = None
        self._give_up_at = now.after_ms(self._settings.connect_in_ms)
        self._effects.append(Dial(self._connection))

    def _give_connection_up(self, now: Moment) -> None:
        self._effects.append(CloseConnection(self._connection))
        self._lose(now)

    def _connection_opened(self, opened: ConnectionOpened, now: Moment) -> None:
        is_awaited = self._state is SessionState.CONNECTING and self._dial_at is None
        if not is_awaited or opened.connection != self._connection:
            self._effects.append(CloseConnection(opened.connection))
            return
        self._move("connection-opened", SessionState.GREETING)
        self._nonce = opened.nonce
        self._give_up_at = now.after_ms(self._settings.ready_in_ms)
        hello = Hello(self.session_id, opened.nonce, self._keys.hello_mac(self.session_id, opened.nonce))
        self._effects.append(SendFrame(opened.connection, hello.to_text()))

    def _frame_received(self, received: FrameReceived, now: Moment) -> None:
        if received.connection != self._connection:
            return  # left over from a connection that is closed already
        try:
            if self._link is not None:
                self._receive_frame(self._link, received.frame, now)
            elif self._state is SessionState.GREETING:
                self._ready_received(received.frame, now)
        except RemoteProtocolError:
            self._give_connection_up(now)

    def _ready_received(self, frame: bytes | str, now: Moment) -> None:
        ready = parse_ready(frame)
        if not self._keys.is_same_mac(self._keys.ready_mac(self._nonce, ready.node_nonce), ready.mac):
            raise RemoteProtocolError("a READY must prove that it comes from the node")
        ciphers = self._keys.connection_ciphers(self._nonce, ready.node_nonce)
        self._opened_at = now.instant
        self._give_up_at = None
        self._open_link(Link(self._connection, ciphers.client_to_node, ciphers.node_to_client), "ready", now)
        if not self._outbox.is_due:  # the node trusts the connection only after its first authentic frame
            self._ping(now)

    def _take_job_message(self, message: SessionMessage, now: Moment) -> None:
        if isinstance(message, OutputMessage):
            if self._account.use(message):
                self._effects.append(Deliver(message))
            return
        if isinstance(message, EndMessage | ErrorMessage):
            self._account.forget_job(message.job_id)
        self._effects.append(Deliver(message))

    def _queue(self, message: SessionMessage, inputs: SendMessages, now: Moment) -> None:
        if isinstance(message, CreditMessage):
            self._account.grant(message.job_id, message.amount_bytes)
        self._outbox.add(message, now)

    def _connections(self) -> list[int]:
        return [self._connection] if self._dial_at is None else []

    def _void_credit(self) -> None:
        self._account.void()

    def _lose(self, now: Moment) -> None:
        """Try again, soon; after too many tries in a row the session is over."""
        if self._state is SessionState.CLOSED:
            return
        settled_at = Moment(self._opened_at, 0).after_ms(self._settings.settled_after_ms)
        if self._state is SessionState.OPEN:
            self._drop_link()
            if now.instant >= settled_at:
                self._tries = 0
        self._move("connection-lost", SessionState.CONNECTING)
        if self._tries >= len(self._settings.redial_after_ms):
            self._dial_at = now.instant  # nothing is open: there is no connection to close
            self._end(SessionEnd.UNREACHABLE, "the node cannot be reached; a new session is needed", None)
            return
        self._dial_at = now.after_ms(self._settings.redial_after_ms[self._tries])
        self._tries += 1
