"""The directory: an index of the market's live state, offers and statuses, as relays deliver it (RM-01, "State").

There is no registry: whoever listens to relays has a directory of his own. Nothing that a peer publishes makes it
raise, roll back, grow without bound, or cost more than what changed.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from relaymesh.errors import RemoteProtocolError
from relaymesh.market.candidate import Candidate
from relaymesh.market.expiry import ExpiryIndex
from relaymesh.nostr.event import EventId, PublicKey, VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.tags import read_expiration
from relaymesh.protocol.codec import (
    STATE_FUTURE_SECONDS,
    SignedOffer,
    SignedStatus,
    read_offer,
    read_status,
)
from relaymesh.protocol.fields import JobType
from relaymesh.protocol.status import STATUS_LABEL
from relaymesh.units import Timestamp

MAXIMUM_NODES: Final = 200_000
MAXIMUM_OFFERS_PER_NODE: Final = 64
MAXIMUM_REMEMBERED_SEQUENCES: Final = 200_000
MAXIMUM_EQUIVOCATIONS: Final = 64

Address = tuple[PublicKey, int, str]
"""Author, kind and `d`: what one piece of addressable state is known by (NIP-01)."""


class Ignored(Enum):
    """Why an event left the directory as it was."""

    OTHER_KIND = "not a kind the directory keeps"
    INVALID = "not a valid offer or status"
    EXPIRED = "expired"
    FROM_THE_FUTURE = "from the future"
    ROLLED_BACK = "older than what is known"
    EQUIVOCATION = "the same seq with other content"
    FULL = "no room"


@dataclass(slots=True)
class _Entry:
    state: SignedOffer | SignedStatus
    relays: dict[str, None]

    @property
    def sequence(self) -> int:
        return _sequence(self.state)


class Directory:
    """Live offers and statuses, fed event by event; the time is always an argument.

    Anti-rollback: for each author, kind and label a lower `seq` than the highest seen is refused, also after that one
    has expired; an equal one with equal content is a republication, with other content it is refused, and kept as
    evidence if it is an offer. State disappears at its `valid_until` or `expiration` by itself.

    Limits: at most `MAXIMUM_NODES` nodes with `MAXIMUM_OFFERS_PER_NODE` offers each, memory of
    `MAXIMUM_REMEMBERED_SEQUENCES` expired ones, `MAXIMUM_EQUIVOCATIONS` pieces of evidence.
    """

    def __init__(self) -> None:
        self._entries: dict[Address, _Entry] = {}
        self._addresses: dict[EventId, Address] = {}
        self._offers_of: dict[PublicKey, int] = {}
        self._index: dict[tuple[str | None, JobType | None], dict[EventId, SignedOffer]] = {}
        self._expiry: ExpiryIndex[Address] = ExpiryIndex()
        self._remembered: OrderedDict[Address, tuple[int, bytes]] = OrderedDict()
        self._equivocations: dict[Address, tuple[VerifiedEvent, VerifiedEvent]] = {}
        self._ignored: dict[Ignored, int] = dict.fromkeys(Ignored, 0)

    def __len__(self) -> int:
        return len(self._bucket(None, None))

    @property
    def ignored(self) -> Mapping[Ignored, int]:
        """How many events were ignored, by reason."""
        return MappingProxyType(self._ignored)

    @property
    def equivocations(self) -> tuple[tuple[VerifiedEvent, VerifiedEvent], ...]:
        """Pairs of offers of one author with equal label and `seq` and different content, the one that counts first."""
        return tuple(self._equivocations.values())

    def apply(self, event: VerifiedEvent, relay_url: str, now: Timestamp) -> bool:
        """Take in an offer (38770) or a status (38771) that a relay delivered; never raises on what it says.

        Returns:
            Whether the market changed. An event that is ignored is counted by its reason in `ignored`.
        """
        self._expire(now)
        known = self._addresses.get(event.id)
        if known is not None:
            self._entries[known].relays[relay_url] = None
            return False
        state = _read_state(event, now)
        reason = state if isinstance(state, Ignored) else self._refuse(state)
        if reason is not None:
            self._ignored[reason] += 1
            return False
        assert not isinstance(state, Ignored)  # else it were the reason, told to the type checker
        if _ends_at(state) <= now:
            return self._supersede_by_expired(state)
        return self._place(state, relay_url)

    def offers(self, now: Timestamp) -> tuple[SignedOffer, ...]:
        """All live offers."""
        self._expire(now)
        return tuple(self._bucket(None, None).values())

    def status(self, node: PublicKey, now: Timestamp) -> SignedStatus | None:
        """The node's live status, if any."""
        self._expire(now)
        return self._live_status(node)

    def candidates(self, model: str | None, job_type: JobType, now: Timestamp) -> tuple[Candidate, ...]:
        """Every live price for this model (None for any) and job type, statuses joined; costs what it returns."""
        self._expire(now)
        return tuple(
            Candidate(offer, row, self._live_status(offer.node))
            for offer in self._bucket(model, job_type).values()
            for row in offer.offer.rows
            if job_type in row.job_types and model in (None, row.model)
        )

    def relays_of(self, event_id: EventId) -> tuple[str, ...]:
        """Which relays carried this live event, in the order in which they did."""
        address = self._addresses.get(event_id)
        return () if address is None else tuple(self._entries[address].relays)

    def _bucket(self, model: str | None, job_type: JobType | None) -> dict[EventId, SignedOffer]:
        return self._index.get((model, job_type), {})

    def _live_status(self, node: PublicKey) -> SignedStatus | None:
        entry = self._entries.get((node, Kind.STATUS, STATUS_LABEL))
        return entry.state if entry is not None and isinstance(entry.state, SignedStatus) else None

    def _refuse(self, state: SignedOffer | SignedStatus) -> Ignored | None:
        address = _address(state)
        entry = self._entries.get(address)
        if entry is not None:
            if _sequence(state) < entry.sequence:
                return Ignored.ROLLED_BACK
            if _sequence(state) == entry.sequence:
                return self._refuse_equal(entry, state)
            return None
        sequence, digest = self._remembered.get(address, (-1, b""))
        if _sequence(state) < sequence:
            return Ignored.ROLLED_BACK
        if _sequence(state) == sequence and _digest(state) != digest:
            return Ignored.EQUIVOCATION
        return Ignored.FULL if self._is_full_for(state) else None

    def _refuse_equal(self, entry: _Entry, state: SignedOffer | SignedStatus) -> Ignored | None:
        if entry.state.event.content != state.event.content:
            address = _address(state)
            if isinstance(state, SignedOffer) and len(self._equivocations) < MAXIMUM_EQUIVOCATIONS:
                self._equivocations.setdefault(address, (entry.state.event, state.event))
            return Ignored.EQUIVOCATION
        return None if _precedence(state) > _precedence(entry.state) else Ignored.ROLLED_BACK

    def _is_full_for(self, state: SignedOffer | SignedStatus) -> bool:
        offers = self._offers_of.get(state.node)
        if offers is None:
            return len(self._offers_of) >= MAXIMUM_NODES
        return isinstance(state, SignedOffer) and offers >= MAXIMUM_OFFERS_PER_NODE

    def _supersede_by_expired(self, state: SignedOffer | SignedStatus) -> bool:
        # It says nothing any more, but what it replaced must not come back through a relay that withheld it.
        address = _address(state)
        was_live = address in self._entries
        if was_live:
            self._remove(address)
        self._remember(address, state)
        self._ignored[Ignored.EXPIRED] += 1
        return was_live

    def _place(self, state: SignedOffer | SignedStatus, relay_url: str) -> bool:
        address = _address(state)
        if address in self._entries:
            self._remove(address)
        self._entries[address] = _Entry(state, {relay_url: None})
        self._addresses[state.event.id] = address
        self._offers_of[state.node] = self._offers_of.get(state.node, 0) + isinstance(state, SignedOffer)
        self._expiry.schedule(address, _ends_at(state))
        if isinstance(state, SignedOffer):
            for key in _index_keys(state):
                self._index.setdefault(key, {})[state.event.id] = state
        return True

    def _remove(self, address: Address) -> SignedOffer | SignedStatus:
        state = self._entries.pop(address).state
        del self._addresses[state.event.id]
        self._expiry.cancel(address)
        if isinstance(state, SignedOffer):
            self._offers_of[state.node] -= 1
            for key in _index_keys(state):
                bucket = self._index[key]
                del bucket[state.event.id]
                if not bucket:
                    del self._index[key]
        if not self._offers_of[state.node] and self._live_status(state.node) is None:
            del self._offers_of[state.node]
        return state

    def _expire(self, now: Timestamp) -> None:
        for address in self._expiry.pop_ended(now):
            self._remember(address, self._remove(address))

    def _remember(self, address: Address, state: SignedOffer | SignedStatus) -> None:
        self._remembered[address] = (_sequence(state), _digest(state))
        self._remembered.move_to_end(address)
        if len(self._remembered) > MAXIMUM_REMEMBERED_SEQUENCES:
            self._remembered.popitem(last=False)


