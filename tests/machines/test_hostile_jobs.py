"""Jobs that go wrong on purpose: whatever a peer says and whenever it says it, both sides end with the same account."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.machines.client_job_interface import ClientJobState
from relaymesh.machines.job_events import (
    CancelRequested,
    InvoiceRead,
    ReadInvoice,
    Received,
    RunnerStopped,
    Send,
    SessionEnded,
    SessionRestored,
)
from relaymesh.machines.job_metering import MAXIMUM_JOB_OUTPUT_BYTES
from relaymesh.machines.job_outcome import MAXIMUM_NOTES
from relaymesh.machines.job_settings import ClientJobSettings
from relaymesh.machines.node_job import NodeJob
from relaymesh.machines.node_job_interface import NodeJobState
from relaymesh.machines.records import JobRecord, JobState, TrancheRecord, TrancheState
from relaymesh.machines.settlement import CreateInvoice, InvoiceFailed, InvoiceIssued, InvoiceResolved
from relaymesh.nostr.event import UnsignedEvent
from relaymesh.protocol.evidence import build_metering, read_metering
from relaymesh.protocol.refusal import RefusalCode, refuse
from relaymesh.protocol.session_messages import (
    CancelMessage,
    ErrorMessage,
    InvoiceMessage,
    JobMessage,
    MeteringMessage,
    OutputMessage,
    ResumeMessage,
)
from relaymesh.units import Moment, Timestamp
from tests.machines.pair import CLIENT, NODE, Pair, Wallets, contract, price_row

BUSY = refuse(RefusalCode.BUSY, "later")


def released(pair: Pair, side: str) -> int:
    """What both the ledger's rows and the wallet must add up to."""
    rows = {record.tranche: record for record in ledger_of(pair, side) if isinstance(record, TrancheRecord)}
    return sum(row.amount_msat for row in rows.values() if row.state is TrancheState.RELEASED)


def charged(pair: Pair, side: str) -> int:
    return [record for record in ledger_of(pair, side) if isinstance(record, JobRecord)][-1].charged_msat


def ledger_of(pair: Pair, side: str) -> list[object]:
    return list(pair.client_ledger if side == "client" else pair.node_ledger)


def step_until(pair: Pair, count: int) -> None:
    for _ in range(count):
        steps = pair.possible_steps()
        if steps:
            steps[0]()


def lapse_open_invoices(pair: Pair) -> None:
    """The node's wallet gives up on every invoice that nobody paid."""
    pair.pass_time(61_000)
    assert pair.node is not None
    for tranche in list(pair.watched):
        del pair.watched[tranche]
        pair.node.receive(InvoiceResolved(tranche, False), pair.now)
        pair.do_node_effects()
    pair.settle()
    pair.pass_time(61_000)


@pytest.mark.parametrize("farewell", ["cancel", "session ended", "runner failed"])
@settings(max_examples=60)
@given(stop_after=st.integers(0, 40), data=st.data())
def test_whenever_a_job_is_stopped_both_sides_account_for_the_same_sum(
    farewell: str, stop_after: int, data: st.DataObject
) -> None:
    pair = Pair(agreed=contract(tranche_units=8))
    pair.start()
    for _ in range(stop_after):
        steps = pair.possible_steps()
        if not steps:
            break
        steps[data.draw(st.integers(0, len(steps) - 1))]()
    if farewell == "cancel":
        pair.client.receive(CancelRequested(), pair.now)
    elif farewell == "session ended":
        pair.client.receive(SessionEnded("gone"), pair.now)
    if pair.node is not None and farewell != "cancel":
        end = SessionEnded("gone") if farewell == "session ended" else RunnerStopped(BUSY)
        pair.node.receive(end, pair.now)
        pair.do_node_effects()
        if farewell == "session ended":
            pair.to_client.clear()
            pair.to_node.clear()
    pair.do_client_effects()
    pair.settle(lambda count: data.draw(st.integers(0, count - 1)))
    lapse_open_invoices(pair)
    paid = sum(pair.wallets.paid.values())
    assert pair.outcome is not None
    assert pair.outcome.paid_msat == released(pair, "client") == charged(pair, "client") == paid
    if pair.node is not None:
        assert pair.node.state is NodeJobState.ENDED
        assert released(pair, "node") == charged(pair, "node") == paid
        assert pair.node._metering is not None
        assert read_metering(pair.node._metering).record.charged_msat == paid


def test_what_is_paid_after_the_client_had_given_the_job_up_is_in_the_nodes_ledger() -> None:
    pair = Pair()
    pair.start()
    while not pair.payments:
        pair.possible_steps()[0]()
    pair.to_node.clear()
    pair.to_node.append(ErrorMessage(pair.client.job_id, BUSY, True))
    pair.deliver_to_node()
    assert charged(pair, "node") == 0
    pair.notice_payment()
    assert charged(pair, "node") == released(pair, "node") == sum(pair.wallets.paid.values()) > 0


