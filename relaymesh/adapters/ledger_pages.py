"""Long listings, page by page, so that one holds up nobody and ends with its caller."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from relaymesh.machines.records import EvidenceRecord, PaymentRecord, SealedRecord
from relaymesh.ports.ledger import LedgerJob

PAGE_ROWS: Final = 256
SEALED_PAGE_ROWS: Final = 16
"""Fewer, since a sealed tranche may hold 256 KiB."""

RecordT = TypeVar("RecordT", EvidenceRecord, SealedRecord, PaymentRecord)


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs; the next page begins after (`created_at_ms`, row number) `last`, which is None when there is none."""

    jobs: tuple[LedgerJob, ...]
    last: tuple[int, int] | None

    @classmethod
    def of(cls, found: Sequence[tuple[int, LedgerJob]], rows: int) -> "JobPage":
        """The page made of what was found, with row numbers, where at most so many rows were asked for."""
        last = (found[-1][1].job.created_at_ms, found[-1][0]) if len(found) == rows else None
        return cls(tuple(job for _, job in found), last)


@dataclass(frozen=True, slots=True)
class RecordPage(Generic[RecordT]):
    """Some records; the next page begins after row number `last`, which is None when there is none."""

    records: tuple[RecordT, ...]
    last: int | None

    @classmethod
    def of(cls, found: Sequence[tuple[int, RecordT]], rows: int) -> "RecordPage[RecordT]":
        """The page made of what was found, with row numbers, where at most so many rows were asked for."""
        return cls(tuple(record for _, record in found), found[-1][0] if len(found) == rows else None)


async def gather_jobs(
    limit: int, read: Callable[[int, tuple[int, int] | None], Awaitable[JobPage]]
) -> tuple[LedgerJob, ...]:
    """At most so many jobs; `read` reads a page of so many rows after a place."""
    jobs: list[LedgerJob] = []
    after: tuple[int, int] | None = None
    while (wanted := min(limit - len(jobs), PAGE_ROWS)) > 0:
        page = await read(wanted, after)
        jobs += page.jobs
        if (after := page.last) is None:
            break
    return tuple(jobs)


async def gather_records(rows: int, read: Callable[[int, int], Awaitable[RecordPage[RecordT]]]) -> tuple[RecordT, ...]:
    """All records, so many rows at once; `read` reads a page of so many rows after a row number."""
    records: list[RecordT] = []
    after: int | None = 0
    while after is not None:
        page = await read(rows, after)
        records += page.records
        after = page.last
    return tuple(records)


def in_tranche_order(sealed: tuple[SealedRecord, ...], job_id: str | None) -> tuple[SealedRecord, ...]:
    """What was found of one job, by its tranches; of all, as it is."""
    return sealed if job_id is None else tuple(sorted(sealed, key=lambda record: record.tranche))
