"""A session between a client and a node: greeting, encrypted frames, reconnects, flow control (RM-02, "Sessions").

Both machines take the session's keys as an argument and number their frames themselves. Whatever is wrong with a frame
ends only the connection it came on; the session lives on over the next one. What was sent and not answered when a
connection broke is the jobs' affair: they are told `Opened(reconnected=True)` and say again what they need.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.machine import TransitionTable, earliest
from relaymesh.machines.session_interface import (
    CloseConnection,
    Closed,
    Deliver,
    Interrupted,
    Opened,
    SendFrame,
    SendMessages,
    SessionEffect,
    SessionEnd,
    SessionSettings,
    SessionState,
)
from relaymesh.machines.session_outbox import Outbox
from relaymesh.protocol.frames import (
    MAXIMUM_FRAME_BYTES,
    FrameCipher,
    PartAssembler,
    SessionKeys,
    unpack_plaintext,
)
from relaymesh.protocol.session_messages import (
    ByeMessage,
    PartMessage,
    PingMessage,
    PongMessage,
    SessionId,
    SessionMessage,
)
from relaymesh.units import MICROSECONDS_PER_MILLISECOND, Instant, Moment

EITHER_WAY: Final = frozenset({PingMessage, PongMessage, ByeMessage, PartMessage})


@dataclass(slots=True)
class Link:
    """One connection with its ciphers and its two frame counters, which are never sent."""

    connection: int
    sealer: FrameCipher
    opener: FrameCipher
    sent: int = 0
    received: int = 0

    def open_frame(self, frame: bytes | str) -> list[SessionMessage]:
        """Decrypt and read the next frame; RemoteProtocolError if it is not exactly that."""
        if not isinstance(frame, bytes) or len(frame) > MAXIMUM_FRAME_BYTES:
            raise RemoteProtocolError(f"expected a binary frame of at most {MAXIMUM_FRAME_BYTES} bytes")
        plaintext = self.opener.open(self.received, frame)
        self.received += 1
        return unpack_plaintext(plaintext)

    def seal_frame(self, plaintext: bytes) -> SendFrame:
        """Encrypt the next frame."""
        frame = self.sealer.seal(self.sent, plaintext)
        self.sent += 1
        return SendFrame(self.connection, frame)


class Session(ABC):
    """What client and node have in common once a connection is open."""

    table: TransitionTable[SessionState]
    accepted: frozenset[type[SessionMessage]]

    def __init__(self, session_id: SessionId, keys: SessionKeys, settings: SessionSettings) -> None:
        self.session_id = session_id
        self._keys = keys
        self._settings = settings
        self._state = self.table.initial
        self._effects: list[SessionEffect] = []
        self._outbox = Outbox(settings.coalesce_ms)
        self._link: Link | None = None
        self._parts = PartAssembler()
        self._was_open = False
        self._heard_at = Instant(0)
        self._spoke_at = Instant(0)
        self._pinged_at: Instant | None = None
        self._pings = 0

    @property
    def state(self) -> SessionState:
        """Where the session stands."""
        return self._state

    def deadline(self) -> Instant | None:
        """When `handle_deadline` must be called at the latest, or None while nothing is timed."""
        return earliest(*[instant for instant, _ in self._timers()])

    def handle_deadline(self, now: Moment) -> None:
        """Act on every deadline that has passed by `now`."""
        while True:
            due = [(instant, act) for instant, act in self._timers() if instant <= now.instant]
            if not due:
                return
            _, act = min(due, key=lambda timer: timer[0])
            act(now)

    @property
    def is_quiet(self) -> bool:
        """Whether `effects` would have nothing to hand over; OUTPUT that waits for more of its kind is nothing yet."""
        return not self._effects and not (self._outbox.is_due and self._link is not None)

    def effects(self) -> tuple[SessionEffect, ...]:
        """Hand over, once and in order, what the driver is to do; all that was to be sent shares a frame."""
        if self._outbox.is_due:
            self._flush()
        effects = tuple(self._effects)
        self._effects.clear()
        return effects

    def _timers(self) -> list[tuple[Instant, Callable[[Moment], None]]]:
        timers: list[tuple[Instant, Callable[[Moment], None]]] = []
        if self._state is SessionState.OPEN:
            if self._outbox.due_at is not None and not self._outbox.is_due:
                timers.append((self._outbox.due_at, self._outbox.end_wait))
            if self._pinged_at is None:
                timers.append((later(self._heard_at, self._settings.ping_after_ms), self._ping))
            else:
                timers.append((later(self._pinged_at, self._settings.pong_in_ms), self._lose_link))
        return timers

    def _move(self, trigger: str, target: SessionState) -> None:
        self._state = self.table.move(self._state, trigger, target)

    def _open_link(self, link: Link, trigger: str, now: Moment) -> None:
        self._move(trigger, SessionState.OPEN)
        self._link = link
        self._parts = PartAssembler()
        self._pinged_at = None
        self._heard_at = self._spoke_at = now.instant
        self._effects.append(Opened(reconnected=self._was_open))
        self._was_open = True

    def _receive_frame(self, link: Link, frame: bytes | str, now: Moment) -> None:
        """Take in a frame of the open connection; raises RemoteProtocolError, with nothing of it delivered or part."""
        self._take_all(link.open_frame(frame), now)

    def _take_all(self, messages: list[SessionMessage], now: Moment) -> None:
        self._heard_at = now.instant
        self._pinged_at = None
        for message in messages:
            self._take(message, now)

    def _take(self, message: SessionMessage, now: Moment) -> None:
        if self._state is SessionState.CLOSED:
            return
        kind = type(message)
        if kind in self.accepted:
            self._spoke_at = now.instant
            self._take_job_message(message, now)
        elif isinstance(message, PingMessage):
            self._outbox.add(PongMessage(message.number), now)
        elif isinstance(message, PartMessage):
            whole = self._parts.add(message)
            if whole is not None:
                self._take(whole, now)
        elif isinstance(message, ByeMessage):
            self._end(SessionEnd.PEER_LEFT, f"the other side said: {message.reason}", None)
        elif kind is not PongMessage:
            raise RemoteProtocolError("a session message must be one that its sender may send")

    def _take_job_message(self, message: SessionMessage, now: Moment) -> None:
        self._effects.append(Deliver(message))

    def _send(self, inputs: SendMessages, now: Moment) -> None:
        if self._state is SessionState.CLOSED or (self._was_open and self._link is None):
            return  # between connections nothing is kept: the jobs say it again once the session is open
        self._spoke_at = now.instant
        for message in inputs.messages:
            self._queue(message, inputs, now)

    def _queue(self, message: SessionMessage, inputs: SendMessages, now: Moment) -> None:
        self._outbox.add(message, now)

    def _flush(self) -> None:
        if self._link is not None:
            self._effects += [self._link.seal_frame(plaintext) for plaintext in self._outbox.take()]

    def _ping(self, now: Moment) -> None:
        self._pinged_at = now.instant
        self._pings += 1
        self._outbox.add(PingMessage(self._pings), now)

    def _lose_link(self, now: Moment) -> None:
        """The open connection is of no use any more."""
        assert self._link is not None
        self._effects.append(CloseConnection(self._link.connection))
        self._lose(now)

    def _drop_link(self) -> None:
        self._effects.append(Interrupted())
        self._link = None
        self._outbox.clear()
        self._void_credit()

    def _end(self, end: SessionEnd, reason: str, farewell: str | None) -> None:
        """End the session, with a BYE if there is somebody to hear it."""
        if self._link is not None:
            if farewell is not None:
                self._outbox.add(ByeMessage(farewell), Moment(self._heard_at, 0))
            self._flush()
        self._effects += [CloseConnection(connection) for connection in self._connections()]
        self._move(end.value, SessionState.CLOSED)
        self._link = None
        self._outbox.clear()
        self._keys.erase()
        self._effects.append(Closed(end, reason))

    @abstractmethod
    def _connections(self) -> list[int]:
        """Every connection that is not closed yet."""

    @abstractmethod
    def _lose(self, now: Moment) -> None:
        """The open connection is gone."""

    @abstractmethod
    def _void_credit(self) -> None:
        """Every grant ends with its connection."""


def later(instant: Instant, milliseconds: int) -> Instant:
    """The instant that comes `milliseconds` after another."""
    return Instant(instant + milliseconds * MICROSECONDS_PER_MILLISECOND)
