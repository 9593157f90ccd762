"""No interleaving of payments spends more than a limit allows, whatever becomes of them, also over restarts.

A plain list of payments says what was spent; the book must never let it exceed a limit.
"""

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relaymesh.market.spending import DAY_MS, HOUR_MS, SpendingBook, SpendingLimits
from relaymesh.units import MILLISECONDS_PER_MINUTE, AmountMsat

START_MS = 1_790_000_000_000
NOW = START_MS
AMOUNTS = st.integers(1, 400)
JOBS = st.sampled_from(["", "a", "b"])


def msat(amount: int) -> AmountMsat:
    return AmountMsat(amount)


@dataclass
class Payment:
    """What really happens: `most` until it is over, then what it cost; 0 once it failed."""

    job: str
    opened_at_ms: int
    costs: int
    is_over: bool = False


class SpendingStaysWithinLimits(RuleBasedStateMachine):
    """Payments begin, end, fail, are asked for again; time passes; the process ends and begins anew."""

    @initialize(job=st.integers(0, 1_000), hour=st.integers(0, 1_500), day=st.integers(0, 2_500))
    def begin(self, job: int, hour: int, day: int) -> None:
        self.limits = SpendingLimits(job, hour, day)
        self.book = SpendingBook(self.limits)
        self.now_ms = START_MS
        self.payments: dict[str, Payment] = {}
        self.counted_since: set[str] = set()

    @rule(job=JOBS, most=AMOUNTS)
    def pay(self, job: str, most: int) -> None:
        payment_hash = f"hash {len(self.payments)}"
        if self.book.reserve(payment_hash, job, msat(most), self.now_ms) is None:
            self.payments[payment_hash] = Payment(job, self.now_ms, most)
            self.counted_since.add(payment_hash)

    @precondition(lambda self: self.payments)
    @rule(data=st.data())
    def pay_again(self, data: st.DataObject) -> None:
        payment_hash, payment = data.draw(st.sampled_from(sorted(self.payments.items(), key=lambda each: each[0])))
        is_paid = payment.is_over and payment.costs and payment.opened_at_ms >= self.now_ms - DAY_MS
        if payment_hash in self.counted_since and (not payment.is_over or is_paid):
            assert self.book.reserve(payment_hash, payment.job, msat(payment.costs), self.now_ms) is None

    @precondition(lambda self: any(not each.is_over for each in self.payments.values()))
    @rule(data=st.data(), is_paid=st.booleans(), saved=st.integers(0, 100), twice=st.booleans())
    def end(self, data: st.DataObject, is_paid: bool, saved: int, twice: bool) -> None:
        under_way = sorted(name for name, each in self.payments.items() if not each.is_over)
        payment_hash = data.draw(st.sampled_from(under_way))
        payment = self.payments[payment_hash]
        payment.is_over = True
        payment.costs = max(payment.costs - saved, 1) if is_paid else 0
        for _ in range(1 + twice):
            if is_paid:
                self.book.settle(payment_hash, msat(payment.costs), self.now_ms)
            else:
                self.book.release(payment_hash)

    @rule(ms=st.sampled_from([1, 59_999, 60_000, HOUR_MS - 1, HOUR_MS, DAY_MS // 3, DAY_MS]))
    def wait(self, ms: int) -> None:
        self.now_ms += ms

    @rule()
    def begin_anew(self) -> None:
        """As `relaymesh.roles.spending.LimitedPayer.recall` does it from what a ledger says."""
        self.book = SpendingBook(self.limits)
        minutes: dict[int, int] = {}
        for payment in self.payments.values():
            if payment.opened_at_ms >= self.now_ms - DAY_MS and payment.is_over:
                minute = payment.opened_at_ms // MILLISECONDS_PER_MINUTE
                minutes[minute] = minutes.get(minute, 0) + payment.costs
        self.book.recall((minute * MILLISECONDS_PER_MINUTE, msat(cost)) for minute, cost in minutes.items())
        for name, payment in self.payments.items():
            if not payment.is_over:
                self.book.recall_under_way(
                    name, payment.job, msat(payment.costs), payment.opened_at_ms, counted_msat=msat(0)
                )
        self.counted_since = {name for name, payment in self.payments.items() if not payment.is_over}

    @invariant()
    def no_hour_and_no_day_costs_more_than_it_may(self) -> None:
        if not hasattr(self, "payments"):
            return
        for limit, window_ms in ((self.limits.hour_msat, HOUR_MS), (self.limits.day_msat, DAY_MS)):
            spent = sum(each.costs for each in self.payments.values() if each.opened_at_ms >= self.now_ms - window_ms)
            assert not limit or spent <= limit

    @invariant()
    def no_job_costs_more_than_it_may(self) -> None:
        if not hasattr(self, "payments"):
            return
        for job in {each.job for each in self.payments.values()} - {""}:
            since = [self.payments[name] for name in self.counted_since]
            spent = sum(each.costs for each in since if each.job == job and each.opened_at_ms >= self.now_ms - DAY_MS)
            assert not self.limits.job_msat or spent <= self.limits.job_msat


TestSpendingStaysWithinLimits = SpendingStaysWithinLimits.TestCase


# ── what a person is told ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_limit_is_named_with_what_is_spent_and_what_was_asked() -> None:
    book = SpendingBook(SpendingLimits(hour_msat=10_000))
    assert book.reserve("a", "job", msat(6_000), NOW) is None
    assert book.reserve("b", "job", msat(4_500), NOW) == (
        "wallet.maximum_hour_msat allows 10,000 msat in an hour, of which 6,000 are spent or on their way, "
        "and this payment may cost 4,500"
    )
    assert book.reserve("c", "job", msat(4_000), NOW) is None


def test_each_limit_is_kept_by_itself() -> None:
    for limits, setting in (
        (SpendingLimits(job_msat=999), "wallet.maximum_job_msat"),
        (SpendingLimits(hour_msat=999), "wallet.maximum_hour_msat"),
        (SpendingLimits(day_msat=999), "wallet.maximum_day_msat"),
    ):
        refusal = SpendingBook(limits).reserve("a", "job", msat(1_000), NOW)
        assert refusal is not None and refusal.startswith(setting)
    assert SpendingBook(SpendingLimits()).reserve("a", "job", msat(10**15), NOW) is None


def test_what_is_no_job_has_no_limit_of_one() -> None:
    assert SpendingBook(SpendingLimits(job_msat=999)).reserve("a", "", msat(1_000), NOW) is None


def test_jobs_are_counted_apart_and_a_jobs_payments_together() -> None:
    book = SpendingBook(SpendingLimits(job_msat=1_000))
    assert book.reserve("a", "one", msat(600), NOW) is None
    assert book.reserve("b", "one", msat(600), NOW) is not None
    assert book.reserve("b", "two", msat(600), NOW) is None
    book.settle("a", msat(500), NOW)
    assert book.reserve("c", "one", msat(501), NOW) is not None
    assert book.reserve("c", "one", msat(500), NOW) is None


def test_what_failed_is_given_back_and_what_is_unknown_is_not() -> None:
    book = SpendingBook(SpendingLimits(hour_msat=1_000))
    book.reserve("a", "", msat(1_000), NOW)
    assert book.reserve("b", "", msat(1), NOW + 1) is not None
    book.release("a")
    assert book.reserve("b", "", msat(1_000), NOW + 2) is None


def test_a_limit_by_the_hour_is_free_again_after_an_hour_and_a_minute_at_most() -> None:
    book = SpendingBook(SpendingLimits(hour_msat=1_000))
    book.reserve("a", "", msat(1_000), NOW)
    book.settle("a", msat(1_000), NOW)
    assert book.reserve("b", "", msat(1), NOW + HOUR_MS - 1) is not None
    assert book.reserve("b", "", msat(1_000), NOW + HOUR_MS + MILLISECONDS_PER_MINUTE) is None


def test_what_no_limit_looks_at_any_more_is_forgotten() -> None:
    book = SpendingBook(SpendingLimits(job_msat=1_000))
    for number in range(10):
        assert book.reserve(f"{number}", "job", msat(100), NOW) is None
        book.settle(f"{number}", msat(100), NOW)
    assert book.reserve("late", "job", msat(1), NOW + DAY_MS - 1) is not None
    assert book.reserve("late", "job", msat(1_000), NOW + DAY_MS + 2 * MILLISECONDS_PER_MINUTE) is None
    assert (len(book._over), len(book._minutes), len(book._jobs)) == (0, 0, 0)


def test_what_was_paid_counts_once_however_often_one_is_told() -> None:
    book = SpendingBook(SpendingLimits(hour_msat=1_000))
    book.reserve("a", "", msat(400), NOW)
    for _ in range(3):
        book.settle("a", msat(300), NOW)
        assert book.reserve("a", "", msat(1_000), NOW) is None
    (hour,) = book.allowances(NOW)
    assert (hour.spent_msat, hour.left_msat) == (300, 700)


def test_a_wallet_that_paid_what_it_called_failed_is_counted_all_the_same() -> None:
    book = SpendingBook(SpendingLimits(hour_msat=1_000))
    book.reserve("a", "", msat(400), NOW)
    book.release("a")
    book.settle("a", msat(400), NOW)
    (hour,) = book.allowances(NOW)
    assert hour.spent_msat == 400
