"""Live subscriptions, indexed by each filter's most selective condition, so that cost follows matches, not subscribers.

Ids are more selective than tags, tags than authors, authors than kinds. Equal filters share one entry: a thousand
subscribers who ask for the same cost one comparison.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import orjson

from relaymesh.nostr.event import Event
from relaymesh.nostr.filters import Filter
from relaymesh_relay.connection import Connection

IndexKey = tuple[str, str | int]
"""(condition, value): where a filter is entered, and what an event is looked up by."""

_ANYTHING: Final[IndexKey] = ("", "")


@dataclass(eq=False, slots=True)
class Subscription:
    """One REQ that is open.

    Args:
        connection: Whose it is.
        id: The client's name for it.
        filters: What it asks for.
        held: Live events that wait for the end of the stored ones, by id; None once that end was sent.
        is_open: False once it was closed or replaced.
    """

    connection: Connection
    id: str
    filters: tuple[Filter, ...]
    held: dict[bytes, bytes] | None = field(default_factory=dict)
    is_open: bool = True
    prefix: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.prefix = b'["EVENT",' + orjson.dumps(self.id) + b","

    def asks_for(self, event: Event) -> bool:
        """Whether any of its filters matches."""
        return any(wanted.matches(event) for wanted in self.filters)

    def event_message(self, document: bytes) -> bytes:
        """The EVENT message that carries a document to this subscription."""
        return self.prefix + document + b"]"


class SubscriptionIndex:
    """All open subscriptions."""

    def __init__(self) -> None:
        self._entries: dict[IndexKey, dict[Filter, dict[Subscription, None]]] = {}

    def add(self, subscription: Subscription) -> None:
        """Enter a subscription under each of its filters."""
        for wanted in subscription.filters:
            for key in _index_keys(wanted):
                self._entries.setdefault(key, {}).setdefault(wanted, {})[subscription] = None

    def remove(self, subscription: Subscription) -> None:
        """Take a subscription out again."""
        for wanted in subscription.filters:
            for key in _index_keys(wanted):
                by_filter = self._entries.get(key, {})
                subscriptions = by_filter.get(wanted, {})
                subscriptions.pop(subscription, None)
                if not subscriptions:
                    by_filter.pop(wanted, None)
                if not by_filter:
                    self._entries.pop(key, None)

    def matching(self, event: Event) -> dict[Subscription, None]:
        """The subscriptions that ask for this event, each once."""
        found: dict[Subscription, None] = {}
        for key in _event_keys(event):
            for wanted, subscriptions in self._entries.get(key, {}).items():
                if wanted.matches(event):
                    found.update(subscriptions)
        return found


def _index_keys(wanted: Filter) -> list[IndexKey]:
    """Where a filter is entered: the values of its most selective condition."""
    if wanted.ids is not None:
        return [("id", event_id) for event_id in wanted.ids]
    if wanted.tags:
        letter, values = min(wanted.tags, key=lambda condition: len(condition[1]))
        return [(f"#{letter}", value) for value in values]
    if wanted.authors is not None:
        return [("author", author) for author in wanted.authors]
    if wanted.kinds is not None:
        return [("kind", kind) for kind in wanted.kinds]
    return [_ANYTHING]


def _event_keys(event: Event) -> Iterator[IndexKey]:
    yield ("id", event.id)
    yield from {(f"#{tag[0]}", tag[1]): None for tag in event.tags if len(tag) > 1 and len(tag[0]) == 1}
    yield ("author", event.public_key)
    yield ("kind", event.kind)
    yield _ANYTHING
