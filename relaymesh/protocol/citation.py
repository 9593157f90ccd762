"""Citations: an event that a ranking rests on, published once more so that relays keep it (RM-04, NIP-18).

Relays drop state that was replaced or has expired, and a ranking must be computed again after that. So a router puts
what it cites into a generic repost, which is a regular event and stays for a day.
"""

from typing import Final

import orjson

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import Event, EventId, PublicKey, UnsignedEvent, VerifiedEvent, parse_event
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.codec import TOPIC
from relaymesh.protocol.content import MAXIMUM_EVENT_BYTES, check_content
from relaymesh.protocol.router_announcement import CITED_SECONDS
from relaymesh.units import Timestamp

MAXIMUM_REPOST_BYTES: Final = 2 * MAXIMUM_EVENT_BYTES
"""What a market event may take as JSON text."""


def build_citation(cited: VerifiedEvent, author: PublicKey, created_at: Timestamp) -> UnsignedEvent:
    """The repost that keeps `cited` for a day."""
    tags = (
        ("e", cited.id),
        ("p", cited.public_key),
        ("k", str(cited.kind)),
        ("t", TOPIC),
        ("expiration", str(created_at + CITED_SECONDS)),
    )
    return UnsignedEvent(author, created_at, Kind.GENERIC_REPOST, tags, orjson.dumps(cited.to_json()).decode())


def read_citation(event: VerifiedEvent) -> Event:
    """The event that a repost holds, its own id and signature still unchecked.

    Raises:
        RemoteProtocolError: It is no repost that holds the event it names.
    """
    if event.kind != Kind.GENERIC_REPOST:
        raise RemoteProtocolError(f"expected a generic repost, not kind {event.kind}")
    cited = parse_event(check_content(event.content, maximum_bytes=MAXIMUM_REPOST_BYTES))
    if event.tag_values("e") != (cited.id,):
        raise RemoteProtocolError("a repost must name the event that it holds")
    return cited


def citation_filters(event_ids: tuple[EventId, ...], router: PublicKey) -> tuple[Filter, ...]:
    """What finds cited events, as they are or as this router serves them."""
    reposts = Filter(kinds=(Kind.GENERIC_REPOST,), authors=(router,), tags=(("e", event_ids),))
    return Filter(ids=event_ids), reposts
