"""What waits to be sent in a session: messages of one turn for one frame, OUTPUT for credit (RM-02, "Flow control")."""

from collections import deque
from dataclasses import dataclass, field

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.machines.session_interface import SessionSettings
from relaymesh.protocol.frames import MAXIMUM_JSON_BYTES, encode_parts, split_into_frames
from relaymesh.protocol.session_codec import encode_message
from relaymesh.protocol.session_messages import JobId, OutputMessage, SessionMessage
from relaymesh.units import Instant, Moment


def count_data_bytes(data: str) -> int:
    """What OUTPUT data costs of a job's credit: its length in UTF-8."""
    return len(data) if data.isascii() else len(data.encode())


class Outbox:
    """Encoded messages until they are framed: at once, or, when all of it is later OUTPUT, a little later.

    Args:
        coalesce_ms: How far apart frames are kept that hold nothing but OUTPUT after a job's first. A piece that comes
            in the last quarter of that time goes at once: a runner that is as fast as this needs no timer for each.
    """

    __slots__ = (
        "_coalesce_ms",
        "_encoded",
        "_next_output_at",
        "_part_id",
        "_sends_at_once_from",
        "_size",
        "due_at",
        "is_due",
    )

    def __init__(self, coalesce_ms: int) -> None:
        self._coalesce_ms = coalesce_ms
        self._next_output_at = self._sends_at_once_from = Instant(0)
        self._part_id = 0
        self.clear()

    def clear(self) -> None:
        """Forget what waits."""
        self._encoded: list[bytes] = []
        self._size = 0
        self.is_due = False
        self.due_at: Instant | None = None

    def add(self, message: SessionMessage, now: Moment) -> None:
        """Encode a message and queue it behind the others."""
        encoded = encode_message(message)
        self._size += len(encoded)
        if len(encoded) > MAXIMUM_JSON_BYTES - 2:
            self._encoded += encode_parts(encoded, self._part_id)
            self._part_id += 1
        else:
            self._encoded.append(encoded)
        if type(message) is not OutputMessage:
            self.is_due = True
            return
        if message.number == 0 or now.instant >= self._sends_at_once_from or self._size >= MAXIMUM_JSON_BYTES:
            self.end_wait(now)
        else:
            self.due_at = self._next_output_at

    def end_wait(self, now: Moment) -> None:
        """OUTPUT has waited long enough."""
        self.is_due = True
        self._next_output_at = now.after_ms(self._coalesce_ms)
        self._sends_at_once_from = now.after_ms(self._coalesce_ms * 3 // 4)

    def take(self) -> list[bytes]:
        """All that waits, as the plaintexts of as few frames as possible."""
        plaintexts = split_into_frames(self._encoded)
        self.clear()
        return plaintexts


@dataclass(slots=True)
class _JobCredit:
    credit: int = 0
    is_paused: bool = False
    held_bytes: int = 0
    held: deque[tuple[SessionMessage, int]] = field(default_factory=deque)


class CreditGate:
    """The node's side of flow control: OUTPUT beyond what the buyer granted waits, and what follows it waits behind.

    Args:
        settings: `maximum_jobs` and `maximum_held_bytes`.
    """

    def __init__(self, settings: SessionSettings) -> None:
        self._maximum_jobs = settings.maximum_jobs
        self._maximum_held_bytes = settings.maximum_held_bytes
        self._jobs: dict[JobId, _JobCredit] = {}

    def admit_job(self, job_id: JobId) -> None:
        """A JOB or a RESUME came: its OUTPUT starts without anything held.

        Raises:
            RemoteProtocolError: The buyer has too many jobs under way.
        """
        known = self._jobs.get(job_id)
        if known is None:
            if len(self._jobs) >= self._maximum_jobs:
                raise RemoteProtocolError(f"at most {self._maximum_jobs} jobs may be under way in a session")
            self._jobs[job_id] = _JobCredit()
        else:
            known.held.clear()
            known.held_bytes = 0

    def forget_job(self, job_id: JobId) -> None:
        """The job sends no more OUTPUT."""
        self._jobs.pop(job_id, None)

    def void(self) -> None:
        """The connection is gone, and with it every grant and everything that waited for one."""
        for job in self._jobs.values():
            job.credit = job.held_bytes = 0
            job.held.clear()

    def hold(self, job_id: JobId, message: SessionMessage) -> bool | None:
        """Ask whether a message of this job may go: None if it may, else True if the producer must be paused now.

        Raises:
            LocalProtocolError: OUTPUT for a job that the buyer never asked for, or far more than it granted.
        """
        job = self._jobs.get(job_id)
        cost = count_data_bytes(message.data) if type(message) is OutputMessage else 0
        if job is None:
            if cost:
                raise LocalProtocolError("OUTPUT must belong to a job that is under way")
            return None
        if not job.held and cost <= job.credit:
            job.credit -= cost
            return None
        job.held_bytes += cost
        if job.held_bytes > self._maximum_held_bytes:
            raise LocalProtocolError(f"at most {self._maximum_held_bytes} bytes of OUTPUT may wait for credit")
        job.held.append((message, cost))
        was_paused, job.is_paused = job.is_paused, True
        return not was_paused

    def grant(self, job_id: JobId, amount_bytes: int) -> tuple[list[SessionMessage], bool]:
        """Add to a job's credit: what may go now, and whether the producer, if paused, may go on.

        Credit for a job that is over came too late, and is nothing.
        """
        job = self._jobs.get(job_id)
        if job is None:
            return [], False
        job.credit += amount_bytes
        released: list[SessionMessage] = []
        while job.held and job.held[0][1] <= job.credit:
            message, cost = job.held.popleft()
            job.credit -= cost
            job.held_bytes -= cost
            released.append(message)
        may_resume = job.is_paused and not job.held
        if may_resume:
            job.is_paused = False
        return released, may_resume


class CreditAccount:
    """The buyer's side: what was granted and not used yet; a node that sends more breaks the protocol."""

    def __init__(self) -> None:
        self._remaining: dict[JobId, int] = {}

    def grant(self, job_id: JobId, amount_bytes: int) -> None:
        """CREDIT is on its way to the node."""
        self._remaining[job_id] = self._remaining.get(job_id, 0) + amount_bytes

    def use(self, message: OutputMessage) -> bool:
        """Take OUTPUT off the account; False if nothing was ever granted here: a job that is over, to be ignored.

        Raises:
            RemoteProtocolError: There is more of it than was granted.
        """
        remaining = self._remaining.get(message.job_id)
        if remaining is None:
            return False
        remaining -= count_data_bytes(message.data)
        if remaining < 0:
            raise RemoteProtocolError("the node sent more OUTPUT than was granted")
        self._remaining[message.job_id] = remaining
        return True

    def forget_job(self, job_id: JobId) -> None:
        """The job receives no more OUTPUT."""
        self._remaining.pop(job_id, None)

    def void(self) -> None:
        """The connection is gone, and with it every grant."""
        self._remaining.clear()
