"""Paging: all that a relay has stored, from relays that send only so much in one answer (NIP-01, `until`).

Many public relays send the newest 500 events of a filter and say `EOSE`, and few say that there are more (NIP-67).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import anyio

from relaymesh.nostr.event import EventId
from relaymesh.nostr.filters import Filter
from relaymesh.ports.relays import Delivered, Relays, StoredEventsEnd
from relaymesh.units import Timestamp

PAGE_SECONDS: Final = 20
"""So long a relay may take for one page."""
MAXIMUM_PAGES: Final = 2_000
"""At 500 events a page, as many as a directory holds."""


async def page_back(
    relays: Relays, relay_url: str, wanted: Filter, until: Timestamp, take: Callable[[Delivered], None]
) -> bool:
    """Ask a relay for older and older events, page by page, until there are none.

    A page begins in the second in which the last one ended, since that second may have been cut in two; when it brings
    nothing but what the last one brought, the next begins one second earlier.

    Args:
        relays: Where the relay is connected.
        relay_url: Which relay.
        wanted: Which events.
        until: Where the first page begins: when the oldest event was made that the relay has sent so far.
        take: Called with each event; with some of the second in which the first page begins, that were sent before.

    Returns:
        Whether the relay was followed to the end: it answered every page in time.
    """
    known: frozenset[EventId] = frozenset()
    for _ in range(MAXIMUM_PAGES):
        page = _Page(take, known)
        filters = (replace(wanted, until=until),)
        with anyio.move_on_after(PAGE_SECONDS):
            async with relays.subscribe(filters, (relay_url,)) as deliveries:
                async for delivery in deliveries:
                    if isinstance(delivery, Delivered):
                        page.add(delivery)
                    elif isinstance(delivery, StoredEventsEnd):
                        page.end = delivery
                        break
        if page.end is None:
            return False
        if not page.ids or page.end.is_everything:
            return True
        until = page.oldest if page.ids - known else Timestamp(page.oldest - 1)
        if until < 0:
            return True
        known = frozenset(page.ids)
    return False


class _Page:
    def __init__(self, take: Callable[[Delivered], None], known: frozenset[EventId]) -> None:
        self._take, self._known = take, known
        self.ids: set[EventId] = set()
        self.oldest = Timestamp(0)
        self.end: StoredEventsEnd | None = None

    def add(self, delivered: Delivered) -> None:
        """Take an event, and see how far back the page reaches."""
        created_at = delivered.event.created_at
        self.oldest = min(self.oldest, created_at) if self.ids else created_at
        self.ids.add(delivered.event.id)
        if delivered.event.id not in self._known:
            self._take(delivered)
