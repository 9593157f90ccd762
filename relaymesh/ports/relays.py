"""The port to Nostr relays: publish to several, follow a subscription over several."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from relaymesh.nostr.event import Event, EventId, VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.units import Timestamp


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
class Carried:
    """This relay, too, sent an event that was delivered before: the id is of its content, so nothing in it is new."""

    relay_url: str
    event_id: EventId
    created_at: Timestamp


@dataclass(frozen=True, slots=True)
class StoredEventsEnd:
    """This relay has sent what it had stored (`EOSE`); what follows from it is live.

    Args:
        relay_url: Which relay.
        is_everything: Whether nothing was left out, for want of room in one answer (NIP-67); None if it does not say.
    """

    relay_url: str
    is_everything: bool | None = None


@dataclass(frozen=True, slots=True)
class RelayGone:
    """This relay is not followed any more; once it is again, it begins with what it has stored."""

    relay_url: str


Delivery = Delivered | Carried | StoredEventsEnd | RelayGone


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
        self,
        filters: tuple[Filter, ...],
        relay_urls: tuple[str, ...] = (),
        *,
        with_repeats: bool = False,
        with_carriers: bool = False,
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Follow `filters` on the given relays (none given: on all), across reconnects, until the block ends.

        Every event is verified, matched against the filters, and delivered once, however many relays bring it.

        Args:
            with_repeats: Deliver an event again whenever a relay sends it again: a request may be asked twice because
                its answer was lost.
            with_carriers: Tell which relays carry what another has brought (`Carried`) and which are gone
                (`RelayGone`).
        """
        ...
