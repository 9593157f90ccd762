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
from tests.conformance.ledger.records import CLIENT, OTHER_CLIENT, job_id, make_job, make_sealed, make_tranche

Opener = Callable[[], AbstractAsyncContextManager[Ledger]]


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
        assert await ledger.paid_since(0) == 0
        for number, state in enumerate(TrancheState):
            paid = make_tranche(number, state=state, opened_at_ms=1_000 + number, fee_msat=AmountMsat(7))
            node = make_tranche(number, side="node", state=state, opened_at_ms=1_000 + number)
            await ledger.write((make_job(number), make_job(number, side="node"), paid, node))
        spent = [1_000 + number for number, state in enumerate(TrancheState) if state in SPENT_STATES]
        for since in (0, 1_000, *spent, *(when + 1 for when in spent), 10_000):
            assert await ledger.paid_since(since) == 1_007 * sum(when >= since for when in spent)


async def what_was_spent_is_as_large_as_amounts_can_be(opener: Opener) -> None:
    async with opener() as ledger:
        tranches = [
            make_tranche(tranche=number, state=TrancheState.PAID, amount_msat=AmountMsat(2**53 - 1))
            for number in range(5)
        ]
        await ledger.write((make_job(), *tranches))
        assert await ledger.paid_since(0) == 5 * (2**53 - 1)
        await ledger.write((replace(tranches[0], state=TrancheState.FAILED),))
        assert await ledger.paid_since(0) == 4 * (2**53 - 1)


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
)
