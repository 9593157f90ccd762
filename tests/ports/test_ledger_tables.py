"""A write into the tables is whole or has not happened, whatever part of them it touches."""

import pytest

from relaymesh.errors import LedgerError
from relaymesh.machines.records import TrancheState
from relaymesh.ports.ledger_tables import LedgerTables
from tests.conformance.ledger.records import make_evidence, make_job, make_payment, make_sealed, make_tranche


def test_a_write_that_breaks_a_rule_leaves_no_trace_in_any_table() -> None:
    tables = LedgerTables()
    tables.write((make_job(1), make_tranche(1, state=TrancheState.FAILED)))
    before = dict(tables.jobs), dict(tables.evidence), dict(tables.payers), dict(tables.sealed), dict(tables.payments)
    with pytest.raises(LedgerError, match="must never change again"):
        tables.write(
            (
                *(make_job(2), make_tranche(2), make_sealed(2), make_evidence(2), make_payment()),
                make_tranche(1, state=TrancheState.PAID),
            )
        )
    assert (tables.jobs, tables.evidence, tables.payers, tables.sealed, tables.payments) == before
    tables.write((make_job(2), make_tranche(2), make_sealed(2), make_evidence(2)))
    assert (len(tables.jobs), len(tables.evidence), len(tables.payers), len(tables.sealed)) == (2, 1, 2, 1)
