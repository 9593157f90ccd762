"""What joins the relay to its threads: one checks, one writes, one reads; the relay itself stays in the loop's thread.

After each turn of the loop `pump` hands over what has gathered, as batches; a result comes back through `post`. An
event that comes alone is checked on the spot, since a thread would only add to its latency.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, TypeVar

from relaymesh.nostr.event import Event
from relaymesh.nostr.keys import is_valid_signature
from relaymesh.nostr.kinds import is_ephemeral
from relaymesh.units import Timestamp
from relaymesh_relay.comparisons import Round
from relaymesh_relay.connection import Connection
from relaymesh_relay.moderation import Change
from relaymesh_relay.relay import Read, Relay, Submission
from relaymesh_relay.store import VANISH_KIND, Reader, Standing, StorageError, Store, Writer
from relaymesh_relay.worker import Worker

CHECKED_AT_ONCE: Final = 64
WRITTEN_AT_ONCE: Final = 512
EXPIRED_AT_ONCE: Final = 500
VANISHED_AT_ONCE: Final = 500
LOOKED_ON_AT_MOST: Final = 2
READ_BYTES_AT_ONCE: Final = 256 * 1024
READ_SECONDS_AT_ONCE: Final = 0.010

DoorT = TypeVar("DoorT")
Post = Callable[..., object]
"""Calls a function with arguments in the loop's thread, from any thread."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Remove what has expired by `now` (NIP-40)."""

    now: Timestamp


@dataclass(frozen=True, slots=True)
class Vanish:
    """Go on removing what requests to vanish ask for (NIP-62)."""


@dataclass(eq=False, slots=True)
class Errand(Generic[DoorT]):
    """Something that a thread does between its usual work.

    Args:
        work: Called in the thread with its door to the store; returns whether there is more of it to do.
        done: Called in the loop's thread when nothing is left to do, with the failure or None.
    """

    work: Callable[[DoorT], bool]
    done: Callable[[StorageError | None], object]


@dataclass(eq=False, slots=True)
class Ongoing:
    """A read that is being answered, piece by piece; a round of a comparison brings nothing but pauses."""

    read: Read | Round
    pieces_left: Iterator[Sequence[bytes]]
    count: int = field(default=0)


