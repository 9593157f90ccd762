"""Whoever is killed at whatever step, and whatever the wallets say: nothing is paid twice, nothing is left open.

Each case is a purchase with real processes: one of them kills itself (`kill -9`) at one step, is started again, and
both ledgers, both wallets and what the processes noted are held against each other. `make chaos` plays all of them.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Final

import pytest

from tests.chaos.fault_points import FORMS, SIDES, FaultPoint, fault_points
from tests.chaos.play import Case
from tests.chaos.stage import Stage, set_stage

POINTS: Final = tuple(fault_points())
SAMPLE: Final = (
    "prepay client after effect Pay (ordinary)",
    "prepay client (buyer's wallet lies)",
    "prepay node after tranche INVOICED settle PAID (ordinary)",
    "sealed client after tranche INVOICED pay PAYING (ordinary)",
    "sealed client before tranche UNKNOWN settle PAID (buyer's wallet late)",
    "sealed node after effect CreateInvoice (ordinary)",
    "postpay client after effect Pay (ordinary)",
    "postpay node before tranche INVOICED settle PAID (ordinary)",
    "session client after effect Pay (ordinary)",
    "session node before tranche INVOICED settle PAID (ordinary)",
)
"""What `make test` plays: of each form and side a moment at which money is under way."""


class Stages:
    """The stage of one form at a time: setting one takes longer than a case on it."""

    def __init__(self) -> None:
        self._form, self._set = "", ExitStack()

    def of(self, form: str) -> Stage:
        """The stage on which everybody settles in this form."""
        if form != self._form:
            self._set.close()
            self._form, self._stage = form, self._set.enter_context(set_stage(form))
        return self._stage

    def close(self) -> None:
        """Clear the last one away."""
        self._set.close()


@pytest.fixture(scope="module")
def stages() -> Iterator[Stages]:
    with closing(Stages()) as stages:
        yield stages


def sample(points: tuple[FaultPoint, ...]) -> list[object]:
    """Every point as a parameter, those outside the sample marked for `make chaos`."""
    return [
        pytest.param(point, id=str(point), marks=() if str(point) in SAMPLE else pytest.mark.chaos) for point in points
    ]


@pytest.mark.timeout(120)  # on a busy machine several waits of up to 20 s add up
@pytest.mark.parametrize("point", sample(POINTS))
def test_the_books_agree_whoever_dies_at(stages: Stages, point: FaultPoint) -> None:
    assert Case(stages.of(point.form), point).play().breaches() == []


def test_the_sample_names_points_that_there_are_and_all_forms_and_sides() -> None:
    chosen = [point for point in POINTS if str(point) in SAMPLE]
    assert len(chosen) == len(SAMPLE)
    assert {(point.form, point.side) for point in chosen} == {(form, side) for form in FORMS for side in SIDES}
