"""Nothing that moves money is forgotten: every step of every table and union has a point where the suite kills."""

import importlib
import pkgutil

import pytest

import relaymesh.machines
from relaymesh.machines.machine import TransitionTable
from relaymesh.machines.records import Side
from tests.chaos.fault_plan import MOMENTS, TABLES
from tests.chaos.fault_points import FORMS, RULES, SIDES, Circumstances, fault_points, outcome, steps

WITHOUT_MONEY = {
    "OPENING_TRANSITIONS",
    "CLIENT_SESSION_TRANSITIONS",
    "NODE_SESSION_TRANSITIONS",
    "RELAY_CONNECTION_TRANSITIONS",
}
"""Tables that say how two find one another; the job's own tables say what becomes of its money."""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", SIDES)
def test_every_step_has_a_fault_point_or_a_reason_why_it_cannot_have_one(side: Side, form: str) -> None:
    assert [step for step in steps(side) if outcome(side, form, step) is None] == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", SIDES)
def test_every_step_that_is_reached_kills_before_it_and_after_it(side: Side, form: str) -> None:
    points = {(point.step, point.when) for point in fault_points() if (point.side, point.form) == (side, form)}
    reached = {step for step in steps(side) if isinstance(outcome(side, form, step), Circumstances)}
    assert {(step, when) for step in reached for when in MOMENTS} <= points


def test_every_rule_is_about_steps_that_there_are() -> None:
    known = {side: set(steps(side)) for side in SIDES}
    assert [step for rule in RULES for step in rule.steps if not any(step in known[side] for side in rule.sides)] == []


def test_every_reason_is_a_sentence() -> None:
    reasons = [rule.outcome for rule in RULES if isinstance(rule.outcome, str)]
    assert all(len(reason.split()) >= 5 for reason in reasons)


def test_every_transition_table_is_watched_or_moves_no_money() -> None:
    found = {
        name: table
        for module in pkgutil.iter_modules(relaymesh.machines.__path__)
        for name, table in vars(importlib.import_module(f"relaymesh.machines.{module.name}")).items()
        if isinstance(table, TransitionTable)
    }
    watched = {id(table) for table, _ in TABLES.values()}
    assert {name for name, table in found.items() if id(table) not in watched} == WITHOUT_MONEY
