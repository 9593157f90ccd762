"""Reputation of one node: whose word counts, how much, and what is remembered."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import relaymesh.market.reputation as reputation_module
from relaymesh.market.opinion import OTHERS_WORTH_MILLI, STRANGERS_WORTH_MILLI, VOUCHER_WORTH_MILLI
from relaymesh.market.outcomes import HALF_LIFE_SECONDS, Outcome, Result
from relaymesh.market.probation import NEWCOMER_MSAT, NODE_OUTCOMES
from relaymesh.market.reputation import OWN_WINDOW, STRANGERS_WINDOW, Reputation
from relaymesh.market.standing import Standing
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.protocol.evidence import SignedReceipt
from relaymesh.units import AmountMsat, Timestamp
from tests.market.builders import NOW, node
from tests.market.populations import BAD, FRIEND, GOOD, OTHER_FRIEND, SELLER, Job, assertion, own, receipts

jobs = st.builds(
    lambda number, kind, age: replace(kind, number=number, at=NOW - age),
    st.integers(0, 40),
    st.sampled_from([GOOD, BAD, replace(BAD, outcome="partial", status="partial")]),
    st.integers(0, 3 * HALF_LIFE_SECONDS),
)
crowds = st.lists(jobs.map(Job.receipt), max_size=25)
own_outcomes = st.lists(
    st.builds(
        lambda number, result, age: own(result, number, NOW - age),
        st.integers(0, 30),
        st.sampled_from(Result),
        st.integers(0, 3 * HALF_LIFE_SECONDS),
    ),
    max_size=25,
)


def reader(
    own_jobs: list[Outcome] | tuple[Outcome, ...] = (),
    strangers: list[SignedReceipt] | tuple[SignedReceipt, ...] = (),
    vouched: list[SignedReceipt] | tuple[SignedReceipt, ...] = (),
    *,
    weight: int = 1_000,
) -> Reputation:
    reputation = Reputation({FRIEND: weight})
    if vouched:
        reputation.add_assertion(assertion(FRIEND, list(vouched)), NOW)
    for receipt in (*vouched, *strangers):
        reputation.add_receipt(receipt, NOW)
    for outcome in own_jobs:
        reputation.book(SELLER, outcome)
    return reputation


def standing(reputation: Reputation, subject: PublicKey = SELLER, now: int = NOW) -> Standing:
    return reputation.standing(subject, Timestamp(now))


def counts(seen: Standing) -> tuple[int, int]:
    return seen.successes_milli, seen.failures_milli


# ── whose word counts ─────────────────────────────────────────────────────────────────────────────────────────────


def test_nobody_known_is_a_newcomer_with_small_jobs() -> None:
    seen = standing(Reputation())
    assert (counts(seen), seen.trust_milli, seen.is_on_probation) == ((0, 0), 0, True)
    assert seen.job_limit_msat == NEWCOMER_MSAT
    assert seen.reasons == ("nobody has seen it work", f"on probation: jobs up to {NEWCOMER_MSAT} msat")


def test_own_jobs_count_in_full_and_earn_trust() -> None:
    seen = standing(reader([own(Result.DONE, number) for number in range(7)] + [own(Result.FAILED, 9)]))
    assert counts(seen) == (7_000, 1_000)
    assert seen.trust_milli == 1_000 * 7_000 // 12_000
    assert not seen.is_on_probation and seen.job_limit_msat is None
    assert seen.reasons == ("7 of 8 own jobs done",)


def test_a_trusted_key_counts_as_one_counterparty_by_its_weight() -> None:
    crowd = receipts(GOOD, 12)
    assert counts(standing(reader(vouched=crowd))) == (VOUCHER_WORTH_MILLI, 0)
    assert counts(standing(reader(vouched=crowd, weight=250))) == (VOUCHER_WORTH_MILLI // 4, 0)
    assert "1 trusted key vouches for 12 jobs, 12 done" in standing(reader(vouched=crowd)).reasons


def test_a_receipt_that_two_trusted_keys_stand_by_counts_once() -> None:
    shared = receipts(GOOD, 2)
    reputation = Reputation({FRIEND: 1_000, OTHER_FRIEND: 1_000})
    for author in (FRIEND, OTHER_FRIEND):
        reputation.add_assertion(assertion(author, shared), NOW)
    for receipt in shared:
        reputation.add_receipt(receipt, NOW)
    assert counts(standing(reputation)) == (2_000, 0)


def test_an_assertion_asks_for_the_receipts_it_stands_by_and_takes_those_that_came_before() -> None:
    early, late = receipts(GOOD, 1), receipts(GOOD, 1, first=1)
    reputation = reader(strangers=early)
    assert standing(reputation).trust_milli == 0
    assert reputation.add_assertion(assertion(FRIEND, early + late), NOW) == (late[0].event.id,)
    assert standing(reputation).successes_milli == 1_000 and standing(reputation).trust_milli > 0
    reputation.add_receipt(late[0], NOW)
    assert standing(reputation).successes_milli == 2_000


def test_a_later_assertion_replaces_the_one_before_and_an_older_one_nothing() -> None:
    crowd = receipts(GOOD, 3)
    reputation = reader(vouched=crowd)
    reputation.add_assertion(assertion(FRIEND, crowd[:1], seq=2), NOW)
    assert reputation.evidence(SELLER, NOW).vouched[0][1][0].receipt_id == crowd[0].event.id
    assert len(reputation.evidence(SELLER, NOW).believed) == 1
    assert reputation.add_assertion(assertion(FRIEND, crowd, seq=1), NOW) == ()
    assert len(reputation.evidence(SELLER, NOW).believed) == 1


def test_an_assertion_counts_until_it_ends_and_a_strangers_never() -> None:
    crowd = receipts(GOOD, 3)
    reputation = Reputation({FRIEND: 1_000})
    assert reputation.add_assertion(assertion(OTHER_FRIEND, crowd), NOW) == ()
    assert reputation.add_assertion(assertion(FRIEND, crowd, valid_until=NOW), NOW) == ()
    assert reputation.add_assertion(assertion(FRIEND, crowd, valid_until=NOW + 7_200), NOW) != ()
    for receipt in crowd:
        reputation.add_receipt(receipt, NOW)
    assert standing(reputation).trust_milli > 0
    assert standing(reputation, now=NOW + 10_800).trust_milli == 0


def test_an_own_job_is_told_by_the_reader_alone() -> None:
    receipt = GOOD.receipt()
    (mine,) = reader(strangers=[receipt]).evidence(SELLER, NOW).strangers
    reputation = reader([replace(mine, result=Result.FAILED)], [receipt])
    assert counts(standing(reputation)) == (0, 1_000)


def test_what_is_dated_ahead_is_not_taken() -> None:
    reputation = Reputation()
    assert not reputation.add_receipt(replace(GOOD, at=NOW + 61).receipt(), NOW)
    assert reputation.add_receipt(replace(GOOD, at=NOW + 60).receipt(), NOW)


def test_busy_is_no_failure() -> None:
    reputation = Reputation()
    before = standing(reputation)
    for _ in range(50):
        reputation.book_refusal(SELLER, is_busy=True)
    assert standing(reputation) == before
    assert reputation.make_assertion(SELLER, NOW, seq=1, valid_until=NOW).observed.busy == 50


def test_proven_fraud_ends_trust_and_the_same_proof_counts_once() -> None:
    reputation = reader([own(Result.DONE, number) for number in range(20)])
    assert reputation.add_fraud(SELLER, "equivocation", "00" * 32, EventId("aa" * 32), NOW)
    assert not reputation.add_fraud(SELLER, "equivocation", "00" * 32, EventId("bb" * 32), NOW)
    seen = standing(reputation)
    assert (counts(seen), seen.trust_milli, seen.is_on_probation) == ((20_000, 16_000), 0, True)
    assert seen.reasons[0] == "proven fraud: equivocation"
    assert standing(reputation, now=NOW + 364 * 86_400).failures_milli == 8_000


# ── properties ────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60)
@given(own_outcomes, crowds, crowds)
def test_strangers_move_a_standing_by_one_counterparty_at_the_most(
    own_jobs: list[Outcome], vouched: list[SignedReceipt], strangers: list[SignedReceipt]
) -> None:
    without, with_them = (standing(reader(own_jobs, crowd, vouched)) for crowd in ([], strangers))
    for before, after in zip(counts(without), counts(with_them), strict=True):
        assert abs(after - before) <= STRANGERS_WORTH_MILLI + 1
    assert (without.trust_milli, without.job_limit_msat) == (with_them.trust_milli, with_them.job_limit_msat)
    assert without.output_units_per_1000s == with_them.output_units_per_1000s


@settings(max_examples=60)
@given(st.integers(5, 40), crowds, crowds)
def test_from_five_outcomes_on_own_observation_outweighs_everybody_else(
    count: int, vouched: list[SignedReceipt], strangers: list[SignedReceipt]
) -> None:
    bad = reader([own(Result.FAILED, number) for number in range(count)], strangers, vouched)
    good = reader([own(Result.DONE, number) for number in range(count)], strangers, vouched)
    assert standing(bad).failures_milli > standing(bad).successes_milli
    assert standing(good).successes_milli > standing(good).failures_milli


@settings(max_examples=60)
@given(crowds.flatmap(lambda crowd: st.tuples(st.just(crowd), st.permutations(crowd))), own_outcomes)
def test_the_order_of_receipts_does_not_matter(
    both: tuple[list[SignedReceipt], list[SignedReceipt]], own_jobs: list[Outcome]
) -> None:
    one, other = (standing(reader(own_jobs, crowd, both[0][:4])) for crowd in both)
    assert one == other
    assert standing(reader(own_jobs)) == standing(reader(own_jobs[::-1]))


@settings(max_examples=60)
@given(own_outcomes, st.lists(st.integers(0, 4 * HALF_LIFE_SECONDS), min_size=2, max_size=2).map(sorted))
def test_what_was_seen_never_weighs_more_with_age(own_jobs: list[Outcome], later: list[int]) -> None:
    reputation = reader(own_jobs)
    younger, older = (standing(reputation, now=NOW + seconds) for seconds in later)
    assert sum(counts(younger)) >= sum(counts(older))


@settings(max_examples=60)
@given(own_outcomes, crowds)
def test_one_more_good_job_never_lowers_a_node_and_one_more_bad_one_never_lifts_it(
    own_jobs: list[Outcome], vouched: list[SignedReceipt]
) -> None:
    before = standing(reader(own_jobs[: OWN_WINDOW - 1], vouched=vouched))
    better = standing(reader([*own_jobs, own(Result.DONE, 99)], vouched=vouched))
    worse = standing(reader([*own_jobs, own(Result.FAILED, 99)], vouched=vouched))
    assert better.successes_milli >= before.successes_milli - 1 and better.trust_milli >= before.trust_milli - 1
    assert worse.failures_milli >= before.failures_milli - 1 and worse.trust_milli <= before.trust_milli + 1
    assert (worse.job_limit_msat or AmountMsat(0)) <= (before.job_limit_msat or AmountMsat(2**53))


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_memory_is_bounded_and_strangers_talk_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reputation_module, "MAXIMUM_SUBJECTS", 3)
    reputation = Reputation()
    reputation.book(node(1), own(Result.DONE))
    for number in range(2, 9):
        reputation.add_receipt(replace(GOOD, node=node(number)).receipt(), NOW)
    assert len(reputation) == 3
    assert [standing(reputation, node(number)).successes_milli for number in (1, 6, 7, 8)] == [1_000, 0, 1_000, 1_000]


def test_only_so_many_receipts_and_vouchers_of_one_node_are_kept() -> None:
    friends = {PublicKey(f"{number:064x}"): 1 + number for number in range(40)}
    reputation = Reputation(friends)
    for author in friends:
        reputation.add_assertion(assertion(author, []), NOW)
    for receipt in receipts(GOOD, 3 * STRANGERS_WINDOW):
        reputation.add_receipt(receipt, NOW)
    evidence = reputation.evidence(SELLER, NOW)
    assert len(evidence.strangers) == STRANGERS_WINDOW
    assert [weight for weight, _ in evidence.vouched] == list(range(40, 8, -1))


# ── what is told to others ────────────────────────────────────────────────────────────────────────────────────────


def test_an_assertion_tells_what_its_author_saw_and_cites_its_own_receipts() -> None:
    cited = EventId("ab" * 32)
    done = own(Result.DONE, first_output_ms=300, output_bytes_per_1000s=8_000, receipt_id=cited)
    reputation = reader([done, own(Result.FAILED, 1, has_record=False)], receipts(GOOD, 3))
    reputation.add_fraud(SELLER, "equivocation", "00" * 32, EventId("aa" * 32), NOW)
    said = reputation.make_assertion(SELLER, NOW, seq=7, valid_until=Timestamp(NOW + 60))
    assert (said.observed.done, said.observed.failed, said.observed.missing_records) == (1, 1, 1)
    assert (said.observed.first_output_ms, said.observed.output_tokens_per_1000s) == (300, 2_000)
    assert (said.receipts, said.proofs, said.rank) == ((cited,), (EventId("aa" * 32),), 0)
    assert reputation.observed_nodes == (SELLER,)


def test_probation_ends_after_enough_jobs_and_grows_until_then() -> None:
    limits = [
        standing(reader([own(Result.DONE, number) for number in range(count)])).job_limit_msat
        for count in range(NODE_OUTCOMES + 1)
    ]
    assert limits == [*(NEWCOMER_MSAT << count for count in range(NODE_OUTCOMES)), None]
    assert OTHERS_WORTH_MILLI >= NODE_OUTCOMES * 1_000  # so that friends alone can vouch a node out of it
