"""The store as a list: what the real one is compared with, too simple to be wrong."""

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import Event, EventId
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.tags import Address, parse_address, read_expiration
from relaymesh_relay.store import DELETION_KIND, GIFT_WRAP_KIND, VANISH_KIND, Standing


class ListStore:
    """Keeps events in a list and looks at all of them for everything."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._deleted: set[tuple[str, str]] = set()
        self._deleted_addresses: dict[Address, int] = {}
        self._vanished: dict[str, int] = {}

    def write(self, event: Event) -> Standing:
        standing = self.standing(event)
        if standing is Standing.FRESH:
            address = Address.from_event(event)
            self.events = [kept for kept in self.events if address is None or Address.from_event(kept) != address]
            self.events.append(event)
            if event.kind == DELETION_KIND:
                self._delete_for(event)
            elif event.kind == VANISH_KIND:
                self._vanished[event.public_key] = max(event.created_at, self._vanished.get(event.public_key, -1))
        return standing

    def standing(self, event: Event) -> Standing:
        address = Address.from_event(event)
        if self._has_vanished(event):
            return Standing.VANISHED
        if any(kept.id == event.id for kept in self.events):
            return Standing.KNOWN
        if event.kind not in (DELETION_KIND, VANISH_KIND) and (event.id, event.public_key) in self._deleted:
            return Standing.DELETED
        if address is None:
            return Standing.FRESH
        if event.created_at <= self._deleted_addresses.get(address, -1):
            return Standing.DELETED
        rivals = [kept for kept in self.events if Address.from_event(kept) == address]
        return Standing.SUPERSEDED if rivals and order(rivals[0]) < order(event) else Standing.FRESH

    def remove_vanished(self) -> None:
        self.events = [kept for kept in self.events if not self._has_vanished(kept)]

    def _has_vanished(self, event: Event) -> bool:
        until = self._vanished.get(event.public_key, -1)
        if event.kind == VANISH_KIND and event.created_at == until:
            return False
        recipients = event.tag_values("p") if event.kind == GIFT_WRAP_KIND else ()
        return event.created_at <= max([until, *(self._vanished.get(each, -1) for each in recipients)])

    def remove_expired(self, now: int) -> None:
        self.events = [kept for kept in self.events if not has_expired(kept, now)]

    def search(self, wanted: Filter, limit: int, now: int) -> list[EventId]:
        found = [kept for kept in self.events if wanted.matches(kept) and not has_expired(kept, now)]
        return [kept.id for kept in sorted(found, key=order)][:limit]

    def _delete_for(self, deletion: Event) -> None:
        author = deletion.public_key
        self._deleted |= {(event_id, author) for event_id in deletion.tag_values("e")}
        for text in deletion.tag_values("a"):
            try:
                address = parse_address(text)
            except RemoteProtocolError:
                continue
            if address.author == author:
                before = self._deleted_addresses.get(address, -1)
                self._deleted_addresses[address] = max(before, deletion.created_at)
        self.events = [
            kept for kept in self.events if kept.kind in (DELETION_KIND, VANISH_KIND) or not self._is_deleted(kept)
        ]

    def _is_deleted(self, event: Event) -> bool:
        address = Address.from_event(event)
        by_address = address is not None and event.created_at <= self._deleted_addresses.get(address, -1)
        return by_address or (event.id, event.public_key) in self._deleted


def order(event: Event) -> tuple[int, str]:
    """Newest first, then lowest id."""
    return (-event.created_at, event.id)


def has_expired(event: Event, now: int) -> bool:
    expires_at = read_expiration(event)
    return expires_at is not None and expires_at <= now
