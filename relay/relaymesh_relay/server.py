"""Running a relay: listen, say where, sweep, and stop in order."""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Final

import anyio
import anyio.to_thread

from relaymesh.errors import RelayError
from relaymesh_relay.hub import Hub
from relaymesh_relay.reloading import Log, hangups, reload
from relaymesh_relay.settings import Settings
from relaymesh_relay.transport import ClientTransport, read_clock

_BACKLOG: Final = 2_048
_SWEEP_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 1.0
EXEMPTION: Final = (
    "rates and limits per address do not hold for clients on this machine, nor behind a proxy on it "
    "(network.exempt_loopback, network.address_header)"
)


def _say_nothing(_: str) -> None:
    """The log of a relay that nobody reads."""


async def serve(
    settings: Settings,
    *,
    started: Callable[[str], object],
    log: Log = _say_nothing,
    reread: Callable[[], Settings] | None = None,
) -> None:
    """Serve until cancelled; then finish what was begun and close the database in order.

    Args:
        settings: The relay's.
        started: Called once with the relay's `ws://` URL when it can be reached.
        log: Takes what an operator should know, in a sentence.
        reread: Gives the settings anew; then SIGHUP has them take effect (in the process's main thread only).

    Raises:
        RelayError: The address cannot be listened on, or one of the relay's threads has failed.
        StorageError: The database cannot be opened.
    """
    loop = asyncio.get_running_loop()
    hub = await anyio.to_thread.run_sync(Hub, settings, loop, read_clock)
    hub.begin()
    try:
        server = await _listen(settings, hub)
        try:
            hub.url = _url(settings, server)
            started(hub.url)
            if settings.network.exempt_loopback:
                log(EXEMPTION)
            with hangups(hub.loop, hub.request_reload) if reread else nullcontext():
                await _sweep(hub, reread, log)
        finally:
            server.close()
            await _answer_what_came(hub)
            hub.close_connections()
    finally:
        with anyio.CancelScope(shield=True):  # ends soon: each thread finishes the batch in hand and no more
            await anyio.to_thread.run_sync(hub.pipeline.close)


async def _answer_what_came(hub: Hub) -> None:
    """Read nothing more, and wait a little for events to be stored and answered."""
    hub.stop_reading()
    with anyio.move_on_after(_ANSWER_SECONDS, shield=True):
        await hub.answered.wait()


async def _listen(settings: Settings, hub: Hub) -> asyncio.Server:
    network = settings.network
    try:
        return await hub.loop.create_server(
            partial(ClientTransport, hub), network.host, network.port, backlog=_BACKLOG, reuse_address=True
        )
    except OSError as error:
        where = f"{network.host}:{network.port}"
        raise RelayError(
            f"the relay cannot listen on {where}: {error.strerror}; choose another host or port"
        ) from error


def _url(settings: Settings, server: asyncio.Server) -> str:
    host, port = server.sockets[0].getsockname()[:2]
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"


async def _sweep(hub: Hub, reread: Callable[[], Settings] | None, log: Log) -> None:
    """Look after connections every second, expired events now and then, SIGHUP at once; ends only by cancellation."""
    next_expiry = 0.0
    while not hub.is_broken:
        hub.sweep_connections()
        now = read_clock()
        if hub.loop.time() >= next_expiry:
            next_expiry = hub.loop.time() + hub.settings.storage.sweep_seconds
            hub.pipeline.sweep(now.timestamp)
        with anyio.move_on_after(_SWEEP_SECONDS):
            await hub.hangup.wait()
        if reread is not None and hub.hangup.is_set():
            hub.hangup = anyio.Event()
            await reload(hub, reread, log)
    raise RelayError("a thread of the relay has ended by a fault of its own: start the relay again and report this")
