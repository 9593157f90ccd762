"""How long either side of a job waits (RM-02, "Timeouts"); defaults are the protocol's."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientJobSettings:
    """How long a client waits, in milliseconds (RM-02, "Timeouts"); defaults are the protocol's.

    Args:
        first_output_ms: For the first output at least.
        first_output_etas: For the first output where that is longer: so many times what the quote says.
        longest_first_output_ms: Whatever a quote says.
    """

    first_output_ms: int = 10_000
    first_output_etas: int = 3
    longest_first_output_ms: int = 600_000
    idle_ms: int = 30_000
    metering_ms: int = 5_000
    doubt_ms: int = 60_000

    def patience_ms(self, eta_ms: int) -> int:
        """How long to wait for the first output of a node that expects it in `eta_ms`."""
        return max(self.first_output_ms, min(self.first_output_etas * eta_ms, self.longest_first_output_ms))


@dataclass(frozen=True, slots=True)
class NodeJobSettings:
    """How long a node waits (RM-02, "Timeouts"); defaults are the protocol's.

    Args:
        credit_ms: For a client to grant more credit; meanwhile the job has its place, and the runner waits.
    """

    invoice_expiry_seconds: int = 60
    credit_ms: int = 60_000
    receipt_ms: int = 10_000
    disconnect_ms: int = 30_000
