"""A job under each order: who is paid when, what a side can lose, and what both write down about it."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.machines.client_job_interface import ClientJobState
from relaymesh.machines.job_events import CancelRequested, Received, RunnerStopped, Send, SessionEnded, SessionRestored
from relaymesh.machines.records import JobState, LedgerRecord, SealedRecord, Store, TrancheRecord, TrancheState
from relaymesh.machines.settlement import Pay, PaymentResolved
from relaymesh.market.pricing import TranchePlan, cost
from relaymesh.protocol.fields import Order
from relaymesh.protocol.payment import PaymentFailed, PaymentUnknown
from relaymesh.protocol.refusal import RefusalCode, refuse
from relaymesh.protocol.session_messages import (
    CommitmentMessage,
    InvoiceMessage,
    MeteringMessage,
    OutputMessage,
    SealedMessage,
)
from tests.machines.pair import BODY, Pair, contract, order, plan_for, price_row

ARREARS: tuple[Order, ...] = ("postpay", "sealed")
ORDERS: tuple[Order, ...] = ("prepay", *ARREARS)
ANSWER = "one two three four five "


def pair_of(settlement_order: Order, tranche_units: int | None = 16, **changes: object) -> Pair:
    return Pair(agreed=contract(tranche_units=tranche_units, settlement_order=settlement_order), **changes)  # type: ignore[arg-type]  # names are the dataclass's own


def completed(pair: Pair) -> Pair:
    pair.start()
    pair.settle()
    return pair


def completed_with_a_slow_wallet(pair: Pair) -> Pair:
    """The buyer's wallet says what became of a payment only when nothing else is left to happen."""
    pair.start()
    while steps := pair.possible_steps():
        others = [step for step in steps if step != pair.answer_payment]
        (others or steps)[0]()
    return pair


def tranches(records: list[LedgerRecord]) -> dict[int, TrancheRecord]:
    """The last word on each tranche."""
    return {record.tranche: record for record in records if isinstance(record, TrancheRecord)}


def sent_by_node(pair: Pair) -> list[object]:
    return [effect.message for side, effect in pair.log if side == "node" and isinstance(effect, Send)]


@pytest.mark.parametrize("settlement_order", ORDERS)
@pytest.mark.parametrize("tranche_units", [1, 8, 16, 64, None])
def test_a_job_under_any_order_is_delivered_paid_and_accounted_for(
    settlement_order: Order, tranche_units: int | None
) -> None:
    pair = pair_of(settlement_order, tranche_units, pieces=tuple(ANSWER), wanted=order(output_units=len(ANSWER)))
    completed(pair)
    assert pair.outcome is not None and pair.outcome.refusal is None, pair.outcome
    assert pair.outcome.complaints == () and pair.outcome.is_verified
    assert pair.outcome.state is JobState.DONE and pair.closed is not None
    assert "".join(pair.delivered) == ANSWER
    both = [tranches(ledger) for ledger in (pair.client_ledger, pair.node_ledger)]
    paid = [
        [
            (record.tranche, record.state, record.amount_msat, record.units)
            for record in side.values()
            if record.amount_msat
        ]
        for side in both
    ]
    assert paid[0] == paid[1] and all(state is TrancheState.RELEASED for _, state, _, _ in paid[0])
    assert sum(pair.wallets.paid.values()) == pair.outcome.paid_msat == sum(amount for _, _, amount, _ in paid[0])
    assert pair.outcome.paid_msat == cost(pair.agreed.quote.row, len(BODY.encode()), len(ANSWER))


@pytest.mark.parametrize("settlement_order", ORDERS)
def test_output_that_ends_early_costs_what_came_unless_it_was_prepaid(settlement_order: Order) -> None:
    pair = completed(pair_of(settlement_order, 20, wanted=order(output_units=64)))
    assert pair.outcome is not None and pair.outcome.is_verified
    row, plan = pair.agreed.quote.row, plan_for(pair.agreed, pair.wanted)
    delivered = cost(row, len(BODY.encode()), len(ANSWER))
    # prepaid: 24 of 40 bytes came, the next tranche was asked for only past three quarters of the second
    expected = cost(row, len(BODY.encode()), plan.units_through(1)) if settlement_order == "prepay" else delivered
    assert pair.outcome.paid_msat == expected


