"""Whoever is killed at whatever step, and whatever the wallets say: nothing is paid twice, nothing is left open.

Each case is a purchase with real processes: one of them kills itself (`kill -9`) at one step, is started again, and
both ledgers, both wallets and what the processes noted are held against each other. `make chaos` plays all of them.
"""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.chaos.fault_points import FaultPoint, fault_points
from tests.chaos.play import Case
from tests.chaos.stage import Stage, set_stage

POINTS: Final = tuple(fault_points())
SAMPLE: Final = {
    "prepay": (
        "prepay client after tranche INVOICED pay PAYING (ordinary)",
        "prepay client after effect Pay (ordinary)",
        "prepay client before tranche UNKNOWN settle PAID (buyer's wallet late)",
        "prepay node after effect CreateInvoice (ordinary)",
        "prepay node before tranche INVOICED settle PAID (ordinary)",
        "prepay node after tranche INVOICED settle PAID (ordinary)",
        "prepay client (buyer's wallet lies)",
    )
}
"""What `make test` plays of each form: the moments at which money is under way."""


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with set_stage(request.param) as stage:
        yield stage


def sample(points: tuple[FaultPoint, ...]) -> list[object]:
    """Every point with its stage as parameters, those outside the sample marked for `make chaos`."""
    names = {name for chosen in SAMPLE.values() for name in chosen}
    return [
        pytest.param(point.form, point, id=str(point), marks=() if str(point) in names else pytest.mark.chaos)
        for point in points
    ]


@pytest.mark.parametrize(("stage", "point"), sample(POINTS), indirect=["stage"])
def test_the_books_agree_whoever_dies_at(stage: Stage, point: FaultPoint) -> None:
    assert Case(stage, point).play().breaches() == []


def test_the_sample_names_points_that_there_are() -> None:
    names = {str(point) for point in POINTS}
    assert not [name for chosen in SAMPLE.values() for name in chosen if name not in names]
