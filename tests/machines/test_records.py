"""What a machine has stored in one go."""

from relaymesh.machines.records import Store, join_stores
from tests.conformance.ledger.records import make_job, make_tranche


def test_stores_that_follow_one_another_are_one_and_nothing_changes_places() -> None:
    job, tranche, other = make_job(), make_tranche(), make_job(2)
    effects = (Store((job,)), Store((tranche, job)), "pay", Store((other,)), "send", "send")
    assert join_stores(effects) == (Store((job, tranche, job)), "pay", Store((other,)), "send", "send")
    assert join_stores(()) == ()
