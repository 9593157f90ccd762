"""Jobs of a prepaid session, machine against machine: every order of events, every lie in a metering record."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.machines.client_job_interface import CLIENT_JOB_TRANSITIONS
from relaymesh.machines.job_events import InvoiceRead, Received, Send
from relaymesh.machines.records import JobRecord, JobState, Store
from relaymesh.machines.session_funds import FundsRefused, SessionFunds
from relaymesh.machines.session_shares import SellerShare
from relaymesh.machines.settlement import CreateInvoice, TrancheWanted, agree_settlement
from relaymesh.market.pricing import TranchePlan, cost
from relaymesh.market.verification import verify_evidence
from relaymesh.nostr.keys import verify
from relaymesh.protocol.evidence_files import DisclosedQuote, PresentedEvidence
from relaymesh.protocol.metering import MeteringRecord
from relaymesh.protocol.payment import DecodedInvoice, PaymentUnknown
from relaymesh.protocol.refusal import RefusalCode, refuse
from relaymesh.protocol.session_messages import ErrorMessage, InvoiceMessage, JobId
from relaymesh.units import AmountMsat
from tests.machines.accounts import EXPOSURE_MSAT, TRANCHE_MSAT, AccountPair, last_account, session_contract
from tests.machines.pair import BODY, Pair, moment, price_row
from tests.machines.session_pair import SessionPair
from tests.machines.test_session_funds import paid

TEXTS = st.lists(st.lists(st.text(min_size=1, max_size=8), max_size=4).map(tuple), max_size=5).map(tuple)


def completed(*texts: tuple[str, ...], **arguments: object) -> SessionPair:
    pair = SessionPair(texts=texts, **arguments)  # type: ignore[arg-type]  # each test passes what it means
    pair.settle()
    return pair


@settings(max_examples=30)
@given(st.data(), TEXTS, st.integers(1, 4))
def test_in_every_order_of_events_each_job_draws_what_it_delivered_and_both_sides_agree(
    data: st.DataObject, texts: tuple[tuple[str, ...], ...], concurrent: int
) -> None:
    pair = SessionPair(texts=texts, concurrent=concurrent)
    pair.settle(lambda count: data.draw(st.integers(0, count - 1)))
    assert len(pair.outcomes) == len(texts)
    for outcome in pair.outcomes.values():
        assert outcome.state is JobState.DONE and outcome.complaints == () and outcome.metering is not None
        size = outcome.observation.output_bytes
        price = cost(pair.agreed.quote.row, len(BODY), size)
        assert outcome.paid_msat == outcome.metering.record.charged_msat == price
        assert sum(tranche.units_used for tranche in outcome.metering.record.tranches) == size
        assert outcome.is_verified and outcome.receipt is not None
        quote = DisclosedQuote(pair.agreed.quote_event, pair.agreed.quote_plaintext)
        report = verify_evidence(PresentedEvidence(outcome.receipt, quote), verify)
        assert report.holds, [check for check in report.checks if not check.holds]
    assert sorted(pair.delivered.values()) == sorted(text for pieces in texts if (text := "".join(pieces)))
    assert pair.most_at_stake <= EXPOSURE_MSAT
    pair.end_session()
    paid = sum(pair.wallets.paid.values())
    for ledger in (pair.node_ledger, pair.client_ledger):
        last = {record.job_id: record for record in ledger if isinstance(record, JobRecord)}
        assert sum(record.charged_msat for record in last.values()) == paid
        assert {record.state for record in last.values()} <= {JobState.DONE}


def test_a_record_that_draws_on_two_tranches_divides_its_units_as_its_money() -> None:
    pair = completed(*[("x" * 60,)] * 9)
    straddling = [
        outcome.metering.record
        for outcome in pair.outcomes.values()
        if outcome.metering is not None and len(outcome.metering.record.tranches) == 2
    ]
    assert straddling and all(outcome.complaints == () for outcome in pair.outcomes.values())
    for record in straddling:
        first, second = record.tranches
        assert first.units_used + second.units_used == 60 and first.units_paid == first.units_used
        assert abs(first.units_used / 60 - first.msat / record.charged_msat) < 1 / 60


def more(record: MeteringRecord, *, by_msat: int = 1, **changes: object) -> MeteringRecord:
    """The same record with a higher charge, booked on its first tranche."""
    tranches = (
        record.tranches[0].model_copy(update={"msat": record.tranches[0].msat + by_msat}),
        *record.tranches[1:],
    )
    charged = record.charged_msat + by_msat
    return record.model_copy(update={"tranches": tranches, "charged_msat": AmountMsat(charged), **changes})


def more_units(record: MeteringRecord) -> MeteringRecord:
    units = record.units.model_copy(update={"output_bytes": record.units.output_bytes + 100})
    return more(record, by_msat=200, units=units)


def another_payment(record: MeteringRecord) -> MeteringRecord:
    tranche = record.tranches[0].model_copy(update={"payment_commitment": "ab" * 32})
    return record.model_copy(update={"tranches": (tranche,)})


LIES: dict[str, tuple[Callable[[MeteringRecord], MeteringRecord], str]] = {
    "more than its units cost": (more, "it charges more than its units cost"),
    "more units than came": (more_units, "it counts other output bytes"),
    "a payment that was not made": (another_payment, "its tranches are not the payments that were made"),
    "a sum that its tranches are not": (
        lambda record: record.model_copy(update={"charged_msat": AmountMsat(1)}),
        "it charges another sum than was paid",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_a_record_claims_wrongly_is_noted_and_not_booked(lie: str) -> None:
    forge, complaint = LIES[lie]
    pair = completed(("some ", "text"), forge_record=forge)
    (outcome,) = pair.outcomes.values()
    assert outcome.paid_msat == 0 and complaint in outcome.complaints
    pair.end_session()
    assert last_account(pair.client_ledger).charged_msat == sum(pair.wallets.paid.values()), "it is the account's rest"


def test_a_record_waits_until_our_wallet_has_said_that_its_payment_was_made() -> None:
    pair = SessionPair(texts=(("text",),))
    while len(pair.possible_steps()) > 1 or pair.possible_steps()[0] != pair.answer_payment:
        next(step for step in pair.possible_steps() if step != pair.answer_payment)()
    (job,) = pair.clients.values()
    assert pair.delivered and not pair.outcomes and job.state.name == "DOUBTING"
    pair.settle()
    (outcome,) = pair.outcomes.values()
    assert outcome.state is JobState.DONE and outcome.complaints == () and outcome.paid_msat > 0


def test_a_job_whose_payment_stays_in_doubt_ends_unknown_and_counts_against_the_budget() -> None:
    pair = completed(("text",), pay=lambda pay: PaymentUnknown("the wallet is silent"))
    (job,) = pair.clients.values()
    assert not pair.outcomes and not pair.delivered
    ended = job.break_off(refuse(RefusalCode.INTERNAL, "broken off"))
    assert ended.committed_msat == 1_000 and ended.state is JobState.UNKNOWN


def test_an_invoice_that_names_a_job_of_the_session_is_refused() -> None:
    pair = SessionPair(texts=(("text",),))
    pair.begin()
    (job,) = pair.clients.values()
    job.receive(Received(InvoiceMessage(job.job_id, 0, "prepay", "lntest0", AmountMsat(10), 10, 0)), moment())
    job.receive(InvoiceRead(0, None), moment())
    said = [effect.message for effect in job.effects() if isinstance(effect, Send)]
    errors = [message for message in said if isinstance(message, ErrorMessage)]
    assert [error.refusal.reason for error in errors] == ["a job of a prepaid session has no invoice of its own"]


def test_a_job_whose_invoice_lapses_is_refused_and_draws_nothing() -> None:
    pair = SessionPair(texts=(("text",),))
    pair.begin()
    while not pair.wallets.invoices:
        pair.deliver_to_node()
    pair.to_client.clear()
    pair.lapse()
    pair.settle()
    (outcome,) = pair.outcomes.values()
    assert outcome.state is JobState.FAILED and outcome.paid_msat == 0
    assert outcome.refusal is not None and outcome.refusal.code is RefusalCode.PAYMENT_TIMEOUT


def test_only_a_job_that_the_session_pays_begins_while_its_row_is_written() -> None:
    pair = SessionPair(texts=(("text",),))
    pair.begin()
    (ours,) = pair.clients.values()
    ours.state = CLIENT_JOB_TRANSITIONS.initial
    ours.start(moment())
    assert [effect.is_awaited for effect in ours.effects() if isinstance(effect, Store)] == [False]
    alone = Pair()
    alone.start()
    stores = [effect for _, effect in alone.log if isinstance(effect, Store)]
    assert [effect.is_awaited for effect in stores] == [True]


def test_a_job_draws_no_more_than_it_was_promised_however_long_it_took() -> None:
    agreed = session_contract()
    funds = SessionFunds()
    funds.pay_in(paid(0, 1_000))
    plan = TranchePlan(price_row("second"), 0, 10, None)
    share = SellerShare(agree_settlement("node", agreed, JobId("77" * 32), plan, AmountMsat(9_999)), funds)
    share.receive(TrancheWanted(0, 10, plan.price(0)), moment())
    share.draw(10_000, AmountMsat(9_999))
    assert share.paid_msat == plan.price(0) == 20 and funds.balance_msat == 980


def test_what_was_prepaid_buys_at_the_quoted_price_when_the_quote_has_expired_and_no_more_is_asked_for() -> None:
    pair = completed(("text",))
    pair.now_ms = 60_000
    pair.texts = (("text",), *[("x" * 60,)] * 9)
    pair.to_begin.extend(range(1, 10))
    pair.settle()
    ended = list(pair.outcomes.values())
    assert [outcome.state for outcome in ended] == [JobState.DONE] * 7 + [JobState.FAILED] * 3
    assert list(pair.wallets.paid.values()) == [1_000]
    for outcome in ended[7:]:
        assert outcome.refusal is not None and outcome.refusal.code is RefusalCode.EXPIRED


def test_a_job_that_waits_for_money_when_the_quote_expires_is_told_so() -> None:
    pair = AccountPair(((900, 900), (900, 900)), 2)
    pair.begin()
    pair.deliver_to_node()
    pair.deliver_to_client()
    pair.answer_payment()
    pair.notice_payment()
    pair.begin()
    pair.now_ms = 60_000
    pair.settle()
    assert list(pair.drawn.values()) == [900, 0] and len(pair.wallets.paid) == 1


def test_a_job_that_runs_on_what_is_left_is_not_stopped_by_a_tranche_that_is_refused() -> None:
    pair = completed(("some ", "text"))
    pair.texts = (("some ", "text"), ("more ", "text"))
    pair.to_begin.append(1)
    pair.begin()
    while not any(job.state.name == "STREAMING" for job in pair.clients.values()):
        pair.possible_steps()[0]()
    refusal = refuse(RefusalCode.PAYMENT_MISMATCH, "no more")
    pair.tell_jobs(FundsRefused(refusal))
    pair.node.receive(Received(ErrorMessage(JobId(pair.agreed.session_id), refusal, False)), moment())
    pair.settle()
    assert [outcome.state for outcome in pair.outcomes.values()] == [JobState.DONE] * 2


MISHAPS = (
    "nothing",
    "nothing",
    "an invoice without need",
    "lose for the client",
    "lose for the node",
    "twice for the client",
    "twice for the node",
)


def invoice_without_need(pair: SessionPair) -> InvoiceMessage:
    """What a node may say that wants more than it needs: the client's next tranche, whole."""
    tranche, number = len(pair.wallets.paid), len(pair.wallets.invoices)
    wanted = CreateInvoice(tranche, f"greedy {number}", AmountMsat(TRANCHE_MSAT), "RelayMesh job", 60)
    issued = pair.wallets.issue(wanted, moment())
    session_id, amount = JobId(pair.agreed.session_id), AmountMsat(TRANCHE_MSAT)
    return InvoiceMessage(session_id, tranche, "prepay", issued.bolt11, amount, TRANCHE_MSAT, issued.expires_at_ms)


