"""Whether our clock is one that others share: what is signed a minute off is taken by nobody (RM-01, "Relays")."""

from collections.abc import Mapping
from typing import Final

from relaymesh.errors import UsageError

MAXIMUM_OFFSET_SECONDS: Final = 20


def check_clock(offsets: Mapping[str, int]) -> None:
    """Go on only with a clock that most relays share.

    Args:
        offsets: By relay URL, by how many seconds its clock is ahead of ours; empty where none says.

    Raises:
        UsageError: More than half of them are more than `MAXIMUM_OFFSET_SECONDS` away.
    """
    far = [seconds for seconds in offsets.values() if abs(seconds) > MAXIMUM_OFFSET_SECONDS]
    if 2 * len(far) <= len(offsets):
        return
    farthest = max(far, key=abs)
    direction = "behind" if farthest > 0 else "ahead"
    raise UsageError(
        f"this machine's clock is {abs(farthest)} s {direction} by the word of {len(far)} of {len(offsets)} relays, "
        f"and nobody takes what it dates: set the clock (at most {MAXIMUM_OFFSET_SECONDS} s off) and start again"
    )
