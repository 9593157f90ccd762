"""What is taken and what is not: functions that return a reason, with its machine-readable prefix, or None (NIP-01)."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

import orjson

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import Event, PublicKey, parse_event
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.kinds import Kind, is_ephemeral
from relaymesh.nostr.proof_of_work import has_proof_of_work
from relaymesh.nostr.tags import read_expiration
from relaymesh.units import Timestamp
from relaymesh_relay.settings import Access, Limits, Settings
from relaymesh_relay.store import GIFT_WRAP_KIND, VANISH_KIND, document_kind

REPOST_KINDS: Final = frozenset({6, 16})
"""Reposts (NIP-18)."""

PRIVATE_KINDS: Final = frozenset({4, GIFT_WRAP_KIND})
"""Direct messages (NIP-04) and gift wraps (NIP-59)."""

WALLET_KINDS: Final = frozenset({13_194, *range(23_194, 23_198)})
"""What wallets and their clients say to each other (NIP-47): information, requests, responses, notifications."""


@dataclass(frozen=True, slots=True)
class Offered:
    """What a policy looks at.

    Args:
        event: Well-formed, its id right, its signature unchecked.
        authors: Who has authenticated on the connection that brought it (NIP-42).
        now: The relay's time.
    """

    event: Event
    authors: frozenset[PublicKey]
    now: Timestamp


Policy = Callable[[Offered], str | None]
"""Returns why an event is refused, beginning with a prefix of NIP-01 and a colon, or None."""


def refusal(policies: Iterable[Policy], offered: Offered) -> str | None:
    """The first reason that any of the policies gives."""
    for policy in policies:
        reason = policy(offered)
        if reason is not None:
            return reason
    return None


def stock_policies(settings: Settings) -> tuple[Policy, ...]:
    """The policies that the settings ask for, cheapest first."""
    limits, access = settings.limits, settings.access
    chosen: list[Policy] = [refuse_authentication, limit_sizes(limits), limit_created_at(limits), refuse_expired]
    if access.allowed_kinds or access.denied_kinds:
        chosen.append(limit_kinds(access))
    if access.allowed_authors or access.denied_authors:
        chosen.append(limit_authors(access))
    if access.members:
        chosen.append(limit_members(access))
    if limits.proof_of_work_bits or limits.proof_of_work_by_kind:
        chosen.append(require_proof_of_work(limits))
    chosen += (protect, refuse_protected_reposts)
    return tuple(chosen)


def refuse_authentication(offered: Offered) -> str | None:
    """An answer to a challenge is an AUTH message, never an event to pass on (NIP-42)."""
    if offered.event.kind == Kind.AUTHENTICATION:
        return "invalid: an authentication must be sent as an AUTH message"
    return None


def limit_sizes(limits: Limits) -> Policy:
    """Bound the number of tags and the length of the content."""

    def policy(offered: Offered) -> str | None:
        event = offered.event
        if len(event.tags) > limits.event_tags:
            return f"invalid: an event may have at most {limits.event_tags} tags, not {len(event.tags)}"
        if len(event.content) > limits.content_characters:
            return (
                f"invalid: an event's content may have at most {limits.content_characters} characters, "
                f"not {len(event.content)}"
            )
        return None

    return policy


def limit_created_at(limits: Limits) -> Policy:
    """Bound how old an event may be and how far ahead of the relay's clock."""

    def policy(offered: Offered) -> str | None:
        age = offered.now - offered.event.created_at
        if -age > limits.created_at_future_seconds:
            return f"invalid: created_at is more than {limits.created_at_future_seconds} seconds in the future"
        if limits.created_at_past_seconds and age > limits.created_at_past_seconds:
            return f"invalid: created_at is more than {limits.created_at_past_seconds} seconds in the past"
        return None

    return policy


def refuse_expired(offered: Offered) -> str | None:
    """What has expired is not taken (NIP-40)."""
    expires_at = read_expiration(offered.event)
    if expires_at is not None and expires_at <= offered.now:
        return "invalid: the event has expired"
    return None


