"""The directory: an index of the market's live state, whatever kind, as relays deliver it (RM-01, "State").

There is no registry: whoever listens to relays has a directory of his own. Nothing that a peer publishes makes it
raise, roll back, grow without bound, or cost more than what changed.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

from relaymesh.market.candidate import Candidate
from relaymesh.market.columns_kept import KeptColumns
from relaymesh.market.expiry import ExpiryIndex
from relaymesh.market.policy import BALANCED, Policy
from relaymesh.market.request import BuyerRequest
from relaymesh.market.selection import Selection
from relaymesh.market.standing import Standing, Standings
from relaymesh.market.state import (
    ALL_OFFERS,
    ALL_ROUTERS,
    ALL_STAKES,
    STATE_KINDS,
    Address,
    Ignored,
    IgnoredEvent,
    LookupKey,
    State,
    address_of,
    end_of,
    machines_key,
    offer_key,
    read_state,
    sequence_of,
    subject_key,
)
from relaymesh.market.state_memory import EndedMemory, Entry, RelayNumbers, StateMemory
from relaymesh.nostr.event import EventId, PublicKey, VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.packed_event import unpack
from relaymesh.protocol.assertion import SignedAssertion
from relaymesh.protocol.codec import SignedOffer, SignedStatus
from relaymesh.protocol.fields import JobType
from relaymesh.protocol.manifest import SignedManifest
from relaymesh.protocol.router_announcement import ROUTER_LABEL, SignedRouterAnnouncement
from relaymesh.protocol.stake import SignedStake
from relaymesh.protocol.status import STATUS_LABEL
from relaymesh.units import Timestamp

MAXIMUM_NODES: Final = 200_000
MAXIMUM_EQUIVOCATIONS: Final = 64
MAXIMUM_LAST_IGNORED: Final = 32

KeyT = TypeVar("KeyT")
StateT = TypeVar("StateT", bound=State)

_NOTHING: Final[tuple[LookupKey, dict[Entry, None]]] = ((), {})


class Directory:
    """Live state of every kind in `STATE_KINDS`, fed event by event; the time is always an argument.

    Anti-rollback: for each author, kind and `d` a lower `seq` than the highest seen is refused, also after that one
    has expired; an equal one with equal content is a republication, with other content it is refused, and kept as
    evidence if it is an offer. State disappears at its `valid_until` or `expiration` by itself.

    Limits: at most `MAXIMUM_NODES` authors with so many pieces of state as their kinds allow, memory of
    `MAXIMUM_ENDED` that have ended, `MAXIMUM_EQUIVOCATIONS` pieces of evidence.
    """

    def __init__(self) -> None:
        self._entries: dict[Address, Entry] = {}
        self._by_event: dict[EventId, Entry] = {}
        self._memory = StateMemory()
        self._held: dict[tuple[PublicKey, int], int] = {}
        self._authors: dict[PublicKey, int] = {}
        self._index: dict[LookupKey, tuple[LookupKey, dict[Entry, None]]] = {}
        self._expiry: ExpiryIndex[Entry] = ExpiryIndex()
        self._ended = EndedMemory()
        self._equivocations: dict[Address, tuple[VerifiedEvent, VerifiedEvent]] = {}
        self._ignored: dict[Ignored, int] = dict.fromkeys(Ignored, 0)
        self._last_ignored: deque[IgnoredEvent] = deque(maxlen=MAXIMUM_LAST_IGNORED)
        self._relays = RelayNumbers()
        self._columns = KeptColumns(self._bucket, self._recall_offer)
        self._revision = 0

    def __len__(self) -> int:
        return len(self._bucket(ALL_OFFERS))

    @property
    def revision(self) -> int:
        """Grows whenever a piece of state comes, changes or goes."""
        return self._revision

    @property
    def ignored(self) -> Mapping[Ignored, int]:
        """How many events were ignored, by reason."""
        return MappingProxyType(self._ignored)

    @property
    def last_ignored(self) -> tuple[IgnoredEvent, ...]:
        """The events that were ignored last, each with what was wrong with it; the latest at the end."""
        return tuple(self._last_ignored)

    @property
    def equivocations(self) -> tuple[tuple[VerifiedEvent, VerifiedEvent], ...]:
        """Pairs of offers of one author with equal label and `seq` and different content, the one that counts first."""
        return tuple(self._equivocations.values())

    def apply(self, event: VerifiedEvent, relay_url: str, now: Timestamp) -> bool:
        """Take in a piece of state that a relay delivered; never raises on what it says.

        Returns:
            Whether the market changed. An event that is ignored is counted by its reason in `ignored`.
        """
        self.expire(now)
        if self.carried(event.id, relay_url):
            return False
        state = read_state(event, now)
        refusal = state if isinstance(state, tuple) else self._refuse(state)
        if refusal is not None:
            self._ignore(event, relay_url, *refusal)
            return False
        assert not isinstance(state, tuple)  # else it were the refusal, told to the type checker
        if end_of(state) <= now:
            self._ignore(event, relay_url, Ignored.EXPIRED, "")
            return self._supersede_by_expired(state)
        self._place(state, relay_url)
        return True

    def carried(self, event_id: EventId, relay_url: str) -> bool:
        """Note that a relay carries this event too; whether it is live here."""
        entry = self._by_event.get(event_id)
        if entry is None:
            return False
        number = self._relays.number_of(relay_url)
        if number not in entry.relays:
            entry.relays += number
        return True

    def offers(self, now: Timestamp) -> tuple[SignedOffer, ...]:
        """All live offers."""
        self.expire(now)
        return tuple(self._recall(entry, SignedOffer) for entry in self._bucket(ALL_OFFERS))

    def status(self, node: PublicKey, now: Timestamp) -> SignedStatus | None:
        """The node's live status, if any."""
        self.expire(now)
        return self._live_status(node)

    def manifests(self, author: PublicKey, now: Timestamp) -> tuple[SignedManifest, ...]:
        """What a node says about all of its machines."""
        self.expire(now)
        return tuple(self._recall(entry, SignedManifest) for entry in self._bucket(machines_key(author)))

    def routers(self, now: Timestamp) -> tuple[SignedRouterAnnouncement, ...]:
        """All live router announcements."""
        self.expire(now)
        return tuple(self._recall(entry, SignedRouterAnnouncement) for entry in self._bucket(ALL_ROUTERS))

    def stakes(self, now: Timestamp) -> tuple[SignedStake, ...]:
        """All live stake commitments."""
        self.expire(now)
        return tuple(self._recall(entry, SignedStake) for entry in self._bucket(ALL_STAKES))

    def assertions(self, subject: PublicKey, now: Timestamp) -> tuple[SignedAssertion, ...]:
        """What others assert about a key; costs what it returns."""
        self.expire(now)
        return tuple(self._recall(entry, SignedAssertion) for entry in self._bucket(subject_key(subject)))

    def candidates(self, model: str | None, job_type: JobType, now: Timestamp) -> tuple[Candidate, ...]:
        """Every live price for this model (None for any) and job type, statuses joined; costs what it returns."""
        self.expire(now)
        return tuple(
            Candidate(offer, row, self._live_status(offer.node))
            for offer in self._offers_for(model, job_type)
            for row in offer.offer.rows
            if job_type in row.job_types and model in (None, row.model)
        )

    def considered_ids(self, model: str | None, job_type: JobType, now: Timestamp) -> Iterator[EventId]:
        """The live offers that `select` looks at for this model and job type, and the live statuses of their nodes."""
        self.expire(now)
        for entry in self._bucket(offer_key(self._looked_at(model, job_type), job_type)):
            yield entry.event_id
            status = self._entries.get((entry.address[0], Kind.STATUS, STATUS_LABEL))
            if status is not None:
                yield status.event_id

    def address_of(self, event_id: EventId) -> Address | None:
        """Where this event stands; None if it is not live here."""
        entry = self._by_event.get(event_id)
        return None if entry is None else entry.address

    def relays_named_by(self, author: PublicKey) -> frozenset[str]:
        """The relays that an author's live offers and router announcement name as theirs."""
        named = {
            url for offer in self._columns.offers_of(author) for url in self._recall(offer, SignedOffer).offer.relays
        }
        router = self._find((author, Kind.ROUTER_ANNOUNCEMENT, ROUTER_LABEL), SignedRouterAnnouncement)
        return frozenset(named if router is None else named.union(router.announcement.relays))

    @property
    def live_events(self) -> int:
        """How many events are live, of all kinds."""
        return len(self._entries)

    def carried_by(self, relay_url: str) -> int:
        """How many of the live events this relay carried."""
        number = self._relays.number_of(relay_url)
        return sum(number in entry.relays for entry in self._entries.values())

    def relays_of(self, event_id: EventId) -> tuple[str, ...]:
        """Which relays carried this live event, in the order in which they did."""
        entry = self._by_event.get(event_id)
        return () if entry is None else self._relays.urls_of(entry.relays)

    def select(
        self, request: BuyerRequest, *, seed: bytes, count: int, now: Timestamp, policy: Policy = BALANCED
    ) -> Selection:
        """Choose from the columns what `relaymesh.market.selection.select` chooses from the candidates.

        Among those of the model that is asked for; where nobody offers that, among all of the job type, so that it can
        be told.
        """
        self.expire(now)
        columns = self._columns.columns_for(self._looked_at(request.model, request.job_type), request.job_type)
        return columns.select(request, seed=seed, count=count, now=now, policy=policy)

    def standing(self, node: PublicKey) -> Standing:
        """What is known about a node beyond its own words."""
        return self._columns.standing(node)

    def set_standing(self, node: PublicKey, standing: Standing) -> None:
        """Note what is now known about a node, for every choice from now on."""
        self._columns.set_standing(node, standing)

    def set_newcomer(self, standing: Standing) -> None:
        """Note what is held of every node of which nothing else is; costs what all of them cost."""
        self._columns.set_newcomer(standing)

    @property
    def standings(self) -> Standings:
        """What is known about nodes: all of whom anything is, and on asking whoever else as a newcomer."""
        return self._columns.standings

    def set_standings(self, standings: Standings) -> None:
        """Note what is now known about all nodes: nothing of those that are not in it."""
        self._columns.set_standings(standings)

    def expire(self, now: Timestamp) -> None:
        """Let go of what has ended; every question to the directory does so by itself."""
        for entry in self._expiry.pop_ended(now):
            self._ended.remember(entry.address, entry.sequence, unpack(entry.packed).content)
            self._remove(entry)

    # ── looking up ────────────────────────────────────────────────────────────────────────────────────────────────

    def _bucket(self, key: LookupKey) -> dict[Entry, None]:
        return self._index.get(key, _NOTHING)[1]

    def _looked_at(self, model: str | None, job_type: JobType) -> str | None:
        """The model whose prices are looked at; None for those of all."""
        return model if self._bucket(offer_key(model, job_type)) else None

    def _offers_for(self, model: str | None, job_type: JobType) -> Iterator[SignedOffer]:
        for entry in self._bucket(offer_key(model, job_type)):
            yield self._recall(entry, SignedOffer)

    def _find(self, address: Address, kind: type[StateT]) -> StateT | None:
        entry = self._entries.get(address)
        return None if entry is None else self._recall(entry, kind)

    def _recall(self, entry: Entry, kind: type[StateT]) -> StateT:
        state = self._memory.recall(entry)
        assert isinstance(state, kind)  # its address names its kind
        return state

    def _recall_offer(self, offer_id: EventId) -> tuple[SignedOffer, SignedStatus | None]:
        offer = self._recall(self._by_event[offer_id], SignedOffer)
        return offer, self._live_status(offer.node)

    def _live_status(self, node: PublicKey) -> SignedStatus | None:
        return self._find((node, Kind.STATUS, STATUS_LABEL), SignedStatus)

    # ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────

    def _ignore(self, event: VerifiedEvent, relay_url: str, reason: Ignored, detail: str) -> None:
        self._ignored[reason] += 1
        self._last_ignored.append(IgnoredEvent(event.id, event.public_key, event.kind, relay_url, reason, detail))

    def _refuse(self, state: State) -> tuple[Ignored, str] | None:
        address, sequence = address_of(state), sequence_of(state)
        entry = self._entries.get(address)
        if entry is not None:
            if sequence < entry.sequence:
                return Ignored.ROLLED_BACK, ""
            return self._refuse_equal(entry, state) if sequence == entry.sequence else None
        reason = self._ended.refuse(address, sequence, state.event.content)
        if reason is not None:
            return reason, ""
        return (Ignored.FULL, "") if self._is_full_for(address) else None

    def _refuse_equal(self, entry: Entry, state: State) -> tuple[Ignored, str] | None:
        known = unpack(entry.packed)
        if known.content != state.event.content:
            if isinstance(state, SignedOffer) and len(self._equivocations) < MAXIMUM_EQUIVOCATIONS:
                self._equivocations.setdefault(entry.address, (known, state.event))
            return Ignored.EQUIVOCATION, ""
        return None if _precedence(state.event) > _precedence(known) else (Ignored.ROLLED_BACK, "")

    def _is_full_for(self, address: Address) -> bool:
        author, kind, _ = address
        if author not in self._authors:
            return len(self._authors) >= MAXIMUM_NODES
        return self._held.get((author, kind), 0) >= STATE_KINDS[kind].most_per_author

    # ── what is kept ──────────────────────────────────────────────────────────────────────────────────────────────

    def _supersede_by_expired(self, state: State) -> bool:
        # It says nothing any more, but what it replaced must not come back through a relay that withheld it.
        address = address_of(state)
        entry = self._entries.get(address)
        if entry is not None:
            self._remove(entry)
        self._ended.remember(address, sequence_of(state), state.event.content)
        return entry is not None

    def _place(self, state: State, relay_url: str) -> None:
        self._revision += 1
        address = address_of(state)
        entry = self._entries.get(address)
        if entry is None:
            entry = self._entries[address] = Entry(address)
            self._count(address, 1)
        else:
            self._unlink(entry)
        self._memory.keep(entry, state)
        entry.relays = self._relays.number_of(relay_url)
        self._by_event[entry.event_id] = entry
        self._expiry.schedule(entry, entry.ends_at)
        entry.lookup_keys = tuple(self._lookup(key, entry) for key in STATE_KINDS[address[1]].lookup_keys(state))
        self._columns.placed(entry, state)

    def _lookup(self, key: LookupKey, entry: Entry) -> LookupKey:
        """Let an entry be looked up by a key; returns the one key that stands for all that equal it."""
        key, entries = self._index.setdefault(key, (key, {}))
        entries[entry] = None
        return key

    def _unlink(self, entry: Entry) -> None:
        """Take what stands in an entry out of every index."""
        self._columns.removed(entry)
        del self._by_event[entry.event_id]
        for key in entry.lookup_keys:
            _, entries = self._index[key]
            del entries[entry]
            if not entries:
                del self._index[key]

    def _remove(self, entry: Entry) -> None:
        self._revision += 1
        self._unlink(entry)
        del self._entries[entry.address]
        self._expiry.cancel(entry)
        self._count(entry.address, -1)
        self._memory.forget(entry)
        if entry.address[1] == Kind.STATUS:
            self._columns.status_ended(entry.address[0])

    def _count(self, address: Address, change: int) -> None:
        author, kind, _ = address
        _add(self._held, (author, kind), change)
        _add(self._authors, author, change)


def _add(counts: dict[KeyT, int], key: KeyT, change: int) -> None:
    counts[key] = counts.get(key, 0) + change
    if not counts[key]:
        del counts[key]


def _precedence(event: VerifiedEvent) -> tuple[int, int]:
    # As relays keep addressable events: the later one, of equals the one with the lowest id (NIP-01).
    return event.created_at, -int(event.id, 16)
