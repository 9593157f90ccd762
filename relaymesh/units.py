"""Money and time, each in a type of its own, so that neither can be mistaken for a plain number.

RM-01, "Content rules". Money is an integer of millisatoshis, always. Wall-clock time (`Timestamp`, Unix seconds, what
events carry) and monotonic time (`Instant`, what deadlines are made of) never mix.
"""

from dataclasses import dataclass
from typing import Final, NewType

AmountMsat = NewType("AmountMsat", int)
"""Money in whole millisatoshis, 0 … 2^53 − 1."""

Timestamp = NewType("Timestamp", int)
"""Unix seconds, as in an event's `created_at` (NIP-01)."""

Instant = NewType("Instant", int)
"""Microseconds on a monotonic clock whose zero means nothing; only differences do."""

MAXIMUM_INTEGER: Final = 2**53 - 1
"""The largest integer that every JSON implementation reads exactly; amounts and results stay within it."""

MICROSECONDS_PER_MILLISECOND: Final = 1_000
MILLISECONDS_PER_SECOND: Final = 1_000
MILLISECONDS_PER_MINUTE: Final = 60_000


@dataclass(frozen=True, slots=True)
class Moment:
    """The time, handed to a machine: where the monotonic clock stands and what the wall clock says.

    Args:
        instant: Monotonic microseconds, for deadlines and for measuring.
        unix_ms: Unix time in milliseconds, for what is written on the wire.
    """

    instant: Instant
    unix_ms: int

    @property
    def timestamp(self) -> Timestamp:
        """Unix seconds, rounded down, as events carry them."""
        return Timestamp(self.unix_ms // MILLISECONDS_PER_SECOND)

    def after_ms(self, milliseconds: int) -> Instant:
        """The instant that comes `milliseconds` (at least 0) after this moment."""
        return Instant(self.instant + milliseconds * MICROSECONDS_PER_MILLISECOND)


def elapsed_ms(earlier: Instant, later: Instant) -> int:
    """Whole milliseconds from one instant to a later one, rounded down."""
    return (later - earlier) // MICROSECONDS_PER_MILLISECOND
