"""What a job of one's own says of its node: the same when it ends as when it is read from the ledger."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from relaymesh.machines.booking import book_ended, book_stored
from relaymesh.machines.job_events import CancelRequested, RunnerStopped, SessionEnded
from relaymesh.machines.records import SESSION_ACCOUNT, EvidenceRecord, JobRecord, JobState
from relaymesh.market.outcomes import Outcome, Result
from relaymesh.nostr.keys import verify
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.evidence import SignedReceipt, read_receipt
from relaymesh.protocol.payment import PaymentFailed
from relaymesh.protocol.refusal import RefusalCode, refuse
from tests.machines.pair import CLIENT, Pair


def finished() -> Pair:
    pair = Pair()
    pair.start()
    pair.settle()
    return pair


def cancelled() -> Pair:
    pair = Pair()
    pair.start()
    while not pair.delivered:
        pair.possible_steps()[0]()
    pair.client.receive(CancelRequested(), pair.now)
    pair.do_client_effects()
    pair.settle()
    return pair


def broken(after_output: bool) -> Pair:
    pair = Pair()
    pair.start()
    while pair.node is None or (after_output and not pair.delivered) or not pair.running:
        pair.possible_steps()[0]()
    pair.running = None
    pair.node.receive(RunnerStopped(refuse(RefusalCode.RUNNER_FAILED, "it broke")), pair.now)
    pair.do_node_effects()
    pair.settle()
    return pair


def abandoned() -> Pair:
    pair = Pair()
    pair.start()
    pair.client.receive(SessionEnded("gone"), pair.now)
    pair.do_client_effects()
    return pair


def unpayable() -> Pair:
    pair = Pair(pay=lambda _: PaymentFailed(True, "no route"))
    pair.start()
    pair.settle()
    return pair


def booked(pair: Pair) -> tuple[Outcome | None, Outcome | None]:
    """As the job ended, and as its ledger tells it."""
    job = [record for record in pair.client_ledger if isinstance(record, JobRecord)][-1]
    receipt: SignedReceipt | None = None
    for record in pair.client_ledger:
        if isinstance(record, EvidenceRecord) and record.event.kind == Kind.RECEIPT:
            receipt = read_receipt(record.event, verify)
    assert pair.outcome is not None
    now = pair.now.timestamp
    return book_ended(pair.outcome, CLIENT.public_key, "tiny", now), book_stored(job, receipt)


@pytest.mark.parametrize(
    ("make", "result"),
    [
        (finished, Result.DONE),
        (lambda: broken(after_output=True), Result.PARTIAL),
        (lambda: broken(after_output=False), Result.FAILED),
        (abandoned, Result.FAILED),
        (cancelled, None),
        (unpayable, None),
    ],
    ids=["finished", "broken in mid-stream", "broken at once", "abandoned", "cancelled", "unpayable"],
)
def test_a_job_says_the_same_when_it_ends_and_after_a_restart(make: Callable[[], Pair], result: Result | None) -> None:
    ended, stored = booked(make())
    assert ended == stored
    assert (None if ended is None else ended.result) == result


def test_a_job_that_is_done_tells_its_speed_and_its_receipt() -> None:
    pair = finished()
    outcome, _ = booked(pair)
    assert outcome is not None and pair.outcome is not None and pair.outcome.receipt is not None
    assert outcome.receipt_id == pair.outcome.receipt.id
    assert (outcome.model, outcome.has_record) == ("tiny", True)
    assert outcome.first_output_ms is not None and outcome.output_bytes_per_1000s is not None


def test_money_that_was_paid_for_nothing_is_told() -> None:
    outcome, _ = booked(broken(after_output=False))
    assert outcome is not None and outcome.lost_msat > 0


def test_a_job_without_a_record_is_half_a_job_and_an_open_one_none() -> None:
    pair = finished()
    job = [record for record in pair.client_ledger if isinstance(record, JobRecord)]
    without = book_stored(job[-1], None)
    assert without is not None and (without.result, without.has_record) == (Result.PARTIAL, False)
    assert job[0].state is JobState.OPEN and book_stored(job[0], None) is None


def test_the_money_of_a_prepaid_session_says_nothing_about_its_node() -> None:
    (*_, job) = [record for record in finished().client_ledger if isinstance(record, JobRecord)]
    assert book_stored(job, None) is not None
    assert book_stored(replace(job, job_type=SESSION_ACCOUNT), None) is None
