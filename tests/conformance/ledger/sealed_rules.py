"""What every ledger keeps to about sealed tranches and about what was spent: added to the rules of `rules.py`."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import pytest

from relaymesh.errors import LedgerError
from relaymesh.machines.records import LedgerRecord, TrancheState
from relaymesh.ports.ledger import JobQuery, Ledger, LedgerJob
from relaymesh.ports.ledger_rules import SPENT_STATES
from relaymesh.units import AmountMsat
from tests.conformance.ledger.records import (
    CLIENT,
    OTHER_CLIENT,
    PREIMAGE,
    job_id,
    make_job,
    make_payment,
    make_sealed,
    make_tranche,
)

Opener = Callable[[], AbstractAsyncContextManager[Ledger]]


async def sum_paid(ledger: Ledger, since_ms: int) -> int:
    """All that was paid since then, or may have been."""
    return sum(paid_msat for _, paid_msat in await by_minute(ledger, since_ms))


async def by_minute(ledger: Ledger, since_ms: int) -> list[tuple[int, int]]:
    """When minutes began in which something was paid, and how much it was."""
    return [(minute.begins_at_ms, minute.paid_msat) for minute in await ledger.paid_by_minute(since_ms)]


async def check_not_sealed(ledger: Ledger, *records: LedgerRecord) -> str:
    """The write is refused and nothing of it is there; returns what is said."""
    before = await ledger.find_sealed()
    with pytest.raises(LedgerError) as refused:
        await ledger.write(records)
    assert await ledger.find_sealed() == before
    return str(refused.value)


async def what_was_sealed_comes_back_as_it_was_written(opener: Opener) -> None:
    sealed = make_sealed(leaves=(b"\x00", bytes(8_208), "später ☕".encode(), b"\xff" * 3))
    async with opener() as ledger:
        assert await ledger.find_sealed() == ()
        await ledger.write((make_job(), make_tranche(), sealed))
        assert await ledger.find_sealed("client", CLIENT, job_id(1)) == (sealed,)
    async with opener() as ledger:
        assert await ledger.find_sealed() == (sealed,)


async def what_was_sealed_comes_with_its_tranche_or_after_it(opener: Opener) -> None:
    async with opener() as ledger:
        assert "before the tranche" in await check_not_sealed(ledger, make_sealed())
        await ledger.write((make_job(), make_tranche()))
        await check_not_sealed(ledger, make_sealed(tranche=1))
        await check_not_sealed(ledger, make_sealed(side="node"))
        await check_not_sealed(ledger, make_sealed(client=OTHER_CLIENT))
        await check_not_sealed(ledger, make_sealed(tranche=1), make_tranche(tranche=1))
        await ledger.write((make_sealed(),))
        await ledger.write((make_tranche(tranche=1), make_sealed(tranche=1)))
        assert len(await ledger.find_sealed()) == 2


async def a_commitment_never_changes(opener: Opener) -> None:
    sealed = make_sealed()
    async with opener() as ledger:
        await ledger.write((make_job(), make_tranche(), sealed))
        other = make_sealed(content='{"v":1}')
        assert "must never be sealed again" in await check_not_sealed(ledger, other)
        await check_not_sealed(ledger, replace(other, leaves=()))
        await check_not_sealed(ledger, replace(sealed, leaves=()), other)
        await ledger.write((sealed,))


async def leaves_are_erased_once_and_otherwise_stay(opener: Opener) -> None:
    sealed = make_sealed()
    async with opener() as ledger:
        await ledger.write((make_job(), make_tranche(), sealed))
        for leaves in ((b"other",), sealed.leaves[:1], sealed.leaves[::-1], (*sealed.leaves, b"more")):
            assert "never change" in await check_not_sealed(ledger, replace(sealed, leaves=leaves))
        erased = replace(sealed, leaves=())
        await ledger.write((erased,))
        assert await ledger.find_sealed() == (erased,)
        await ledger.write((erased,))
        await check_not_sealed(ledger, sealed)
        assert await ledger.find_sealed() == (erased,)


async def a_tranche_may_change_after_it_was_sealed(opener: Opener) -> None:
    sealed, tranche = make_sealed(), make_tranche()
    async with opener() as ledger:
        await ledger.write((make_job(), tranche, sealed))
        await ledger.write((replace(tranche, state=TrancheState.PAID),))
        await ledger.write((make_job(reason="done"), replace(tranche, state=TrancheState.RELEASED)))
        assert await ledger.find_sealed("client", CLIENT, job_id(1)) == (sealed,)


async def what_was_sealed_for_a_job_is_found_in_the_order_of_its_tranches(opener: Opener) -> None:
    sealed = [make_sealed(number, tranche) for number, tranche in ((1, 2), (2, 0), (1, 0), (1, 10))]
    node, other = make_sealed(side="node"), make_sealed(client=OTHER_CLIENT)
    async with opener() as ledger:
        await ledger.write((make_job(1), make_job(2), make_job(side="node"), make_job(client=OTHER_CLIENT)))
        tranches = [make_tranche(int(record.job_id[:8], 16), record.tranche) for record in sealed]
        others = (make_tranche(side="node"), make_tranche(client=OTHER_CLIENT, payment_hash="0f" * 32))
        await ledger.write((*tranches, *others, *sealed, node, other))
        assert await ledger.find_sealed("client", CLIENT, job_id(1)) == (sealed[2], sealed[0], sealed[3])
        assert await ledger.find_sealed("client", CLIENT, job_id(2)) == (sealed[1],)
        assert await ledger.find_sealed("node", CLIENT, job_id(2)) == ()
        assert await ledger.find_sealed("node") == (node,)
        assert await ledger.find_sealed("client", OTHER_CLIENT) == (other,)
        assert await ledger.find_sealed() == (*sealed, node, other)
        for nothing in ("", "%", "\ud800", job_id(3)):
            assert await ledger.find_sealed("client", CLIENT, nothing) == ()


async def many_sealed_tranches_are_all_found(opener: Opener) -> None:
    sealed = tuple(make_sealed(tranche=number, leaves=(bytes([number]),)) for number in range(40))
    async with opener() as ledger:
        await ledger.write((make_job(), *(make_tranche(tranche=number) for number in range(40)), *sealed[::-1]))
        assert await ledger.find_sealed() == sealed[::-1]
        assert await ledger.find_sealed("client", CLIENT, job_id(1)) == sealed


async def when_a_tranche_was_opened_comes_back_as_it_was_written(opener: Opener) -> None:
    job, tranche = make_job(), make_tranche(opened_at_ms=1_790_000_000_123)
    async with opener() as ledger:
        await ledger.write((job, tranche))
        assert await ledger.find_jobs(JobQuery()) == (LedgerJob(job, (tranche,)),)


async def what_was_spent_counts_amounts_and_fees_from_a_time_on(opener: Opener) -> None:
    async with opener() as ledger:
        assert await sum_paid(ledger, 0) == 0
        for number, state in enumerate(TrancheState):
            paid = make_tranche(number, state=state, opened_at_ms=1_000 + number, fee_msat=AmountMsat(7))
            node = make_tranche(number, side="node", state=state, opened_at_ms=1_000 + number)
            await ledger.write((make_job(number), make_job(number, side="node"), paid, node))
        spent = [1_000 + number for number, state in enumerate(TrancheState) if state in SPENT_STATES]
        for since in (0, 1_000, *spent, *(when + 1 for when in spent), 10_000):
            assert await sum_paid(ledger, since) == 1_007 * sum(when >= since for when in spent)


async def what_was_spent_is_as_large_as_amounts_can_be(opener: Opener) -> None:
    async with opener() as ledger:
        tranches = [
            make_tranche(tranche=number, state=TrancheState.PAID, amount_msat=AmountMsat(2**53 - 1))
            for number in range(5)
        ]
        await ledger.write((make_job(), *tranches))
        assert await sum_paid(ledger, 0) == 5 * (2**53 - 1)
        await ledger.write((replace(tranches[0], state=TrancheState.FAILED),))
        assert await sum_paid(ledger, 0) == 4 * (2**53 - 1)


async def what_was_spent_is_told_by_the_minute_in_which_it_was_decided(opener: Opener) -> None:
    async with opener() as ledger:
        await ledger.write((make_job(),))
        for number, opened_at_ms in enumerate((60_000, 119_999, 120_000, 59_999, 300_000)):
            state = TrancheState.PAID
            await ledger.write((make_tranche(tranche=number, state=state, opened_at_ms=opened_at_ms),))
        await ledger.write((make_payment(1, opened_at_ms=61_000, fee_msat=AmountMsat(5)),))
        minutes = [(0, 1_000), (60_000, 4_005), (120_000, 1_000), (300_000, 1_000)]
        assert await by_minute(ledger, 0) == minutes
        assert await by_minute(ledger, 61_000) == [(60_000, 3_005), *minutes[2:]]
        assert await by_minute(ledger, 300_001) == []


async def payments_beside_jobs_count_in_every_state_but_failed(opener: Opener) -> None:
    async with opener() as ledger:
        for number, state in enumerate(TrancheState, 1):
            await ledger.write((make_payment(number, state=state, opened_at_ms=60_000 * number),))
        assert await by_minute(ledger, 0) == [
            (60_000 * number, 2_000) for number, state in enumerate(TrancheState, 1) if state in SPENT_STATES
        ]


async def payments_beside_jobs_come_back_as_they_were_written(opener: Opener) -> None:
    first = make_payment(
        1, state=TrancheState.UNKNOWN, reason="no answer: später ☕", description="a ranking \x00", preimage=PREIMAGE
    )
    second = make_payment(2, state=TrancheState.PAYING)
    async with opener() as ledger:
        assert await ledger.find_payments() == ()
        await ledger.write((first,))
        await ledger.write((second,))
        paid = replace(first, state=TrancheState.PAID, fee_msat=AmountMsat(3), reason="", description="a ranking")
        await ledger.write((paid,))
        assert await ledger.find_payments() == (paid, second)
        assert await ledger.find_jobs(JobQuery()) == ()
    async with opener() as ledger:
        assert await ledger.find_payments() == (paid, second)


async def a_payment_that_is_paid_never_changes(opener: Opener) -> None:
    paid = make_payment(1, state=TrancheState.PAID, preimage=PREIMAGE)
    async with opener() as ledger:
        await ledger.write((make_payment(1, state=TrancheState.FAILED),))
        await ledger.write((make_payment(1, state=TrancheState.PAYING),))
        await ledger.write((paid, paid))
        for changed in (replace(paid, state=TrancheState.FAILED), replace(paid, amount_msat=AmountMsat(1))):
            with pytest.raises(LedgerError, match="must never change again"):
                await ledger.write((make_payment(2), changed))
        assert await ledger.find_payments() == (paid,)


async def all_payments_are_found_however_many_there_are(opener: Opener) -> None:
    payments = tuple(make_payment(number) for number in range(600, 0, -1))
    async with opener() as ledger:
        await ledger.write(payments)
        assert await ledger.find_payments() == payments


SEALED_RULES: tuple[Callable[[Opener], Awaitable[None]], ...] = (
    what_was_sealed_comes_back_as_it_was_written,
    what_was_sealed_comes_with_its_tranche_or_after_it,
    a_commitment_never_changes,
    leaves_are_erased_once_and_otherwise_stay,
    a_tranche_may_change_after_it_was_sealed,
    what_was_sealed_for_a_job_is_found_in_the_order_of_its_tranches,
    many_sealed_tranches_are_all_found,
    when_a_tranche_was_opened_comes_back_as_it_was_written,
    what_was_spent_counts_amounts_and_fees_from_a_time_on,
    what_was_spent_is_as_large_as_amounts_can_be,
    what_was_spent_is_told_by_the_minute_in_which_it_was_decided,
    payments_beside_jobs_count_in_every_state_but_failed,
    payments_beside_jobs_come_back_as_they_were_written,
    a_payment_that_is_paid_never_changes,
    all_payments_are_found_however_many_there_are,
)
