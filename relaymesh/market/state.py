"""The kinds of state that a directory keeps (3877x): how each is read, when it ends, by what it is looked up (RM-01).

A kind that is not in `STATE_KINDS` is ignored; a new one needs a row there and nothing else.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import EventId, PublicKey, VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.tags import read_expiration, read_identifier
from relaymesh.protocol.assertion import SignedAssertion, read_assertion
from relaymesh.protocol.codec import STATE_FUTURE_SECONDS, SignedOffer, SignedStatus, read_offer, read_status
from relaymesh.protocol.manifest import SignedManifest, read_manifest
from relaymesh.protocol.router_announcement import SignedRouterAnnouncement, read_router_announcement
from relaymesh.protocol.stake import SignedStake, read_stake
from relaymesh.units import MAXIMUM_INTEGER, Timestamp

State = SignedOffer | SignedStatus | SignedManifest | SignedRouterAnnouncement | SignedAssertion | SignedStake

Address = tuple[PublicKey, int, str]
"""Author, kind and `d`: what one piece of addressable state is known by (NIP-01)."""

LookupKey = tuple[object, ...]
"""What pieces of state are looked up by, many under one key."""

ALL_OFFERS: Final[LookupKey] = ("offers",)
ALL_ROUTERS: Final[LookupKey] = ("routers",)
ALL_STAKES: Final[LookupKey] = ("stakes",)


class Ignored(Enum):
    """Why an event left the directory as it was."""

    OTHER_KIND = "not a kind the directory keeps"
    INVALID = "not valid for its kind"
    EXPIRED = "expired"
    FROM_THE_FUTURE = "from the future"
    ROLLED_BACK = "older than what is known"
    EQUIVOCATION = "the same seq with other content"
    FULL = "no room"


@dataclass(frozen=True, slots=True)
class IgnoredEvent:
    """One event that was ignored, for an operator who wants to know what goes on.

    Args:
        event_id: Which event.
        author: Who signed it.
        kind: Its kind.
        relay_url: The relay that brought it.
        reason: Why it was ignored.
        detail: What was expected and did not come, for an invalid one; empty for the others. May hold what its author
            wrote: clean it before a terminal sees it.
    """

    event_id: EventId
    author: PublicKey
    kind: int
    relay_url: str
    reason: Ignored
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StateKind:
    """One kind of state.

    Args:
        read: From the event to the value; raises RemoteProtocolError if it is not valid.
        sequence: The value's `seq`.
        valid_until: When the value ends by its own word; an `expiration` tag may end it sooner.
        lookup_keys: By what the value is looked up, beside its address; each key once.
        most_per_author: So many of one author's are kept.
    """

    read: Callable[[VerifiedEvent], State]
    sequence: Callable[[Any], int]
    valid_until: Callable[[Any], Timestamp]
    lookup_keys: Callable[[Any], Iterator[LookupKey]]
    most_per_author: int


def read_state(event: VerifiedEvent, now: Timestamp) -> State | tuple[Ignored, str]:
    """The value in an event, or why it says nothing, with a sentence for a person; never raises on what it says."""
    kind = STATE_KINDS.get(event.kind)
    if kind is None:
        return Ignored.OTHER_KIND, ""
    if event.created_at > now + STATE_FUTURE_SECONDS:
        return Ignored.FROM_THE_FUTURE, ""
    try:
        return kind.read(event)
    except RemoteProtocolError as error:
        return Ignored.INVALID, str(error)


def address_of(state: State) -> Address:
    """Where it lives."""
    event = state.event
    return event.public_key, event.kind, read_identifier(event)


def sequence_of(state: State) -> int:
    """Its `seq`."""
    return STATE_KINDS[state.event.kind].sequence(state)


def end_of(state: State) -> Timestamp:
    """When it ends: by its own word, or by its `expiration` if that comes first (RM-01, "State")."""
    valid_until = STATE_KINDS[state.event.kind].valid_until(state)
    expiration = read_expiration(state.event)
    return valid_until if expiration is None else min(valid_until, expiration)


def offer_key(model: str | None, job_type: str) -> LookupKey:
    """Under what the offers for this model (None for any) and job type are looked up."""
    return "offers", model, job_type


def subject_key(subject: PublicKey) -> LookupKey:
    """Under what the assertions about a key are looked up."""
    return "about", subject


def _offer_keys(state: SignedOffer) -> Iterator[LookupKey]:
    yield ALL_OFFERS
    for job_type in state.offer.job_types:
        yield offer_key(None, job_type)
    yield from dict.fromkeys(offer_key(row.model, job_type) for row in state.offer.rows for job_type in row.job_types)


def machines_key(author: PublicKey) -> LookupKey:
    """Under what the manifests of a key are looked up."""
    return "machines", author


def _assertion_keys(state: SignedAssertion) -> Iterator[LookupKey]:
    yield subject_key(state.subject)


def _no_keys(_: State) -> Iterator[LookupKey]:
    return iter(())


_NEVER: Final = Timestamp(MAXIMUM_INTEGER)

STATE_KINDS: Final[Mapping[int, StateKind]] = MappingProxyType(
    {
        Kind.OFFER: StateKind(
            read_offer, lambda state: state.offer.seq, lambda state: state.offer.valid_until, _offer_keys, 64
        ),
        Kind.STATUS: StateKind(read_status, lambda state: state.status.seq, lambda _: _NEVER, _no_keys, 1),
        Kind.MANIFEST: StateKind(
            read_manifest,
            lambda state: state.manifest.seq,
            lambda state: state.manifest.valid_until,
            lambda state: iter((machines_key(state.author),)),
            64,
        ),
        Kind.ROUTER_ANNOUNCEMENT: StateKind(
            read_router_announcement,
            lambda state: state.announcement.seq,
            lambda state: state.announcement.valid_until,
            lambda _: iter((ALL_ROUTERS,)),
            1,
        ),
        Kind.REPUTATION_ASSERTION: StateKind(
            read_assertion,
            lambda state: state.assertion.seq,
            lambda state: state.assertion.valid_until,
            _assertion_keys,
            4_096,
        ),
        Kind.STAKE_COMMITMENT: StateKind(
            read_stake,
            lambda state: state.stake.seq,
            lambda state: state.stake.valid_until,
            lambda _: iter((ALL_STAKES,)),
            1,
        ),
    }
)
"""By kind."""
