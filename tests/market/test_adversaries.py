"""Adversarial populations: what an attacker of N keys gains is bounded, whatever N is (RM-05, "What attacks gain").

Gain is told in what a buyer acts on: the estimate that a job goes well, in thousandths, with one good and one bad
outcome assumed of everybody; trust; the size of job that a newcomer is given; and money taken for nothing.
"""

from dataclasses import replace

import pytest

from relaymesh.market.outcomes import JobKey, Outcome, Result
from relaymesh.market.probation import NEWCOMER_MSAT
from relaymesh.market.reputation import Reputation
from relaymesh.market.standing import Standing
from relaymesh.nostr.event import PublicKey
from relaymesh.units import AmountMsat, Timestamp
from tests.market.builders import NOW, node
from tests.market.populations import BAD, FRIEND, GOOD, SELLER, Job, assertion, client, own, receipts

KEYS = (1, 10, 300)
STRANGERS_ESTIMATE = 667
"""Of a node that only strangers praise: (1 + 1) good of (1 + 1) + 1."""


def estimate(standing: Standing) -> int:
    good, bad = standing.successes_milli + 1_000, standing.failures_milli + 1_000
    return (1_000 * good + (good + bad) // 2) // (good + bad)


def judge(reputation: Reputation, subject: PublicKey = SELLER, now: int = NOW) -> Standing:
    return reputation.standing(subject, Timestamp(now))


def honest_reader(jobs: int = 6) -> Reputation:
    """A reader that trusts one key and has seen a node serve some jobs."""
    reputation = Reputation({FRIEND: 1_000})
    for number in range(jobs):
        reputation.book(SELLER, own(Result.DONE, number))
    return reputation


@pytest.mark.parametrize("keys", KEYS)
def test_sybil_receipts_lift_a_new_node_by_one_outcome_and_no_trust(keys: int) -> None:
    reputation = Reputation({FRIEND: 1_000})
    for receipt in receipts(GOOD, keys):
        reputation.add_receipt(receipt, NOW)
    seen = judge(reputation)
    assert estimate(seen) == STRANGERS_ESTIMATE
    assert (seen.trust_milli, seen.is_on_probation, seen.job_limit_msat) == (0, True, NEWCOMER_MSAT)


@pytest.mark.parametrize("keys", KEYS)
def test_wash_trading_pays_nothing_more_than_one_job_would(keys: int) -> None:
    # A node buys from itself under its own client keys, and asserts with its own long-term keys that all went well.
    reputation = Reputation({FRIEND: 1_000})
    bought = receipts(GOOD, keys, paid_msat=10**9, output_bytes=10**9)
    for number in range(keys):
        author = client(10_000 + number)
        assert reputation.add_assertion(assertion(author, bought[:64], seq=1, rank=100), NOW) == ()
    for receipt in bought:
        reputation.add_receipt(receipt, NOW)
    seen = judge(reputation)
    assert estimate(seen) == STRANGERS_ESTIMATE
    assert (seen.trust_milli, seen.job_limit_msat, seen.output_units_per_1000s) == (0, NEWCOMER_MSAT, None)


@pytest.mark.parametrize("keys", KEYS)
def test_slander_by_strangers_costs_an_honest_node_less_than_one_outcome(keys: int) -> None:
    reputation = honest_reader()
    before = judge(reputation)
    for receipt in receipts(BAD, keys):
        reputation.add_receipt(receipt, NOW)
    after = judge(reputation)
    assert before.successes_milli == after.successes_milli == 6_000
    assert after.failures_milli == 1_000
    assert (after.trust_milli, after.is_on_probation) == (before.trust_milli, False)


@pytest.mark.parametrize("keys", KEYS)
def test_slander_of_an_unknown_node_weighs_as_much_as_one_bad_job(keys: int) -> None:
    reputation = Reputation()
    for receipt in receipts(BAD, keys):
        reputation.add_receipt(receipt, NOW)
    assert estimate(judge(reputation)) == 1_000 - STRANGERS_ESTIMATE
    assert judge(reputation).job_limit_msat == NEWCOMER_MSAT


@pytest.mark.parametrize("keys", KEYS)
def test_a_buyer_that_cancels_its_jobs_slanders_nobody(keys: int) -> None:
    reputation = Reputation()
    for receipt in receipts(BAD, keys, error="cancelled: the buyer cancelled the job"):
        reputation.add_receipt(receipt, NOW)
    assert len(reputation) == 0


def steal(reputation: Reputation, identities: int, honest_jobs: int, last: Result) -> int:
    """Under each identity serve some jobs, then take the largest payment a newcomer is given, and never come back."""
    taken = 0
    for number in range(identities):
        thief = node(number + 1)
        for job in range(honest_jobs):
            reputation.book(thief, Outcome(JobKey(b"%8d%8d" % (number, job)), NOW, Result.DONE))
        limit = judge(reputation, thief).job_limit_msat
        assert limit is not None
        taken += limit
        lost = Outcome(JobKey(b"lost%12d" % number), NOW, last, lost_msat=AmountMsat(limit))
        reputation.book(thief, lost)
    return taken


@pytest.mark.parametrize(("last", "times"), [(Result.FAILED, 2), (Result.PARTIAL, 3)])
@pytest.mark.parametrize("honest_jobs", [0, 2, 4])
@pytest.mark.parametrize("identities", KEYS)
def test_whitewashing_under_new_keys_takes_little_more_than_what_one_newcomer_is_given(
    identities: int, honest_jobs: int, last: Result, times: int
) -> None:
    taken = steal(Reputation(), identities, honest_jobs, last)
    assert NEWCOMER_MSAT << honest_jobs <= taken < times * NEWCOMER_MSAT << honest_jobs


def test_a_new_key_is_worth_no_more_than_nobody() -> None:
    reputation = Reputation()
    for number in range(6):
        reputation.book(node(1), own(Result.DONE, number))
    for number in range(6, 20):
        reputation.book(node(1), own(Result.FAILED, number, lost_msat=AmountMsat(1_000)))
    burnt, fresh = judge(reputation, node(1)), judge(reputation, node(2))
    assert estimate(burnt) < estimate(fresh) == 500
    assert fresh.job_limit_msat is not None and fresh.job_limit_msat < NEWCOMER_MSAT


@pytest.mark.parametrize("good_jobs", [10, 64, 5_000])
def test_milking_a_good_name_stores_no_more_of_it_than_a_window(good_jobs: int) -> None:
    # However long it was honest, some dozens of failures undo it, and soon it is a newcomer again.
    reputation = Reputation()
    for number in range(good_jobs):
        reputation.book(SELLER, own(Result.DONE, number, NOW - 100))
    failures = 0
    while not judge(reputation).is_on_probation:
        reputation.book(SELLER, own(Result.FAILED, 10_000 + failures, NOW - 50, lost_msat=AmountMsat(1)))
        failures += 1
    assert failures <= 21
    while estimate(judge(reputation)) > 500:
        reputation.book(SELLER, own(Result.FAILED, 10_000 + failures, NOW - 50))
        failures += 1
    assert failures <= 32


@pytest.mark.parametrize("keys", KEYS)
def test_a_trusted_key_that_lies_is_worth_four_outcomes_and_own_experience_undoes_it(keys: int) -> None:
    reputation = Reputation({FRIEND: 1_000})
    crowd = receipts(GOOD, keys)
    reputation.add_assertion(assertion(FRIEND, crowd[:64]), NOW)
    for receipt in crowd:
        reputation.add_receipt(receipt, NOW)
    assert judge(reputation).successes_milli <= 5_000
    for number in range(6):
        reputation.book(SELLER, own(Result.FAILED, number))
    assert estimate(judge(reputation)) < 500
    assert judge(reputation).job_limit_msat == NEWCOMER_MSAT


@pytest.mark.parametrize("keys", KEYS)
def test_sybils_cannot_push_out_what_the_reader_saw_itself(keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relaymesh.market.reputation.MAXIMUM_SUBJECTS", 20)
    reputation = honest_reader()
    for number, receipt in enumerate(receipts(GOOD, keys)):
        reputation.add_receipt(replace(GOOD, number=number, node=node(number + 1)).receipt(), NOW)
        reputation.add_receipt(receipt, NOW)
    assert judge(reputation).successes_milli == 7_000


@pytest.mark.parametrize("kind", [GOOD, BAD], ids=["praise", "slander"])
def test_telling_the_same_job_in_many_receipts_gains_nothing(kind: Job) -> None:
    told = [Reputation(), Reputation()]
    for reputation, count in zip(told, (1, 30), strict=True):
        for number in range(count):
            reputation.add_receipt(replace(kind, at=NOW - number, total_ms=kind.total_ms + number).receipt(), NOW)
    assert judge(told[0]) == judge(told[1])
