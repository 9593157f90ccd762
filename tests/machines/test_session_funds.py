"""A session's money: whatever happens in whatever order, nothing is drawn that was not paid, nothing promised twice."""

import hashlib
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError
from relaymesh.machines.records import TrancheRecord, TrancheState
from relaymesh.machines.session_funds import Draw, SessionFunds
from relaymesh.protocol.session_messages import JobId
from relaymesh.units import AmountMsat
from tests.machines.pair import CLIENT


def paid(number: int, amount_msat: int) -> TrancheRecord:
    return TrancheRecord(
        side="node",
        client=CLIENT.public_key,
        job_id="33" * 32,
        tranche=number,
        state=TrancheState.PAID,
        order="prepay",
        units=amount_msat,
        amount_msat=AmountMsat(amount_msat),
        payment_hash=f"{number:064x}",
    )


def job(number: int) -> JobId:
    return JobId(f"{number:064x}")


def commit(position: int, payment_hash: str) -> str:
    return hashlib.sha256(f"{position} {payment_hash}".encode()).hexdigest()


@dataclass
class Model:
    """What the sums must be, kept in the plainest way."""

    funds: SessionFunds = field(default_factory=SessionFunds)
    paid_msat: int = 0
    drawn_msat: int = 0
    tranches: int = 0
    asked: dict[JobId, int] = field(default_factory=dict)
    promised: dict[JobId, int] = field(default_factory=dict)
    waiting: list[JobId] = field(default_factory=list)

    def pay_in(self, amount_msat: int) -> None:
        self.funds.pay_in(paid(self.tranches, amount_msat))
        self.tranches += 1
        self.paid_msat += amount_msat

    def ask(self, amount_msat: int) -> None:
        job_id = job(len(self.asked))
        self.asked[job_id] = amount_msat
        if self.funds.ask(job_id, AmountMsat(amount_msat)):
            assert not self.waiting, "a job overtook those who wait"
            self.promised[job_id] = amount_msat
        else:
            self.waiting.append(job_id)

    def grant(self) -> None:
        for job_id in self.funds.grant():
            assert self.waiting.pop(0) == job_id
            self.promised[job_id] = self.asked[job_id]

    def draw(self, part: int) -> tuple[Draw, ...]:
        job_id = next(iter(self.promised))
        amount = self.promised.pop(job_id) * part // 100
        draws = self.funds.draw(job_id, AmountMsat(amount))
        assert sum(draw.amount_msat for draw in draws) == amount
        self.drawn_msat += amount
        return draws

    def check(self) -> None:
        promised = sum(self.promised.values())
        assert self.funds.paid_msat == self.paid_msat
        assert self.funds.drawn_msat == self.drawn_msat <= self.paid_msat, "more was drawn than paid"
        assert self.funds.balance_msat == self.paid_msat - self.drawn_msat
        assert self.funds.available_msat == self.funds.balance_msat - promised >= 0, "more was promised than is there"
        assert all(self.funds.is_promised(job_id) for job_id in self.promised)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pay in"), st.integers(1, 1_000)),
        st.tuples(st.just("ask"), st.integers(0, 1_000)),
        st.tuples(st.just("grant"), st.just(0)),
        st.tuples(st.just("draw"), st.integers(0, 100)),
    ),
    max_size=60,
)


@given(STEPS)
def test_in_any_order_nothing_is_drawn_that_was_not_paid_and_nothing_is_promised_twice(
    steps: list[tuple[str, int]],
) -> None:
    model = Model()
    for step, amount in steps:
        match step:
            case "pay in":
                model.pay_in(amount)
            case "ask":
                model.ask(amount)
            case "grant":
                model.grant()
            case _ if model.promised:
                model.draw(amount)
        model.check()


