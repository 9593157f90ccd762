"""What was bought and sold, as accountants read it: no prompts, no preimages, nothing that a spreadsheet would run."""

import csv
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from relaymesh.cli.terminal import clean_line
from relaymesh.machines.records import JobRecord, JobState, PaymentRecord, TrancheRecord, TrancheState
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.ports.ledger import LedgerJob
from relaymesh.units import MILLISECONDS_PER_SECOND, AmountMsat

_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")
_TRANCHE_FIELDS: Final = (
    "tranche",
    "tranche_state",
    "order",
    "units",
    "amount_msat",
    "fee_msat",
    "payment_hash",
    "invoice_label",
)
_JOB_STATES: Final = {
    TrancheState.PAYING: JobState.OPEN,
    TrancheState.UNKNOWN: JobState.UNKNOWN,
    TrancheState.PAID: JobState.DONE,
    TrancheState.FAILED: JobState.FAILED,
}
COLUMNS: Final = (
    "side",
    "job_id",
    "created_at",
    "node",
    "model",
    "job_type",
    "job_state",
    "job_charged_msat",
    *_TRANCHE_FIELDS,
)


def job_document(job: LedgerJob) -> dict[str, Any]:
    """One job with its tranches."""
    return {**_describe_job(job), "tranches": [_describe_tranche(tranche) for tranche in job.tranches]}


def write_csv(jobs: Iterable[LedgerJob], output: TextIO) -> None:
    """One line for each tranche, or for a job that has none; a job's charge stands in its first line only."""
    writer = csv.DictWriter(output, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for job in jobs:
        described = _describe_job(job)
        for tranche in map(_describe_tranche, job.tranches) if job.tranches else ({},):
            writer.writerow({name: _cell(value) for name, value in {**described, **tranche}.items()})
            described["job_charged_msat"] = ""


def as_job(payment: PaymentRecord) -> LedgerJob:
    """A payment beside jobs in the form of one: of the type `payment`, without a node, charged once it is paid."""
    tranche = TrancheRecord(
        side="client",
        client=PublicKey(""),
        job_id="",
        tranche=0,
        state=payment.state,
        order="",
        units=0,
        amount_msat=payment.amount_msat,
        payment_hash=payment.payment_hash,
        fee_msat=payment.fee_msat,
    )
    is_paid = payment.state is TrancheState.PAID
    job = JobRecord(
        side="client",
        client=PublicKey(""),
        job_id="",
        node=PublicKey(""),
        session_id="",
        quote_id=EventId(""),
        model="",
        job_type="payment",
        client_nonce="",
        maximum_msat=payment.amount_msat,
        state=_JOB_STATES[payment.state],
        created_at_ms=payment.opened_at_ms,
        charged_msat=payment.amount_msat if is_paid else AmountMsat(0),
    )
    return LedgerJob(job, (tranche,))


def _describe_job(job: LedgerJob) -> dict[str, Any]:
    created_at = datetime.fromtimestamp(job.job.created_at_ms / MILLISECONDS_PER_SECOND, UTC)
    return {
        "side": job.job.side,
        "job_id": job.job.job_id,
        "created_at": created_at.isoformat(timespec="milliseconds"),
        "node": job.job.node,
        "model": job.job.model,
        "job_type": job.job.job_type,
        "job_state": job.job.state.value,
        "job_charged_msat": job.job.charged_msat,
    }


def _describe_tranche(tranche: TrancheRecord) -> dict[str, Any]:
    values = (
        tranche.tranche,
        tranche.state.value,
        tranche.order,
        tranche.units,
        tranche.amount_msat,
        tranche.fee_msat,
        tranche.payment_hash,
        tranche.invoice_label,
    )
    return dict(zip(_TRANCHE_FIELDS, values, strict=True))


def _cell(value: object) -> object:
    """A stranger's words (a model's name) on one line, and never taken for a formula."""
    if not isinstance(value, str):
        return value
    text = clean_line(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
