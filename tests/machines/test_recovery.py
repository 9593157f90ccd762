"""What a node signs about a job that its crash ended: all that was paid, and nothing that was delivered."""

import hashlib

from relaymesh.machines.records import TrancheState
from relaymesh.machines.recovery import interrupted_record
from relaymesh.protocol.commitments import JobCommitments
from relaymesh.units import AmountMsat
from tests.conformance.ledger.records import make_job, make_tranche

KEYS = bytes(range(96))


def test_tranches_that_cost_nothing_are_accounted_for_beside_those_that_were_paid() -> None:
    job = make_job(side="node", keys=KEYS)
    tranches = (
        make_tranche(tranche=0, side="node", state=TrancheState.RELEASED),
        make_tranche(tranche=1, side="node", state=TrancheState.PAID, amount_msat=AmountMsat(0), payment_hash=""),
        make_tranche(tranche=2, side="node", state=TrancheState.EXPIRED),
    )
    record = interrupted_record(job, tranches, job.created_at_ms + 5)
    assert [(each.msat, each.units_paid, each.units_used) for each in record.tranches] == [(1_000, 100, 0), (0, 100, 0)]
    assert (record.charged_msat, record.units.output_bytes, record.status) == (1_000, 0, "failed")
    salt = JobCommitments.from_bytes(KEYS).payment_salt(1)
    assert record.tranches[1].payment_commitment == hashlib.sha256(salt + bytes(32)).hexdigest()


def test_a_sealed_tranche_that_was_paid_was_delivered() -> None:
    job = make_job(side="node", keys=KEYS)
    tranches = (
        make_tranche(tranche=0, side="node", state=TrancheState.RELEASED, order="sealed"),
        make_tranche(tranche=1, side="node", state=TrancheState.EXPIRED, order="sealed"),
    )
    record = interrupted_record(job, tranches, job.created_at_ms + 5)
    assert [(each.units_paid, each.units_used) for each in record.tranches] == [(100, 100)]