def limit_kinds(access: Access) -> Policy:
    """Take only kinds that are allowed and not denied; a request to vanish need not be allowed (NIP-62)."""
    allowed, denied = frozenset(access.allowed_kinds), frozenset(access.denied_kinds)

    def policy(offered: Offered) -> str | None:
        kind = offered.event.kind
        if kind in denied or (allowed and kind not in allowed and kind != VANISH_KIND):
            return f"blocked: events of kind {kind} are not taken here"
        return None

    return policy


def limit_authors(access: Access) -> Policy:
    """Take only authors who are allowed and not denied; anybody may ask to vanish (NIP-62)."""
    allowed, denied = frozenset(access.allowed_authors), frozenset(access.denied_authors)

    def policy(offered: Offered) -> str | None:
        author = offered.event.public_key
        if offered.event.kind == VANISH_KIND:  # which everybody may ask (NIP-62)
            return None
        if author in denied:
            return "blocked: this author's events are not taken here"
        if allowed and author not in allowed:
            return "restricted: only listed authors' events are taken here"
        return None

    return policy


def refuse_events(banned: Collection[str]) -> Policy:
    """Take none of these again (NIP-86, "banevent")."""

    def policy(offered: Offered) -> str | None:
        return "blocked: this event is banned here" if offered.event.id in banned else None

    return policy


def limit_members(access: Access) -> Policy:
    """Let only members write, without cutting off those who must reach one with a key of their own making.

    A wallet connection has a key for each side (NIP-47), a gift wrap one for itself (NIP-59), a buyer one for each job:
    none of them can be on a list.
    """
    members = frozenset(access.members)

    def policy(offered: Offered) -> str | None:
        event = offered.event
        if event.public_key in members or event.kind in WALLET_KINDS:
            return None
        is_for_recipients = is_ephemeral(event.kind) or event.kind == GIFT_WRAP_KIND
        if is_for_recipients and not members.isdisjoint(event.tag_values("p")):
            return None
        return "restricted: only members may write here; others may reach them by ephemeral events and gift wraps"

    return policy


def require_proof_of_work(limits: Limits) -> Policy:
    """Ask for work on every event's id (NIP-13) but a request to vanish; a kind's own measure goes first."""
    by_kind = {VANISH_KIND: 0} | dict(limits.proof_of_work_by_kind)

    def policy(offered: Offered) -> str | None:
        bits = by_kind.get(offered.event.kind, limits.proof_of_work_bits)
        if not has_proof_of_work(offered.event, bits):
            return f"pow: an event of kind {offered.event.kind} must carry {bits} bits of committed work in its id"
        return None

    return policy


def protect(offered: Offered) -> str | None:
    """Take a protected event only from its authenticated author (NIP-70)."""
    event = offered.event
    if ("-",) not in event.tags or event.public_key in offered.authors:
        return None
    prefix = "restricted" if offered.authors else "auth-required"  # NIP-42
    return f"{prefix}: a protected event is taken only from its authenticated author"


def refuse_protected_reposts(offered: Offered) -> str | None:
    """Take no repost that holds a protected event, since whoever reposts it is not its author (NIP-70)."""
    event = offered.event
    if event.kind not in REPOST_KINDS or '"-"' not in event.content:
        return None
    try:
        reposted = parse_event(orjson.loads(event.content))
    except (RemoteProtocolError, orjson.JSONDecodeError):  # words, then, and no event
        return None
    return "blocked: a repost must not hold a protected event" if ("-",) in reposted.tags else None


def is_private(wanted: Filter) -> bool:
    """Whether a filter asks for private events and nothing else."""
    return bool(wanted.kinds) and PRIVATE_KINDS.issuperset(wanted.kinds or ())


def may_find_private(wanted: Filter) -> bool:
    """Whether private events may be among what a filter asks for."""
    return wanted.kinds is None or not PRIVATE_KINDS.isdisjoint(wanted.kinds)


def may_read_document(document: bytes, authors: frozenset[PublicKey]) -> bool:
    """`may_read` of a stored event, which is parsed only if it is private."""
    return document_kind(document) not in PRIVATE_KINDS or may_read(parse_event(orjson.loads(document)), authors)


def may_read(event: Event, authors: frozenset[PublicKey]) -> bool:
    """Whether a private event may go to a connection where these have authenticated: its author or a recipient."""
    if event.kind not in PRIVATE_KINDS:
        return True
    return event.public_key in authors or not authors.isdisjoint(event.tag_values("p"))