@given(STEPS, st.randoms(use_true_random=False))
def test_the_client_books_every_draw_of_the_node_in_whatever_order_the_records_come(
    steps: list[tuple[str, int]], order: object
) -> None:
    node, client, records = Model(), SessionFunds(), []
    for step, amount in steps:
        match step:
            case "pay in":
                client.pay_in(paid(node.tranches, amount))
                node.pay_in(amount)
            case "ask":
                node.ask(amount)
            case "grant":
                node.grant()
            case _ if node.promised:
                records.append(node.draw(amount))
    order.shuffle(records)  # type: ignore[attr-defined]  # Hypothesis' randoms() are random.Random
    for draws in records:
        stated = tuple((commit(at, draw.payment_hash), draw.amount_msat) for at, draw in enumerate(draws))
        assert client.match(stated, commit) == draws
    assert client.balance_msat == node.funds.balance_msat


def test_a_draw_takes_the_oldest_money_first() -> None:
    model = Model()
    model.pay_in(100)
    model.pay_in(100)
    model.ask(150)
    draws = model.draw(100)
    assert [(draw.tranche, draw.amount_msat) for draw in draws] == [(0, 100), (1, 50)]


def test_a_small_job_does_not_overtake_a_large_one_that_waits() -> None:
    model = Model()
    model.pay_in(100)
    model.ask(150)
    model.ask(10)
    assert model.waiting == [job(0), job(1)]
    model.grant()
    assert model.waiting == [job(0), job(1)]
    model.pay_in(100)
    model.grant()
    assert not model.waiting


def test_a_job_draws_no_more_than_it_was_promised() -> None:
    model = Model()
    model.pay_in(100)
    model.ask(50)
    with pytest.raises(LocalProtocolError, match="promised 50 msat and must not draw 51"):
        model.funds.draw(job(0), AmountMsat(51))


def test_a_job_that_waits_in_vain_draws_nothing_and_blocks_nobody() -> None:
    model = Model()
    model.pay_in(100)
    model.ask(150)
    model.ask(10)
    assert model.funds.draw(job(0), AmountMsat(0)) == ()
    assert model.funds.grant() == (job(1),)


@pytest.mark.parametrize(
    "stated",
    [
        ((commit(0, f"{9:064x}"), 10),),
        ((commit(0, f"{0:064x}"), 101),),
        ((commit(1, f"{0:064x}"), 10),),
        ((commit(0, f"{0:064x}"), 10), (commit(1, f"{0:064x}"), 10)),
    ],
    ids=["of a payment nobody made", "of more than is left", "salted for another place", "twice from one tranche"],
)
def test_the_client_books_no_draw(stated: tuple[tuple[str, AmountMsat], ...]) -> None:
    funds = SessionFunds()
    funds.pay_in(paid(0, 100))
    assert funds.match(stated, commit) is None
    assert funds.balance_msat == 100


def test_a_job_is_in_use_until_its_record_is_in_the_ledger() -> None:
    model = Model()
    model.pay_in(100)
    model.ask(10)
    model.draw(100)
    assert model.funds.is_in_use
    model.funds.settle(job(0))
    assert not model.funds.is_in_use


def test_a_tranche_is_paid_in_once_and_a_job_asks_once() -> None:
    model = Model()
    model.pay_in(100)
    with pytest.raises(LocalProtocolError, match="tranche 0 of the session was paid in before"):
        model.funds.pay_in(paid(0, 100))
    model.ask(10)
    with pytest.raises(LocalProtocolError, match="asks a session's funds once"):
        model.funds.ask(job(0), AmountMsat(10))


def test_who_is_turned_away_waits_no_longer_and_has_still_to_end() -> None:
    model = Model()
    model.ask(10)
    model.ask(20)
    assert [model.funds.turn_away() for _ in range(3)] == [job(0), job(1), None]
    assert model.funds.first_waiting is None and model.funds.is_in_use
    assert model.funds.draw(job(0), AmountMsat(0)) == ()
    model.funds.settle(job(0))
    model.funds.settle(job(1))
    assert not model.funds.is_in_use