class Pipeline:
    """The relay's threads.

    Args:
        relay: Where work comes from and results go.
        store: Opened here, once for each thread.
        post: Calls back in the loop's thread.
        broken: Called in the loop's thread when one of the threads came to an end by a fault of ours.
    """

    def __init__(self, relay: Relay, store: Store, post: Post, broken: Callable[[], object]) -> None:
        self._relay = relay
        self._post = post
        self._writer = store.open_writer()
        self._own_reader, self._check_reader, self._read_reader = (store.open_reader() for _ in range(3))
        ended = partial(post, broken)
        self._checks: Worker[Submission] = Worker("relay-check", self._check, CHECKED_AT_ONCE, ended)
        self._writes: Worker[Submission | Sweep | Vanish | Errand[Writer]] = Worker(
            "relay-write", self._write, WRITTEN_AT_ONCE, ended
        )
        self._reads: Worker[Ongoing | Errand[Reader]] = Worker("relay-read", self._read, 1, ended)
        self._checking = 0
        self._queued_reads: dict[Connection, deque[Ongoing]] = {}
        self._being_read: set[Connection] = set()
        self._congested: set[Connection] = set()

    def start(self) -> None:
        """Start the threads; `close` must follow."""
        for worker in (self._checks, self._writes, self._reads):
            worker.start()

    def close(self) -> None:
        """End the threads and write everything into the main file; what has not been answered is left undone."""
        for worker in (self._checks, self._writes, self._reads):
            worker.close()
        for reader in (self._own_reader, self._check_reader, self._read_reader):
            reader.close()
        self._writer.close()

    def pump(self) -> list[Connection]:
        """Hand over what has gathered; returns the connections that have something to send."""
        submissions = self._relay.take_unchecked()
        if len(submissions) == 1 and not self._checking:
            self._relay.checked(submissions, [check(self._own_reader, submissions[0].event)])
        else:
            self._checking += len(submissions)
            for start in range(0, len(submissions), CHECKED_AT_ONCE):
                self._checks.put(submissions[start : start + CHECKED_AT_ONCE])
        unwritten = self._relay.take_unwritten()
        for start in range(0, len(unwritten), WRITTEN_AT_ONCE):
            self._writes.put([*unwritten[start : start + WRITTEN_AT_ONCE]])
        for read in self._relay.take_reads():
            self._enqueue(Ongoing(read, _pieces(self._read_reader, read)))
        for each in self._relay.take_rounds():
            self._enqueue(Ongoing(each, (() for _ in each.steps(self._read_reader))))
        return self._relay.take_touched()

    def sweep(self, now: Timestamp) -> None:
        """Have expired events removed, and what is left of those who vanished."""
        self._writes.put([Sweep(now), Vanish()])

    def do(self, errand: Errand[Writer]) -> None:
        """Have the writer do something else when its turn comes; it sees all that was put before."""
        self._writes.put([errand])

    def probe(self, answer: Callable[[str | None], object]) -> None:
        """Try to store something durably and then to read it; `answer` takes why it failed, or None."""

        def stored(failure: StorageError | None) -> None:
            if failure is not None:
                answer(f"events cannot be stored: {failure}")
            else:
                self._reads.put([Errand(lambda reader: reader.probe(), found)])

        def found(failure: StorageError | None) -> None:
            answer(None if failure is None else f"events cannot be read: {failure}")

        self.do(Errand(lambda writer: writer.probe(), stored))

    def why_stuck(self, seconds: float) -> str | None:
        """Which of the threads has ended, or has had one batch in hand for longer than this; None if none has."""
        for worker in (self._checks, self._writes, self._reads):
            if not worker.is_alive:
                return f"the thread {worker.name} has ended"
            if worker.busy_seconds > seconds:
                return f"the thread {worker.name} has been at one batch for longer than {seconds:g} seconds"
        return None

    @property
    def reads_waiting(self) -> int:
        """Questions that wait for their turn or are being answered."""
        return sum(map(len, self._queued_reads.values())) + len(self._being_read)

    @property
    def stored_events(self) -> int:
        """How many events are in the store."""
        return self._writer.stored_events

    def decisions(self) -> tuple[Change, ...]:
        """What administrators had decided when the relay started; to be asked before `start`."""
        return self._writer.decisions()

    def hold_back(self, connection: Connection) -> None:
        """Read nothing more for a client until it has taken what it was sent."""
        self._congested.add(connection)

    def resume(self, connection: Connection) -> None:
        """Go on with what was held back."""
        self._congested.discard(connection)
        self._read_next(connection)

    def forget(self, connection: Connection) -> None:
        """Read nothing more for a client that is gone."""
        self._congested.discard(connection)
        self._queued_reads.pop(connection, None)

    def _check(self, batch: list[Submission]) -> None:
        self._post(self._checked, batch, [check(self._check_reader, submission.event) for submission in batch])

    def _checked(self, batch: list[Submission], standings: list[Standing]) -> None:
        self._checking -= len(batch)
        self._relay.checked(batch, standings)

    def _write(self, batch: list[Submission | Sweep | Vanish | Errand[Writer]]) -> None:
        submissions = [job for job in batch if isinstance(job, Submission)]
        if submissions:
            self._write_events(submissions)
        for job in batch:
            if isinstance(job, Sweep):
                self._remove_expired(job.now)
            elif isinstance(job, Vanish):
                self._remove_vanished()
            elif isinstance(job, Errand):
                self._run_errand(job, self._writer, self._writes)

    def _write_events(self, submissions: list[Submission]) -> None:
        standings: list[Standing] | None
        begun = time.monotonic()
        try:
            standings = self._writer.write([submission.record for submission in submissions])
        except StorageError:
            standings = None
        counts = self._relay.counts
        counts.commit_seconds.add(time.monotonic() - begun)
        counts.batch_events.add(len(submissions))
        if any(submission.event.kind == VANISH_KIND for submission in submissions):
            self._remove_vanished()
        self._post(self._relay.written, submissions, standings)

    def _run_errand(self, errand: Errand[DoorT], door: DoorT, worker: Worker[Any]) -> None:
        try:
            has_more = errand.work(door)
        except StorageError as failure:
            self._post(errand.done, failure)
        else:
            if has_more:
                worker.put([errand])
            else:
                self._post(errand.done, None)

    def _remove_vanished(self) -> None:
        """Before the request is answered, so that whoever wrote little is gone by then."""
        try:
            if self._writer.remove_vanished(VANISHED_AT_ONCE):
                self._writes.put([Vanish()])
        except StorageError:  # the next sweep tries again
            return

    def _remove_expired(self, now: Timestamp) -> None:
        try:
            removed = self._writer.remove_expired(now, EXPIRED_AT_ONCE)
        except StorageError:  # the next sweep tries again
            return
        if removed == EXPIRED_AT_ONCE:
            self._writes.put([Sweep(now)])

    def _read(self, batch: list[Ongoing | Errand[Reader]]) -> None:
        for ongoing in batch:
            if isinstance(ongoing, Errand):
                self._run_errand(ongoing, self._read_reader, self._reads)
                continue
            try:
                documents, is_finished = _take_some(ongoing)
            except StorageError:
                self._post(self._failed, ongoing)
            else:
                self._post(self._found, ongoing, documents, is_finished)

    def _found(self, ongoing: Ongoing, documents: Sequence[bytes], is_finished: bool) -> None:
        read = ongoing.read
        if isinstance(read, Round):
            self._relay.compared(read, is_finished=is_finished)
        elif read.subscription is not None:
            self._relay.found(read, documents, is_finished=is_finished)
        elif is_finished:
            self._relay.counted(read, ongoing.count)
        if is_finished:
            self._end(read)
        else:
            self._queued_reads.setdefault(read.connection, deque()).appendleft(ongoing)
        self._being_read.discard(read.connection)
        self._read_next(read.connection)

    def _failed(self, ongoing: Ongoing) -> None:
        self._relay.failed(ongoing.read)
        self._end(ongoing.read)
        self._being_read.discard(ongoing.read.connection)
        self._read_next(ongoing.read.connection)

    def _enqueue(self, ongoing: Ongoing) -> None:
        connection = ongoing.read.connection
        connection.pending += 1
        self._queued_reads.setdefault(connection, deque()).append(ongoing)
        self._read_next(connection)

    def _end(self, read: Read | Round) -> None:
        read.connection.pending -= 1
        self._relay.touch(read.connection)

    def _read_next(self, connection: Connection) -> None:
        """Read for a connection, one answer after the other, piece by piece, unless it does not take what it was sent.

        Connections take turns; within one they do not, since every answer that was begun holds documents in memory.
        """
        if connection in self._congested or connection in self._being_read:
            return
        queue = self._queued_reads.get(connection)
        while queue:
            ongoing = queue.popleft()
            if ongoing.read.is_wanted:
                self._being_read.add(connection)
                self._reads.put([ongoing])
                break
            self._end(ongoing.read)
        if queue is not None and not queue:
            del self._queued_reads[connection]


