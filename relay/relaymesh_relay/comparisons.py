"""Comparisons that clients have open (NIP-77), without I/O: which are there, what they may hold, and who waits.

A comparison is opened once, with a search that gathers its records, and then goes on in rounds, one message each way.
Rounds are worked off where stored events are read, in the same small steps; what they found comes back to `proceed`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.messages import NegentropyClose, NegentropyMessage, NegentropyOpen, NegentropyRequest
from relaymesh.units import Instant, Moment, Timestamp
from relaymesh_relay.connection import Connection
from relaymesh_relay.negentropy import Records, answer
from relaymesh_relay.settings import Negentropy
from relaymesh_relay.store import Reader, document_created_at, document_id

Readable = Callable[[bytes], bool]
"""Whether the client may know of a document."""

_NOT_OPEN: Final = "closed: no comparison of this name is open"
_OUT_OF_TURN: Final = "closed: a message must wait for the answer to the one before"


@dataclass(eq=False, slots=True)
class Comparison:
    """One comparison that is open.

    Args:
        connection: Whose it is.
        subscription_id: The client's name for it.
        used_at: When its client was last heard or answered.
        records: What the relay has, gathered when it was opened.
        counted: How many of them count towards those of all comparisons.
        is_answering: Whether a round is under way, so that it is not the client's turn.
        is_open: False once it was closed, refused or replaced.
    """

    connection: Connection
    subscription_id: str
    used_at: Instant
    records: Records = field(default_factory=Records)
    counted: int = 0
    is_answering: bool = True
    is_open: bool = True


@dataclass(eq=False, slots=True)
class Search:
    """What gathers a comparison's records, as `Reader.search` takes it."""

    wanted: Filter
    limit: int
    now: Timestamp
    readable: Readable | None


@dataclass(eq=False, slots=True)
class Round:
    """One message that is to be answered.

    Args:
        comparison: In which comparison.
        message: What the client sent.
        settings: The limits.
        search: What is gathered first; None once that was done.
        answer: What is answered; empty until then, or when it is refused.
        refusal: Why not, where it is refused.
        maximum_records: How many records there may be, where there were too many.
    """

    comparison: Comparison
    message: bytes
    settings: Negentropy
    search: Search | None = None
    answer: bytes = b""
    refusal: str | None = None
    maximum_records: int | None = None

    @property
    def connection(self) -> Connection:
        """Who waits."""
        return self.comparison.connection

    @property
    def is_wanted(self) -> bool:
        """False once the client closed the comparison or left."""
        return self.connection.is_open and self.comparison.is_open

    def steps(self, reader: Reader) -> Iterator[None]:
        """Work it off; after each step there may be a pause."""
        records = self.comparison.records
        if self.search is not None:
            yield from self._gather(reader, self.search)
            if len(records) > self.settings.records:
                self.maximum_records = self.settings.records
                self.refusal = f"blocked: more than {self.settings.records} events match; ask for fewer"
                return
        try:
            self.answer = yield from answer(records, self.message, self.settings.frame_bytes)
        except RemoteProtocolError as error:
            self.refusal = f"invalid: {error}"

    def _gather(self, reader: Reader, search: Search) -> Iterator[None]:
        records = self.comparison.records
        for piece in reader.search(search.wanted, search.limit, search.now, search.readable):
            for _, document in piece:
                records.add(document_created_at(document), bytes.fromhex(document_id(document).decode()))
            yield
        records.end()


class Comparisons:
    """All of them.

    Args:
        settings: The limits.
    """

    def __init__(self, settings: Negentropy) -> None:
        self._settings = settings
        self._open: dict[Comparison, None] = {}  # the longest unused first
        self._held = 0

    def adopt(self, settings: Negentropy) -> None:
        """Go by other limits from now on."""
        self._settings = settings

    def receive(
        self, connection: Connection, request: NegentropyRequest, now: Moment, readable: Readable | None
    ) -> list[Round]:
        """Take in a request; returns what is to be worked off for it, if anything."""
        match request:
            case NegentropyOpen():
                return self._begin(connection, request, now, readable)
            case NegentropyMessage(subscription_id, message):
                return self._go_on(connection, subscription_id, message, now)
            case NegentropyClose(subscription_id):
                self._end(connection.open_comparisons.get(subscription_id))
        return []

    def proceed(self, answered: Round, *, is_finished: bool) -> None:
        """Count what a round has gathered, and send its answer once it is finished."""
        comparison, settings = answered.comparison, self._settings
        if not answered.is_wanted:
            return
        self._held += len(comparison.records) - comparison.counted
        comparison.counted = len(comparison.records)
        if answered.refusal is not None:
            self.refuse(comparison, answered.refusal, answered.maximum_records)
        elif self._held > settings.records_together:
            self.refuse(comparison, "blocked: the relay compares as many events as it can; try again later")
        elif is_finished:
            comparison.is_answering = False
            comparison.connection.send(NegentropyMessage(comparison.subscription_id, answered.answer).to_text())

    def refuse(self, comparison: Comparison, reason: str, maximum_records: int | None = None) -> None:
        """End a comparison and say why."""
        self._end(comparison)
        comparison.connection.refuse_comparison(comparison.subscription_id, reason, maximum_records)

    def end_idle(self, now: Moment) -> list[Connection]:
        """End those whose client has had the turn for too long; returns whom that concerns."""
        ended: list[Connection] = []
        earliest = Instant(now.instant - self._settings.idle_seconds * 1_000_000)
        for comparison in list(self._open):
            if comparison.used_at > earliest:
                break
            if not comparison.is_answering:
                self.refuse(comparison, f"closed: nothing was said for {self._settings.idle_seconds} seconds")
                ended.append(comparison.connection)
        return ended

    def forget(self, connection: Connection) -> None:
        """End all comparisons of a client that is gone."""
        for comparison in list(connection.open_comparisons.values()):
            self._end(comparison)

    def _begin(
        self, connection: Connection, request: NegentropyOpen, now: Moment, readable: Readable | None
    ) -> list[Round]:
        settings, name = self._settings, request.subscription_id
        self._end(connection.open_comparisons.get(name))
        if not settings.enabled:
            connection.refuse_comparison(name, "blocked: this relay compares nothing by Negentropy")
            return []
        if len(connection.open_comparisons) >= settings.comparisons:
            reason = f"rate-limited: at most {settings.comparisons} comparisons may be open; close one first"
            connection.refuse_comparison(name, reason)
            return []
        comparison = Comparison(connection, name, now.instant)
        self._open[comparison] = None
        connection.open_comparisons[name] = comparison
        limit = settings.records + 1 if request.wanted.limit is None else request.wanted.limit
        search = Search(request.wanted, min(limit, settings.records + 1), now.timestamp, readable)
        return [Round(comparison, request.message, settings, search)]

    def _go_on(self, connection: Connection, subscription_id: str, message: bytes, now: Moment) -> list[Round]:
        comparison = connection.open_comparisons.get(subscription_id)
        if comparison is None:
            connection.refuse_comparison(subscription_id, _NOT_OPEN)
            return []
        if comparison.is_answering:
            self.refuse(comparison, _OUT_OF_TURN)
            return []
        comparison.is_answering = True
        comparison.used_at = now.instant
        self._open[comparison] = self._open.pop(comparison)
        return [Round(comparison, message, self._settings)]

    def _end(self, comparison: Comparison | None) -> None:
        if comparison is None:
            return
        comparison.is_open = False
        self._held -= comparison.counted
        self._open.pop(comparison, None)
        comparison.connection.open_comparisons.pop(comparison.subscription_id, None)
