"""After a crash: what the ledger's open rows turn into, once the wallets have said what they know (RM-03).

Pure functions over records: the roles ask the wallets, these decide. No tranche is paid or invoiced again, and nothing
is forgotten: what was paid ends up in a metering record on the node's side and as charged on the client's.
"""

from dataclasses import replace

from relaymesh.machines.records import JobRecord, JobState, TrancheRecord, TrancheState
from relaymesh.machines.settlement import TRANCHE_TRANSITIONS
from relaymesh.nostr.event import EventId
from relaymesh.protocol.commitments import JobCommitments
from relaymesh.protocol.fields import JobType
from relaymesh.protocol.metering import MeteredTranche, MeteredUnits, MeteringRecord, commit_to_payment
from relaymesh.protocol.payment import PaymentAbsent, PaymentFailed, PaymentLookup, PaymentSucceeded, PaymentUnknown
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.units import AmountMsat

_State = TrancheState
INTERRUPTED = refuse(RefusalCode.INTERNAL, "the node was restarted in the middle of the job")
UNPAID_STATES = frozenset({_State.OFFERED, _State.INVOICED})
IN_DOUBT_STATES = frozenset({_State.PAYING, _State.UNKNOWN})
PAID_STATES = frozenset({_State.PAID, _State.RELEASED})


def resolve_payment(tranche: TrancheRecord, lookup: PaymentLookup) -> TrancheRecord:
    """The client's tranche, in doubt until now, after its wallet was asked; unchanged while the wallet cannot say."""
    match lookup:
        case PaymentSucceeded(preimage, _, fee_msat):
            return _move(tranche, "settle", _State.PAID, fee_msat=fee_msat, preimage=preimage)
        case PaymentFailed(_, reason):
            return _move(tranche, "fail", _State.FAILED, reason=reason)
        case PaymentAbsent():
            return _move(tranche, "fail", _State.FAILED, reason="the wallet never sent the payment")
        case PaymentUnknown(reason):
            if tranche.state is _State.UNKNOWN:
                return tranche
            return _move(tranche, "lose sight", _State.UNKNOWN, reason=reason)


def resolve_invoice(tranche: TrancheRecord, *, is_paid: bool) -> TrancheRecord:
    """The node's tranche, unpaid until now, after its wallet was asked whether its invoice was paid."""
    if tranche.state is _State.OFFERED:
        if not is_paid:
            return _move(tranche, "refuse", _State.FAILED, reason=INTERRUPTED.reason)
        tranche = _move(tranche, "invoice", _State.INVOICED)
    if is_paid:
        return _move(tranche, "settle", _State.PAID)
    return _move(tranche, "lapse", _State.EXPIRED, reason=INTERRUPTED.reason)


def account(tranches: tuple[TrancheRecord, ...]) -> tuple[TrancheRecord, ...]:
    """Release what was paid: the job's record accounts for it."""
    return tuple(
        _move(tranche, "account", _State.RELEASED) if tranche.state is _State.PAID else tranche for tranche in tranches
    )


def paid_msat(tranches: tuple[TrancheRecord, ...]) -> AmountMsat:
    """What was paid under a job."""
    return AmountMsat(sum(tranche.amount_msat for tranche in tranches if is_paid(tranche)))


def is_paid(tranche: TrancheRecord) -> bool:
    """Whether a tranche was paid, accounted for or not."""
    return tranche.state in PAID_STATES


def end_job(job: JobRecord, tranches: tuple[TrancheRecord, ...], refusal: Refusal) -> JobRecord:
    """The job as it ends for this side, body and keys erased; unknown, and kept, while some payment is in doubt."""
    charged = paid_msat(tranches)
    if any(tranche.state in IN_DOUBT_STATES for tranche in tranches):
        return replace(job, state=JobState.UNKNOWN, charged_msat=charged, reason=refusal.to_wire())
    return replace(job, state=JobState.FAILED, charged_msat=charged, reason=refusal.to_wire(), body="", keys=b"")


def close_account(account_job: JobRecord, tranches: tuple[TrancheRecord, ...], drawn_msat: AmountMsat) -> JobRecord:
    """A prepaid session's account as it ends for this side: what was paid and no job drew (RM-03, "Session tranches").

    Args:
        account_job: Its row.
        tranches: Resolved.
        drawn_msat: What the ledger says that the session's jobs were charged.
    """
    is_in_doubt = any(tranche.state in IN_DOUBT_STATES for tranche in tranches)
    rest_msat = AmountMsat(max(paid_msat(tranches) - drawn_msat, 0))
    return replace(account_job, state=JobState.UNKNOWN if is_in_doubt else JobState.DONE, charged_msat=rest_msat)


def interrupted_record(job: JobRecord, tranches: tuple[TrancheRecord, ...], now_ms: int) -> MeteringRecord:
    """The node's one metering record of a job that its crash ended: nothing delivered is claimed, all that was paid is.

    Only of a sealed tranche it is known that whoever paid it has it: the payment is its key.

    Args:
        job: Still open, with body and keys.
        tranches: Resolved.
    """
    commitments = JobCommitments.from_bytes(job.keys)
    job_type: JobType = job.job_type  # type: ignore[assignment]  # it was checked when the JOB was parsed
    return MeteringRecord(
        job=job.job_id,
        session=job.session_id,
        quote_id=EventId(job.quote_id),
        model=job.model,
        job_type=job_type,
        status="failed",
        error=INTERRUPTED.to_wire(),
        started_at_ms=job.created_at_ms,
        first_output_at_ms=None,
        finished_at_ms=max(now_ms, job.created_at_ms),
        units=_undelivered(len(job.body.encode())),
        tokenizer=None,
        prompt_commitment=commitments.commit_prompt(job.body),
        output_commitment=commitments.commit_output(()),
        max_msat=job.maximum_msat,
        charged_msat=paid_msat(tranches),
        tranches=_metered(tranches, commitments),
    )


def _undelivered(input_bytes: int) -> MeteredUnits:
    return MeteredUnits(input_tokens=0, output_tokens=0, input_bytes=input_bytes, output_bytes=0, seconds=0, jobs=0)


def _metered(tranches: tuple[TrancheRecord, ...], commitments: JobCommitments) -> tuple[MeteredTranche, ...]:
    return tuple(
        MeteredTranche(
            payment_commitment=commit_to_payment(commitments.payment_salt(tranche.tranche), tranche.payment_hash),
            msat=tranche.amount_msat,
            units_paid=tranche.units,
            units_used=tranche.units if tranche.order == "sealed" else 0,
        )
        for tranche in tranches
        if is_paid(tranche)
    )


def _move(tranche: TrancheRecord, trigger: str, target: TrancheState, **fields: object) -> TrancheRecord:
    state = TRANCHE_TRANSITIONS.move(tranche.state, trigger, target)
    return replace(tranche, state=state, **fields)  # type: ignore[arg-type]  # field names are this module's own
