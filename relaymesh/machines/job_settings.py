"""How long either side of a job waits (RM-02, "Timeouts"); defaults are the protocol's."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientJobSettings:
    """How long a client waits, in milliseconds (RM-02, "Timeouts"); defaults are the protocol's.

    Args:
        first_output_ms: For the first output at least.
        first_output_etas: For the first output where that is longer: so many times what the quote says.
        longest_first_output_ms: Whatever a quote says.
        sealed_ms: For the next sealed tranche at least: the node is silent while it works on one.
    """

    first_output_ms: int = 10_000
    first_output_etas: int = 3
    longest_first_output_ms: int = 600_000
    sealed_ms: int = 120_000
    idle_ms: int = 30_000
    metering_ms: int = 5_000
    doubt_ms: int = 60_000

    def patience_ms(self, eta_ms: int, *, is_sealed: bool = False) -> int:
        """How long to wait for the first output of a node that expects it in `eta_ms`; sealed, for a whole tranche."""
        least_ms = max(self.first_output_ms, self.sealed_ms) if is_sealed else self.first_output_ms
        return max(least_ms, min(self.first_output_etas * eta_ms, self.longest_first_output_ms))


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
