"""Relay lists: where someone writes, and where someone reads what is addressed to them (NIP-65)."""

from dataclasses import dataclass
from typing import Final

from relaymesh.errors import RemoteProtocolError, UsageError
from relaymesh.nostr.event import PublicKey, Tag, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.relay_urls import normalise_relay_url
from relaymesh.units import Timestamp

MAXIMUM_RELAYS: Final = 32
"""What is read of a list at most; NIP-65 asks for two to four relays each way."""


@dataclass(frozen=True, slots=True)
class RelayList:
    """Someone's relays, normalised, in order of preference, each at most once per direction.

    Args:
        read_urls: Where to send what is addressed to its author.
        write_urls: Where to look for what its author published.
    """

    read_urls: tuple[str, ...]
    write_urls: tuple[str, ...]


def build_relay_list(public_key: PublicKey, relays: RelayList, created_at: Timestamp) -> UnsignedEvent:
    """The 10002 that announces these relays.

    Raises:
        UsageError: One of the URLs is no relay URL.
    """
    read = tuple(map(normalise_relay_url, relays.read_urls))
    write = tuple(map(normalise_relay_url, relays.write_urls))
    tags: list[Tag] = []
    for url in dict.fromkeys((*read, *write)):
        if url in read and url in write:
            tags.append(("r", url))
        else:
            tags.append(("r", url, "read" if url in read else "write"))
    return UnsignedEvent(public_key, created_at, Kind.RELAY_LIST, tuple(tags), "")


def read_relay_list(event: VerifiedEvent) -> RelayList:
    """Read a 10002; entries that are no relay URL or have an unknown marker are passed over.

    Raises:
        RemoteProtocolError: The event is of another kind.
    """
    if event.kind != Kind.RELAY_LIST:
        raise RemoteProtocolError(f"a relay list must be of kind {int(Kind.RELAY_LIST)}, not {event.kind}")
    read: dict[str, None] = {}
    write: dict[str, None] = {}
    entries = [tag for tag in event.tags if tag[0] == "r" and len(tag) > 1]
    for tag in entries[:MAXIMUM_RELAYS]:
        try:
            url = normalise_relay_url(tag[1])
        except UsageError:
            continue
        marker = tag[2] if len(tag) > 2 else ""
        if marker in ("", "read"):
            read[url] = None
        if marker in ("", "write"):
            write[url] = None
    return RelayList(tuple(read), tuple(write))
