"""Client job and node job against each other: every order of events, every lie, every silence."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.client_job_interface import ClientJobState
from relaymesh.machines.job_events import (
    CancelRequested,
    Received,
    RunnerStopped,
    Send,
    SessionEnded,
    SessionLost,
    SessionRestored,
)
from relaymesh.machines.node_job_interface import NodeJobState
from relaymesh.machines.records import EvidenceRecord, JobRecord, JobState, Store, TrancheRecord, TrancheState
from relaymesh.machines.settlement import InvoiceResolved, LookUpPayment, Pay, PaymentResolved, invoice_label
from relaymesh.market.pricing import MAXIMUM_TRANCHES, cost
from relaymesh.nostr.event import UnsignedEvent
from relaymesh.nostr.keys import verify
from relaymesh.ports.lightning import MAXIMUM_INVOICE_LABEL_BYTES
from relaymesh.protocol.evidence import read_metering, read_receipt
from relaymesh.protocol.payment import (
    OVER_LIMIT,
    DecodedInvoice,
    PaymentAbsent,
    PaymentFailed,
    PaymentLookup,
    PaymentSucceeded,
    PaymentUnknown,
)
from relaymesh.protocol.refusal import RefusalCode, refuse
from relaymesh.protocol.session_messages import (
    ErrorMessage,
    InvoiceMessage,
    JobId,
    JobMessage,
    OutputMessage,
    ResumeMessage,
)
from relaymesh.units import AmountMsat, Timestamp
from tests.machines.pair import BODY, CLIENT, LIGHTNING_NODE_ID, NODE, Pair, contract, order, preimage_of, price_row


def completed(**arguments: object) -> Pair:
    pair = Pair(**arguments)  # type: ignore[arg-type]  # each test passes what it means
    pair.start()
    pair.settle()
    return pair


def run_until_delivered(pair: Pair, pieces: int) -> None:
    """Deliver before producing more, so that the job stops in mid-stream."""
    pair.start()
    while len(pair.delivered) < pieces:
        pair.possible_steps()[0]()


def tranches(pair: Pair, side: str) -> dict[int, TrancheRecord]:
    ledger = pair.client_ledger if side == "client" else pair.node_ledger
    return {record.tranche: record for record in ledger if isinstance(record, TrancheRecord)}


def last_job(pair: Pair, side: str) -> JobRecord:
    ledger = pair.client_ledger if side == "client" else pair.node_ledger
    return [record for record in ledger if isinstance(record, JobRecord)][-1]


def test_a_job_is_delivered_paid_and_signed_by_both() -> None:
    pair = completed()
    assert pair.outcome is not None
    assert pair.outcome.state is JobState.DONE
    assert pair.outcome.complaints == ()
    assert "".join(pair.delivered) == "one two three four five "
    assert pair.outcome.paid_msat == sum(pair.wallets.paid.values()) > 0
    assert pair.outcome.receipt is not None
    receipt = read_receipt(verify(pair.outcome.receipt), verify)
    assert receipt.metering.record.charged_msat == receipt.receipt.paid_msat == pair.outcome.paid_msat
    assert pair.closed is not None and pair.closed.state is JobState.DONE


def test_both_ledgers_hold_the_same_evidence_and_released_tranches() -> None:
    pair = completed()
    client = {record.event.id for record in pair.client_ledger if isinstance(record, EvidenceRecord)}
    node = {record.event.id for record in pair.node_ledger if isinstance(record, EvidenceRecord)}
    assert client == node | {pair.agreed.quote_event.id} and len(node) == 2
    for side in ("client", "node"):
        assert {record.state for record in tranches(pair, side).values()} == {TrancheState.RELEASED}


@given(st.data(), st.integers(1, 40), st.lists(st.text(min_size=1, max_size=12), max_size=12))
def test_every_interleaving_ends_paid_exactly_for_what_the_tranches_cost(
    data: st.DataObject, tranche_units: int, pieces: list[str]
) -> None:
    pair = Pair(agreed=contract(tranche_units=tranche_units), wanted=order(output_units=120), pieces=tuple(pieces))
    pair.start()
    pair.settle(lambda count: data.draw(st.integers(0, count - 1)))
    assert pair.outcome is not None and pair.outcome.state is JobState.DONE
    assert pair.outcome.complaints == ()
    paid = sum(pair.wallets.paid.values())
    metering = pair.outcome.metering
    assert metering is not None and metering.record.charged_msat == paid == pair.outcome.paid_msat
    delivered = sum(len(piece.encode()) for piece in pair.delivered)
    assert sum(tranche.units_paid for tranche in metering.record.tranches) >= delivered
    row = pair.agreed.quote.row
    assert paid == cost(row, len(BODY.encode()), sum(tranche.units_paid for tranche in metering.record.tranches))
    largest = max(tranche.amount_msat for tranche in tranches(pair, "client").values())
    assert paid - cost(row, len(BODY.encode()), delivered) <= largest, "more than one tranche was at stake"


@given(st.data())
def test_output_never_runs_ahead_of_what_is_paid(data: st.DataObject) -> None:
    pair = Pair(agreed=contract(tranche_units=8))
    pair.start()
    for _ in range(400):
        steps = pair.possible_steps()
        if not steps:
            break
        steps[data.draw(st.integers(0, len(steps) - 1))]()
        sent = sum(
            len(effect.message.data.encode())
            for side, effect in pair.log
            if side == "node" and hasattr(effect, "message") and isinstance(effect.message, OutputMessage)
        )
        funded = sum(
            record.units
            for record in tranches(pair, "node").values()
            if record.state in (TrancheState.PAID, TrancheState.RELEASED)
        )
        assert sent <= funded


def test_nothing_is_paid_or_sent_before_the_ledger_has_it() -> None:
    pair = completed()
    stored: set[tuple[str, object]] = set()
    for side, effect in pair.log:
        if isinstance(effect, Store):
            stored |= {(side, record.state) for record in effect.records if isinstance(record, TrancheRecord)}
            stored |= {(side, type(record)) for record in effect.records}
        elif isinstance(effect, Pay):
            assert ("client", TrancheState.PAYING) in stored
        elif hasattr(effect, "message") and isinstance(effect.message, JobMessage):
            assert ("client", JobRecord) in stored
        elif hasattr(effect, "message") and isinstance(effect.message, InvoiceMessage):
            assert ("node", TrancheState.INVOICED) in stored


def forged(**changes: object) -> object:
    def forge(message: InvoiceMessage, decoded: DecodedInvoice) -> tuple[InvoiceMessage, DecodedInvoice]:
        return message, replace(decoded, **changes)  # type: ignore[arg-type]  # each test changes what it means

    return forge


def resold(**changes: object) -> object:
    def forge(message: InvoiceMessage, decoded: DecodedInvoice) -> tuple[InvoiceMessage, DecodedInvoice]:
        amount = changes.get("msat", message.msat)
        return replace(message, **changes), replace(decoded, amount_msat=amount)  # type: ignore[arg-type]  # each test changes what it means

    return forge


LIES = {
    "another payee": forged(payee="03" + "cd" * 32),
    "another amount than announced": forged(amount_msat=AmountMsat(1_000)),
    "an expired invoice": forged(expires_at=Timestamp(1)),
    "a higher price": resold(msat=AmountMsat(60_000)),
    "another order": resold(order="postpay"),
    "another tranche size": resold(units=17),
    "a later tranche": resold(tranche=1),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_invoice_that_is_not_as_agreed_is_never_paid(lie: str) -> None:
    pair = completed(forge=LIES[lie])
    assert pair.wallets.paid == {}
    assert pair.outcome is not None and pair.outcome.state is JobState.FAILED
    assert pair.outcome.refusal is not None and pair.outcome.refusal.code is RefusalCode.PAYMENT_MISMATCH
    assert pair.delivered == []


def test_an_invoice_that_does_not_decode_is_never_paid() -> None:
    pair = Pair()
    pair.start()
    pair.deliver_to_node()
    invoice = next(message for message in pair.to_client if isinstance(message, InvoiceMessage))
    pair.client.receive(Received(invoice), pair.now)
    pair.do_client_effects()
    assert pair.wallets.paid == {}
    assert any(isinstance(message, ErrorMessage) for message in pair.to_node)


def test_a_payment_hash_of_another_tranche_is_refused() -> None:
    first: list[str] = []

    def forge(message: InvoiceMessage, decoded: DecodedInvoice) -> tuple[InvoiceMessage, DecodedInvoice]:
        first.append(decoded.payment_hash)
        return message, replace(decoded, payment_hash=first[0])

    pair = completed(forge=forge)
    assert len(pair.wallets.paid) == 1
    assert pair.outcome is not None and pair.outcome.refusal is not None
    assert "another tranche" in pair.outcome.refusal.reason


def test_a_token_priced_job_is_capped_by_the_jobs_own_limit() -> None:
    agreed = contract(row=price_row(unit="token"), tranche_units=2)
    pair = completed(agreed=agreed, wanted=order(output_units=64, maximum_msat=12), input_tokens=10)
    assert sum(pair.wallets.paid.values()) <= 12
    assert pair.outcome is not None and pair.outcome.state is JobState.DONE
    assert pair.outcome.metering is not None and pair.outcome.metering.record.error == "length"


def test_generation_stops_where_the_budget_ends() -> None:
    pair = completed(wanted=order(output_units=12))
    assert sum(len(piece) for piece in pair.delivered) <= 12
    assert pair.outcome is not None and pair.outcome.state is JobState.DONE
    assert pair.outcome.metering is not None and pair.outcome.metering.record.error == "length"


def test_a_tranche_above_the_exposure_that_the_quote_stated_is_never_paid() -> None:
    pair = completed(agreed=contract(exposure_msat=60))
    assert pair.wallets.paid == {}
    assert pair.outcome is not None and pair.outcome.refusal is not None
    assert "at stake" in pair.outcome.refusal.reason


def test_an_invoice_label_is_no_longer_than_a_lightning_node_takes() -> None:
    labels = {invoice_label(key.public_key, JobId(64 * "a"), MAXIMUM_TRANCHES) for key in (CLIENT, NODE)}
    assert len(labels) == 2
    assert max(map(len, labels)) <= MAXIMUM_INVOICE_LABEL_BYTES


def test_tranches_that_a_high_minimum_makes_free_have_no_invoice() -> None:
    row = price_row(output_msat=4_000, minimum_msat=AmountMsat(200))
    pair = completed(
        agreed=contract(row=row, tranche_units=4), pieces=tuple("abcdefghijklmnopqrstuvwxyz0123456789" * 2)
    )
    prices = [record.amount_msat for record in tranches(pair, "node").values()]
    assert 0 in prices[1:] and prices[-1] > 0, "the minimum covers some tranches after the first"
    assert pair.outcome is not None and pair.outcome.state is JobState.DONE
    assert pair.outcome.complaints == ()
    assert len(pair.wallets.invoices) == sum(price > 0 for price in prices)


def test_a_token_priced_job_without_output_is_paid_for_its_input() -> None:
    row = price_row(unit="token", output_msat=0)
    pair = completed(agreed=contract(row=row), wanted=order(output_units=0), input_tokens=100)
    assert pair.outcome is not None and pair.outcome.state is JobState.DONE
    assert sum(pair.wallets.paid.values()) == 50


@pytest.mark.parametrize("unit", ["byte", "token"])
def test_a_job_that_asks_for_no_output_of_a_row_that_sells_it_is_refused(unit: str) -> None:
    pair = completed(agreed=contract(row=price_row(unit=unit)), wanted=order(output_units=0))
    assert pair.outcome is not None and pair.outcome.refusal is not None
    assert pair.outcome.refusal.code is RefusalCode.OVER_LIMIT
    assert pair.wallets.invoices == {}


def test_a_jobs_output_ends_where_a_session_can_no_longer_send_it_again() -> None:
    free = price_row(output_msat=0, input_msat=AmountMsat(0), minimum_msat=AmountMsat(0))
    pair = completed(agreed=contract(row=free), pieces=("x" * 1_000_000,) * 3)
    assert len(pair.delivered) == 2
    assert pair.outcome is not None and pair.outcome.metering is not None
    assert pair.outcome.metering.record.error == "length"


def test_a_record_padded_until_no_receipt_can_hold_it_is_no_evidence() -> None:
    pair = completed()
    honest = next(record.event for record in pair.node_ledger if isinstance(record, EvidenceRecord))
    content = honest.content[:-1] + f',"padding":"{"x" * 10_000}"}}'
    fat = NODE.sign(UnsignedEvent(honest.public_key, honest.created_at, honest.kind, honest.tags, content))
    with pytest.raises(RemoteProtocolError, match="at most"):
        read_metering(fat)


def test_a_job_that_cannot_be_begun_under_its_limit_is_refused_before_any_invoice() -> None:
    agreed = contract()
    pair = Pair(agreed=agreed)
    pair.start()
    job = pair.to_node.popleft()
    assert isinstance(job, JobMessage)
    pair.to_node.clear()
    pair.to_node.append(replace(job, max_msat=AmountMsat(1)))
    pair.settle()
    assert pair.outcome is not None and pair.outcome.refusal is not None
    assert pair.outcome.refusal.code is RefusalCode.OVER_BUDGET
    assert pair.wallets.invoices == {}
    assert pair.node is not None and pair.node.state is NodeJobState.ENDED


def test_a_payment_that_fails_costs_nothing_and_says_why() -> None:
    pair = completed(pay=lambda pay: PaymentFailed(205, "not enough in our channels"))
    assert pair.outcome is not None and pair.outcome.state is JobState.FAILED
    assert pair.outcome.committed_msat == 0
    assert pair.outcome.refusal is not None and "not enough in our channels" in pair.outcome.refusal.reason
    assert tranches(pair, "client")[0].state is TrancheState.FAILED


@pytest.mark.parametrize(("code", "refused_as"), [(205, "PAYMENT_REQUIRED"), (OVER_LIMIT, "OVER_BUDGET")])
def test_why_a_payment_was_not_made_is_told_to_the_buyer_and_to_no_node(code: int, refused_as: str) -> None:
    pair = completed(pay=lambda pay: PaymentFailed(code, "of 10,000 msat 7,000 are spent"))
    assert pair.outcome is not None and pair.outcome.refusal is not None
    assert pair.outcome.refusal.code is RefusalCode[refused_as]
    assert "7,000" in pair.outcome.refusal.reason
    sent = [effect.message for side, effect in pair.log if side == "client" and isinstance(effect, Send)]
    (told,) = [message for message in sent if isinstance(message, ErrorMessage)]
    assert told.refusal == refuse(RefusalCode.PAYMENT_REQUIRED, "the client did not pay")


def unknown_once(pay: Pay) -> PaymentLookup:
    return PaymentUnknown("no answer within the deadline")


def look_ups(pair: Pair) -> int:
    return sum(isinstance(effect, LookUpPayment) for side, effect in pair.log)


def test_an_unknown_payment_is_looked_up_until_the_wallet_knows() -> None:
    pair = completed(pay=unknown_once)
    assert tranches(pair, "client")[0].state is TrancheState.UNKNOWN
    pair.pass_time(300)
    assert look_ups(pair) == 1
    pair.pass_time(300)
    assert look_ups(pair) == 1, "the second look comes after a longer pause"
    pair.pass_time(300)
    assert look_ups(pair) == 2
    amount = tranches(pair, "client")[0].amount_msat
    pair.pay = None
    paid = pair.wallets.pay(tranches(pair, "client")[0].payment_hash, amount)
    pair.client.receive(PaymentResolved(0, paid), pair.now)
    pair.do_client_effects()
    pair.settle()
    assert pair.outcome is not None and pair.outcome.state is JobState.DONE


def test_an_unknown_payment_counts_as_paid_and_ends_the_job_as_unknown() -> None:
    pair = completed(pay=unknown_once)
    for _ in range(40):
        pair.pass_time(5_000)
        pair.settle()
    assert pair.outcome is not None and pair.outcome.state is JobState.UNKNOWN
    assert pair.outcome.paid_msat == 0
    assert pair.outcome.committed_msat == tranches(pair, "client")[0].amount_msat
    assert tranches(pair, "client")[0].state is TrancheState.UNKNOWN, "unknown never becomes failed by waiting"
    assert last_job(pair, "client").body == BODY, "what may have to be sent again is kept"


def test_an_unknown_payment_that_was_never_sent_is_failed() -> None:
    pair = completed(pay=unknown_once)
    pair.client.receive(PaymentResolved(0, PaymentAbsent()), pair.now)
    pair.do_client_effects()
    pair.settle()
    assert pair.outcome is not None and pair.outcome.state is JobState.FAILED
    assert pair.outcome.committed_msat == 0


def test_output_that_comes_before_the_payers_own_wallet_answers_is_accepted() -> None:
    pair = Pair()
    pair.start()
    while not pair.payments:
        pair.possible_steps()[0]()
    pair.notice_payment()
    while pair.running is not None and pair.node is not None and pair.node.is_hungry:
        pair.run_model()
    while pair.to_client:
        pair.deliver_to_client()
    assert pair.delivered, "the payee saw the money first"
    pair.settle()
    assert pair.outcome is not None and pair.outcome.state is JobState.DONE


def test_an_invoice_that_lapses_ends_the_job_unpaid_on_record() -> None:
    pair = Pair(pay=unknown_once)
    pair.start()
    pair.settle()
    assert pair.node is not None
    pair.node.receive(InvoiceResolved(0, False), pair.now)
    pair.do_node_effects()
    assert tranches(pair, "node")[0].state is TrancheState.EXPIRED
    assert last_job(pair, "node").state is JobState.FAILED
    assert last_job(pair, "node").reason.startswith("payment-timeout")


def test_cancelling_stops_the_runner_and_still_leaves_a_record() -> None:
    pair = Pair(agreed=contract(tranche_units=64))
    run_until_delivered(pair, 2)
    pair.client.receive(CancelRequested(), pair.now)
    pair.do_client_effects()
    pair.settle()
    assert pair.running is None
    assert pair.outcome is not None and pair.outcome.state is JobState.CANCELLED
    assert pair.outcome.metering is not None and pair.outcome.metering.record.status == "partial"
    assert pair.outcome.metering.record.charged_msat == sum(pair.wallets.paid.values())
    assert pair.outcome.complaints == ()


def test_a_runner_that_fails_in_mid_stream_leaves_a_signed_partial_result() -> None:
    pair = Pair(agreed=contract(tranche_units=64))
    run_until_delivered(pair, 2)
    assert pair.node is not None
    pair.node.receive(RunnerStopped(refuse(RefusalCode.RUNNER_FAILED, "the engine stopped")), pair.now)
    pair.do_node_effects()
    pair.running = None
    pair.settle()
    assert pair.outcome is not None and pair.outcome.state is JobState.FAILED
    assert pair.outcome.refusal is not None and pair.outcome.refusal.code is RefusalCode.RUNNER_FAILED
    assert pair.outcome.metering is not None and pair.outcome.metering.record.status == "partial"
    assert pair.outcome.receipt is not None


def test_a_node_that_says_nothing_is_left_after_the_first_output_is_late() -> None:
    pair = Pair()
    pair.start()
    pair.to_node.clear()
    pair.pass_time(9_999)
    assert pair.client.state is ClientJobState.WAITING
    pair.pass_time(1)
    pair.pass_time(5_000)
    assert pair.outcome is not None and pair.outcome.refusal is not None
    assert pair.outcome.refusal.code is RefusalCode.RUNNER_TIMEOUT
    assert pair.outcome.committed_msat == 0


def test_a_node_that_is_gone_after_the_payment_leaves_the_payment_on_the_clients_record() -> None:
    pair = Pair()
    pair.start()
    while not pair.wallets.paid:
        pair.possible_steps()[0]()
    pair.answer_payment()
    pair.to_client.clear()
    pair.client.receive(SessionEnded("the node cannot be reached"), pair.now)
    pair.do_client_effects()
    assert pair.outcome is not None and pair.outcome.state is JobState.FAILED
    assert pair.outcome.paid_msat == sum(pair.wallets.paid.values())
    assert not pair.outcome.is_verified


def test_a_client_that_is_gone_for_too_long_ends_the_job_at_the_node() -> None:
    pair = Pair(agreed=contract(tranche_units=64))
    run_until_delivered(pair, 1)
    assert pair.node is not None
    pair.node.receive(SessionLost(), pair.now)
    pair.pass_time(29_999)
    assert pair.node.state is NodeJobState.RUNNING
    pair.pass_time(1)
    assert pair.running is None
    assert last_job(pair, "node").state is JobState.FAILED


def test_resuming_sends_again_only_what_is_missing() -> None:
    pair = Pair(agreed=contract(tranche_units=64))
    run_until_delivered(pair, 3)
    pair.to_client.clear()
    assert pair.node is not None
    pair.node.receive(SessionRestored(), pair.now)
    pair.node.receive(Received(ResumeMessage(pair.client.job_id, 1)), pair.now)
    pair.do_node_effects()
    numbers = [message.number for message in pair.to_client if isinstance(message, OutputMessage)]
    assert numbers[0] == 1
    pair.settle()
    assert "".join(pair.delivered) == "one two three four five "
    assert pair.outcome is not None and pair.outcome.is_verified


def test_the_same_job_sent_again_is_never_begun_twice() -> None:
    pair = Pair(agreed=contract(tranche_units=64))
    run_until_delivered(pair, 2)
    pair.to_node.append(pair.client.job_message())
    pair.settle()
    assert len(pair.wallets.invoices) == 1
    assert "".join(pair.delivered) == "one two three four five "


def test_a_record_of_another_node_is_no_evidence() -> None:
    pair = completed()
    assert pair.outcome is not None and pair.outcome.metering is not None
    stranger = Pair(agreed=replace(contract(), node=pair.agreed.client))
    stranger.start()
    with_record = next(record for record in pair.node_ledger if isinstance(record, EvidenceRecord)).event
    stranger.client._take_metering(with_record, stranger.now)
    assert stranger.outcome is None
    assert read_metering(with_record).event.public_key == pair.agreed.node


def test_the_body_leaves_the_ledger_when_the_job_is_terminal() -> None:
    pair = completed()
    for ledger in (pair.client_ledger, pair.node_ledger):
        jobs = [record for record in ledger if isinstance(record, JobRecord)]
        assert jobs[0].body == BODY and jobs[0].state is JobState.OPEN
        assert jobs[-1].body == "" and jobs[-1].state is JobState.DONE


def test_a_free_job_has_no_settlement_at_all() -> None:
    free = price_row(output_msat=0, input_msat=AmountMsat(0), minimum_msat=AmountMsat(0))
    pair = completed(agreed=contract(row=free))
    assert pair.wallets.invoices == {}
    assert pair.outcome is not None and pair.outcome.state is JobState.DONE
    assert pair.outcome.complaints == ()


def test_the_wallets_preimage_is_kept_as_proof_of_payment() -> None:
    pair = completed()
    for record in tranches(pair, "client").values():
        assert record.preimage == preimage_of(pair.wallets.labels[record.payment_hash])
    assert isinstance(pair.wallets.pay(next(iter(pair.wallets.paid)), 0), PaymentSucceeded)
    assert all(invoice.payee == LIGHTNING_NODE_ID for invoice in pair.wallets.invoices.values())
