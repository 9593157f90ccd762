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

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.records import (
    SESSION_ACCOUNT,
    TERMINAL_TRANCHE_STATES,
    LedgerRecord,
    PaymentRecord,
    SealedRecord,
    Side,
    TrancheRecord,
    TrancheState,
)
from relaymesh.nostr.event import PublicKey, VerifiedEvent
from relaymesh.ports.ledger import LedgerJob
from relaymesh.ports.ledger_rules import SPENT_STATES, UNRESOLVED_JOB_STATES, is_unresolved
from relaymesh.protocol.sealed_commitment import read_sealed_commitment

PAID_STATES: Final = frozenset({TrancheState.PAID, TrancheState.RELEASED})
_ASKED_STATES: Final = PAID_STATES | {TrancheState.INVOICED}
_UNSETTLED_STATES: Final = frozenset({TrancheState.PAYING, TrancheState.UNKNOWN})
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


def audit(
    jobs: Sequence[LedgerJob],
    sealed: Sequence[SealedRecord],
    payments: Sequence[PaymentRecord],
    *,
    now_ms: int,
    open_ms: int,
) -> tuple[Invariant, ...]:
    """Everything that must be true of these jobs, which are all that a ledger has.

    Args:
        jobs: With their tranches.
        sealed: What was delivered sealed, all of it.
        payments: What was paid beside jobs, all of it.
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
        _deliveries(jobs, sealed),
        _payments(payments),
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
    judged = [each for each in _accounts(jobs) if not any(is_unresolved(job) for job in each)]
    sums = [
        (sum(_sum_msat(job, {TrancheState.RELEASED}) for job in each), sum(job.job.charged_msat for job in each))
        for each in judged
    ]
    return Invariant(
        "over the released tranches of a job or a prepaid session, what was paid is what was charged",
        (
            ("jobs", sum(map(len, judged))),
            ("paid_msat", sum(paid for paid, _ in sums)),
            ("charged_msat", sum(charged for _, charged in sums)),
        ),
        tuple(
            f"{_name(each[0])} was charged {charged} msat and paid {paid} msat"
            for each, (paid, charged) in zip(judged, sums, strict=True)
            if charged != paid
        ),
    )


def _accounts(jobs: Sequence[LedgerJob]) -> Iterator[tuple[LedgerJob, ...]]:
    """Jobs whose money is counted together: a prepaid session's balance with all that draw on it, else each alone."""
    prepaid: dict[tuple[Side, PublicKey, str], list[LedgerJob]] = {
        (job.job.side, job.job.client, job.job.session_id): [job] for job in jobs if _is_account(job)
    }
    for job in jobs:
        account = prepaid.get((job.job.side, job.job.client, job.job.session_id))
        if account is None:
            yield (job,)
        elif not _is_account(job):
            account.append(job)
    for account in prepaid.values():
        yield tuple(account)


def _limits(jobs: Sequence[LedgerJob]) -> Invariant:
    costs = [max(_sum_msat(job, SPENT_STATES), job.job.charged_msat) for job in jobs]
    return Invariant(
        "no job costs more than its limit",
        (("jobs", len(jobs)), ("limit_msat", sum(job.job.maximum_msat for job in jobs))),
        tuple(
            f"{_name(job)} has {cost} msat charged, paid or on the way, of {job.job.maximum_msat} at most"
            for job, cost in zip(jobs, costs, strict=True)
            if cost > job.job.maximum_msat
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
    known = [(job, tranche, each) for job, tranche in _tranches(jobs) if (each := tranche.preimage) is not None]
    wrong = [
        f"{_name(job)} has a preimage for tranche {tranche.tranche}, which is {tranche.state.value}"
        for job, tranche, _ in known
        if tranche.state not in PAID_STATES and not _is_own_key(tranche)
    ]
    wrong += [
        f"{_name(job)} has a preimage for tranche {tranche.tranche} that is not of its payment hash"
        for job, tranche, preimage in known
        if hashlib.sha256(preimage).hexdigest() != tranche.payment_hash
        and not (_is_own_key(tranche) and tranche.state not in _ASKED_STATES and not tranche.payment_hash)
    ]
    return Invariant(
        "there is no preimage without its payment, but the key of a node to what it sealed",
        (("preimages", len(known)), ("own_keys", sum(_is_own_key(tranche) for _, tranche, _ in known))),
        tuple(wrong),
    )


def _is_own_key(tranche: TrancheRecord) -> bool:
    """Whether the preimage of this tranche is k, which a node has before it is paid (RM-03, "Sealed delivery")."""
    return tranche.side == "node" and tranche.order == "sealed"


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


def _deliveries(jobs: Sequence[LedgerJob], sealed: Sequence[SealedRecord]) -> Invariant:
    kept = {(each.side, each.client, each.job_id, each.tranche): each for each in sealed}
    due = [
        (job, tranche, kept.get((job.job.side, job.job.client, job.job.job_id, tranche.tranche)))
        for job, tranche in _tranches(jobs)
        if tranche.order == "sealed" and tranche.amount_msat and tranche.state in _ASKED_STATES | _UNSETTLED_STATES
    ]
    return Invariant(
        "what was sold sealed is kept with its commitment, and with its leaves while its payment is open",
        (("sealed_tranches", len(due)), ("with_leaves", sum(bool(each and each.leaves) for _, _, each in due))),
        tuple(
            f"{_name(job)} {complaint} of tranche {tranche.tranche}, which is {tranche.state.value}"
            for job, tranche, each in due
            if (complaint := _find_complaint(tranche, each)) is not None
        ),
    )


def _payments(payments: Sequence[PaymentRecord]) -> Invariant:
    paid = [each for each in payments if each.state in PAID_STATES]
    return Invariant(
        "what was paid beside jobs is proved by its preimage, and nothing else has one",
        (
            ("payments", len(paid)),
            ("amount_msat", sum(each.amount_msat for each in paid)),
            ("fee_msat", sum(each.fee_msat for each in paid)),
        ),
        tuple(
            f"payment {each.payment_hash[:_SHOWN_CHARACTERS]} is {each.state.value} and has "
            + ("no preimage" if each.preimage is None else "a preimage that it must not have")
            for each in payments
            if (each.state in PAID_STATES) != _is_proved(each) or (each.preimage is not None and not _is_proved(each))
        ),
    )


def _is_proved(payment: PaymentRecord) -> bool:
    return payment.preimage is not None and hashlib.sha256(payment.preimage).hexdigest() == payment.payment_hash


def _find_complaint(tranche: TrancheRecord, sealed: SealedRecord | None) -> str | None:
    if sealed is None:
        return "has lost what was sealed"
    try:
        signed = read_sealed_commitment(sealed.commitment)
    except RemoteProtocolError:
        return "has no valid commitment to what was sealed"
    commitment = signed.commitment
    if (signed.client, commitment.job, commitment.tranche) != (tranche.client, tranche.job_id, tranche.tranche):
        return "has a commitment to something else in place"
    if commitment.payment_hash != tranche.payment_hash:
        return "has a commitment to another payment hash than that"
    if tranche.state in _UNSETTLED_STATES and not sealed.leaves:
        return "has lost the leaves"
    return None


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


def _is_account(job: LedgerJob) -> bool:
    return job.job.job_type == SESSION_ACCOUNT


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
            case tuple():
                yield b"".join(len(part).to_bytes(8, "big") + part for part in value)
            case None:
                yield b""
            case _:
                yield str(value).encode()
