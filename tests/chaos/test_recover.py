"""A buyer that died with its payment under way reads what it bought after the node died too (`receipts recover`)."""

import json
from collections.abc import Iterator

import pytest

from relaymesh.machines.records import TrancheState
from tests.chaos.fault_plan import MOMENTS, FaultPlan, When
from tests.chaos.play import KILLED
from tests.chaos.stage import Stage, read_books, set_stage
from tests.cli.processes import Home

NOWHERE = "ws://127.0.0.1:9"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A stage of sealed delivery."""
    with set_stage("sealed") as stage:
        yield stage


def kill_both(stage: Stage, step: str) -> Home:
    """A buyer that killed itself after this step, and whose node and relay are gone."""
    buyer = stage.make_buyer()
    stage.start_node(FaultPlan(stage.journal("node")))
    buying = stage.infer(buyer, FaultPlan(stage.journal("client"), step, "after"))
    assert buying.wait() == KILLED, buying.errors.read_text()[-2_000:]
    stage.stop_node()
    return Home(buyer.directory, {**buyer.settings, "RELAYMESH_NETWORK_RELAYS": NOWHERE})


def test_what_was_paid_is_read_from_wallet_and_ledger_alone_once(stage: Stage) -> None:
    buyer = kill_both(stage, "effect Pay")
    ran = buyer.run("receipts", "recover", "--json")
    (job,) = json.loads(ran.stdout)["jobs"]
    assert (ran.returncode, ran.stderr) == (0, "")
    (found,) = read_books(buyer, "client").jobs
    assert [row.state for row in found.tranches] == [TrancheState.RELEASED]
    assert len(job["text"].encode()) == sum(row.units for row in found.tranches) > 0
    assert job["charged_msat"] == found.job.charged_msat == sum(row.amount_msat for row in found.tranches)
    assert buyer.run("ledger", "check", "--side", "client").returncode == 0
    again = buyer.run("receipts", "recover")
    assert (again.returncode, again.stdout) == (1, "") and "nothing to recover" in again.stderr


@pytest.mark.chaos
def test_what_was_kept_and_never_paid_is_not_read_and_said_so(stage: Stage) -> None:
    buyer = kill_both(stage, "write SealedRecord kept")
    ran = buyer.run("receipts", "recover")
    assert (ran.returncode, ran.stdout) == (1, "") and "tranche 0 was not paid" in ran.stderr
    assert buyer.run("ledger", "check", "--side", "client").returncode == 0


@pytest.mark.chaos
@pytest.mark.parametrize("when", MOMENTS)
@pytest.mark.parametrize(
    "step",
    [
        "effect LookUpPayment",
        "tranche PAYING settle PAID",
        "tranche PAID account RELEASED",
        "write JobRecord FAILED",
        "write SealedRecord erased",
    ],
)
def test_what_was_paid_is_read_even_by_who_dies_while_reading(stage: Stage, step: str, when: When) -> None:
    buyer = kill_both(stage, "effect Pay")
    plan = FaultPlan(stage.journal("recover"), step, when)
    reading = stage.launcher.start(buyer, plan, "receipts", "recover")
    assert reading.wait() == KILLED, f"`{step}` was not reached: {reading.errors.read_text()}"
    again = buyer.run("receipts", "recover")
    assert "word 00, " in reading.output.read_text() + again.stdout
    assert again.stdout or step.startswith("write SealedRecord"), "what is not erased can be read again"
    assert buyer.run("ledger", "check", "--side", "client").returncode == 0
    assert read_books(buyer, "client").unresolved == []