def _read_state(event: VerifiedEvent, now: Timestamp) -> SignedOffer | SignedStatus | Ignored:
    if event.kind not in (Kind.OFFER, Kind.STATUS):
        return Ignored.OTHER_KIND
    if event.created_at > now + STATE_FUTURE_SECONDS:
        return Ignored.FROM_THE_FUTURE
    try:
        return read_offer(event) if event.kind == Kind.OFFER else read_status(event)
    except RemoteProtocolError:
        return Ignored.INVALID


def _address(state: SignedOffer | SignedStatus) -> Address:
    return state.node, state.event.kind, state.label if isinstance(state, SignedOffer) else STATUS_LABEL


def _sequence(state: SignedOffer | SignedStatus) -> int:
    return state.offer.seq if isinstance(state, SignedOffer) else state.status.seq


def _ends_at(state: SignedOffer | SignedStatus) -> Timestamp:
    if isinstance(state, SignedStatus):
        return state.expires_at
    expiration = read_expiration(state.event)
    return state.offer.valid_until if expiration is None else min(state.offer.valid_until, expiration)


def _digest(state: SignedOffer | SignedStatus) -> bytes:
    return hashlib.sha256(state.event.content.encode()).digest()


def _precedence(state: SignedOffer | SignedStatus) -> tuple[int, int]:
    # As relays keep addressable events: the later one, of equals the one with the lowest id (NIP-01).
    return state.event.created_at, -int(state.event.id, 16)


def _index_keys(state: SignedOffer) -> Iterator[tuple[str | None, JobType | None]]:
    yield None, None
    for job_type in state.offer.job_types:
        yield None, job_type
    yield from dict.fromkeys((row.model, job_type) for row in state.offer.rows for job_type in row.job_types)
