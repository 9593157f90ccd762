"""Unpaid work: never above what the node lends or risks, whatever order jobs come and end in, and nothing leaks."""

from dataclasses import dataclass
from typing import Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from relaymesh.market import unpaid_work
from relaymesh.market.unpaid_work import FULL_TRUST, Debt, Reservation, Trust, UnpaidWork
from relaymesh.protocol.fields import Order
from relaymesh.protocol.quote import QuotedTerm
from relaymesh.protocol.refusal import Refusal, RefusalCode
from relaymesh.units import AmountMsat
from tests.market.builders import node

LIMIT: Final = AmountMsat(1_000)
LINES: Final = {node(1): AmountMsat(500), node(2): AmountMsat(900)}
CLIENT: Final = node(9)
ORDERS: Final[st.SearchStrategy[Order]] = st.sampled_from(("sealed", "postpay"))


def term(order: Order, exposure_msat: int) -> QuotedTerm:
    exposure = AmountMsat(exposure_msat)
    return QuotedTerm(order=order, exposure_buyer_msat=AmountMsat(0), exposure_node_msat=exposure)


def refused(answer: object) -> str:
    assert isinstance(answer, Refusal) and answer.code is RefusalCode.PAYMENT_REQUIRED and answer.is_retryable
    return answer.reason


def test_a_stranger_gets_no_credit_and_a_known_key_as_much_as_its_line() -> None:
    work = UnpaidWork(LIMIT, LINES)
    assert "only to keys it knows" in refused(work.reserve(CLIENT, None, "postpay", AmountMsat(1)))
    assert "only to keys it knows" in refused(work.reserve(CLIENT, node(3), "postpay", AmountMsat(0)))
    first = work.reserve(CLIENT, node(1), "postpay", AmountMsat(300))
    assert isinstance(first, Reservation)
    assert "of the credit 200 msat are left" in refused(work.reserve(CLIENT, node(1), "postpay", AmountMsat(201)))
    assert isinstance(work.reserve(CLIENT, node(2), "postpay", AmountMsat(900)), Reservation), "lines are separate"
    work.release(first)
    assert isinstance(work.reserve(CLIENT, node(1), "postpay", AmountMsat(500)), Reservation)


def test_sealed_work_of_all_strangers_together_has_one_limit() -> None:
    work = UnpaidWork(LIMIT, LINES)
    assert isinstance(work.reserve(node(5), None, "sealed", AmountMsat(600)), Reservation)
    again = work.reserve(node(6), node(2), "sealed", AmountMsat(401))
    assert "as much unpaid work under way" in refused(again)
    assert isinstance(again, Refusal) and again.retry_in_ms == unpaid_work.RETRY_IN_MS
    assert isinstance(work.reserve(node(6), None, "sealed", AmountMsat(400)), Reservation)
    assert work.reserve(node(7), None, "prepay", AmountMsat(10**9)) is None, "prepay risks nothing"


def test_a_debt_shrinks_its_keys_line_and_counts_once() -> None:
    work = UnpaidWork(LIMIT, LINES)
    debt = Debt(node(1), (CLIENT, "job"), 0, AmountMsat(450))
    work.owe(debt)
    work.owe(debt)
    assert work.debts == (debt,)
    assert work.trust(CLIENT, node(1)).credit_msat == 50
    assert work.trust(CLIENT, node(2)).credit_msat == 900
    work.owe(Debt(node(1), (CLIENT, "job"), 1, AmountMsat(450)))
    assert work.trust(CLIENT, node(1)).credit_msat == 0, "a line that was made smaller than its debt gives nothing"


def test_who_left_a_sealed_tranche_unpaid_pays_beforehand_from_then_on() -> None:
    work = UnpaidWork(LIMIT, LINES)
    work.bar(CLIENT)
    assert "pays beforehand" in refused(work.reserve(CLIENT, None, "sealed", AmountMsat(1)))
    assert "pays beforehand" in refused(work.reserve(CLIENT, node(1), "postpay", AmountMsat(1)))
    assert work.reserve(CLIENT, None, "prepay", AmountMsat(1)) is None
    assert isinstance(work.reserve(node(8), None, "sealed", AmountMsat(1)), Reservation)


