"""A stranger's words stay words in a spreadsheet."""

import csv
import io

import pytest

from relaymesh.cli.ledger_export import COLUMNS, as_job, job_document, write_csv
from relaymesh.machines.records import TrancheState
from relaymesh.ports.ledger import LedgerJob
from relaymesh.units import AmountMsat
from tests.conformance.ledger.records import make_job, make_payment, make_tranche


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("=HYPERLINK(0)", "'=HYPERLINK(0)"),
        ("@sum", "'@sum"),
        ("-1", "'-1"),
        ("a,b", "a,b"),
        ('"quoted"', '"quoted"'),
        ("two\nlines", "two\N{REPLACEMENT CHARACTER}lines"),
    ],
)
def test_no_word_becomes_a_formula_a_line_or_a_column(model: str, shown: str) -> None:
    output = io.StringIO()
    write_csv([LedgerJob(make_job(model=model), (make_tranche(),))], output)
    header, line = csv.reader(output.getvalue().splitlines())
    assert tuple(header) == COLUMNS
    assert line[COLUMNS.index("model")] == shown
    assert len(line) == len(COLUMNS)


@pytest.mark.parametrize(
    ("state", "job_state", "charged_msat"),
    [
        (TrancheState.PAYING, "open", 0),
        (TrancheState.UNKNOWN, "unknown", 0),
        (TrancheState.PAID, "done", 2_000),
        (TrancheState.FAILED, "failed", 0),
    ],
)
def test_a_payment_beside_jobs_is_exported_as_one(state: TrancheState, job_state: str, charged_msat: int) -> None:
    told = job_document(as_job(make_payment(1, state=state, fee_msat=AmountMsat(3))))
    assert (told["side"], told["job_type"], told["job_state"]) == ("client", "payment", job_state)
    assert told["job_charged_msat"] == charged_msat
    (tranche,) = told["tranches"]
    assert (tranche["amount_msat"], tranche["fee_msat"], tranche["tranche_state"]) == (2_000, 3, state.value)
    assert tranche["payment_hash"] == make_payment(1).payment_hash
