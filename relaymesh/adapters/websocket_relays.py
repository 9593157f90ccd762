"""Nostr relays over WebSocket: one connection each, kept up, none holding up another (NIP-01; RM-01, "Relays")."""

import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup
from websockets.uri import WebSocketURI

from relaymesh.adapters.addresses import parse_endpoint, resolve_endpoint
from relaymesh.adapters.relay_link import Authenticator, RelayLink
from relaymesh.errors import LocalProtocolError, SessionError, UsageError
from relaymesh.machines.relay_connection_interface import RelayConnectionSettings
from relaymesh.nostr.event import Event
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import SignatureMemory
from relaymesh.nostr.relay_urls import normalise_relay_url
from relaymesh.ports.relay_subscription import MAXIMUM_UNREAD, RelayCounters, RelaySubscription
from relaymesh.ports.relays import Delivery, Published
from relaymesh.units import Moment

MAXIMUM_GUESTS: Final = 16
"""Relays that a message named and that are not among our own: so many are connected at once."""
GUEST_SECONDS: Final = 120
"""A guest that nobody used for so long is let go."""
_VERIFIERS: Final = 2


class WebSocketRelays:
    """Some relays (`relaymesh.ports.relays.Relays`), connected while the block runs.

    Relays that are named in a call but are not among `urls` are connected as guests, if their address is public.

    Args:
        urls: The relays, in order of preference; trusted to be reachable wherever they are.
        authenticate: Signs NIP-42 challenges; None where nobody can.
        allow_private: Also connect guests at loopback, private, link-local and shared addresses.
        tls: For `wss`; None means the system's certificate authorities.
        settings: How long answers and reconnects are waited for.
        maximum_unread: How many deliveries wait in one subscription before the oldest give way.
        clock: What time it is, for `clock_offsets`; None leaves that empty.

    Raises:
        UsageError: A URL is no relay URL.
    """

    def __init__(
        self,
        urls: tuple[str, ...],
        *,
        authenticate: Authenticator | None = None,
        allow_private: bool = False,
        tls: ssl.SSLContext | None = None,
        settings: RelayConnectionSettings | None = None,
        maximum_unread: int = MAXIMUM_UNREAD,
        clock: Callable[[], Moment] | None = None,
    ) -> None:
        self._urls = tuple(dict.fromkeys(map(normalise_relay_url, urls)))
        self._authenticate = authenticate
        self._allow_private = allow_private
        self._tls = tls
        self._settings = settings or RelayConnectionSettings()
        self._maximum_unread = maximum_unread
        self._clock = clock
        self._links: dict[str, RelayLink] = {}
        self._subscription_ids = itertools.count(1)
        self._group: TaskGroup | None = None
        self._verifiers: anyio.CapacityLimiter | None = None
        self._signatures = SignatureMemory()
        self.counters = RelayCounters()

    @property
    def urls(self) -> tuple[str, ...]:
        """The relays, in order of preference."""
        return self._urls

    @property
    def clock_offsets(self) -> dict[str, int]:
        """By how many seconds each of our relays' clocks is ahead of ours, for those that were reached and say."""
        links = (self._links[url] for url in self._urls if url in self._links)
        return {link.url: link.clock_offset for link in links if link.clock_offset is not None}

    async def __aenter__(self) -> Self:
        self._verifiers = anyio.CapacityLimiter(_VERIFIERS)
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        for url in self._urls:
            self._connect(url, self._resolve_own)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._group is not None
        for link in self._links.values():
            link.stop()
        self._group.cancel_scope.cancel()
        try:
            if isinstance(error, Exception):  # the block's own failure, which no group needs to wrap
                await self._group.__aexit__(None, None, None)
                return None
            return await self._group.__aexit__(kind, error, traceback)
        finally:
            self._group = None
            self._links.clear()

    async def publish(self, event: Event, relay_urls: tuple[str, ...] = ()) -> tuple[Published, ...]:
        """Send `event` to the given relays (none given: to all); one answer each, within seconds."""
        urls = relay_urls or self._urls
        if len(urls) == 1:  # the usual case in a conversation, and worth sparing it a task of its own
            return (await self._publish_at(urls[0], event),)
        answers: list[Published | None] = [None] * len(urls)

        async def ask(position: int, url: str) -> None:
            answers[position] = await self._publish_at(url, event)

        async with anyio.create_task_group() as group:
            for position, url in enumerate(urls):
                group.start_soon(ask, position, url)
        return tuple(answer for answer in answers if answer is not None)

    async def _publish_at(self, url: str, event: Event) -> Published:
        try:
            link = self._link(url)
        except (UsageError, SessionError) as error:
            return Published(url, event.id, False, f"error: {error}")
        return await link.publish(event)

    def subscribe(
        self,
        filters: tuple[Filter, ...],
        relay_urls: tuple[str, ...] = (),
        *,
        with_repeats: bool = False,
        with_carriers: bool = False,
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Follow `filters` on the given relays (none given: on all), across reconnects, until the block ends.

        Every event is verified, matched against the filters, and delivered once, however many relays bring it; or,
        `with_repeats`, whenever a relay sends it again. A relay that cannot be followed is passed over.
        """
        subscription = RelaySubscription(
            filters,
            self.counters,
            self._maximum_unread,
            with_repeats=with_repeats,
            with_carriers=with_carriers,
        )
        return self._subscribe(subscription, relay_urls or self._urls)

    @asynccontextmanager
    async def _subscribe(
        self, subscription: RelaySubscription, relay_urls: tuple[str, ...]
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        subscription_id = str(next(self._subscription_ids))
        links: list[RelayLink] = []
        try:
            for url in relay_urls:
                try:
                    link = self._link(url)
                except (UsageError, SessionError):
                    continue
                links.append(link)
                link.subscribe(subscription_id, subscription)
            yield subscription
        finally:
            subscription.close()
            for link in links:
                link.unsubscribe(subscription_id)

    def _link(self, url: str) -> RelayLink:
        """The connection to a relay, which is made if it is a guest's first.

        Raises:
            UsageError: The URL is no relay URL.
            SessionError: There are too many guests.
        """
        normalised = normalise_relay_url(url)
        link = self._links.get(normalised)
        if link is not None:
            return link
        self._let_idle_guests_go()
        if len(self._links) - len(self._urls) >= MAXIMUM_GUESTS:
            raise SessionError(f"at most {MAXIMUM_GUESTS} relays beside our own may be connected at once")
        return self._connect(normalised, self._resolve_guest)

    def _let_idle_guests_go(self) -> None:
        """Those unused for long; and the one unused for longest, when room is needed."""
        guests = [link for url, link in self._links.items() if url not in self._urls and link.is_idle]
        guests.sort(key=lambda link: link.used_at)
        is_full = len(self._links) - len(self._urls) >= MAXIMUM_GUESTS
        old = [link for link in guests if anyio.current_time() - link.used_at >= GUEST_SECONDS]
        for link in old or (guests[:1] if is_full else []):
            link.stop()
            del self._links[link.url]

    def _connect(self, url: str, resolve: Callable[[WebSocketURI], Awaitable[list[str]]]) -> RelayLink:
        if self._group is None or self._verifiers is None:
            raise LocalProtocolError("relays are used inside their `async with` block")
        uri = parse_endpoint(url)
        if uri.secure and self._tls is None:
            self._tls = ssl.create_default_context()
        link = RelayLink(
            url,
            uri,
            resolve,
            self.counters,
            self._authenticate,
            self._tls,
            self._verifiers,
            self._signatures,
            self._settings,
            self._clock,
        )
        self._links[url] = link
        self._group.start_soon(link.run)
        return link

    async def _resolve_own(self, uri: WebSocketURI) -> list[str]:
        return await resolve_endpoint(uri, allow_private=True)

    async def _resolve_guest(self, uri: WebSocketURI) -> list[str]:
        return await resolve_endpoint(uri, allow_private=self._allow_private)
