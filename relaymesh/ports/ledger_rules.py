"""The rules that every ledger keeps, whatever it is made of (RM-03, "Exactly once").

They guard money against a caller that is wrong, so they are checked where records are kept and not where they are made.
"""

from typing import Final

from relaymesh.errors import LedgerError
from relaymesh.machines.records import (
    TERMINAL_TRANCHE_STATES,
    JobState,
    PaymentRecord,
    SealedRecord,
    TrancheRecord,
    TrancheState,
)
from relaymesh.ports.ledger import LedgerJob

UNRESOLVED_JOB_STATES: Final = frozenset({JobState.OPEN, JobState.UNKNOWN})
UNRESOLVED_TRANCHE_STATES: Final = frozenset(TrancheState) - TERMINAL_TRANCHE_STATES
SPENT_STATES: Final = frozenset({TrancheState.PAYING, TrancheState.UNKNOWN, TrancheState.PAID, TrancheState.RELEASED})
"""Where a tranche or another payment of the client's side has cost money, or may have."""

_SHOWN_CHARACTERS: Final = 16


def is_unresolved(job: LedgerJob) -> bool:
    """Whether a restart must still see to this job: it is not over, or one of its tranches may still move money."""
    return job.job.state in UNRESOLVED_JOB_STATES or any(
        tranche.state in UNRESOLVED_TRANCHE_STATES for tranche in job.tranches
    )


def check_stays_terminal(stored: TrancheRecord | None, record: TrancheRecord) -> None:
    """A terminal tranche never changes again; to write once more what is stored is no change.

    Raises:
        LedgerError: `stored` is terminal and `record` differs from it.
    """
    if stored is not None and stored.state in TERMINAL_TRANCHE_STATES and stored != record:
        raise LedgerError(f"{_name(record)} is {stored.state.value} in the ledger and must never change again")


def check_stays_sealed(stored: SealedRecord | None, record: SealedRecord) -> None:
    """What a tranche was sealed as never changes; its leaves may be erased, and then they stay so.

    Raises:
        LedgerError: `stored` has another commitment, or other leaves than `record`, which has some.
    """
    if stored is None:
        return
    if stored.commitment != record.commitment:
        raise LedgerError(f"{_name(record)} is committed to in the ledger and must never be sealed again")
    if record.leaves not in ((), stored.leaves):
        raise LedgerError(f"{_name(record)} has its leaves in the ledger, which may be erased and never change")


def check_stays_paid(stored: PaymentRecord | None, record: PaymentRecord) -> None:
    """A payment beside jobs never changes once it is paid.

    Raises:
        LedgerError: `stored` is paid and `record` differs from it.
    """
    if stored is not None and stored.state is TrancheState.PAID and stored != record:
        raise LedgerError(
            f"payment {record.payment_hash[:_SHOWN_CHARACTERS]} is paid in the ledger and must never change again"
        )


def missing_tranche(record: SealedRecord) -> LedgerError:
    """What a sealed tranche is refused with whose payment the ledger does not know."""
    return LedgerError(f"what {_name(record)} was sealed as cannot be written to the ledger before the tranche")


def missing_job(record: TrancheRecord) -> LedgerError:
    """What a tranche without its job is refused with: after a restart nobody would find its money."""
    return LedgerError(f"{_name(record)} cannot be written to the ledger before its job")


def repeated_payment_hash(record: TrancheRecord) -> LedgerError:
    """What a tranche is refused with whose payment hash serves another tranche of the client's side."""
    return LedgerError(f"{_name(record)} has the payment hash of another tranche in the ledger; it must not be paid")


def _name(record: TrancheRecord | SealedRecord) -> str:
    return f"tranche {record.tranche} of job {record.job_id[:_SHOWN_CHARACTERS]}"
