"""A stranger's words stay words in a spreadsheet."""

import csv
import io

import pytest

from relaymesh.cli.ledger_export import COLUMNS, write_csv
from relaymesh.ports.ledger import LedgerJob
from tests.conformance.ledger.records import make_job, make_tranche


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
