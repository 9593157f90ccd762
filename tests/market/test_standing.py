"""What is known about a node is integers within their ranges, or it is a bug on this side."""

from typing import Any

import pytest

from relaymesh.errors import LocalProtocolError
from relaymesh.market.standing import NOBODY_KNOWN, UNKNOWN, Standing
from tests.market.builders import node


def test_a_node_that_nobody_knows_has_neither_merits_nor_faults() -> None:
    assert NOBODY_KNOWN.get(node(1), UNKNOWN) == Standing(0, 0, None, None, 0, 0, is_on_probation=False, reasons=())


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("successes_milli", 0, 10**9),
        ("failures_milli", 0, 10**9),
        ("first_output_ms", 0, 10**9),
        ("slow_first_output_ms", 0, 10**9),
        ("output_units_per_1000s", 1, 10**9),
        ("slow_output_units_per_1000s", 1, 10**9),
        ("trust_milli", 0, 1_000),
        ("stake_units", 0, 10**9),
    ],
)
def test_every_figure_has_its_range(name: str, least: int, most: int) -> None:
    figures: dict[str, Any]
    for figure in (least, most):
        figures = {name: figure}
        assert getattr(Standing(**figures), name) == figure
    for figure in (least - 1, most + 1):
        figures = {name: figure}
        with pytest.raises(LocalProtocolError, match=name):
            Standing(**figures)
