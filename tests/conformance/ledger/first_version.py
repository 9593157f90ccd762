"""A ledger as the first version of the tables kept it, to be brought up to date.

`UNDO` takes away what later versions added, so that what is left is what the first version made, in either database.
"""

from dataclasses import replace
from typing import Final

from relaymesh.machines.records import LedgerRecord, TrancheRecord, TrancheState
from relaymesh.ports.ledger import JobQuery, Ledger, LedgerJob
from tests.conformance.ledger.records import PREIMAGE, make_evidence, make_job, make_sealed, make_tranche
from tests.conformance.ledger.sealed_rules import sum_paid

UNDO: Final = (
    "DROP TABLE sealed",
    "DROP TABLE payment",
    "DROP INDEX tranche_spent",
    "ALTER TABLE tranche DROP COLUMN opened_at_ms",
    "DELETE FROM schema_version WHERE version > 1",
)
JOBS: Final = (make_job(1), make_job(2, side="node"))
TRANCHES: Final = (
    make_tranche(1, 0, state=TrancheState.RELEASED, preimage=PREIMAGE),
    make_tranche(1, 1, state=TrancheState.UNKNOWN),
    make_tranche(2, side="node", state=TrancheState.EXPIRED),
)
RECORDS: Final[tuple[LedgerRecord, ...]] = (*JOBS, *TRANCHES, make_evidence(plaintext="{}"))


def upgraded(tranche: TrancheRecord) -> TrancheRecord:
    """What a tranche of the first version is now: opened when its job began."""
    (job,) = (job for job in JOBS if (job.side, job.job_id) == (tranche.side, tranche.job_id))
    return replace(tranche, opened_at_ms=job.created_at_ms)


async def check_is_up_to_date(ledger: Ledger) -> None:
    """All that was written in the first version is there, and what is new works with it."""
    first, second = (tuple(map(upgraded, each)) for each in (TRANCHES[:2], TRANCHES[2:]))
    assert await ledger.find_jobs(JobQuery()) == (LedgerJob(JOBS[1], second), LedgerJob(JOBS[0], first))
    assert await ledger.find_evidence() == (RECORDS[-1],)
    assert await ledger.find_sealed() == ()
    assert await sum_paid(ledger, JOBS[0].created_at_ms) == 2_000
    assert await sum_paid(ledger, JOBS[0].created_at_ms + 1) == 0
    await ledger.write((make_sealed(1, 1), first[0]))
    assert await ledger.find_sealed() == (make_sealed(1, 1),)
