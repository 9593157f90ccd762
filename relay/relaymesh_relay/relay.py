"""The relay itself, without I/O: events in, answers and live deliveries out.

An event passes these stages: shape (`connection`) → id → known id → policies → standing and signature (`checked`) →
live delivery → the store (`written`) → OK. Between stages it waits in a queue that whoever drives the relay takes as
one batch: `take_unchecked`, `take_unwritten`, `take_reads`. Nothing here waits, and no stage needs another's thread.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from relaymesh.nostr.event import Event, EventId
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import has_valid_id
from relaymesh.nostr.kinds import is_ephemeral
from relaymesh.nostr.messages import CountResult, EndOfStoredEvents, EventMessage, NegentropyOpen, NegentropyRequest
from relaymesh.nostr.tags import Address, read_expiration
from relaymesh.units import Moment, Timestamp
from relaymesh_relay.comparisons import Comparisons, Round
from relaymesh_relay.connection import Compare, Connection, Count, Subscribe, Unsubscribe
from relaymesh_relay.counts import Counts
from relaymesh_relay.policies import (
    PRIVATE_KINDS,
    Offered,
    may_find_private,
    may_read,
    may_read_document,
    refusal,
    refuse_events,
    stock_policies,
)
from relaymesh_relay.rates import Buckets
from relaymesh_relay.settings import Settings
from relaymesh_relay.store import DELETION_KIND, VANISH_KIND, Record, Standing, document_id, to_document
from relaymesh_relay.subscriptions import Subscription, SubscriptionIndex

IDS_REMEMBERED: Final = 65_536
EVENTS_WAITING_AT_MOST: Final = 50_000
HELD_AT_MOST: Final = 1_000
_NO_LIMIT: Final = 2**62
_UNREADABLE: Final = "error: stored events could not be read; try again later"

_ANSWERS: Final = {
    Standing.FRESH: (True, ""),
    Standing.KNOWN: (True, "duplicate: this event is stored already"),
    Standing.SUPERSEDED: (False, "duplicate: a newer version of this event is stored"),
    Standing.DELETED: (False, "blocked: its author asked for this event's deletion"),
    Standing.BANNED: (False, "blocked: this event or its author is banned here"),
    Standing.VANISHED: (False, "blocked: its author or recipient asked to vanish from here"),
    Standing.FORGED: (False, "invalid: the signature was not made by the event's author"),
}


@dataclass(eq=False, slots=True)
class Submission:
    """An event on its way through the stages, and who waits for the answer.

    Args:
        event: Well-formed, its id right.
        askers: The connections that sent it, once for each time they did.
        document: What is stored and delivered; empty until the signature is checked.
    """

    event: Event
    askers: list[Connection]
    document: bytes = b""

    @property
    def record(self) -> Record:
        """What the store keeps."""
        return Record(self.event, self.document)


@dataclass(eq=False, slots=True)
class Read:
    """A question to the store: the stored part of a subscription, or a count.

    Args:
        connection: Who asks.
        subscription_id: Under which name.
        searches: Each filter and how many events it may bring.
        now: When it was asked; what had expired by then is not found.
        readable: Whether the client may read a document; None lets it read all.
        subscription: Where live events are held meanwhile; None for a count.
        hint: `finish` once all was found that matches, `more` when something was left out (NIP-67); empty: not known.
    """

    connection: Connection
    subscription_id: str
    searches: tuple[tuple[Filter, int], ...]
    now: Timestamp
    readable: Callable[[bytes], bool] | None
    subscription: Subscription | None = None
    hint: str = ""

    @property
    def is_wanted(self) -> bool:
        """False once the client closed the subscription or left."""
        return self.connection.is_open and (self.subscription is None or self.subscription.is_open)


class Relay:
    """Everything that is decided, for all connections."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._policies = stock_policies(settings)
        self._index = SubscriptionIndex()
        self._address_rates = Buckets(settings.rates.address_events_per_second, settings.rates.address_events_burst)
        self._known: dict[EventId, None] = {}  # the latest ids that are stored, oldest first
        self._waiting: dict[tuple[EventId, str], Submission] = {}  # by id and signature: an id alone proves no author
        self._waiting_count = 0
        self._storing: dict[Submission, None] = {}
        self._unchecked: list[Submission] = []
        self._unwritten: list[Submission] = []
        self._reads: list[Read] = []
        self._rounds: list[Round] = []
        self._comparisons = Comparisons(settings.negentropy)
        self._touched: dict[Connection, None] = {}
        self.counts = Counts()
        """What happened since the start."""
        self.subscription_count = 0
        """Open subscriptions, over all connections."""

    def adopt(self, settings: Settings, banned_events: Collection[str] = ()) -> None:
        """Decide by other settings from now on, and take none of these events (NIP-86)."""
        self._known.clear()  # some of what was stored may have been banned
        if settings.rates != self._settings.rates:
            self._address_rates = Buckets(settings.rates.address_events_per_second, settings.rates.address_events_burst)
        self._settings = settings
        self._comparisons.adopt(settings.negentropy)
        self._policies = (refuse_events(banned_events), *stock_policies(settings))

    def receive(self, connection: Connection, text: bytes, now: Moment) -> None:
        """Take in one message of a client."""
        for effect in connection.receive(text, now):
            match effect:
                case EventMessage(event):
                    self._submit(connection, event, now)
                case Subscribe(subscription_id, filters):
                    self._subscribe(connection, subscription_id, filters, now)
                case Count(subscription_id, filters):
                    self._count(connection, subscription_id, filters, now)
                case Unsubscribe(subscription_id):
                    self._unsubscribe(connection, subscription_id)
                case Compare(request):
                    self._rounds += self._comparisons.receive(
                        connection, request, now, self._readable(connection, _filters(request))
                    )
                case _:
                    assert_never(effect)
        if connection.outgoing:
            self._touched[connection] = None

    def disconnect(self, connection: Connection) -> None:
        """Forget a connection that is gone."""
        connection.is_open = False
        for subscription_id in list(connection.open_subscriptions):
            self._unsubscribe(connection, subscription_id)
        self._comparisons.forget(connection)
        self._touched.pop(connection, None)

    @property
    def is_idle(self) -> bool:
        """Whether every event that came has been answered."""
        return not self._waiting_count

    @property
    def events_waiting(self) -> int:
        """Events that came and have not been answered."""
        return self._waiting_count

    def touch(self, connection: Connection) -> None:
        """Have a connection looked after at the end of this turn, though it may have nothing to send."""
        if connection.is_open:
            self._touched[connection] = None

    def take_touched(self) -> list[Connection]:
        """The connections that have something to send."""
        touched, self._touched = self._touched, {}
        return list(touched)

    def take_unchecked(self) -> list[Submission]:
        """Events whose standing and signature are to be checked; answer with `checked`."""
        unchecked, self._unchecked = self._unchecked, []
        return unchecked

    def take_unwritten(self) -> list[Submission]:
        """Events that are to be stored; answer with `written`."""
        unwritten, self._unwritten = self._unwritten, []
        return unwritten

    def take_reads(self) -> list[Read]:
        """Questions to the store; answer with `found` until it is finished, or with `counted`, or with `failed`."""
        reads, self._reads = self._reads, []
        return reads

    def take_rounds(self) -> list[Round]:
        """Messages of comparisons; answer with `compared` until it is finished, or with `failed`."""
        rounds, self._rounds = self._rounds, []
        return rounds

    def checked(self, submissions: Sequence[Submission], standings: Sequence[Standing]) -> None:
        """Deliver what is fresh to those who listen, and pass it on to the store."""
        for submission, standing in zip(submissions, standings, strict=True):
            if standing is not Standing.FRESH:
                self._settle(submission, standing)
                continue
            submission.document = to_document(submission.event)
            listeners = self._deliver(submission)
            if not is_ephemeral(submission.event.kind):
                self._unwritten.append(submission)
                self._storing[submission] = None
            elif listeners or not self._settings.access.mute_unheard:
                self.counts.outcomes["ephemeral"] += 1
                self._answer(submission, True, "")
            else:
                self._answer(submission, False, "mute: no one was listening")

    def written(self, submissions: Sequence[Submission], standings: Sequence[Standing] | None) -> None:
        """Answer events that were stored, durably; None says that none of them could be."""
        for position, submission in enumerate(submissions):
            del self._storing[submission]
            if standings is None:
                self._answer(submission, False, "error: the event could not be stored; try again later")
            else:
                if standings[position] is Standing.FRESH:
                    self.counts.outcomes["stored"] += 1
                    self._remember(submission.event)
                self._settle(submission, standings[position])

    def found(self, read: Read, documents: Sequence[bytes], *, is_finished: bool) -> None:
        """Send some of what a subscription asked for, and the end of it once it is finished."""
        subscription = read.subscription
        if subscription is None or not read.is_wanted:
            return
        connection, held = read.connection, subscription.held
        connection.outgoing.extend(map(subscription.event_message, documents))
        if held:
            for document in documents:
                held.pop(document_id(document), None)
        if is_finished:
            hints = (read.hint,) if read.hint else ()
            connection.send(EndOfStoredEvents(subscription.id, hints).to_text())
            connection.outgoing.extend(map(subscription.event_message, (held or {}).values()))
            subscription.held = None
        self._touched[connection] = None

    def counted(self, read: Read, count: int) -> None:
        """Answer a COUNT (NIP-45)."""
        if not read.connection.is_open:
            return
        read.connection.send(CountResult(read.subscription_id, count).to_text())
        self._touched[read.connection] = None

    def compared(self, read: Round, *, is_finished: bool) -> None:
        """Send the answer to one message of a comparison, once it is finished (NIP-77)."""
        self._comparisons.proceed(read, is_finished=is_finished)
        self.touch(read.connection)

    def end_idle_comparisons(self, now: Moment) -> None:
        """Let go of comparisons whose client says nothing more."""
        for connection in self._comparisons.end_idle(now):
            self.touch(connection)

    def failed(self, read: Read | Round) -> None:
        """End a subscription, a count or a comparison that the store could not serve."""
        if not read.is_wanted:
            return
        if isinstance(read, Round):
            self._comparisons.refuse(read.comparison, _UNREADABLE)
        else:
            self._unsubscribe(read.connection, read.subscription_id)
            read.connection.close(read.subscription_id, _UNREADABLE)
        self._touched[read.connection] = None

    def _submit(self, connection: Connection, event: Event, now: Moment) -> None:
        if not has_valid_id(event):
            connection.answer(event.id, False, "invalid: the id is not the hash of the event")
        elif event.id in self._known:
            connection.answer(event.id, *_ANSWERS[Standing.KNOWN])
        elif not connection.is_exempt and not self._address_rates.take(connection.address, now.instant):
            connection.answer(event.id, False, "rate-limited: too many events from this address; slow down")
        elif self._waiting_count >= EVENTS_WAITING_AT_MOST:
            connection.answer(event.id, False, "error: too many events are waiting; try again later")
        else:
            reason = refusal(self._policies, Offered(event, connection.authors, now.timestamp))
            if reason is not None:
                connection.answer(event.id, False, reason)
            else:
                self._enqueue(connection, event)

    def _enqueue(self, connection: Connection, event: Event) -> None:
        connection.pending += 1
        self._waiting_count += 1
        submission = Submission(event, [connection])
        if not is_ephemeral(event.kind):  # the same conversation may be repeated; the same record is stored once
            waiting = self._waiting.setdefault((event.id, event.signature), submission)
            if waiting is not submission:
                waiting.askers.append(connection)
                return
        self._unchecked.append(submission)

    def _settle(self, submission: Submission, standing: Standing) -> None:
        self._answer(submission, *_ANSWERS[standing])

    def _answer(self, submission: Submission, accepted: bool, message: str) -> None:
        event = submission.event
        self._waiting.pop((event.id, event.signature), None)
        self._waiting_count -= len(submission.askers)
        for connection in submission.askers:
            connection.pending -= 1
            connection.answer(event.id, accepted, message)
            self.touch(connection)

    def _remember(self, event: Event) -> None:
        """Keep the id of an event that stays stored, so that a duplicate of it costs no look into the store."""
        if event.kind == VANISH_KIND:  # whose the ids are is not known here
            self._known.clear()
        if event.kind == DELETION_KIND:
            for event_id in event.tag_values("e"):
                self._known.pop(EventId(event_id), None)
        if Address.from_event(event) is not None or read_expiration(event) is not None:
            return
        if len(self._known) >= IDS_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[event.id] = None

    def _deliver(self, submission: Submission) -> int:
        """Send a fresh event to whoever asked for such; returns how many did."""
        event, document = submission.event, submission.document
        is_private = self._settings.access.private_to_recipients and event.kind in PRIVATE_KINDS
        listeners = 0
        for subscription in self._index.matching(event):
            connection = subscription.connection
            if is_private and not may_read(event, connection.authors):
                continue
            listeners += 1
            if subscription.held is not None and len(subscription.held) < HELD_AT_MOST:
                subscription.held[document_id(document)] = document
            else:
                connection.outgoing.append(subscription.event_message(document))
                self._touched[connection] = None
        self.counts.deliveries += listeners
        return listeners

    def _subscribe(
        self, connection: Connection, subscription_id: str, filters: tuple[Filter, ...], now: Moment
    ) -> None:
        self._unsubscribe(connection, subscription_id)
        self.counts.requests["REQ"] += 1
        self.subscription_count += 1
        readable = self._readable(connection, filters)
        subscription = Subscription(connection, subscription_id, filters)
        connection.open_subscriptions[subscription_id] = subscription
        self._index.add(subscription)
        held = subscription.held = {}
        # Delivered a moment ago and not stored yet: such an event would be found neither live nor in the store.
        for submission in self._storing:
            if subscription.asks_for(submission.event) and (readable is None or readable(submission.document)):
                held[document_id(submission.document)] = submission.document
        limits = self._settings.limits
        searches = tuple(
            (wanted, min(limits.limit, limits.default_limit if wanted.limit is None else wanted.limit))
            for wanted in filters
        )
        self._reads.append(Read(connection, subscription_id, searches, now.timestamp, readable, subscription))

    def _count(self, connection: Connection, subscription_id: str, filters: tuple[Filter, ...], now: Moment) -> None:
        self.counts.requests["COUNT"] += 1
        searches = tuple((wanted, _NO_LIMIT) for wanted in filters)
        readable = self._readable(connection, filters)
        self._reads.append(Read(connection, subscription_id, searches, now.timestamp, readable))

    def _readable(self, connection: Connection, filters: Sequence[Filter]) -> Callable[[bytes], bool] | None:
        """What says whether the client may read a document; None where the filters find nothing private."""
        if not self._settings.access.private_to_recipients or not any(map(may_find_private, filters)):
            return None
        authors = connection.authors
        return lambda document: may_read_document(document, authors)

    def _unsubscribe(self, connection: Connection, subscription_id: str) -> None:
        subscription = connection.open_subscriptions.pop(subscription_id, None)
        if subscription is not None:
            subscription.is_open = False
            self.subscription_count -= 1
            self._index.remove(subscription)


def _filters(request: NegentropyRequest) -> tuple[Filter, ...]:
    return (request.wanted,) if isinstance(request, NegentropyOpen) else ()
