"""Other settings for a relay that runs: which take effect at once, which wait for its next start, and what is said."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, Final

import anyio
import anyio.to_thread

from relaymesh.errors import UsageError
from relaymesh_relay.hub import Hub
from relaymesh_relay.settings import Settings

FIXED: Final = (
    ("network", "host"),
    ("network", "port"),
    ("storage", "file"),
    ("storage", "synchronous"),
    ("storage", "cache_megabytes"),
)
"""What the listening socket and the open database were made with."""

Log = Callable[[str], object]


def keep_fixed(running: Settings, wanted: Settings) -> tuple[Settings, tuple[str, ...]]:
    """The wanted settings with what cannot change as it is, and the names of what was to change and cannot."""
    waiting = []
    for section, name in FIXED:
        value = getattr(getattr(running, section), name)
        if getattr(getattr(wanted, section), name) != value:
            waiting.append(f"{section}.{name}")
            wanted = replace(wanted, **{section: replace(getattr(wanted, section), **{name: value})})
    return wanted, tuple(waiting)


def changed_names(before: Settings, after: Settings) -> tuple[str, ...]:
    """The settings, as `section.name`, that differ."""
    return tuple(
        f"{section.name}.{entry.name}"
        for section in fields(before)
        for entry in fields(getattr(before, section.name))
        if getattr(getattr(before, section.name), entry.name) != getattr(getattr(after, section.name), entry.name)
    )


async def reload(hub: Hub, reread: Callable[[], Settings], log: Log) -> None:
    """Read the settings again and hold everybody to them; where they are wrong, say so and keep the old ones."""
    try:
        wanted = await anyio.to_thread.run_sync(reread)
    except UsageError as error:
        log(f"the settings stay as they were: {error}")
        return
    before = hub.configured
    settings, waiting = keep_fixed(before, wanted)
    hub.configure(settings)
    changed = changed_names(before, settings)
    log(f"settings read again; changed: {', '.join(changed) or 'nothing'}")
    if waiting:
        log(f"these change at the relay's next start only: {', '.join(waiting)}")


@contextmanager
def hangups(loop: Any, note: Callable[[], object]) -> Iterator[None]:
    """Have `note` called for every SIGHUP, where there is such a signal, for as long as the block lasts."""
    number = getattr(signal, "SIGHUP", None)
    if number is None:
        yield
        return
    loop.add_signal_handler(number, note)
    try:
        yield
    finally:
        loop.remove_signal_handler(number)
