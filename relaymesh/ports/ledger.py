"""The port to the ledger: what must survive `kill -9`, written before it has any effect (RM-03, "Exactly once")."""

from dataclasses import dataclass
from typing import Protocol

from relaymesh.machines.records import (
    EvidenceRecord,
    JobRecord,
    LedgerRecord,
    PaymentRecord,
    SealedRecord,
    Side,
    TrancheRecord,
)
from relaymesh.nostr.event import PublicKey
from relaymesh.units import AmountMsat, Timestamp


@dataclass(frozen=True, slots=True)
class LedgerJob:
    """A job with its tranches, in order."""

    job: JobRecord
    tranches: tuple[TrancheRecord, ...]


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs to find; every field that is not None narrows the search.

    Args:
        side: On whose side.
        job_id: This one, or those whose id begins so.
        client: Of this client session key.
        unpaid_order: Jobs with a tranche of this order that nobody will pay any more (state `expired` or `failed`).
        only_unresolved: Jobs that are open or unknown, or that have a tranche that may still move money (state
            `offered`, `invoiced`, `paying`, `unknown`) or was paid and not accounted for (`paid`).
        limit: At most so many, the newest first.
    """

    side: Side | None = None
    job_id: str | None = None
    client: PublicKey | None = None
    unpaid_order: str | None = None
    only_unresolved: bool = False
    limit: int = 1_000


@dataclass(frozen=True, slots=True)
class PaidMinute:
    """What was paid in a minute of Unix time, or may have been; `begins_at_ms` is its first millisecond."""

    begins_at_ms: int
    paid_msat: AmountMsat


class SpentMoney(Protocol):
    """What was spent before, for whoever limits it."""

    async def paid_by_minute(self, since_ms: int) -> tuple[PaidMinute, ...]:
        """What the client's side has paid or may yet have paid, fees included, by the minute in which it was opened.

        That are the tranches in the states `paying`, `unknown`, `paid` and `released`, and the payments beside jobs in
        the same. Minutes in which nothing was paid are left out, the oldest come first.

        Args:
            since_ms: Unix time in milliseconds; what was opened before is left out, also of the minute it lies in.
        """
        ...

    async def find_payments(self) -> tuple[PaymentRecord, ...]:
        """The payments that are no tranches of jobs, in the order in which they were first written."""
        ...


class SealedDeliveries(Protocol):
    """What was delivered sealed, for whoever has the preimages."""

    async def find_sealed(
        self, side: Side | None = None, client: PublicKey | None = None, job_id: str | None = None
    ) -> tuple[SealedRecord, ...]:
        """What was delivered sealed for one job, in the order of its tranches; or for all, as it was first written.

        What is None does not narrow the search.
        """
        ...


class Ledger(SpentMoney, SealedDeliveries, Protocol):
    """Jobs, tranches, evidence and sequence numbers of one identity."""

    async def write(self, records: tuple[LedgerRecord, ...]) -> None:
        """Insert or replace these records in one transaction; returns only when they are durable.

        A job is keyed by (side, client, job id), a tranche by (side, client, job id, tranche), evidence by
        (side, event id): what several jobs share, a session's quote, is kept once, for the first of them. A tranche
        comes after its job or in the same write, since nobody would find it without. A terminal tranche never changes
        again, nor does a payment hash serve two tranches of the client's side. What a sealed tranche was delivered as
        is keyed as the tranche is and comes after it or in the same write; its commitment never changes, and its leaves
        only once, when they are erased. A payment beside jobs is keyed by its hash, and once paid it never changes.

        Raises:
            LedgerError: The records could not be made durable, or break one of these rules; none of them was written.
        """
        ...

    async def find_jobs(self, query: JobQuery) -> tuple[LedgerJob, ...]:
        """The jobs that match, newest first."""
        ...

    async def find_evidence(self, job_id: str | None = None) -> tuple[EvidenceRecord, ...]:
        """The evidence of one job (or of all), in the order in which it was first written.

        A job's evidence is what was written for it, and the quote that it cites, whichever job that was written for.
        """
        ...

    async def next_sequence(self, scope: str, now: Timestamp) -> int:
        """max(last + 1, `now`) for this scope (author, kind and `d`), durable before it is returned (RM-01)."""
        ...
