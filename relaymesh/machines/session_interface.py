"""What goes into a session machine and what comes out of it (`relaymesh.machines.session`)."""

from dataclasses import dataclass
from enum import Enum

from relaymesh.protocol.frames import Hello
from relaymesh.protocol.session_messages import JobId, SessionMessage


class SessionState(Enum):
    """Where a session stands: without a connection, greeting on one, open on one, over."""

    CONNECTING = "connecting"
    GREETING = "greeting"
    OPEN = "open"
    CLOSED = "closed"


class SessionEnd(Enum):
    """Why a session is over."""

    ENDED = "ended"
    PEER_LEFT = "peer-left"
    UNREACHABLE = "unreachable"
    DISCONNECTED = "disconnected"
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The timing and the limits of a session (RM-02, "Timeouts"); all times in milliseconds.

    Args:
        connect_in_ms: The client gives a dial this long.
        ready_in_ms: The client waits so long for READY, the node so long for the first authentic frame.
        redial_after_ms: How long the client waits before each dial that follows a failure; one entry per try.
        settled_after_ms: A connection that was open this long was a good one: the tries start over after it.
        reconnect_in_ms: The node ends the session after this long without a connection.
        idle_in_ms: The node ends the session after this long without any message but PING and PONG.
        ping_after_ms: Silence after which the other side is asked whether it is still there.
        pong_in_ms: How long it has to answer.
        coalesce_ms: Frames of nothing but OUTPUT after a job's first are kept so far apart; 0 sends each at once.
        maximum_jobs: So many jobs may be under way at once.
        maximum_held_bytes: So much OUTPUT of one job may wait for credit.
        maximum_connections: So many connections may be opened in one session, one after the other.
    """

    connect_in_ms: int = 10_000
    ready_in_ms: int = 5_000
    redial_after_ms: tuple[int, ...] = (250, 1_000)
    settled_after_ms: int = 10_000
    reconnect_in_ms: int = 30_000
    idle_in_ms: int = 300_000
    ping_after_ms: int = 20_000
    pong_in_ms: int = 10_000
    coalesce_ms: int = 20
    maximum_jobs: int = 4_096
    maximum_held_bytes: int = 2 * 1024 * 1024
    maximum_connections: int = 4_096


@dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """The dial with this number succeeded; `nonce` is 32 fresh random bytes (client)."""

    connection: int
    nonce: bytes


@dataclass(frozen=True, slots=True)
class HelloReceived:
    """A new connection began with a HELLO for this session; `nonce` is 32 fresh random bytes (node).

    Whoever drives the session numbers its connections, each number used once.
    """

    connection: int
    hello: Hello
    nonce: bytes


@dataclass(frozen=True, slots=True)
class FrameReceived:
    """A frame arrived on a connection."""

    connection: int
    frame: bytes | str


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """A connection is gone, or the dial with this number failed."""

    connection: int


@dataclass(frozen=True, slots=True)
class SendMessages:
    """Messages for the other side, in order.

    Args:
        messages: What to send; dropped while a session that was open before has no connection.
        job_id: The job they belong to: what does not name it itself (METERING) then stays behind the job's OUTPUT.
    """

    messages: tuple[SessionMessage, ...]
    job_id: JobId | None = None


@dataclass(frozen=True, slots=True)
class JobFinished:
    """A job is over on this side: forget its credit."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class EndSession:
    """Say BYE with this reason and end the session."""

    reason: str


ClientInput = ConnectionOpened | FrameReceived | ConnectionLost | SendMessages | JobFinished | EndSession
NodeInput = HelloReceived | FrameReceived | ConnectionLost | SendMessages | JobFinished | EndSession


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to the node; report it under this number. A dial still under way under a lower number is given up."""

    connection: int


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Send a frame on a connection."""

    connection: int
    frame: bytes | str


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """Close a connection; nothing about it needs to be reported any more."""

    connection: int


@dataclass(frozen=True, slots=True)
class Opened:
    """Messages can be exchanged.

    Args:
        reconnected: The session was open before: whatever was sent and not answered may be lost, credit is void, and
            every job must say again what it needs (RESUME and CREDIT, or JOB).
    """

    reconnected: bool


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The connection is gone; the session waits for another, and drops what it is given until then."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """A message from the other side, for its job."""

    message: SessionMessage


@dataclass(frozen=True, slots=True)
class PauseOutput:
    """This job's credit is used up: produce no more OUTPUT until `ResumeOutput` (what was given is kept)."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class ResumeOutput:
    """All that waited for credit is on its way: produce again."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over and its keys are erased; `reason` is one sentence for a person."""

    end: SessionEnd
    reason: str


SessionEffect = (
    Dial | SendFrame | CloseConnection | Opened | Interrupted | Deliver | PauseOutput | ResumeOutput | Closed
)