class StubbornWallets(Wallets):
    """A node's wallet that issues nothing."""

    def issue(self, wanted: CreateInvoice, now: Moment) -> InvoiceIssued:
        raise InvoiceRefused(wanted)


class InvoiceRefused(Exception):
    """Carries the request to the test, which answers for the wallet."""

    def __init__(self, wanted: CreateInvoice) -> None:
        super().__init__()
        self.wanted = wanted


def pair_waiting_for_an_invoice() -> tuple[Pair, NodeJob, CreateInvoice]:
    pair = Pair()
    pair.wallets = StubbornWallets()
    pair.start()
    with pytest.raises(InvoiceRefused) as refused:
        pair.settle()
    assert pair.node is not None
    return pair, pair.node, refused.value.wanted


def test_an_invoice_that_the_wallet_does_not_issue_ends_the_job_and_frees_its_place() -> None:
    pair, node, wanted = pair_waiting_for_an_invoice()
    node.receive(InvoiceFailed(wanted.tranche, "the wallet is away"), pair.now)
    pair.do_node_effects()
    pair.settle()
    pair.pass_time(11_000)
    assert node.state is NodeJobState.ENDED
    assert pair.outcome is not None and pair.outcome.refusal is not None
    assert pair.outcome.refusal.code is RefusalCode.INTERNAL and pair.outcome.refusal.is_retryable
    node.receive(InvoiceFailed(wanted.tranche, "again"), pair.now)
    assert node.effects() == ()


def test_an_invoice_that_comes_when_the_job_is_over_is_told_to_nobody() -> None:
    pair, node, wanted = pair_waiting_for_an_invoice()
    node.receive(Received(CancelMessage(pair.client.job_id)), pair.now)
    pair.do_node_effects()
    node.receive(Wallets().issue(wanted, pair.now), pair.now)
    pair.do_node_effects()
    assert not any(isinstance(message, InvoiceMessage) for message in pair.to_client)
    node.receive(InvoiceResolved(wanted.tranche, False), pair.now)
    pair.do_node_effects()
    pair.pass_time(11_000)
    assert node.state is NodeJobState.ENDED


def streaming(pieces: int = 3) -> Pair:
    """A pair in mid-stream, its client waiting for more."""
    pair = Pair(agreed=contract(tranche_units=64))
    pair.start()
    while len(pair.delivered) < pieces:
        pair.possible_steps()[0]()
    return pair


def sent_outputs(pair: Pair) -> list[int]:
    return [message.number for message in pair.to_client if isinstance(message, OutputMessage)]


def test_outputs_are_sent_again_once_for_each_new_connection_and_not_as_often_as_a_client_asks() -> None:
    pair = streaming()
    node = pair.node
    assert node is not None
    pair.to_client.clear()
    for expected in ([], [0, 1, 2], [0, 1, 2]):
        for _ in range(3):
            node.receive(Received(ResumeMessage(pair.client.job_id, 0)), pair.now)
        pair.do_node_effects()
        assert sent_outputs(pair) == expected
        pair.to_client.clear()
        node.receive(SessionRestored(), pair.now)


@pytest.mark.parametrize("next_output", [3, 2**53 - 1])
def test_resuming_beyond_the_output_sends_nothing(next_output: int) -> None:
    pair = streaming()
    assert pair.node is not None
    pair.to_client.clear()
    pair.node.receive(SessionRestored(), pair.now)
    pair.node.receive(Received(ResumeMessage(pair.client.job_id, next_output)), pair.now)
    pair.do_node_effects()
    assert sent_outputs(pair) == []


def test_what_the_client_calls_its_error_is_not_signed_by_the_node() -> None:
    pair = streaming()
    pair.to_node.append(ErrorMessage(pair.client.job_id, refuse(RefusalCode.BUSY, "canary"), True))
    while pair.to_node:
        pair.deliver_to_node()
    assert pair.node is not None and pair.node._metering is not None
    assert "canary" not in pair.node._metering.content


# ── what a node may try with a client ─────────────────────────────────────────────────────────────────────────────


def test_a_job_that_was_lost_with_its_connection_is_sent_again() -> None:
    pair = Pair()
    pair.start()
    pair.to_node.clear()
    pair.client.receive(SessionRestored(), pair.now)
    pair.do_client_effects()
    assert [type(message) for message in pair.to_node][:2] == [JobMessage, ResumeMessage]
    pair.settle()
    assert pair.outcome is not None and pair.outcome.state is JobState.DONE


