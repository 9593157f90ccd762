"""How long either side of a job waits (RM-02, "Timeouts"); defaults are the protocol's."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientJobSettings:
    """How long a client waits, in milliseconds (RM-02, "Timeouts"); defaults are the protocol's."""

    first_output_ms: int = 10_000
    first_output_etas: int = 3
    idle_ms: int = 30_000
    metering_ms: int = 5_000
    doubt_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class NodeJobSettings:
    """How long a node waits (RM-02, "Timeouts"); defaults are the protocol's."""

    invoice_expiry_seconds: int = 60
    receipt_ms: int = 10_000
    disconnect_ms: int = 30_000
