"""What all connections of one running relay share: the relay, its threads, its settings, and who is connected."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from relaymesh.units import Moment
from relaymesh_relay.addresses import LOOPBACK
from relaymesh_relay.administration import Administration
from relaymesh_relay.connection import Connection
from relaymesh_relay.health import Health
from relaymesh_relay.http_messages import HttpRequest, respond
from relaymesh_relay.http_pages import Pages
from relaymesh_relay.memory_store import MEMORY_FILE, MemoryStore
from relaymesh_relay.metrics import Live
from relaymesh_relay.moderation import Listing, Moderation
from relaymesh_relay.pipeline import Pipeline
from relaymesh_relay.relay import Relay
from relaymesh_relay.settings import Settings
from relaymesh_relay.sqlite_store import SqliteStore
from relaymesh_relay.store import Store

if TYPE_CHECKING:
    from relaymesh_relay.transport import ClientTransport


class Hub:
    """What all connections of one running relay share.

    Args:
        settings: The relay's.
        loop: The running one.
        read_clock: Says what time it is.
    """

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop, read_clock: Callable[[], Moment]) -> None:
        self.configured = settings
        """What the operator's file says."""
        self.settings = settings
        """What holds."""
        self.hangup = anyio.Event()
        """Set when the settings are to be read again."""
        self.loop = loop
        self.relay = Relay(settings)
        self.pipeline = Pipeline(self.relay, _open_store(settings), self._post, self._break)
        self._moderation = Moderation(self.pipeline.decisions())
        self._administration = Administration(
            self._moderation, self.pipeline, lambda: self.configure(self.configured), read_clock
        )
        health = Health(self.pipeline, loop.call_later, time.monotonic)
        self.pages = Pages(settings, self.relay.counts, self.live, health, self.manage)
        self.url = ""
        """Under which the relay is reached, as it is announced at the start."""
        self.clients: set[ClientTransport] = set()
        self.by_connection: dict[Connection, ClientTransport] = {}
        self.per_address: Counter[str] = Counter()
        self.is_stopping = False
        """Whether the relay reads no more, and only answers what it has read."""
        self.answered = anyio.Event()
        """Set when the relay is stopping and every event that came has been answered."""
        self.is_broken = False
        """Whether one of the relay's threads has ended by a fault of ours: nothing would be answered any more."""
        self._is_pump_scheduled = False
        self._read_clock = read_clock
        self.configure(settings)

    def request_reload(self) -> None:
        """Have the settings read again soon."""
        self.hangup.set()

    def configure(self, settings: Settings) -> None:
        """Hold everybody to other settings from now on, those who are connected too."""
        self.configured = settings
        self.settings = self._moderation.apply(settings)
        self.relay.adopt(self.settings, self._moderation.entries(Listing.BANNED_EVENT))
        self.pages.adopt(self.settings)
        for client in list(self.by_connection.values()):
            client.adopt(self.settings, self._read_clock())

    def manage(self, request: HttpRequest, send: Callable[[bytes], object]) -> None:
        """Do what an administrator asks over HTTP (NIP-86)."""
        self._administration.answer(request, self.configured, self.settings.identity.url or self.url, send)

    def begin(self) -> None:
        """Start the threads; `pipeline.close` must follow."""
        self.pipeline.start()
        self._administration.carry_on()

    def live(self) -> Live:
        """How things stand at this moment."""
        relay, pipeline, file = self.relay, self.pipeline, self.settings.storage.file
        return Live(
            connections=len(self.by_connection),
            subscriptions=relay.subscription_count,
            events_waiting=relay.events_waiting,
            reads_waiting=pipeline.reads_waiting,
            stored_events=pipeline.stored_events,
            database_bytes=sum(map(_size, (file, f"{file}-wal"))),
        )

    def schedule_pump(self) -> None:
        """Have what this turn of the loop brings handed on at its end, all at once."""
        if not self._is_pump_scheduled:
            self._is_pump_scheduled = True
            self.loop.call_soon(self._pump)

    def refuse_connection(self, address: str) -> bytes | None:
        """The HTTP response to a connection that is one too many."""
        network = self.settings.network
        if self.is_blocked(address):
            return respond(HTTPStatus.FORBIDDEN, b"this address is blocked here\n", "text/plain")
        if len(self.by_connection) >= network.connections:
            reason = b"this relay has as many connections as it takes; try again later\n"
            return respond(HTTPStatus.SERVICE_UNAVAILABLE, reason, "text/plain")
        if self.is_exempt(address) or self.per_address[address] < network.connections_per_address:
            return None
        reason = b"there are too many connections from this address; close one first\n"
        return respond(HTTPStatus.TOO_MANY_REQUESTS, reason, "text/plain")

    def is_blocked(self, address: str) -> bool:
        """Whether an administrator blocked an address (NIP-86)."""
        return address in self._moderation.blocked_names

    def is_exempt(self, address: str) -> bool:
        """Whether an address is this machine's own and such are free of per-address limits and rates."""
        return self.settings.network.exempt_loopback and address == LOOPBACK

    def sweep_connections(self) -> None:
        """Ping the silent, cut the lost, end comparisons that nobody goes on with."""
        self.relay.end_idle_comparisons(self._read_clock())
        self.schedule_pump()
        for client in list(self.clients):
            client.sweep(self.loop.time())

    def stop_reading(self) -> None:
        """Take nothing more from anybody, so that what was taken can be answered."""
        self.is_stopping = True
        for client in list(self.clients):
            client.adjust_reading()
        self.schedule_pump()

    def close_connections(self) -> None:
        """Say goodbye to everybody."""
        for client in list(self.clients):
            client.say_goodbye()

    def _break(self) -> None:
        self.is_broken = True
        self.answered.set()

    def _post(self, function: Callable[..., object], *arguments: object) -> None:
        self.loop.call_soon_threadsafe(self._run_posted, function, arguments)

    def _run_posted(self, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        function(*arguments)
        self.schedule_pump()

    def _pump(self) -> None:
        self._is_pump_scheduled = False
        for connection in self.pipeline.pump():
            client = self.by_connection.get(connection)
            if client is not None:
                client.flush()
        if self.is_stopping and self.relay.is_idle:
            self.answered.set()


def _size(file: str) -> int:
    try:
        return Path(file).stat().st_size
    except OSError:  # no log is written yet
        return 0


def _open_store(settings: Settings) -> Store:
    is_in_memory = settings.storage.file == MEMORY_FILE
    return MemoryStore() if is_in_memory else SqliteStore(settings.storage)
