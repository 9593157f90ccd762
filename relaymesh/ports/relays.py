"""The port to Nostr relays: publish to several, follow a subscription over several."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from relaymesh.nostr.event import Event, EventId, VerifiedEvent
from relaymesh.nostr.filters import Filter


@dataclass(frozen=True, slots=True)
class Published:
    """What one relay said to one event: its `OK` message (NIP-01), or why there was none.

    Args:
        relay_url: Which relay.
        event_id: Which event.
        accepted: The relay's answer; False as well when it could not be reached in time.
        message: The relay's words, machine-readable prefix included (`duplicate:`, `mute:`, …), or ours.
    """

    relay_url: str
    event_id: EventId
    accepted: bool
    message: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """One verified event that matches the subscription, and the relay that brought it first."""

    relay_url: str
    event: VerifiedEvent


@dataclass(frozen=True, slots=True)
class StoredEventsEnd:
    """This relay has sent all it had stored (`EOSE`); what follows from it is live."""

    relay_url: str


Delivery = Delivered | StoredEventsEnd


class Relays(Protocol):
    """Some relays, kept connected; one dead relay never holds up the others."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The relays, in order of preference."""
        ...

    @property
    def clock_offsets(self) -> Mapping[str, int]:
        """By how many seconds each relay's clock is ahead of ours, for those that were reached and say."""
        ...

    async def publish(self, event: Event, relay_urls: tuple[str, ...] = ()) -> tuple[Published, ...]:
        """Send `event` to the given relays (none given: to all); one answer each, within the adapter's deadline."""
        ...

    def subscribe(
        self, filters: tuple[Filter, ...], relay_urls: tuple[str, ...] = (), *, with_repeats: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Follow `filters` on the given relays (none given: on all), across reconnects, until the block ends.

        Every event is verified, matched against the filters, and delivered once, however many relays bring it.

        Args:
            with_repeats: Deliver an event again whenever a relay sends it again: a request may be asked twice because
                its answer was lost.
        """
        ...