def check(reader: Reader, event: Event) -> Standing:
    """How an event stands to what is kept, and whether its author signed it; the cheaper question first."""
    if not is_ephemeral(event.kind):
        try:
            standing = reader.standing(event)
        except StorageError:  # the writer asks again, and answers if it cannot either
            standing = Standing.FRESH
        if standing is not Standing.FRESH:
            return standing
    is_valid = is_valid_signature(event.public_key, bytes.fromhex(event.id), bytes.fromhex(event.signature))
    return Standing.FRESH if is_valid else Standing.FORGED


def _pieces(reader: Reader, read: Read) -> Iterator[Sequence[bytes]]:
    """What answers any of the filters, filter by filter, each event once; between pieces there may be a pause.

    Each filter is asked for one event more than it may bring, so that the read can say whether that was all (NIP-67);
    where the next one does not turn up soon, nobody waits for it and nothing is said.
    """
    sent: set[int] = set()
    left_out: set[int] = set()
    is_known, is_only_filter = True, len(read.searches) == 1
    for wanted, limit in read.searches:
        is_known &= limit > 0
        left, looked_on = limit, 0
        for piece in reader.search(wanted, limit + 1 if limit else 0, read.now, read.readable):
            left_out.update(found.sequence for found in piece[left:])
            if is_only_filter:
                yield [found.document for found in piece[:left]]
            else:
                yield [found.document for found in piece[:left] if found.sequence not in sent]
                sent.update(found.sequence for found in piece[:left])
            left = max(0, left - len(piece))
            looked_on += not left
            if looked_on > LOOKED_ON_AT_MOST:
                is_known = False
                break
    if left_out - sent:
        read.hint = "more"
    elif is_known and not left_out:
        read.hint = "finish"


def _take_some(ongoing: Ongoing) -> tuple[list[bytes], bool]:
    """The next part of an answer, and whether it is the last."""
    documents: list[bytes] = []
    size = 0
    is_counted = isinstance(ongoing.read, Round) or ongoing.read.subscription is None
    until = time.monotonic() + READ_SECONDS_AT_ONCE
    for piece in ongoing.pieces_left:
        if not ongoing.read.is_wanted:
            break
        if is_counted:
            ongoing.count += len(piece)
        else:
            documents += piece
            size += sum(map(len, piece))
        if size >= READ_BYTES_AT_ONCE or time.monotonic() > until:
            return documents, False
    return documents, True
