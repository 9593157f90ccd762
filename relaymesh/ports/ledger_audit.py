"""What must be true of every ledger, proved from what is in it (RM-03, "Exactly once").

Pure functions over what the port finds: they read no clock and say which rows break a rule, without anything sensitive.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Final

import orjson

from relaymesh.machines.records import TERMINAL_TRANCHE_STATES, LedgerRecord, TrancheRecord, TrancheState
from relaymesh.nostr.event import VerifiedEvent
from relaymesh.ports.ledger import LedgerJob
from relaymesh.ports.ledger_rules import UNRESOLVED_JOB_STATES, is_unresolved

PAID_STATES: Final = frozenset({TrancheState.PAID, TrancheState.RELEASED})
_SHOWN_CHARACTERS: Final = 16


@dataclass(frozen=True, slots=True)
class Invariant:
    """Something that must hold, and whether it does.

    Args:
        name: What must hold, as a sentence.
        figures: What was counted and summed, by name.
        broken: A sentence for each row that breaks it.
    """

    name: str
    figures: tuple[tuple[str, int], ...]
    broken: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing breaks it."""
        return not self.broken


def audit(jobs: Sequence[LedgerJob], *, now_ms: int, open_ms: int) -> tuple[Invariant, ...]:
    """Everything that must be true of these jobs, which are all that a ledger has.

    Args:
        jobs: With their tranches.
        now_ms: The time, in milliseconds.
        open_ms: How old a job may be and still have something open.
    """
    return (
        _charges(jobs),
        _limits(jobs),
        _states(jobs),
        _payment_hashes(jobs),
        _preimages(jobs),
        _proofs(jobs),
        _open_rows(jobs, now_ms, open_ms),
    )


def digest(records: Iterable[LedgerRecord]) -> str:
    """SHA-256 over every field of these records, what is sensitive included, in hex: equal where all of them are."""
    sha256 = hashlib.sha256()
    for record in records:
        for part in _parts(record):
            sha256.update(len(part).to_bytes(8, "big") + part)
    return sha256.hexdigest()


def records_of(jobs: Iterable[LedgerJob]) -> Iterator[LedgerRecord]:
    """The records that these jobs are made of, each job before its tranches."""
    for job in jobs:
        yield job.job
        yield from job.tranches


def _charges(jobs: Sequence[LedgerJob]) -> Invariant:
    judged = [job for job in jobs if not is_unresolved(job)]
    charged = {id(job): (job.job.charged_msat, _sum_msat(job, {TrancheState.RELEASED})) for job in judged}
    return Invariant(
        "over the released tranches of a job, what was paid is what was charged",
        (
            ("jobs", len(judged)),
            ("paid_msat", sum(paid for _, paid in charged.values())),
            ("charged_msat", sum(charge for charge, _ in charged.values())),
        ),
        tuple(
            f"{_name(job)} was charged {charged[id(job)][0]} msat and paid {charged[id(job)][1]} msat"
            for job in judged
            if charged[id(job)][0] != charged[id(job)][1]
        ),
    )


def _limits(jobs: Sequence[LedgerJob]) -> Invariant:
    at_stake = PAID_STATES | {TrancheState.PAYING, TrancheState.UNKNOWN}
    return Invariant(
        "no job costs more than its limit",
        (("jobs", len(jobs)), ("limit_msat", sum(job.job.maximum_msat for job in jobs))),
        tuple(
            f"{_name(job)} has {_sum_msat(job, at_stake)} msat paid or on the way, of {job.job.maximum_msat} at most"
            for job in jobs
            if _sum_msat(job, at_stake) > job.job.maximum_msat
        ),
    )


def _states(jobs: Sequence[LedgerJob]) -> Invariant:
    rows = Counter((job.job.side, job.job.client, job.job.job_id, each.tranche) for job, each in _tranches(jobs))
    ended = sum(tranche.state in TERMINAL_TRANCHE_STATES for _, tranche in _tranches(jobs))
    return Invariant(
        "each tranche is in one state",
        (("tranches", len(rows)), ("terminal", ended)),
        tuple(
            f"{_name(job)} has tranche {tranche} {rows[key]} times"
            for job in jobs
            for tranche in sorted({each.tranche for each in job.tranches})
            if rows[key := (job.job.side, job.job.client, job.job.job_id, tranche)] > 1
        ),
    )


