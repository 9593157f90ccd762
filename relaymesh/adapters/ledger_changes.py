"""What callers want changed in a ledger, and what comes of it: whole changes, each of which fails alone."""

from dataclasses import dataclass
from typing import Final

from relaymesh.errors import LedgerError
from relaymesh.machines.records import LedgerRecord
from relaymesh.units import Timestamp

MAXIMUM_GROUP: Final = 256
"""How many changes share a transaction at most, so that none of them waits for a very long one."""


@dataclass(frozen=True, slots=True)
class NextSequence:
    """A change: draw the next sequence number of a scope."""

    scope: str
    now: Timestamp


Change = tuple[LedgerRecord, ...] | NextSequence
"""What one caller wants written: all of it or nothing."""

Outcome = int | LedgerError
"""The sequence number that was drawn (0 where none was), or why the change was not carried out."""


def next_value(last: int | None, change: NextSequence) -> int:
    """The sequence number after `last`; the first of its scope where there is none (RM-01)."""
    return change.now if last is None else max(last + 1, change.now)


def unwritable() -> LedgerError:
    """What a change is refused with that no ledger could hold; it says nothing of the content."""
    return LedgerError(
        "a record cannot be written to the ledger: its text must be valid Unicode, its numbers within 64 bits"
    )
