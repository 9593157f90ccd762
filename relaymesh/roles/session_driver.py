"""Joins a session machine, the client's or the node's, to its connections and to its jobs.

The path of a token goes through here, so it is short: a frame that arrives is opened and delivered in the task that
read it; what is to be sent is gathered until the loop turns, then leaves in one frame and one write.
"""

from collections.abc import Awaitable, Callable
from secrets import token_bytes
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup

from relaymesh.errors import LocalProtocolError, SessionError
from relaymesh.machines.session_interface import (
    CloseConnection,
    Closed,
    ConnectionLost,
    ConnectionOpened,
    Deliver,
    Dial,
    EndSession,
    FrameReceived,
    HelloReceived,
    Interrupted,
    JobFinished,
    Opened,
    PauseOutput,
    ResumeOutput,
    SendFrame,
    SendMessages,
    SessionEffect,
)
from relaymesh.ports.sessions import Connection
from relaymesh.protocol.evidence import claimed_job
from relaymesh.protocol.frames import Hello
from relaymesh.protocol.session_messages import (
    ByeMessage,
    CommitmentMessage,
    JobId,
    MeteringMessage,
    PartMessage,
    PingMessage,
    PongMessage,
    QuoteMessage,
    ReceiptMessage,
    SessionMessage,
)
from relaymesh.roles.containment import INTERNAL_ERROR, Contained
from relaymesh.roles.driver import Clock, wait_until
from relaymesh.units import Instant, Moment

SessionInput = (
    ConnectionOpened | HelloReceived | FrameReceived | ConnectionLost | SendMessages | JobFinished | EndSession
)

FAREWELL_SECONDS: Final = 0.5
"""How long a goodbye may take together: a peer that takes nothing in must not keep us from leaving."""
MAXIMUM_UNSENT_FRAMES: Final = 64
"""So many frames may wait to be sent on a connection before nothing more is read from it."""


class SessionMachine(Protocol):
    """What `ClientSession` and `NodeSession` have in common, seen from here."""

    @property
    def is_quiet(self) -> bool:
        """Whether `effects` would have nothing to hand over."""
        ...

    def start(self, now: Moment) -> None:
        """Begin."""
        ...

    def deadline(self) -> Instant | None:
        """When to call `handle_deadline`."""
        ...

    def handle_deadline(self, now: Moment) -> None:
        """Act on what is due."""
        ...

    def effects(self) -> tuple[SessionEffect, ...]:
        """What is to be done."""
        ...


class SessionEvents(Protocol):
    """Who is told what happens in a session; called without waiting."""

    def session_opened(self, reconnected: bool) -> None:
        """Messages can be exchanged; after a reconnect every job says again what it needs."""
        ...

    def session_interrupted(self) -> None:
        """The connection is gone; another may come."""
        ...

    def message_delivered(self, message: SessionMessage) -> None:
        """The other side said something."""
        ...

    def output_paused(self, job_id: JobId, paused: bool) -> None:
        """The job's credit is used up, or there is some again."""
        ...

    def session_closed(self, reason: str) -> None:
        """The session is over; `reason` is one sentence for a person."""
        ...