def test_so_many_barred_keys_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpaid_work, "MAXIMUM_BARRED", 2)
    work = UnpaidWork(LIMIT)
    for number in (1, 2, 3):
        work.bar(node(number))
    assert [work.trust(node(number)).is_barred for number in (1, 2, 3)] == [False, True, True]


def test_terms_that_risk_too_much_are_left_out_and_where_none_is_left_the_reason_is_said() -> None:
    terms = (term("postpay", 10), term("sealed", 10), term("prepay", 0))
    assert FULL_TRUST.narrow(terms) == terms
    assert Trust().narrow(terms) == terms[2:]
    assert Trust(None, AmountMsat(10)).narrow(terms) == terms[1:]
    assert Trust(AmountMsat(10), AmountMsat(9)).narrow(terms) == (terms[0], terms[2])
    assert "as much unpaid work" in refused(Trust(None, AmountMsat(9)).narrow((term("sealed", 10),)))
    assert Trust().narrow((term("sealed", 0),)) == (term("sealed", 0),), "what costs nothing risks nothing"
    assert Trust().narrow(()) == ()


@dataclass
class Job:
    guarantor: int | None
    exposure: int
    reservation: Reservation
    number: int


class EveryInterleaving(RuleBasedStateMachine):
    """Jobs begin, end paid, end unpaid, and end twice, in any order; the sums are kept a second time by hand."""

    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.work = UnpaidWork(LIMIT, LINES)
        self.running: list[Job] = []
        self.owed = {1: 0, 2: 0}
        self.count = 0

    @rule(target=jobs, who=st.sampled_from((None, 1, 2)), exposure=st.integers(0, 700), order=ORDERS)
    def begin(self, who: int | None, exposure: int, order: Order) -> Job | None:
        guarantor = None if who is None else node(who)
        answer = self.work.reserve(CLIENT, guarantor, order, AmountMsat(exposure))
        account = who if order == "postpay" else None
        if not isinstance(answer, Reservation):
            has_no_line = order == "postpay" and who is None
            assert has_no_line or self._used(account) + exposure > self._limit(account), "refused though there was room"
            return None
        self.count += 1
        job = Job(account, exposure, answer, self.count)
        self.running.append(job)
        return job

    @rule(job=consumes(jobs))
    def end_paid(self, job: Job | None) -> None:
        self._end(job)

    @rule(job=jobs)
    def end_paid_twice(self, job: Job | None) -> None:
        self._end(job)
        self._end(job)

    @rule(job=consumes(jobs), share=st.integers(0, 100))
    def end_unpaid(self, job: Job | None, share: int) -> None:
        if job is None or job not in self.running:
            return
        if job.guarantor is not None:
            amount = job.exposure * share // 100
            for _ in range(2):  # told live, and once more from the ledger
                self.work.owe(Debt(node(job.guarantor), (CLIENT, str(job.number)), 0, AmountMsat(amount)))
            self.owed[job.guarantor] += amount
        self._end(job)

    def _end(self, job: Job | None) -> None:
        if job is not None:
            self.work.release(job.reservation)
            if job in self.running:
                self.running.remove(job)

    def _limit(self, who: int | None) -> int:
        return LIMIT if who is None else LINES[node(who)]

    def _used(self, who: int | None) -> int:
        return sum(job.exposure for job in self.running if job.guarantor == who) + self.owed.get(who or 0, 0)

    @invariant()
    def nothing_is_above_its_limit_and_nothing_leaks(self) -> None:
        for who in (None, 1, 2):
            used = self._used(who)
            assert used <= self._limit(who)
            assert self.work.at_stake_msat(None if who is None else node(who)) == used


TestEveryInterleaving = EveryInterleaving.TestCase
