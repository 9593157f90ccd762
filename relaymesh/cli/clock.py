"""The system's clock, named here and nowhere else."""

import time

from relaymesh.units import Instant, Moment


def system_clock() -> Moment:
    """What the machine's clocks say now."""
    return Moment(Instant(time.monotonic_ns() // 1_000), time.time_ns() // 1_000_000)