def test_the_next_prepaid_tranche_is_paid_while_the_last_quarter_is_delivered() -> None:
    pair = pair_of("prepay", 16, pieces=tuple("x" * 40), wanted=order(output_units=40))
    pair.start()
    pair.settle(stop_model_after(pair, 12))
    invoices = [message for message in sent_by_node(pair) if isinstance(message, InvoiceMessage)]
    assert [invoice.tranche for invoice in invoices] == [0, 1]
    outputs = [message for message in sent_by_node(pair) if isinstance(message, OutputMessage)]
    assert len(outputs) == 12, "the invoice leaves while four units are still paid for"


def stop_model_after(pair: Pair, count: int) -> Callable[[int], int]:
    """Choose the first step until so much output was sent, then everything but the model."""

    def choose(steps: int) -> int:
        if sum(isinstance(message, OutputMessage) for message in sent_by_node(pair)) >= count:
            pair.running = None
        return 0

    return choose


def test_a_tranche_asked_for_ahead_belongs_into_the_record_though_the_output_ended_before_it() -> None:
    pair = pair_of("prepay", 16, pieces=("x" * 12,), wanted=order(output_units=64))
    pair.start()
    pair.settle()
    assert pair.outcome is not None and pair.outcome.is_verified, pair.outcome
    assert [record.state for record in tranches(pair.client_ledger).values()] == [TrancheState.RELEASED] * 2
    assert pair.outcome.paid_msat == sum(pair.wallets.paid.values())


@pytest.mark.parametrize("complete", [completed, completed_with_a_slow_wallet])
def test_a_payment_ahead_that_fails_does_not_keep_the_record_waiting(complete: Callable[[Pair], Pair]) -> None:
    pair = pair_of("prepay", 16, pieces=("x" * 12,), wanted=order(output_units=64))
    pair.pay = lambda pay: PaymentFailed(205, "no route") if pay.tranche else None
    complete(pair)
    assert pair.outcome is not None and pair.outcome.is_verified, pair.outcome
    assert [record.state for record in tranches(pair.client_ledger).values()] == [
        TrancheState.RELEASED,
        TrancheState.FAILED,
    ]


@pytest.mark.parametrize("settlement_order", ARREARS)
def test_nothing_is_asked_for_before_it_was_delivered(settlement_order: Order) -> None:
    pair = completed(pair_of(settlement_order, 8))
    delivered = asked = 0
    for message in sent_by_node(pair):
        match message:
            case OutputMessage(data=data):
                delivered += len(data)
            case SealedMessage(ciphertext=ciphertext):
                delivered += len(ciphertext)
            case InvoiceMessage(units=units):
                asked += units
                assert asked <= delivered
    assert asked == len(ANSWER)


def test_a_sealed_answer_is_never_in_clear_and_its_payment_opens_it() -> None:
    pair = completed(pair_of("sealed", None))
    kinds = [type(message) for message in sent_by_node(pair)]
    assert OutputMessage not in kinds
    first, second, third = (kinds.index(kind) for kind in (SealedMessage, CommitmentMessage, InvoiceMessage))
    assert first < second < third < kinds.index(MeteringMessage)
    assert "".join(pair.delivered) == ANSWER and len(pair.delivered) == 5, "pieces keep their boundaries"


def test_key_and_ciphertext_are_durable_before_anything_sealed_leaves_and_the_buyers_before_it_pays() -> None:
    pair = completed(pair_of("sealed", None))
    stored: set[str] = set()
    for side, effect in pair.log:
        match effect:
            case Store(records):
                kinds = {type(record).__name__ for record in records}
                if "SealedRecord" in kinds:
                    assert {"TrancheRecord", "EvidenceRecord"} <= kinds, "one transaction"
                    stored.add(side)
            case Send(message=SealedMessage()):
                assert "node" in stored
            case Pay():
                assert "client" in stored
    (kept,) = [record for record in pair.node_ledger if isinstance(record, TrancheRecord)][:1]
    assert kept.preimage is not None and kept.state is TrancheState.OFFERED


