"""A ledger that was broken by hand is found out, by the rule that it breaks; one that machines wrote never is."""

import hashlib
from dataclasses import fields, replace
from typing import get_args

import pytest

from relaymesh.machines.records import (
    TERMINAL_TRANCHE_STATES,
    JobRecord,
    JobState,
    PaymentRecord,
    SealedRecord,
    Side,
    Store,
    TrancheRecord,
    TrancheState,
)
from relaymesh.nostr.event import EventId
from relaymesh.ports.ledger import JobQuery, LedgerJob
from relaymesh.ports.ledger_audit import PAID_STATES, Invariant, audit, digest, records_of
from relaymesh.ports.memory_ledger import MemoryLedger
from relaymesh.protocol.fields import Order
from relaymesh.protocol.sealed_commitment import SealedCommitment, build_sealed_commitment
from relaymesh.units import AmountMsat, Timestamp
from tests.conformance.ledger.records import (
    CLIENT,
    NODE,
    PREIMAGE,
    job_id,
    make_evidence,
    make_job,
    make_payment,
    make_sealed,
    make_tranche,
)
from tests.machines.pair import Pair, contract

HOUR_MS = 3_600_000
HASH = hashlib.sha256(PREIMAGE).hexdigest()


def sold(number: int = 1, **changes: object) -> LedgerJob:
    """A job of the client's side, over and paid for."""
    preimage = PREIMAGE + bytes([number])
    tranche = make_tranche(
        number,
        state=TrancheState.RELEASED,
        preimage=preimage,
        payment_hash=hashlib.sha256(preimage).hexdigest(),
        fee_msat=AmountMsat(3),
    )
    return LedgerJob(
        make_job(number, state=JobState.DONE, charged_msat=AmountMsat(1_000), body=""),
        (replace(tranche, **changes),),  # type: ignore[arg-type]  # field names are the caller's
    )


def check(
    *jobs: LedgerJob,
    sealed: tuple[SealedRecord, ...] = (),
    payments: tuple[PaymentRecord, ...] = (),
    after_ms: int = HOUR_MS,
) -> tuple[Invariant, ...]:
    """The audit, so long after the first of the jobs began."""
    now_ms = max(job.job.created_at_ms for job in jobs) + after_ms if jobs else 0
    return audit(jobs, sealed, payments, now_ms=now_ms, open_ms=HOUR_MS)


def broken(
    *jobs: LedgerJob, sealed: tuple[SealedRecord, ...] = (), after_ms: int = HOUR_MS
) -> dict[str, tuple[str, ...]]:
    return {each.name: each.broken for each in check(*jobs, sealed=sealed, after_ms=after_ms) if not each.holds}


def figures(name: str, *jobs: LedgerJob) -> dict[str, int]:
    (found,) = (each for each in check(*jobs) if name in each.name)
    return dict(found.figures)


def test_a_ledger_with_nothing_wrong_says_what_is_in_it() -> None:
    jobs = (sold(1), sold(2), LedgerJob(make_job(3), (make_tranche(3),)))
    assert broken(*jobs) == {}
    assert broken() == {}
    assert figures("charged", *jobs) == {"jobs": 2, "paid_msat": 2_000, "charged_msat": 2_000}
    assert figures("limit", *jobs) == {"jobs": 3, "limit_msat": 15_000}
    assert figures("one state", *jobs) == {"tranches": 3, "terminal": 2}
    assert figures("serves two", *jobs) == {"payment_hashes": 3}
    assert figures("without its payment", *jobs) == {"preimages": 2, "own_keys": 0}
    assert figures("without its preimage", *jobs) == {"payments": 2, "amount_msat": 2_000, "fee_msat": 6}
    assert figures("older", *jobs) == {"open_jobs": 1, "open_tranches": 1, "oldest_s": 3_600}


