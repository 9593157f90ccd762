"""What the relay counts while it works: plain integers on the hot path, rendered when somebody asks (`metrics`)."""

from collections import Counter
from typing import Final

COMMIT_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
BATCH_EVENTS: Final = (1.0, 4.0, 16.0, 64.0, 256.0, 512.0)
OUTCOMES: Final = (
    "stored",
    "ephemeral",
    "duplicate",
    "mute",
    "blocked",
    "restricted",
    "rate-limited",
    "invalid",
    "pow",
    "auth-required",
    "error",
)
"""What becomes of an event: kept, delivered, or answered with this prefix (NIP-01, "machine-readable prefix")."""


class Tally:
    """How often a quantity was at most each bound, and its sum; kept by one thread, read by any.

    Args:
        bounds: In ascending order; whatever is above the last is counted too.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """How many fell to each bound and no lower one; the last is above all bounds."""
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one more."""
        place = 0
        for bound in self.bounds:
            if value <= bound:
                break
            place += 1
        self.counts[place] += 1
        self.total += value


class Counts:
    """Since the relay started; no count is kept by key or address."""

    __slots__ = ("batch_events", "commit_seconds", "deliveries", "outcomes", "received_bytes", "requests", "sent_bytes")

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        """Events by what became of them, one of `OUTCOMES`."""
        self.deliveries = 0
        """Live events sent to subscriptions."""
        self.requests: Counter[str] = Counter({"REQ": 0, "COUNT": 0})
        """Questions, by the message that asked them."""
        self.received_bytes = 0
        self.sent_bytes = 0
        self.commit_seconds = Tally(COMMIT_SECONDS)
        """How long the writer took for each transaction of events."""
        self.batch_events = Tally(BATCH_EVENTS)
        """How many events stood in each."""