class SessionDriver:
    """Runs one session until it is closed.

    Args:
        machine: A `ClientSession` or a `NodeSession`.
        receive: That machine's own `receive`.
        events: Who is told.
        clock: What time it is.
        dial: How the client connects; None on the node's side, which is connected to.
    """

    def __init__(
        self,
        machine: SessionMachine,
        receive: Callable[..., None],
        events: SessionEvents,
        clock: Clock,
        dial: Callable[[], Awaitable[Connection]] | None = None,
    ) -> None:
        self._machine, self._receive, self._events = machine, receive, events
        self._clock, self._dial_endpoint = clock, dial
        self._connections: dict[int, Connection] = {}
        self._frames: dict[int, list[bytes | str]] = {}
        self._closing: list[int] = []
        self._next_connection = 1
        self._tasks: TaskGroup | None = None
        self._wake = anyio.Event()
        self._sooner = anyio.Event()
        self._timed_for: Instant | None = None
        self._is_closed = False
        self._broken: Exception | None = None
        self._crowded: anyio.Event | None = None
        self._last_failure = ""

    @property
    def is_closed(self) -> bool:
        """Whether the session is over."""
        return self._is_closed

    def send(self, *messages: SessionMessage, job_id: JobId | None = None) -> None:
        """Send messages for a job; those of one turn of the loop share a frame. Never waits."""
        self._tell(SendMessages(messages, job_id))

    def finish_job(self, job_id: JobId) -> None:
        """A job is over on this side."""
        self._tell(JobFinished(job_id))

    def end(self, reason: str) -> None:
        """Say goodbye and end the session."""
        self._tell(EndSession(reason))

    async def run(self) -> None:
        """Run until the session is closed; a bug here closes it, and goes no further."""
        with Contained("session") as session:
            await self._run()
        if session.error is not None and not self._is_closed:
            self._is_closed = True
            with Contained("end of session"):
                self._events.session_closed(INTERNAL_ERROR)

    async def _run(self) -> None:
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            self._machine.start(self._clock())
            self._wake.set()
            tasks.start_soon(self._keep_time)
            try:
                while not self.is_closed:
                    await self._wake.wait()  # until something is to be sent or closed; time is kept beside it
                    if self._broken is not None:
                        raise self._broken
                    self._wake = anyio.Event()
                    self._apply_effects()
                    await self._write()
            finally:
                with anyio.move_on_after(FAREWELL_SECONDS, shield=True):
                    await self._close_all()
                tasks.cancel_scope.cancel()

    async def serve(self, connection: Connection, hello: Hello) -> None:
        """Node: carry a connection that began with this HELLO, until it is gone."""
        if self._is_closed:
            return  # nobody would tell this connection that the session is over
        number = self._next_connection
        self._next_connection += 1
        self._connections[number] = connection
        self._tell(HelloReceived(number, hello, token_bytes(32)))
        await self._read(number, connection)

    # ── machine ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, message: SessionInput) -> None:
        if not self._is_closed:
            self._receive(message, self._clock())
            if self._machine.is_quiet:
                self._look_at_time()
            else:
                self._wake.set()

    async def _keep_time(self) -> None:
        """Handle the machine's deadlines; most move later with every frame, and those are looked at when they come."""
        while True:
            self._sooner = anyio.Event()
            self._timed_for = self._machine.deadline()
            await wait_until(self._sooner, self._timed_for, self._clock)
            now = self._clock()
            deadline = self._machine.deadline()
            if deadline is not None and deadline <= now.instant:
                self._machine.handle_deadline(now)
                self._wake.set()

    def _apply_effects(self) -> None:
        for effect in self._machine.effects():
            match effect:
                case Deliver(message):
                    self._events.message_delivered(message)
                case SendFrame(connection, frame):
                    self._frames.setdefault(connection, []).append(frame)
                case PauseOutput(job_id):
                    self._events.output_paused(job_id, True)
                case ResumeOutput(job_id):
                    self._events.output_paused(job_id, False)
                case Dial(connection):
                    assert self._tasks is not None
                    self._tasks.start_soon(self._dial, connection)
                case CloseConnection(connection):
                    self._closing.append(connection)
                case Opened(reconnected):
                    self._events.session_opened(reconnected)
                case Interrupted():
                    self._events.session_interrupted()
                case Closed(_, reason):
                    self._is_closed = True
                    self._events.session_closed(f"{reason} ({self._last_failure})" if self._last_failure else reason)
        self._look_at_time()

    def _look_at_time(self) -> None:
        deadline = self._machine.deadline()
        if deadline is not None and (self._timed_for is None or deadline < self._timed_for):
            self._sooner.set()

    # ── connections ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _dial(self, number: int) -> None:
        if self._dial_endpoint is None:
            raise LocalProtocolError("a node's session never dials")
        try:
            connection = await self._dial_endpoint()
        except SessionError as error:
            self._last_failure = str(error)
            self._tell(ConnectionLost(number))
            return
        self._last_failure = ""
        self._connections[number] = connection
        self._tell(ConnectionOpened(number, token_bytes(32)))
        await self._read(number, connection)

    async def _read(self, number: int, connection: Connection) -> None:
        try:
            while True:
                frame = await connection.receive()
                if self.is_closed:
                    return
                self._receive(FrameReceived(number, frame), self._clock())
                self._apply_effects()
                if self._frames or self._closing or self._is_closed:
                    self._wake.set()
                if len(self._frames.get(number, ())) > MAXIMUM_UNSENT_FRAMES:
                    await self._wait_written()
        except SessionError:
            await self._lose(number)
        except Exception as error:  # noqa: BLE001  # the session's own task raises it, and ends the session
            self._broken = error
            self._wake.set()

    async def _wait_written(self) -> None:
        """Wait until frames are being sent again: who does not take in what it asks for may ask for no more.

        Ends at the latest when the connection gives up on sending, as `relaymesh.ports.sessions.Connection` promises.
        """
        self._crowded = self._crowded or anyio.Event()
        await self._crowded.wait()

    async def _write(self) -> None:
        while self._frames:
            number, frames = self._frames.popitem()
            if self._crowded is not None:
                self._crowded.set()
                self._crowded = None
            connection = self._connections.get(number)
            if connection is None:
                continue
            try:
                await connection.send(*frames)
            except SessionError:
                await self._lose(number)
        while self._closing:
            closing = self._connections.pop(self._closing.pop(), None)
            if closing is not None:
                await closing.aclose()

    async def _lose(self, number: int) -> None:
        connection = self._connections.pop(number, None)
        if connection is not None:
            await connection.aclose()
        self._tell(ConnectionLost(number))

    async def _close_all(self) -> None:
        try:
            await self._write()
        finally:
            async with anyio.create_task_group() as closing:
                for connection in self._connections.values():
                    closing.start_soon(connection.aclose)
            self._connections.clear()


def job_of(message: SessionMessage) -> JobId | None:
    """The job a message is for; evidence names it inside."""
    match message:
        case MeteringMessage(event) | ReceiptMessage(event) | CommitmentMessage(event):
            return claimed_job(event)
        case ByeMessage() | PartMessage() | PingMessage() | PongMessage() | QuoteMessage():
            return None
        case _:
            return message.job_id
