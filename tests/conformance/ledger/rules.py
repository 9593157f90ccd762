"""What every ledger keeps to: plain async functions, to be run against one's own.

from tests.conformance.ledger.rules import RULES

@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_my_ledger(rule):
    await rule(opener)

`opener()` opens, as an async context manager, a ledger that was empty at first: the same one each time.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import anyio
import pytest

from relaymesh.errors import LedgerError
from relaymesh.machines.records import (
    TERMINAL_TRANCHE_STATES,
    EvidenceRecord,
    JobRecord,
    JobState,
    LedgerRecord,
    Store,
    TrancheState,
)
from relaymesh.ports.ledger import JobQuery, Ledger, LedgerJob
from relaymesh.protocol.fields import Order
from relaymesh.units import AmountMsat, Timestamp
from tests.conformance.ledger.records import (
    BODY,
    CLIENT,
    OTHER_CLIENT,
    PLAINTEXT,
    PREIMAGE,
    job_id,
    make_evidence,
    make_job,
    make_tranche,
)
from tests.conformance.ledger.sealed_rules import SEALED_RULES
from tests.machines.pair import Pair, contract

Opener = Callable[[], AbstractAsyncContextManager[Ledger]]
Rule = Callable[[Opener], Awaitable[None]]

NOW = Timestamp(1_790_000_000)
ALL_JOBS = JobQuery()


async def check_refused(ledger: Ledger, *records: LedgerRecord) -> str:
    """The write is refused, nothing of it is there, and nothing sensitive is said; returns what is said."""
    before = await ledger.find_jobs(ALL_JOBS), await ledger.find_evidence()
    with pytest.raises(LedgerError) as refused:
        await ledger.write(records)
    assert (await ledger.find_jobs(ALL_JOBS), await ledger.find_evidence()) == before
    said = str(refused.value)
    assert not any(secret in said for secret in ("garden", PREIMAGE.hex(), repr(PREIMAGE), PLAINTEXT))
    return said


async def a_new_ledger_is_empty(opener: Opener) -> None:
    async with opener() as ledger:
        assert await ledger.find_jobs(ALL_JOBS) == ()
        assert await ledger.find_evidence() == ()


async def a_job_is_found_with_its_tranches_in_order(opener: Opener) -> None:
    job, tranches = make_job(), tuple(make_tranche(tranche=number) for number in (0, 1, 2, 10))
    async with opener() as ledger:
        await ledger.write((job, *reversed(tranches)))
        assert await ledger.find_jobs(ALL_JOBS) == (LedgerJob(job, tranches),)


async def every_field_comes_back_as_it_was_written(opener: Opener) -> None:
    job = make_job(
        side="node", state=JobState.FAILED, charged_msat=AmountMsat(2**53 - 1), reason="busy: später, ☕ \x00", body=""
    )
    tranche = make_tranche(
        side="node", state=TrancheState.RELEASED, fee_msat=AmountMsat(7), reason="r", preimage=PREIMAGE
    )
    evidence = make_evidence(side="node", plaintext=PLAINTEXT)
    async with opener() as ledger:
        await ledger.write((job, tranche, evidence))
        assert await ledger.find_jobs(ALL_JOBS) == (LedgerJob(job, (tranche,)),)
        assert await ledger.find_evidence() == (evidence,)


async def a_record_replaces_the_one_with_its_key(opener: Opener) -> None:
    job, tranche = make_job(), make_tranche()
    done = replace(job, state=JobState.DONE, charged_msat=AmountMsat(1_000), body="")
    paid = replace(tranche, state=TrancheState.PAID, preimage=PREIMAGE, fee_msat=AmountMsat(3))
    async with opener() as ledger:
        await ledger.write((job, tranche))
        await ledger.write((done,))
        await ledger.write((paid,))
        assert await ledger.find_jobs(ALL_JOBS) == (LedgerJob(done, (paid,)),)


async def side_client_and_job_id_tell_jobs_apart(opener: Opener) -> None:
    jobs = (make_job(), make_job(side="node"), make_job(client=OTHER_CLIENT), make_job(2))
    async with opener() as ledger:
        await ledger.write(jobs)
        await ledger.write((make_tranche(),))
        found = await ledger.find_jobs(ALL_JOBS)
        assert {(entry.job.side, entry.job.client, entry.job.job_id) for entry in found} == {
            (job.side, job.client, job.job_id) for job in jobs
        }
        assert [len(entry.tranches) for entry in found if entry.job == jobs[0]] == [1]
        assert sum(len(entry.tranches) for entry in found) == 1


async def a_write_is_all_or_nothing(opener: Opener) -> None:
    async with opener() as ledger:
        await ledger.write((make_job(), make_tranche(state=TrancheState.FAILED)))
        await check_refused(
            ledger,
            make_job(2),
            make_job(1, state=JobState.DONE),
            make_evidence(),
            make_tranche(state=TrancheState.PAID),
        )


async def an_empty_write_is_no_error(opener: Opener) -> None:
    async with opener() as ledger:
        await ledger.write(())
        assert await ledger.find_jobs(ALL_JOBS) == ()


async def a_terminal_tranche_never_changes(opener: Opener) -> None:
    async with opener() as ledger:
        for number, state in enumerate(sorted(TERMINAL_TRANCHE_STATES, key=lambda state: state.value)):
            final = make_tranche(number, state=state, preimage=PREIMAGE)
            await ledger.write((make_job(number), final))
            for other in set(TrancheState) - {state}:
                await check_refused(ledger, replace(final, state=other))
            said = await check_refused(ledger, replace(final, amount_msat=AmountMsat(1)))
            assert state.value in said
            await check_refused(ledger, replace(final, preimage=None))


async def a_terminal_tranche_may_be_written_again_as_it_is(opener: Opener) -> None:
    job, final = make_job(), make_tranche(state=TrancheState.RELEASED, preimage=PREIMAGE)
    async with opener() as ledger:
        await ledger.write((job, final))
        await ledger.write((job, final))
        assert await ledger.find_jobs(ALL_JOBS) == (LedgerJob(job, (final,)),)


async def a_tranche_that_becomes_terminal_in_a_write_stays_so_in_it(opener: Opener) -> None:
    final = make_tranche(state=TrancheState.EXPIRED)
    async with opener() as ledger:
        await check_refused(ledger, make_job(), final, replace(final, state=TrancheState.PAYING))


async def a_payment_hash_serves_one_tranche_of_the_clients_side(opener: Opener) -> None:
    first = make_tranche(state=TrancheState.PAID)
    async with opener() as ledger:
        await ledger.write((make_job(1), make_job(2), make_job(1, client=OTHER_CLIENT), first))
        await check_refused(ledger, make_tranche(2, payment_hash=first.payment_hash))
        await check_refused(ledger, make_tranche(1, 1, payment_hash=first.payment_hash))
        await check_refused(ledger, make_tranche(1, client=OTHER_CLIENT))
        await ledger.write((replace(first, state=TrancheState.RELEASED),))


async def a_payment_hash_is_refused_within_one_write_too(opener: Opener) -> None:
    async with opener() as ledger:
        await check_refused(
            ledger, make_job(), make_tranche(), make_tranche(tranche=1, payment_hash=f"{1:032x}{0:032x}")
        )


async def a_payment_hash_that_a_tranche_no_longer_has_may_serve_another(opener: Opener) -> None:
    first, second = make_tranche(payment_hash="0a" * 32), make_tranche(tranche=1, payment_hash="0a" * 32)
    async with opener() as ledger:
        await ledger.write((make_job(), first))
        await ledger.write((replace(first, payment_hash="0b" * 32),))
        await ledger.write((second,))
        await check_refused(ledger, first)


async def only_a_payment_hash_that_is_known_must_be_unique(opener: Opener) -> None:
    async with opener() as ledger:
        await ledger.write((make_job(), *(make_tranche(tranche=number, payment_hash="") for number in range(3))))
        (found,) = await ledger.find_jobs(ALL_JOBS)
        assert len(found.tranches) == 3


async def the_nodes_side_may_hold_the_hash_that_the_client_pays(opener: Opener) -> None:
    async with opener() as ledger:
        await ledger.write((make_job(), make_tranche()))
        await ledger.write((make_job(side="node"), make_tranche(side="node")))
        await ledger.write((make_tranche(side="node", tranche=1, payment_hash=make_tranche().payment_hash),))
        assert sum(len(found.tranches) for found in await ledger.find_jobs(ALL_JOBS)) == 3


async def a_tranche_is_refused_before_its_job(opener: Opener) -> None:
    async with opener() as ledger:
        await ledger.write((make_job(), make_job(2, side="node")))
        await check_refused(ledger, make_tranche(2))
        await check_refused(ledger, make_tranche(1, client=OTHER_CLIENT))
        await check_refused(ledger, make_tranche(3), make_job(3))


async def jobs_are_found_newest_first_and_no_more_than_asked_for(opener: Opener) -> None:
    async with opener() as ledger:
        same_time = [make_job(10 + number, created_at_ms=1_790_000_004_500) for number in range(2)]
        await ledger.write((*(make_job(number) for number in (3, 1, 5, 2, 4)), *same_time))
        await ledger.write((make_job(1, state=JobState.DONE),))
        found = [entry.job.job_id for entry in await ledger.find_jobs(ALL_JOBS)]
        assert found == [job_id(number) for number in (5, 11, 10, 4, 3, 2, 1)]
        assert [entry.job.job_id for entry in await ledger.find_jobs(JobQuery(limit=3))] == found[:3]
        assert await ledger.find_jobs(JobQuery(limit=0)) == ()


async def jobs_are_found_by_side_and_by_the_beginning_of_their_id(opener: Opener) -> None:
    async with opener() as ledger:
        await ledger.write((make_job(0x12345678), make_job(0x12345679), make_job(0x22345678, side="node")))

        async def count(query: JobQuery) -> int:
            return len(await ledger.find_jobs(query))

        assert await count(JobQuery(side="client")) == 2
        assert await count(JobQuery(side="node")) == 1
        assert await count(JobQuery(job_id="1234567")) == 2
        assert await count(JobQuery(job_id="12345678")) == 1
        assert await count(JobQuery(job_id=job_id(0x12345678))) == 1
        assert await count(JobQuery(job_id="22345678", side="client")) == 0
        assert await count(JobQuery(job_id="")) == 3
        for nothing in ("2345678", "%", "_2345678", "1234567*", "'", "\ud800", job_id(0x12345678) + "0"):
            assert await count(JobQuery(job_id=nothing)) == 0


async def unresolved_jobs_are_those_that_are_open_or_whose_money_may_move(opener: Opener) -> None:
    unresolved = set()
    async with opener() as ledger:
        for number, state in enumerate(JobState):
            await ledger.write((make_job(number, state=state),))
            if state in (JobState.OPEN, JobState.UNKNOWN):
                unresolved.add(job_id(number))
        for number, tranche_state in enumerate(TrancheState, 100):
            final = make_tranche(number, 0, state=TrancheState.RELEASED)
            await ledger.write((make_job(number, state=JobState.DONE), final))
            await ledger.write((make_tranche(number, 1, state=tranche_state),))
            if tranche_state not in TERMINAL_TRANCHE_STATES:
                unresolved.add(job_id(number))
        found = await ledger.find_jobs(JobQuery(only_unresolved=True))
        assert {entry.job.job_id for entry in found} == unresolved
        assert len(found) == len(unresolved)
        assert all(len(entry.tranches) == 2 for entry in found if int(entry.job.job_id[:8], 16) >= 100)


async def jobs_that_were_left_unpaid_are_found_by_order_and_jobs_by_their_client(opener: Opener) -> None:
    async with opener() as ledger:
        for number, state in enumerate(TrancheState):
            for place, order in enumerate(("postpay", "sealed")):
                job = make_job(2 * number + place, side="node", client=OTHER_CLIENT if number % 2 else CLIENT)
                tranche = make_tranche(2 * number + place, 0, side="node", client=job.client, state=state, order=order)
                await ledger.write((job, tranche))
        for order in ("postpay", "sealed", "prepay"):
            found = await ledger.find_jobs(JobQuery(side="node", unpaid_order=order))
            unpaid = {(tranche.order, tranche.state) for entry in found for tranche in entry.tranches}
            expected = {(order, TrancheState.EXPIRED), (order, TrancheState.FAILED)}
            assert unpaid == (set() if order == "prepay" else expected)
        assert await ledger.find_jobs(JobQuery(side="client", unpaid_order="postpay")) == ()
        for client in (CLIENT, OTHER_CLIENT):
            found = await ledger.find_jobs(JobQuery(client=client))
            assert len(found) == len(TrancheState) and {entry.job.client for entry in found} == {client}


async def evidence_is_kept_once_and_found_in_the_order_it_was_written(opener: Opener) -> None:
    first, second, other = make_evidence(1, content="{}"), make_evidence(1, content="[]"), make_evidence(2)
    async with opener() as ledger:
        await ledger.write((make_job(), first))
        await ledger.write((other, second))
        await ledger.write((first,))
        assert await ledger.find_evidence() == (first, other, second)
        assert await ledger.find_evidence(job_id(1)) == (first, second)
        assert await ledger.find_evidence(job_id(3)) == ()


async def a_quote_that_two_jobs_of_a_session_rest_on_is_found_for_both(opener: Opener) -> None:
    quote, other = make_evidence(1, content="{}", plaintext=PLAINTEXT), make_evidence(2, content="[]")
    jobs = [make_job(number, quote_id=quote.event.id) for number in (1, 2)]
    async with opener() as ledger:
        for job in (*jobs, make_job(3), make_job(1, side="node", quote_id=other.event.id)):
            await ledger.write((job, replace(quote, job_id=job.job_id)) if job in jobs else (job,))
        await ledger.write((other,))
        assert await ledger.find_evidence() == (quote, other)
        assert await ledger.find_evidence(job_id(1)) == (quote,)
        assert await ledger.find_evidence(job_id(2)) == (quote, other)
        assert await ledger.find_evidence(job_id(3)) == ()


async def each_side_keeps_evidence_of_its_own(opener: Opener) -> None:
    both = (make_evidence(), make_evidence(side="node", plaintext=PLAINTEXT))
    async with opener() as ledger:
        await ledger.write(both)
        assert await ledger.find_evidence(job_id(1)) == both


async def a_sensitive_field_is_gone_once_a_record_leaves_it_out(opener: Opener) -> None:
    async with opener() as ledger:
        open_job, evidence = make_job(body=BODY), make_evidence(plaintext=PLAINTEXT)
        await ledger.write((open_job, make_tranche(preimage=PREIMAGE), evidence))
        await ledger.write((replace(open_job, state=JobState.DONE, body=""),))
        await ledger.write((make_tranche(), EvidenceRecord(evidence.side, evidence.job_id, evidence.event)))
        (found,) = await ledger.find_jobs(ALL_JOBS)
        assert found.job.body == ""
        assert found.tranches[0].preimage is None
        assert [kept.plaintext for kept in await ledger.find_evidence()] == [""]


async def a_sequence_begins_at_now_and_then_always_grows(opener: Opener) -> None:
    async with opener() as ledger:
        assert await ledger.next_sequence("offer", NOW) == NOW
        assert await ledger.next_sequence("offer", NOW) == NOW + 1
        assert await ledger.next_sequence("offer", Timestamp(NOW - 1_000)) == NOW + 2
        assert await ledger.next_sequence("offer", Timestamp(NOW + 50)) == NOW + 50
        assert await ledger.next_sequence("status", NOW) == NOW


async def a_sequence_grows_across_restarts_also_when_the_clock_went_back(opener: Opener) -> None:
    drawn = []
    for step in range(4):
        async with opener() as ledger:
            drawn += [await ledger.next_sequence("offer", Timestamp(NOW - 10 * step)) for _ in range(2)]
    assert drawn == list(range(NOW, NOW + 8))


async def everything_is_there_when_the_ledger_is_opened_again(opener: Opener) -> None:
    job, tranche = make_job(), make_tranche(state=TrancheState.UNKNOWN)
    evidence = make_evidence(plaintext=PLAINTEXT)
    async with opener() as ledger:
        await ledger.write((job, tranche, evidence))
    async with opener() as ledger:
        assert await ledger.find_jobs(JobQuery(only_unresolved=True)) == (LedgerJob(job, (tranche,)),)
        assert await ledger.find_evidence() == (evidence,)
        await ledger.write((replace(tranche, state=TrancheState.FAILED), make_job(state=JobState.FAILED, body="")))
    async with opener() as ledger:
        assert await ledger.find_jobs(JobQuery(only_unresolved=True)) == ()
        await check_refused(ledger, tranche)


async def many_may_write_at_once_and_each_sees_what_it_wrote(opener: Opener) -> None:
    drawn: list[int] = []

    async def use(ledger: Ledger, number: int) -> None:
        await ledger.write((make_job(number), make_tranche(number)))
        (found,) = await ledger.find_jobs(JobQuery(job_id=job_id(number)))
        assert len(found.tranches) == 1
        drawn.append(await ledger.next_sequence("offer", NOW))

    async with opener() as ledger:
        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(use, ledger, number)
        assert sorted(drawn) == list(range(NOW, NOW + 40))
        assert len(await ledger.find_jobs(ALL_JOBS)) == 40


async def a_write_that_is_refused_does_no_harm_to_those_beside_it(opener: Opener) -> None:
    refused: list[int] = []
    records: list[JobRecord] = [make_job(number) for number in range(30)]

    async def use(ledger: Ledger, number: int) -> None:
        try:
            await ledger.write((records[number], make_tranche(number, payment_hash=f"{number % 10:064x}")))
        except LedgerError:
            refused.append(number)

    async with opener() as ledger:
        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(use, ledger, number)
        kept = {entry.job.job_id for entry in await ledger.find_jobs(ALL_JOBS)}
        assert len(refused) == 20
        assert kept == {job.job_id for number, job in enumerate(records) if number not in refused}


async def check_what_machines_store(opener: Opener, settlement_order: Order) -> None:
    """Two machines settle a job in this order, and the ledger takes all that both store."""
    pair = Pair(agreed=contract(tranche_units=8, settlement_order=settlement_order))
    pair.start()
    pair.settle()
    stores = [effect.records for _, effect in pair.log if isinstance(effect, Store)]
    assert len(stores) > 10
    async with opener() as ledger:
        for number, records in enumerate(stores):
            await ledger.write(records)
            if number == 0:
                assert len(await ledger.find_jobs(JobQuery(only_unresolved=True))) == 1
        assert len(await ledger.find_jobs(ALL_JOBS)) == 2
        assert await ledger.find_jobs(JobQuery(only_unresolved=True)) == ()
        assert bool(await ledger.find_sealed()) == (settlement_order == "sealed")


async def what_two_machines_store_about_a_job_is_taken_and_resolved_in_the_end(opener: Opener) -> None:
    await check_what_machines_store(opener, "prepay")


async def what_two_machines_store_about_a_sealed_job_is_taken_and_resolved_in_the_end(opener: Opener) -> None:
    await check_what_machines_store(opener, "sealed")


async def what_two_machines_store_about_a_job_on_credit_is_taken_and_resolved_in_the_end(opener: Opener) -> None:
    await check_what_machines_store(opener, "postpay")


RULES: tuple[Rule, ...] = (
    what_two_machines_store_about_a_job_is_taken_and_resolved_in_the_end,
    what_two_machines_store_about_a_sealed_job_is_taken_and_resolved_in_the_end,
    what_two_machines_store_about_a_job_on_credit_is_taken_and_resolved_in_the_end,
    a_new_ledger_is_empty,
    a_job_is_found_with_its_tranches_in_order,
    every_field_comes_back_as_it_was_written,
    a_record_replaces_the_one_with_its_key,
    side_client_and_job_id_tell_jobs_apart,
    a_write_is_all_or_nothing,
    an_empty_write_is_no_error,
    a_terminal_tranche_never_changes,
    a_terminal_tranche_may_be_written_again_as_it_is,
    a_tranche_that_becomes_terminal_in_a_write_stays_so_in_it,
    a_payment_hash_serves_one_tranche_of_the_clients_side,
    a_payment_hash_is_refused_within_one_write_too,
    a_payment_hash_that_a_tranche_no_longer_has_may_serve_another,
    only_a_payment_hash_that_is_known_must_be_unique,
    the_nodes_side_may_hold_the_hash_that_the_client_pays,
    a_tranche_is_refused_before_its_job,
    jobs_are_found_newest_first_and_no_more_than_asked_for,
    jobs_are_found_by_side_and_by_the_beginning_of_their_id,
    unresolved_jobs_are_those_that_are_open_or_whose_money_may_move,
    jobs_that_were_left_unpaid_are_found_by_order_and_jobs_by_their_client,
    evidence_is_kept_once_and_found_in_the_order_it_was_written,
    a_quote_that_two_jobs_of_a_session_rest_on_is_found_for_both,
    each_side_keeps_evidence_of_its_own,
    a_sensitive_field_is_gone_once_a_record_leaves_it_out,
    a_sequence_begins_at_now_and_then_always_grows,
    a_sequence_grows_across_restarts_also_when_the_clock_went_back,
    everything_is_there_when_the_ledger_is_opened_again,
    many_may_write_at_once_and_each_sees_what_it_wrote,
    a_write_that_is_refused_does_no_harm_to_those_beside_it,
    *SEALED_RULES,
)