def test_the_node_keeps_no_output_of_a_job_that_is_over() -> None:
    pair = completed(pair_of("sealed", 8))
    kept = {record.tranche: record for record in pair.node_ledger if isinstance(record, SealedRecord)}
    assert list(kept) == [0, 1, 2, 3] and all(record.leaves == () for record in kept.values())


def test_ciphertext_is_erased_once_it_was_read() -> None:
    pair = completed(pair_of("sealed", 8))
    erased = pair.client.output.erasure()
    assert [record.tranche for record in erased] == [0, 1, 2, 3]
    assert all(record.leaves == () for record in erased)


def test_output_behind_a_high_minimum_comes_in_clear_and_in_its_place() -> None:
    row = price_row(minimum_msat=60)
    agreed = contract(row, tranche_units=6, settlement_order="sealed")
    pair = Pair(agreed=agreed, pieces=tuple("abcdefghij" * 4), wanted=order(output_units=64))
    completed(pair)
    assert pair.outcome is not None and pair.outcome.is_verified, pair.outcome
    assert "".join(pair.delivered) == "abcdefghij" * 4
    kinds = [type(message) for message in sent_by_node(pair)]
    assert OutputMessage in kinds and SealedMessage in kinds


def test_what_comes_in_clear_waits_for_what_was_sealed_before_it() -> None:
    agreed = contract(price_row(minimum_msat=60), tranche_units=6, settlement_order="sealed")
    pair = Pair(agreed=agreed, pieces=tuple("abcdefghij" * 4), wanted=order(output_units=64))
    completed_with_a_slow_wallet(pair)
    assert pair.outcome is not None and pair.outcome.is_verified, pair.outcome
    assert "".join(pair.delivered) == "abcdefghij" * 4


@given(st.data(), st.sampled_from(ORDERS), st.sampled_from([1, 5, 16, None]))
def test_any_order_of_events_ends_with_both_sides_agreed(
    data: st.DataObject, settlement_order: Order, tranche_units: int | None
) -> None:
    pair = pair_of(settlement_order, tranche_units, wanted=order(output_units=24), pieces=tuple(ANSWER))
    pair.start()
    pair.settle(lambda count: data.draw(st.integers(0, count - 1)))
    assert pair.outcome is not None and pair.outcome.is_verified, pair.outcome
    assert "".join(pair.delivered) == ANSWER and pair.closed is not None


@given(st.integers(0, 2**32), st.sampled_from(ORDERS))
def test_a_reconnect_at_any_moment_changes_nothing(seed: int, settlement_order: Order) -> None:
    chance = random.Random(seed)
    pair = pair_of(settlement_order, 8, wanted=order(output_units=24), pieces=tuple(ANSWER))
    pair.start()
    reconnects = 3
    while steps := pair.possible_steps():
        if pair.node is not None and reconnects and chance.random() < 0.1:
            reconnects -= 1
            pair.to_client.clear()
            pair.to_node.clear()
            pair.node.receive(SessionRestored(), pair.now)
            pair.client.receive(SessionRestored(), pair.now)
            pair.do_client_effects()
            pair.do_node_effects()
        else:
            chance.choice(steps)()
    if pair.outcome is None:  # the last words were lost after the client's RESUME
        pair.pass_time(600_000)
        pair.settle()
    assert pair.outcome is not None
    assert pair.outcome.refusal is None and pair.outcome.is_verified, pair.outcome
    assert "".join(pair.delivered) == ANSWER
    assert len(pair.wallets.paid) == sum(isinstance(effect, Pay) for _, effect in pair.log)


@pytest.mark.parametrize("settlement_order", ARREARS)
@pytest.mark.parametrize("change", [{"units": 25}, {"msat": 1_000_000}, {"order": "prepay"}, {"tranche": 1}], ids=str)
def test_an_invoice_for_more_than_came_is_not_paid(settlement_order: Order, change: dict[str, object]) -> None:
    pair = pair_of(settlement_order, None)
    pair.forge = lambda message, decoded: (replace(message, **change), decoded)  # type: ignore[arg-type]  # names are the dataclass's own
    completed(pair)
    assert pair.wallets.paid == {}
    assert pair.outcome is not None and pair.outcome.refusal is not None
    assert pair.outcome.refusal.code is RefusalCode.PAYMENT_MISMATCH


