"""A session's two accounts against each other: every order of events, every lie about money, every silence."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.machines.job_events import Received, SessionEnded, SessionRestored
from relaymesh.machines.records import SESSION_ACCOUNT, JobState, TrancheState
from relaymesh.machines.session_account import admit_session_job, read_terms
from relaymesh.machines.session_funds import JobAbandoned, JobBegun, JobSettled
from relaymesh.machines.settlement import PaymentResolved
from relaymesh.market.pricing import MAXIMUM_TRANCHES
from relaymesh.protocol.payment import DecodedInvoice, PaymentFailed, PaymentSucceeded, PaymentUnknown
from relaymesh.protocol.refusal import RefusalCode, refuse
from relaymesh.protocol.session_messages import ErrorMessage, InvoiceMessage, JobId
from relaymesh.units import AmountMsat
from tests.machines.accounts import (
    EXPOSURE_MSAT,
    TRANCHE_MSAT,
    AccountPair,
    Forge,
    last_account,
    last_tranches,
    session_contract,
)
from tests.machines.pair import contract, moment, preimage_of

JOBS = st.lists(
    st.integers(0, TRANCHE_MSAT).flatmap(lambda ceiling: st.tuples(st.just(ceiling), st.integers(0, ceiling))),
    max_size=12,
)


def completed(*jobs: tuple[int, int], **arguments: object) -> AccountPair:
    pair = AccountPair(jobs, **arguments)  # type: ignore[arg-type]  # each test passes what it means
    pair.settle()
    return pair


@given(st.data(), JOBS, st.integers(1, 5))
def test_in_every_interleaving_each_job_is_served_and_no_more_is_at_stake_than_stated(
    data: st.DataObject, jobs: list[tuple[int, int]], concurrent: int
) -> None:
    pair = AccountPair(tuple(jobs), concurrent)
    pair.settle(lambda count: data.draw(st.integers(0, count - 1)))
    assert [pair.drawn[JobId(f"{number:064x}")] for number in range(len(jobs))] == [drawn for _, drawn in jobs]
    assert pair.booked == pair.drawn and not pair.refused
    assert pair.most_at_stake <= EXPOSURE_MSAT


@given(st.data(), JOBS, st.integers(1, 5))
def test_over_a_session_what_was_paid_is_what_was_charged_on_both_sides(
    data: st.DataObject, jobs: list[tuple[int, int]], concurrent: int
) -> None:
    pair = AccountPair(tuple(jobs), concurrent)
    pair.settle(lambda count: data.draw(st.integers(0, count - 1)))
    pair.end_session()
    pair.lapse()
    assert sorted(pair.closed) == ["client", "node"]
    paid = sum(pair.wallets.paid.values())
    for ledger, drawn in ((pair.node_ledger, pair.drawn), (pair.client_ledger, pair.booked)):
        if not paid:
            continue
        account, tranches = last_account(ledger), last_tranches(ledger).values()
        released = sum(each.amount_msat for each in tranches if each.state is TrancheState.RELEASED)
        assert account.state is JobState.DONE and account.job_type == SESSION_ACCOUNT
        assert account.charged_msat + sum(drawn.values()) == paid == released
        assert {each.state for each in tranches} <= {TrancheState.RELEASED, TrancheState.EXPIRED}


def test_one_payment_serves_many_small_jobs() -> None:
    pair = completed(*[(90, 60)] * 12)
    assert sum(pair.wallets.paid.values()) == TRANCHE_MSAT


def test_the_next_tranche_is_paid_ahead_so_that_small_jobs_never_wait() -> None:
    pair = AccountPair(((100, 100),) * 30)
    pair.settle()
    assert len(pair.drawn) == 30 and pair.waited == [JobId("0" * 64)]
    assert len(pair.wallets.paid) == 4


def test_a_session_without_jobs_pays_nothing_and_keeps_no_row() -> None:
    pair = completed()
    pair.end_session()
    assert pair.closed == ["client", "node"] and not pair.node_ledger and not pair.client_ledger


def test_a_session_whose_jobs_cost_nothing_pays_nothing() -> None:
    pair = completed((0, 0), (0, 0))
    assert len(pair.drawn) == 2 and not pair.wallets.paid


def test_the_unused_rest_ends_with_the_session() -> None:
    pair = completed((600, 450))
    pair.end_session()
    assert last_account(pair.client_ledger).charged_msat == last_account(pair.node_ledger).charged_msat == 550


def test_a_large_job_behind_a_half_used_tranche_is_topped_up_within_the_exposure() -> None:
    pair = completed((900, 500), (1_000, 1_000))
    assert len(pair.drawn) == 2
    assert sorted(pair.wallets.paid.values()) == [750, 1_000]
    assert pair.most_at_stake == EXPOSURE_MSAT


def test_a_session_has_so_many_tranches_and_then_serves_what_its_rest_suffices_for() -> None:
    pair = completed(*[(TRANCHE_MSAT, TRANCHE_MSAT)] * MAXIMUM_TRANCHES, (1_000, 1_000))
    assert len(pair.wallets.paid) == MAXIMUM_TRANCHES
    assert pair.drawn[JobId(f"{MAXIMUM_TRANCHES:064x}")] == 0


def stop_before_paying(*jobs: tuple[int, int], **arguments: object) -> AccountPair:
    """A session whose node has just asked for money."""
    pair = AccountPair(jobs, **arguments)  # type: ignore[arg-type]  # each test passes what it means
    pair.begin()
    pair.deliver_to_node()
    return pair


def change(fields: dict[str, object]) -> Forge:
    """What makes an INVOICE lie in these fields of its own and of what it decodes to."""

    def forge(message: InvoiceMessage, decoded: DecodedInvoice) -> tuple[InvoiceMessage, DecodedInvoice]:
        said = {name: value for name, value in fields.items() if hasattr(message, name)}
        told = {name: value for name, value in fields.items() if hasattr(decoded, name)}
        return replace(message, **said), replace(decoded, **told)  # type: ignore[arg-type]  # names are checked above

    return forge


LIES: dict[str, tuple[dict[str, object], str]] = {
    "more than a tranche": ({"msat": 1_001, "amount_msat": 1_001}, "a session's tranche is of 1 to 1000 msat"),
    "nothing": ({"msat": 0, "amount_msat": 0}, "a session's tranche is of 1 to 1000 msat"),
    "another amount than announced": ({"amount_msat": 900}, "the invoice asks for 900 msat where 1000 was announced"),
    "another order": ({"order": "postpay"}, "the invoice is of another order or tranche than agreed"),
    "another payee": ({"payee": "03" + "cd" * 32}, "the invoice pays another Lightning node than the offer names"),
    "a tranche that cannot be": ({"tranche": 32}, "tranche 32 was invoiced where a session has 32"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_a_tranche_is_refused_before_money_moves(lie: str) -> None:
    fields, sentence = LIES[lie]
    pair = stop_before_paying((500, 500), forge=change(fields))
    pair.settle()
    assert not pair.wallets.paid
    assert pair.client.refusal is not None and pair.client.refusal.code is RefusalCode.PAYMENT_MISMATCH
    assert sentence in pair.client.refusal.reason
    assert [refused.refusal for refused in pair.refused] == [pair.client.refusal]
    assert pair.drawn == {JobId("0" * 64): 0}


def test_a_tranche_that_no_job_needs_is_not_paid() -> None:
    pair = stop_before_paying((500, 500))
    pair.client = type(pair.client)(pair.agreed, pair.client._terms)
    pair.client.start(moment())
    pair.deliver_to_client()
    assert not pair.wallets.paid
    pair.client.receive(JobBegun(JobId("0" * 64)), moment())
    pair.do_client()
    assert len(pair.wallets.paid) == 1, "it waited for the job that needs it"


def test_a_tranche_beyond_the_exposure_waits_for_room_and_is_refused_when_none_can_come() -> None:
    pair = completed((1_000, 300))
    invoice = next(iter(pair.wallets.invoices.values()))
    second = replace(invoice, bolt11="lntest2", payment_hash="ab" * 32)
    pair.decoded["lntest2"] = second
    message = InvoiceMessage(JobId(pair.agreed.session_id), 1, "prepay", "lntest2", AmountMsat(1_000), 1_000, 0)
    pair.client.receive(JobBegun(JobId("f" * 64)), moment())
    pair.client.receive(Received(message), moment())
    pair.do_client()
    assert not pair.refused and len(pair.wallets.paid) == 1
    pair.client.receive(JobSettled(JobId("f" * 64)), moment())
    pair.do_client()
    assert pair.client.refusal is not None and not pair.refused, "there is something left to run jobs on"
    assert "would put 1700 msat at stake, where the quote states 1250" in pair.client.refusal.reason
    assert len(pair.wallets.paid) == 1


def test_a_second_invoice_for_a_tranche_is_refused() -> None:
    pair = stop_before_paying((500, 500))
    message = pair.to_client[0]
    assert isinstance(message, InvoiceMessage)
    pair.settle()
    pair.to_client.append(replace(message, bolt11="lntest2"))
    pair.wallets.invoices["lntest2"] = pair.wallets.invoices[message.bolt11]
    pair.settle()
    assert pair.client.refusal is not None and pair.client.refusal.reason == "a tranche is invoiced once"
    assert list(pair.wallets.paid.values()) == [1_000]


def test_an_invoice_that_lapses_fails_the_jobs_that_wait_for_it() -> None:
    pair = AccountPair(((500, 500),) * 2, 2, pay=lambda pay: PaymentFailed(205, "no route"))
    pair.begin()
    pair.begin()
    pair.deliver_to_node()
    pair.deliver_to_node()
    pair.lapse()
    assert [job.state for job in pair.under_way.values()] == ["refused", "refused"]
    assert last_tranches(pair.node_ledger)[0].state is TrancheState.EXPIRED


def test_a_payment_that_fails_is_told_to_the_node_and_ends_what_waits() -> None:
    pair = completed((500, 500), pay=lambda pay: PaymentFailed(205, "no route"))
    assert pair.drawn == {JobId("0" * 64): 0}
    assert pair.refused[0].refusal.code is RefusalCode.PAYMENT_REQUIRED


def test_a_client_that_pays_no_more_is_served_from_what_is_left() -> None:
    pair = completed((600, 600))
    pair.node.receive(
        Received(ErrorMessage(JobId(pair.agreed.session_id), refuse(RefusalCode.PAYMENT_REQUIRED, "no more"), False)),
        moment(),
    )
    pair.waiting.extend(AccountPair(((0, 0), (400, 400), (1, 1))).waiting)
    pair.waiting.popleft()
    pair.settle()
    assert list(pair.drawn.values()) == [600, 400, 0]


def test_after_a_reconnect_an_open_invoice_is_sent_again_and_paid_once() -> None:
    pair = stop_before_paying((500, 500))
    pair.to_client.clear()
    pair.node.receive(SessionRestored(), moment())
    pair.node.receive(SessionRestored(), moment())
    pair.do_node()
    assert len(pair.to_client) == 2
    pair.settle()
    assert list(pair.wallets.paid.values()) == [1_000] and pair.drawn == {JobId("0" * 64): 500}
    pair.node.receive(SessionRestored(), moment())
    assert not pair.node.effects()


def test_while_the_wallet_cannot_say_nothing_else_is_paid_and_the_account_waits() -> None:
    pair = completed((500, 500), pay=lambda pay: PaymentUnknown("the wallet is silent"))
    assert pair.client.is_unknown and pair.client.doubtful_msat == 1_000
    pair.client.receive(JobSettled(JobId("0" * 64)), moment())
    pair.client.receive(SessionEnded("gone"), moment())
    pair.do_client()
    assert not pair.closed
    preimage = preimage_of(next(iter(pair.wallets.labels.values())))
    answer = PaymentSucceeded(preimage, AmountMsat(1_000), AmountMsat(1))
    pair.client.receive(PaymentResolved(0, answer), moment())
    pair.do_client()
    assert pair.closed == ["client"]
    assert last_account(pair.client_ledger).charged_msat == 1_000


def test_a_doubt_that_outlives_the_session_is_left_to_the_next_start() -> None:
    pair = completed((500, 500), pay=lambda pay: PaymentUnknown("the wallet is silent"))
    pair.client.receive(JobSettled(JobId("0" * 64)), moment())
    pair.client.receive(SessionEnded("gone"), moment())
    pair.client.handle_deadline(moment(60_000))
    pair.do_client()
    assert pair.closed == ["client"] and pair.client.deadline() is None
    assert last_account(pair.client_ledger).state is JobState.UNKNOWN
    assert last_tranches(pair.client_ledger)[0].state is TrancheState.UNKNOWN


@pytest.mark.parametrize("side", ["client", "node"])
def test_an_account_with_a_job_that_broke_off_is_left_open_for_the_next_start(side: str) -> None:
    pair = AccountPair(((500, 500),))
    while not any(job.state == "running" for job in pair.under_way.values()):
        pair.possible_steps()[0]()
    machine = pair.client if side == "client" else pair.node
    machine.receive(JobAbandoned(JobId("0" * 64)), moment())
    other = pair.node if side == "client" else pair.client
    other.receive(JobSettled(JobId("0" * 64)), moment())
    pair.end_session()
    assert last_account(pair.client_ledger if side == "client" else pair.node_ledger).state is JobState.OPEN
    assert sorted(pair.closed) == ["client", "node"]


def test_an_account_closes_only_when_the_record_of_its_last_job_is_in_the_ledger() -> None:
    pair = AccountPair(((500, 500),))
    while not any(job.state == "running" for job in pair.under_way.values()):
        pair.possible_steps()[0]()
    pair.end_session()
    assert not pair.closed
    pair.settle()
    assert sorted(pair.closed) == ["client", "node"]
    assert last_account(pair.node_ledger).charged_msat == 500


def test_an_invoice_that_is_open_when_the_session_ends_is_seen_through() -> None:
    pair = stop_before_paying((500, 500))
    job = next(iter(pair.under_way.values()))
    pair.node.receive(SessionEnded("gone"), moment())
    pair.do_node()
    assert job.state == "refused" and not pair.closed
    pair.end_job(job)
    assert not pair.closed
    pair.lapse()
    assert pair.closed == ["node"] and last_account(pair.node_ledger).charged_msat == 0


def test_a_term_for_each_job_has_no_account() -> None:
    assert read_terms(contract()) is None
    terms = read_terms(session_contract(exposure_msat=9_999))
    assert terms is not None and terms.exposure_msat == EXPOSURE_MSAT, "a quote cannot raise what the rule allows"


def test_a_job_that_costs_more_than_a_tranche_is_refused_with_a_sentence() -> None:
    refused = admit_session_job(
        session_contract(), input_units=2_001, maximum_output_units=0, maximum_msat=AmountMsat(5_000)
    )
    assert refused == refuse(
        RefusalCode.OVER_BUDGET, "this job costs more than one of the session's tranches, 1000 msat"
    )


def test_a_job_is_granted_what_a_tranche_covers() -> None:
    granted = admit_session_job(
        session_contract(), input_units=100, maximum_output_units=9_999, maximum_msat=AmountMsat(5_000)
    )
    assert granted == 475


@pytest.mark.parametrize(("tranche_msat", "count"), [(1_000, 32), (10**9, 1), (4 * 10**8, 2)])
def test_a_session_has_as_many_tranches_as_can_be_counted_together(tranche_msat: int, count: int) -> None:
    terms = read_terms(session_contract(tranche_msat))
    assert terms is not None and terms.count == count
    pair = AccountPair(((1_000, 1_000),), agreed=session_contract(tranche_msat, 2 * tranche_msat))
    pair.settle()
    assert list(pair.wallets.paid.values()) == [tranche_msat]