def test_an_invoice_is_read_once_however_often_it_is_sent() -> None:
    pair = Pair()
    pair.start()
    while not pair.to_client:
        pair.possible_steps()[0]()
    (invoice,) = pair.to_client
    for _ in range(5):
        pair.client.receive(Received(invoice), pair.now)
    assert sum(isinstance(effect, ReadInvoice) for effect in pair.client.effects()) == 1


def test_two_invoices_for_one_tranche_end_the_job_unpaid() -> None:
    pair = Pair()
    pair.start()
    while not pair.to_client:
        pair.possible_steps()[0]()
    invoice = pair.to_client[0]
    assert isinstance(invoice, InvoiceMessage)
    pair.client.receive(Received(replace(invoice, bolt11="lnother")), pair.now)
    pair.client.effects()  # it is being read
    pair.client.receive(Received(invoice), pair.now)
    pair.do_client_effects()
    pair.client.receive(InvoiceRead(0, pair.wallets.invoices[invoice.bolt11]), pair.now)
    pair.do_client_effects()
    assert pair.payments == type(pair.payments)() and pair.wallets.paid == {}


@pytest.mark.parametrize("unit", ["byte", "token"])
def test_a_node_that_invoices_and_delivers_nothing_is_paid_two_tranches_and_no_more(unit: str) -> None:
    pair = Pair(agreed=contract(row=price_row(unit=unit), tranche_units=4))
    pair.start()
    pair.deliver_to_node()
    assert pair.node is not None
    paid = []
    for tranche in range(8):
        wanted = CreateInvoice(tranche, f"tranche {tranche}", pair.node._plan.price(tranche), "RelayMesh job", 60)
        issued = pair.wallets.issue(wanted, pair.now)
        invoice = InvoiceMessage(
            pair.client.job_id, tranche, "prepay", issued.bolt11, wanted.amount_msat, 4, issued.expires_at_ms
        )
        pair.to_client.clear()
        pair.to_client.append(invoice)
        pair.deliver_to_client()
        while pair.payments:
            paid.append(wanted.amount_msat)
            pair.answer_payment()
    assert len(paid) == 2 and sum(paid) == sum(pair.wallets.paid.values())
    pair.pass_time(6_000)
    assert pair.outcome is not None and pair.outcome.refusal is not None
    assert pair.outcome.refusal.code is RefusalCode.PAYMENT_MISMATCH


def test_a_piece_of_output_larger_than_two_tranches_ends_the_job_by_its_length() -> None:
    pair = Pair(agreed=contract(tranche_units=4), pieces=("four", "x" * 30))
    pair.start()
    pair.settle()
    assert pair.outcome is not None and pair.outcome.state is JobState.DONE and pair.outcome.complaints == ()
    assert pair.delivered == ["four"] and len(pair.wallets.paid) <= 3


def test_a_stream_without_an_end_is_left() -> None:
    pair = streaming()
    piece = "x" * 500_000
    for number in range(3, 9):
        pair.client.receive(Received(OutputMessage(pair.client.job_id, number, piece)), pair.now)
    assert pair.client._observation.output_bytes > MAXIMUM_JOB_OUTPUT_BYTES
    assert any(
        isinstance(effect, Send) and isinstance(effect.message, CancelMessage) for effect in pair.client.effects()
    )


def test_a_quote_that_asks_for_patience_for_ever_gets_ten_minutes() -> None:
    assert ClientJobSettings().patience_ms(2**53 - 1) == 600_000
    assert ClientJobSettings().patience_ms(0) == 10_000
    assert ClientJobSettings().patience_ms(5_000) == 15_000


@pytest.mark.parametrize("lie", ["another client", "the future", "another kind"])
def test_a_record_that_no_receipt_can_answer_is_noted_and_does_no_harm(lie: str) -> None:
    pair = Pair()
    pair.start()
    pair.settle()
    assert pair.outcome is not None and pair.outcome.metering is not None
    honest = pair.outcome.metering.event
    client = NODE.public_key if lie == "another client" else CLIENT.public_key
    created_at = Timestamp(2**53 - 1) if lie == "the future" else honest.created_at
    forged = build_metering(pair.outcome.metering.record, author=NODE.public_key, client=client, created_at=created_at)
    if lie == "another kind":
        forged = UnsignedEvent(NODE.public_key, created_at, 1, forged.tags, forged.content)
    victim = streaming()
    victim.to_client.clear()
    for _ in range(50):
        victim.client.receive(Received(MeteringMessage(NODE.sign(forged))), victim.now)
    assert victim.outcome is None
    assert 0 < len(victim.client._observation.notes) <= MAXIMUM_NOTES
    assert not any("charged_msat" in note for note in victim.client._observation.notes)
    victim.pass_time(40_000)
    victim.pass_time(40_000)
    assert not victim.client._metering and victim.client.state is ClientJobState.ENDED
