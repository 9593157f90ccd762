"""Booking: what a job of one's own that has ended says about its node (RM-05, "Reputation").

The same whether the job ended just now or is read from the ledger, so that a buyer knows after a restart what it knew
before.
"""

from relaymesh.machines.job_outcome import JobEnded
from relaymesh.machines.records import SESSION_ACCOUNT, JobRecord, JobState
from relaymesh.market.outcomes import Outcome, Result, is_blameless, make_job_key, tell_outcome
from relaymesh.nostr.event import PublicKey
from relaymesh.protocol.evidence import SignedReceipt
from relaymesh.protocol.receipt import Receipt
from relaymesh.protocol.session_messages import JobId
from relaymesh.units import MILLISECONDS_PER_SECOND, AmountMsat, Timestamp


def book_ended(ended: JobEnded, client: PublicKey, model: str, now: Timestamp) -> Outcome | None:
    """What a job says that ended now; None where it says nothing about the node.

    Args:
        client: The session key that it was bought under.
        model: What it was asked for.
    """
    reason = "" if ended.refusal is None else ended.refusal.to_wire()
    receipt = None
    if ended.receipt is not None and ended.metering is not None:
        receipt = SignedReceipt(ended.receipt, Receipt.from_text(ended.receipt.content), ended.metering)
    return _judge(client, ended.job_id, ended.state, reason, model, ended.paid_msat, receipt, now)


def book_stored(job: JobRecord, receipt: SignedReceipt | None) -> Outcome | None:
    """What a job of the ledger says, with its receipt if there is one; None where it says nothing about the node."""
    if job.job_type == SESSION_ACCOUNT:
        return None  # the money of a prepaid session; its jobs speak for themselves
    at = Timestamp(job.created_at_ms // MILLISECONDS_PER_SECOND)
    return _judge(job.client, JobId(job.job_id), job.state, job.reason, job.model, job.charged_msat, receipt, at)


def _judge(
    client: PublicKey,
    job_id: JobId,
    state: JobState,
    reason: str,
    model: str,
    paid_msat: AmountMsat,
    receipt: SignedReceipt | None,
    at: Timestamp,
) -> Outcome | None:
    if state not in (JobState.DONE, JobState.FAILED) or is_blameless(reason):
        return None
    if receipt is not None:
        return tell_outcome(receipt, _judge_receipt(receipt, is_done=state is JobState.DONE))
    result = Result.PARTIAL if state is JobState.DONE else Result.FAILED
    lost = AmountMsat(0) if state is JobState.DONE else paid_msat
    return Outcome(make_job_key(client, job_id), at, result, model, lost_msat=lost, has_record=False)


def _judge_receipt(receipt: SignedReceipt, *, is_done: bool) -> Result:
    """How a job ended that the buyer neither cancelled nor failed to pay, whatever excuse the node's record names."""
    if is_done and receipt.receipt.outcome == "ok":
        return Result.DONE
    is_contradicted = receipt.metering.record.status == "ok" and is_done
    has_output = receipt.receipt.first_output_in_ms is not None
    return Result.PARTIAL if has_output and not is_contradicted else Result.FAILED