def test_what_was_delivered_on_credit_is_billed_when_the_client_cancels() -> None:
    pair = pair_of("postpay", None)
    pair.start()
    while len(pair.delivered) < 3:
        pair.possible_steps()[0]()
    pair.client.receive(CancelRequested(), pair.now)
    pair.do_client_effects()
    pair.settle()
    assert pair.outcome is not None and pair.outcome.state is JobState.CANCELLED
    assert pair.outcome.paid_msat == cost(pair.agreed.quote.row, len(BODY.encode()), sum(map(len, pair.delivered)))
    assert pair.outcome.complaints == ()


def test_what_was_delivered_on_credit_is_billed_when_the_runner_fails() -> None:
    pair = pair_of("postpay", None)
    pair.start()
    while len(pair.delivered) < 3:
        pair.possible_steps()[0]()
    assert pair.node is not None
    pair.node.receive(RunnerStopped(refuse(RefusalCode.RUNNER_FAILED, "gone")), pair.now)
    pair.do_node_effects()
    pair.settle()
    assert pair.outcome is not None and pair.outcome.state is JobState.FAILED
    assert pair.outcome.paid_msat == cost(pair.agreed.quote.row, len(BODY.encode()), sum(map(len, pair.delivered)))


def test_credit_that_nobody_will_pay_any_more_stays_on_the_nodes_books() -> None:
    pair = pair_of("postpay", None)
    pair.start()
    while len(pair.delivered) < 3:
        pair.possible_steps()[0]()
    assert pair.node is not None
    pair.node.receive(SessionEnded("the client left"), pair.now)
    pair.do_node_effects()
    (left,) = tranches(pair.node_ledger).values()
    assert left.state is TrancheState.FAILED and left.amount_msat > 0 and pair.closed is not None


def test_a_sealed_tranche_that_is_not_paid_costs_nobody_anything_but_the_work() -> None:
    pair = pair_of("sealed", None)
    pair.pay = lambda pay: PaymentFailed(205, "no route")
    completed(pair)
    assert pair.outcome is not None and pair.outcome.paid_msat == 0 and pair.delivered == []
    assert pair.outcome.metering is not None
    assert pair.outcome.metering.record.units.output_bytes == 0


def test_an_answer_opens_as_soon_as_the_wallet_remembers_that_it_paid() -> None:
    pair = pair_of("sealed", None)
    pair.pay = lambda pay: (pair.wallets.pay(pay.payment_hash, pay.amount_msat), PaymentUnknown("late"))[1]
    pair.start()
    pair.settle()
    assert pair.delivered == [] and pair.client.state is ClientJobState.DOUBTING
    (pay,) = [effect for side, effect in pair.log if isinstance(effect, Pay)]
    again = pair.wallets.pay(pay.payment_hash, 0)
    pair.client.receive(PaymentResolved(0, again), pair.now)
    pair.do_client_effects()
    assert "".join(pair.delivered) == ANSWER
    assert pair.outcome is not None and pair.outcome.is_verified


@given(st.integers(0, 3_000), st.integers(1, 400), st.integers(0, 200), st.integers(0, 5_000), st.integers(0, 2_000))
def test_no_tranche_in_arrears_costs_more_than_the_exposure(
    output: int, size: int, rate: int, minimum: int, taken: int
) -> None:
    row = price_row(output_msat=rate, minimum_msat=minimum)
    plan = TranchePlan(row, taken, output, size)
    ends = [0, *range(min(size, output), output, max(plan.effective_units - 1, 1)), output]
    costs = [0, *(cost(row, taken, end) for end in ends[1:])]
    assert all(later - earlier <= plan.arrears_msat for earlier, later in pairwise(costs))


def test_messages_of_a_job_that_is_not_sealed_are_ignored() -> None:
    pair = pair_of("prepay", None)
    pair.start()
    pair.client.receive(Received(SealedMessage(pair.client.job_id, 0, 0, b"x" * 20)), pair.now)
    pair.settle()
    assert pair.outcome is not None and pair.outcome.is_verified
