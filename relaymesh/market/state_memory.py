"""How a directory holds one piece of state: packed for good, and read only while somebody looks at it.

A hundred thousand nodes publish a quarter of a gigabyte of text; as values of Python they would be four times that.
"""

import hashlib
from collections import OrderedDict, deque
from typing import Final

from relaymesh.market.state import STATE_KINDS, Address, Ignored, LookupKey, State, end_of, sequence_of
from relaymesh.nostr.event import EventId
from relaymesh.nostr.packed_event import pack, unpack
from relaymesh.units import Timestamp

MAXIMUM_RELAYS: Final = 255
MAXIMUM_ENDED: Final = 200_000
MAXIMUM_READ: Final = 1_024
"""So many values of each kind are kept beside their packed events; the garbage collector walks over all of them."""


class Entry:
    """One address and what stands there now; compared by identity, so that it can be a key.

    Args:
        address: Author, kind and `d`.
    """

    __slots__ = ("address", "ends_at", "event_id", "lookup_keys", "packed", "relays", "sequence", "value")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.event_id = EventId("")
        self.packed = b""
        self.sequence = -1
        self.ends_at = Timestamp(0)
        self.lookup_keys: tuple[LookupKey, ...] = ()
        self.relays = b""
        """The numbers of the relays that carried it, in the order in which they did."""
        self.value: State | None = None


class RelayNumbers:
    """Relays by number, so that one byte says who carries an entry; those after the last number share it."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number_of(self, relay_url: str) -> bytes:
        """A relay's number as one byte; a new one's is the next."""
        number = self._numbers.get(relay_url)
        if number is None:
            number = len(self._numbers)
            if number < MAXIMUM_RELAYS:
                self._numbers[relay_url] = number
        return bytes((min(number, MAXIMUM_RELAYS - 1),))

    def urls_of(self, numbers: bytes) -> tuple[str, ...]:
        """The relays with these numbers."""
        urls = tuple(self._numbers)
        return tuple(urls[number] for number in numbers)


class EndedMemory:
    """The `seq` and a digest of what has ended, so that it does not come back through a relay that withheld its end."""

    def __init__(self) -> None:
        self._ended: OrderedDict[Address, tuple[int, bytes]] = OrderedDict()

    def remember(self, address: Address, sequence: int, content: str) -> None:
        """What stood at an address has ended; what ended longest ago is forgotten when there is no more room."""
        self._ended[address] = (sequence, _digest(content))
        self._ended.move_to_end(address)
        if len(self._ended) > MAXIMUM_ENDED:
            self._ended.popitem(last=False)

    def refuse(self, address: Address, sequence: int, content: str) -> Ignored | None:
        """Why something may not stand at an address after what ended there; None if it may."""
        ended, digest = self._ended.get(address, (-1, b""))
        if sequence < ended:
            return Ignored.ROLLED_BACK
        return Ignored.EQUIVOCATION if sequence == ended and _digest(content) != digest else None


class StateMemory:
    """Reads entries again when they are asked for, and lets go of the values that were read longest ago."""

    def __init__(self) -> None:
        self._read: dict[int, deque[Entry]] = {kind: deque() for kind in STATE_KINDS}

    def keep(self, entry: Entry, state: State) -> None:
        """Put a state into its entry, in the place of what stood there."""
        had_value = entry.value is not None
        entry.packed, entry.event_id = pack(state.event), state.event.id
        entry.sequence, entry.ends_at = sequence_of(state), end_of(state)
        entry.value = state
        if not had_value:
            self._remember(entry)

    def recall(self, entry: Entry) -> State:
        """The value that stands in an entry."""
        value = entry.value
        if value is None:
            value = entry.value = STATE_KINDS[entry.address[1]].read(unpack(entry.packed))
            self._remember(entry)
        return value

    def forget(self, entry: Entry) -> None:
        """Hold nothing of an entry that has gone."""
        entry.packed, entry.value = b"", None

    def _remember(self, entry: Entry) -> None:
        read = self._read[entry.address[1]]
        read.append(entry)
        if len(read) > MAXIMUM_READ:
            read.popleft().value = None


def _digest(content: str) -> bytes:
    return hashlib.sha256(content.encode()).digest()