def _payment_hashes(jobs: Sequence[LedgerJob]) -> Invariant:
    hashes = Counter(each.payment_hash for job, each in _tranches(jobs) if job.job.side == "client")
    hashes.pop("", None)
    return Invariant(
        "no payment hash serves two tranches of the client's side",
        (("payment_hashes", len(hashes)),),
        tuple(
            f"{_name(job)} shares the payment hash of tranche {tranche.tranche} with another tranche"
            for job, tranche in _tranches(jobs)
            if job.job.side == "client" and hashes[tranche.payment_hash] > 1
        ),
    )


def _preimages(jobs: Sequence[LedgerJob]) -> Invariant:
    known = [(job, tranche) for job, tranche in _tranches(jobs) if tranche.preimage is not None]
    wrong = [
        f"{_name(job)} has a preimage for tranche {tranche.tranche}, which is {tranche.state.value}"
        for job, tranche in known
        if tranche.state not in PAID_STATES
    ]
    wrong += [
        f"{_name(job)} has a preimage for tranche {tranche.tranche} that is not of its payment hash"
        for job, tranche in known
        if tranche.preimage is not None and hashlib.sha256(tranche.preimage).hexdigest() != tranche.payment_hash
    ]
    return Invariant("there is no preimage without its payment", (("preimages", len(known)),), tuple(wrong))


def _proofs(jobs: Sequence[LedgerJob]) -> Invariant:
    payments = [
        (job, tranche)
        for job, tranche in _tranches(jobs)
        if job.job.side == "client" and tranche.amount_msat and tranche.state in PAID_STATES
    ]
    return Invariant(
        "there is no payment of the client's side without its preimage",
        (
            ("payments", len(payments)),
            ("amount_msat", sum(tranche.amount_msat for _, tranche in payments)),
            ("fee_msat", sum(tranche.fee_msat for _, tranche in payments)),
        ),
        tuple(
            f"{_name(job)} paid tranche {tranche.tranche} and has no preimage for it"
            for job, tranche in payments
            if tranche.preimage is None
        ),
    )


def _open_rows(jobs: Sequence[LedgerJob], now_ms: int, open_ms: int) -> Invariant:
    unresolved = [job for job in jobs if is_unresolved(job)]
    return Invariant(
        f"no row is open that is older than {open_ms // 1_000} s",
        (
            ("open_jobs", sum(job.job.state in UNRESOLVED_JOB_STATES for job in unresolved)),
            ("open_tranches", sum(each.state not in TERMINAL_TRANCHE_STATES for _, each in _tranches(unresolved))),
            ("oldest_s", max((now_ms - job.job.created_at_ms) // 1_000 for job in unresolved) if unresolved else 0),
        ),
        tuple(
            f"{_name(job)} is {job.job.state.value}, its tranches {_list_states(job)}"
            for job in unresolved
            if now_ms - job.job.created_at_ms > open_ms
        ),
    )


def _tranches(jobs: Sequence[LedgerJob]) -> Iterator[tuple[LedgerJob, TrancheRecord]]:
    return ((job, tranche) for job in jobs for tranche in job.tranches)


def _sum_msat(job: LedgerJob, states: Iterable[TrancheState]) -> int:
    wanted = frozenset(states)
    return sum(tranche.amount_msat for tranche in job.tranches if tranche.state in wanted)


def _list_states(job: LedgerJob) -> str:
    return ", ".join(tranche.state.value for tranche in job.tranches) or "none"


def _name(job: LedgerJob) -> str:
    return f"the {job.job.side}'s job {job.job.job_id[:_SHOWN_CHARACTERS]}"


def _parts(record: LedgerRecord) -> Iterator[bytes]:
    yield type(record).__name__.encode()
    for each in fields(record):
        value = getattr(record, each.name)
        match value:
            case bytes():
                yield value
            case Enum():
                yield str(value.value).encode()
            case VerifiedEvent():
                yield orjson.dumps(value.to_json())
            case None:
                yield b""
            case _:
                yield str(value).encode()