@pytest.mark.anyio
@pytest.mark.parametrize("settlement_order", get_args(Order))
async def test_what_two_machines_store_about_a_job_is_right_after_each_step_and_at_its_end(
    settlement_order: Order,
) -> None:
    pair = Pair(agreed=contract(tranche_units=8, settlement_order=settlement_order))
    pair.start()
    pair.settle()
    ledger = MemoryLedger()
    for effect in (effect for _, effect in pair.log if isinstance(effect, Store)):
        await ledger.write(effect.records)
        assert broken(*await ledger.find_jobs(JobQuery()), sealed=await ledger.find_sealed(), after_ms=0) == {}
    jobs, sealed = await ledger.find_jobs(JobQuery()), await ledger.find_sealed()
    assert len(jobs) == 2
    assert bool(sealed) == (settlement_order == "sealed")
    assert broken(*jobs, sealed=sealed, after_ms=10 * HOUR_MS) == {}


FAULTS: dict[str, tuple[tuple[LedgerJob, ...], str, str]] = {
    "another sum": (
        (sold(amount_msat=AmountMsat(999)),),
        "what was paid is what was charged",
        "the client's job 00000001abababab was charged 1000 msat and paid 999 msat",
    ),
    "released and not charged": (
        (replace(sold(), job=replace(sold().job, charged_msat=AmountMsat(0))),),
        "what was paid is what was charged",
        "was charged 0 msat and paid 1000 msat",
    ),
    "beyond the limit": (
        (replace(sold(), job=replace(sold().job, maximum_msat=AmountMsat(999))),),
        "no job costs more than its limit",
        "has 1000 msat charged, paid or on the way, of 999 at most",
    ),
    "a tranche twice": (
        (
            replace(
                sold(), tranches=sold().tranches + sold(payment_hash=HASH, preimage=PREIMAGE, amount_msat=0).tranches
            ),
        ),
        "each tranche is in one state",
        "has tranche 0 2 times",
    ),
    "a payment hash twice": (
        (sold(1), sold(2, payment_hash=sold(1).tranches[0].payment_hash, preimage=PREIMAGE + b"\x01")),
        "no payment hash serves two tranches",
        "the client's job 00000001abababab shares the payment hash of tranche 0",
    ),
    "a preimage without a payment": (
        (sold(state=TrancheState.FAILED, preimage=PREIMAGE, payment_hash=HASH),),
        "no preimage without its payment",
        "has a preimage for tranche 0, which is failed",
    ),
    "a preimage of something else": (
        (sold(preimage=b"\x00" * 32),),
        "no preimage without its payment",
        "that is not of its payment hash",
    ),
    "a payment without a preimage": (
        (sold(preimage=None),),
        "no payment of the client's side without its preimage",
        "paid tranche 0 and has no preimage for it",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_was_broken_is_said_with_its_row(fault: str) -> None:
    jobs, name, sentence = FAULTS[fault]
    found = {rule: sentences for rule, sentences in broken(*jobs).items() if name in rule}
    ((said, *_),) = found.values()
    assert sentence in said
    assert PREIMAGE.hex() not in str(broken(*jobs))


def test_a_row_may_be_open_for_a_while_and_no_longer() -> None:
    jobs = (
        LedgerJob(make_job(1), ()),
        LedgerJob(make_job(1, state=JobState.DONE), (make_tranche(1, state=TrancheState.UNKNOWN),)),
    )
    for job in jobs:
        assert broken(job, after_ms=HOUR_MS) == {}
        ((sentence,),) = broken(job, after_ms=HOUR_MS + 1).values()
        assert job.job.state.value in sentence


def test_nodes_may_be_paid_one_hash_by_many_and_need_no_preimage() -> None:
    node = [LedgerJob(replace(job.job, side="node"), job.tranches) for job in (sold(1, preimage=None),) * 2]
    assert all("payment hash" not in name and "preimage" not in name for name in broken(*node))


def test_a_digest_changes_with_every_field_of_every_record() -> None:
    records = (make_job(), make_tranche(preimage=PREIMAGE), make_sealed(), make_evidence(plaintext="a"))
    seen = {digest(records), digest(records[::-1]), digest(records[:2])}
    count = len(seen)
    for record in (make_job(), make_tranche()):
        for each in fields(record):
            value = getattr(record, each.name)
            other = value + 1 if isinstance(value, int) else b"x" if each.name in ("preimage", "keys") else f"{value}x"
            changed = JobState.DONE if isinstance(record, JobRecord) else TrancheState.PAID
            seen.add(digest((replace(record, **{each.name: changed if each.name == "state" else other}),)))  # type: ignore[arg-type]  # any value will do
            count += 1
    seen.add(digest((replace(make_evidence(), plaintext="b"),)))
    seen.add(digest((make_evidence(2, content="[]"),)))
    seen.add(digest((make_sealed(content="[]"),)))
    for leaves in ((), (b"",), (b"ab",), (b"a", b"b"), (b"", b"ab")):
        seen.add(digest((make_sealed(leaves=leaves),)))
    assert len(seen) == count + 8
    assert digest(records) == digest(iter(records))


def test_the_records_of_jobs_come_in_an_order_that_can_be_written() -> None:
    jobs = (sold(1), sold(2))
    kinds = [type(record) for record in records_of(jobs)]
    assert kinds == [JobRecord, TrancheRecord, JobRecord, TrancheRecord]


# ── sealed delivery ───────────────────────────────────────────────────────────────────────────────────────────────────

UNSETTLED = (TrancheState.PAYING, TrancheState.UNKNOWN)
ASKED = (TrancheState.INVOICED, TrancheState.PAYING, TrancheState.UNKNOWN, TrancheState.PAID, TrancheState.RELEASED)


def sold_sealed(side: Side, state: TrancheState, **changes: object) -> LedgerJob:
    """A job whose one tranche was delivered sealed; a node has its key from the beginning."""
    has_key = side == "node" or state in PAID_STATES
    tranche = make_tranche(side=side, state=state, order="sealed", preimage=PREIMAGE if has_key else None)
    is_over = state in TERMINAL_TRANCHE_STATES
    job = make_job(
        side=side,
        state=JobState.DONE if is_over else JobState.OPEN,
        charged_msat=AmountMsat(1_000 if state is TrancheState.RELEASED else 0),
    )
    return LedgerJob(job, (replace(tranche, **{"payment_hash": HASH, **changes}),))  # type: ignore[arg-type]  # as above


def kept(side: Side, *, leaves: tuple[bytes, ...] = (b"leaf",), **changes: object) -> SealedRecord:
    """What was sealed for it, with a commitment that is valid."""
    says = SealedCommitment(
        quote_id=EventId("90" * 32),
        job=job_id(1),
        tranche=0,
        payment_hash=HASH,
        leaf_sha256=(hashlib.sha256(b"leaf").hexdigest(),),
        leaf_bytes=(4,),
        units=100,
        msat=AmountMsat(1_000),
    ).model_copy(update=changes)
    unsigned = build_sealed_commitment(says, author=NODE.public_key, client=CLIENT, created_at=Timestamp(1_790_000_000))
    return SealedRecord(side, CLIENT, job_id(1), 0, NODE.sign(unsigned), leaves)


@pytest.mark.parametrize("state", TrancheState)
def test_a_node_has_its_key_from_the_beginning_and_what_it_sealed_once_it_asks_for_money(state: TrancheState) -> None:
    job = sold_sealed("node", state)
    assert broken(job, sealed=(kept("node"),)) == {}
    assert bool(broken(job, sealed=(kept("node", leaves=()),))) == (state in UNSETTLED)
    assert bool(broken(job)) == (state in ASKED)


@pytest.mark.parametrize("state", TrancheState)
def test_a_client_pays_only_for_what_it_has(state: TrancheState) -> None:
    job = sold_sealed("client", state)
    assert broken(job, sealed=(kept("client"),)) == {}
    assert bool(broken(job)) == (state in ASKED)
    assert bool(broken(job, sealed=(kept("node"),))) == (state in ASKED)
    assert bool(broken(job, sealed=(kept("client", leaves=()),))) == (state in UNSETTLED)


def test_a_node_without_an_invoice_yet_has_no_hash_that_its_key_could_be_of() -> None:
    assert broken(sold_sealed("node", TrancheState.OFFERED, payment_hash="")) == {}
    assert "not of its payment hash" in str(broken(sold_sealed("node", TrancheState.OFFERED, payment_hash="0d" * 32)))
    assert "not of its payment hash" in str(broken(sold_sealed("node", TrancheState.INVOICED, payment_hash="")))


def test_only_a_node_that_seals_may_have_a_key_before_it_is_paid() -> None:
    for job in (
        sold_sealed("client", TrancheState.PAYING, preimage=PREIMAGE),
        sold_sealed("node", TrancheState.INVOICED, order="prepay"),
    ):
        assert "has a preimage for tranche 0, which is" in str(broken(job, sealed=(kept(job.job.side),)))


def test_a_commitment_must_be_to_this_tranche_and_its_payment() -> None:
    job = sold_sealed("client", TrancheState.PAID)
    for said, other in (
        ("another payment hash", kept("client", payment_hash="0d" * 32)),
        ("something else", kept("client", job=job_id(2))),
        ("something else in place", kept("client", tranche=1)),
    ):
        assert said in str(broken(job, sealed=(other,)))
    assert "no valid commitment" in str(broken(job, sealed=(make_sealed(),)))


def test_what_costs_nothing_is_not_sealed() -> None:
    free = sold_sealed("client", TrancheState.PAID, amount_msat=AmountMsat(0), preimage=None, payment_hash="")
    assert broken(free) == {}


# ── prepaid sessions ──────────────────────────────────────────────────────────────────────────────────────────────────


def session(*draws: int, rest: int, side: Side = "client") -> tuple[LedgerJob, ...]:
    """A session's balance of 1,000 msat, and jobs that drew on it."""
    account = replace(
        sold(1), job=make_job(side=side, state=JobState.DONE, job_type="session", charged_msat=AmountMsat(rest))
    )
    return (
        *(
            LedgerJob(make_job(number, side=side, state=JobState.DONE, charged_msat=AmountMsat(draw)), ())
            for number, draw in enumerate(draws, 2)
        ),
        account,
    )


def test_a_prepaid_session_is_counted_with_all_that_drew_on_it() -> None:
    assert broken(*session(400, 500, rest=100)) == {}
    assert broken(*session(rest=1_000)) == {}
    assert broken(*session(1_000, rest=0)[::-1]) == {}
    (name,) = broken(*session(400, 500, rest=99))
    assert name.startswith("over the released tranches of a job or a prepaid session")
    assert broken(*session(600, 500, rest=0)) and broken(*session(400, rest=0))
    assert figures("charged", *session(400, 500, rest=100)) == {"jobs": 3, "paid_msat": 1_000, "charged_msat": 1_000}


def test_a_session_is_judged_when_all_of_it_is_over() -> None:
    jobs = session(400, 500, rest=0)
    for number, job in enumerate(jobs):
        still_open = [*jobs]
        still_open[number] = replace(job, job=replace(job.job, state=JobState.OPEN))
        assert broken(*still_open, after_ms=0) == {}
    assert broken(*jobs)


def test_sessions_of_others_are_counted_apart() -> None:
    own = session(400, rest=600)
    node = session(300, rest=700, side="node")
    alone = LedgerJob(make_job(9, state=JobState.DONE, session_id="5f" * 32, charged_msat=AmountMsat(5)), ())
    assert broken(*own, *node) == {}
    assert list(broken(*own, *node, alone).values()) == [
        ("the client's job 00000009abababab was charged 5 msat and paid 0 msat",)
    ]


def test_a_job_that_draws_more_than_its_limit_is_found() -> None:
    jobs = session(900, rest=100)
    drew = replace(jobs[0], job=replace(jobs[0].job, maximum_msat=AmountMsat(899)))
    assert "has 900 msat charged, paid or on the way, of 899 at most" in str(broken(drew, jobs[1]))


# ── payments beside jobs ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("state", [TrancheState.PAYING, TrancheState.UNKNOWN, TrancheState.PAID, TrancheState.FAILED])
def test_a_payment_beside_jobs_has_its_preimage_once_it_is_paid_and_not_before(state: TrancheState) -> None:
    def says(**changes: object) -> list[str]:
        payment = make_payment(1, state=state, payment_hash=HASH, **changes)
        return [said for rule in check(payments=(payment,)) for said in rule.broken]

    is_paid = state is TrancheState.PAID
    assert bool(says()) == is_paid
    assert bool(says(preimage=PREIMAGE)) != is_paid
    assert says(preimage=b"\x00" * 32)