@settings(max_examples=60)
@given(st.data(), TEXTS, st.integers(1, 4))
def test_whatever_is_lost_said_twice_or_lied_about_no_more_is_at_stake_than_stated(
    data: st.DataObject, texts: tuple[tuple[str, ...], ...], concurrent: int
) -> None:
    def forge(message: InvoiceMessage, decoded: DecodedInvoice) -> tuple[InvoiceMessage, DecodedInvoice]:
        amount = AmountMsat(data.draw(st.sampled_from((message.msat, 0, 1, 250, 1_000, 1_001, 1_250, 5_000))))
        is_told = data.draw(st.booleans())
        return replace(message, msat=amount), replace(decoded, amount_msat=amount if is_told else message.msat)

    pair = SessionPair(texts=texts, concurrent=concurrent, forge=forge)
    for _ in range(80):
        steps = pair.possible_steps()
        if not steps:
            break
        mishap = data.draw(st.sampled_from(MISHAPS))
        queue = pair.to_client if mishap.endswith("client") else pair.to_node
        if mishap.startswith("lose") and queue:
            queue.popleft()
        elif mishap == "twice for the client" and pair.to_client:
            pair.to_client.append(pair.to_client[0])
        elif mishap == "twice for the node" and pair.to_node:
            pair.to_node.append(pair.to_node[0])
        elif mishap == "an invoice without need":
            pair.to_client.append(invoice_without_need(pair))
        else:
            steps[data.draw(st.integers(0, len(steps) - 1))]()
        funds = pair.node.funds
        assert pair.most_at_stake <= EXPOSURE_MSAT, "the buyer has more at stake than the quote states"
        assert funds.drawn_msat <= funds.paid_msat, "what was not paid was drawn"
        assert funds.promised_msat <= funds.balance_msat, "the same money was promised twice"
        assert pair.client.funds.drawn_msat <= sum(pair.wallets.paid.values())
