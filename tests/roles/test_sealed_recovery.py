"""A purchase is finished from the wallet's preimage and the stored ciphertext alone; nothing is lost by it."""

from dataclasses import replace

import pytest

from relaymesh.machines.records import JobState, SealedRecord, TrancheState
from relaymesh.ports.ledger import JobQuery
from relaymesh.ports.memory_ledger import MemoryLedger
from relaymesh.ports.memory_lightning import FailPayment, HoldPayment, LoseAnswer
from relaymesh.protocol.session_messages import JobId
from relaymesh.roles.recovery import recover_client
from relaymesh.roles.sealed_recovery import Opening, forget_sealed, needs_wallet, open_sealed_jobs
from tests.machines.sealed import JOB_ID
from tests.roles.sealed_trade import AMOUNT_MSAT, TEXTS, keep, pay, trade, wallets

pytestmark = pytest.mark.anyio
PIECES = tuple(piece for pieces in TEXTS for piece in pieces)


async def kept_leaves(ledger: MemoryLedger) -> list[int]:
    """The tranches of which there still are leaves."""
    return [sealed.tranche for sealed in await ledger.find_sealed("client") if sealed.leaves]


async def test_what_was_paid_is_opened_when_node_relay_and_client_are_gone() -> None:
    ledger, (buyer, seller), traded = MemoryLedger(), wallets(), trade()
    await keep(ledger, traded)
    for sealed in traded.sealed:
        buyer.plan(LoseAnswer(paid=True))
        await pay(sealed, buyer, seller)
    assert await needs_wallet(ledger)
    (opened,) = await open_sealed_jobs(ledger, buyer)
    assert opened.pieces == PIECES and opened.sentences == ()
    assert [tranche.opening for tranche in opened.tranches] == [Opening.OPENED, Opening.OPENED]
    (found,) = await ledger.find_jobs(JobQuery())
    assert (found.job.state, found.job.charged_msat, found.job.body) == (JobState.FAILED, 2 * AMOUNT_MSAT, "")
    assert [row.state for row in found.tranches] == [TrancheState.RELEASED] * 2
    assert [row.preimage for row in found.tranches] == [sealed.secret for sealed in traded.sealed]
    assert await kept_leaves(ledger) == [0, 1], "nothing is forgotten before it was written"
    assert await open_sealed_jobs(ledger, None) == (opened,), "and until then it opens again, without the wallet"
    await forget_sealed(ledger, [opened])
    assert await kept_leaves(ledger) == []
    assert await open_sealed_jobs(ledger, None) == ()
    assert len(await buyer.transactions(9)) == 2, "nothing is paid again"


async def test_what_is_paid_in_part_is_opened_in_part() -> None:
    ledger, (buyer, seller), traded = MemoryLedger(), wallets(), trade()
    await keep(ledger, traded)
    await pay(traded.sealed[0], buyer, seller)
    buyer.plan(FailPayment(reason="no route was found"))
    await pay(traded.sealed[1], buyer, seller)
    (opened,) = await open_sealed_jobs(ledger, buyer)
    assert opened.pieces == TEXTS[0]
    assert opened.sentences == ("tranche 1 was not paid, and nothing was lost: no route was found",)
    await forget_sealed(ledger, [opened])
    assert await kept_leaves(ledger) == [], "what the wallet says was never paid will never open"


async def test_a_payment_that_nobody_can_judge_yet_keeps_everything() -> None:
    ledger, (buyer, seller), traded = MemoryLedger(), wallets(), trade(texts=TEXTS[:1])
    await keep(ledger, traded)
    buyer.plan(HoldPayment())
    await pay(traded.sealed[0], buyer, seller)
    for wallet in (buyer, None):
        (opened,) = await open_sealed_jobs(ledger, wallet)
        assert opened.pieces == () and "nobody can say yet whether tranche 0 was paid" in opened.sentences[0]
        await forget_sealed(ledger, [opened])
        assert await kept_leaves(ledger) == [0] and opened.job.state is JobState.UNKNOWN
    buyer.release(traded.sealed[0].payment_hash)
    (opened,) = await open_sealed_jobs(ledger, buyer)
    assert opened.pieces == TEXTS[0]


async def test_a_payment_that_this_wallet_never_made_may_be_another_wallets() -> None:
    ledger, (buyer, seller), traded = MemoryLedger(), wallets(), trade(texts=TEXTS[:1])
    await keep(ledger, traded)
    await pay(traded.sealed[0], buyer, seller)
    other, _ = wallets()
    (opened,) = await open_sealed_jobs(ledger, other)
    assert opened.pieces == () and "not paid by this wallet" in opened.sentences[0]
    await forget_sealed(ledger, [opened])
    (opened,) = await open_sealed_jobs(ledger, buyer)  # the row said failed, and is final; the text is there
    assert opened.pieces == TEXTS[0]


async def test_a_leaf_that_does_not_open_is_named_and_kept_as_evidence() -> None:
    ledger, (buyer, seller), traded = MemoryLedger(), wallets(), trade()
    records = traded.records
    place = next(at for at, each in enumerate(records) if isinstance(each, SealedRecord) and each.tranche == 1)
    bad = records[place]
    assert isinstance(bad, SealedRecord)
    records[place] = replace(bad, leaves=(b"\x00" * 50,))
    await keep(ledger, traded)
    for sealed in traded.sealed:
        await pay(sealed, buyer, seller)
    (opened,) = await open_sealed_jobs(ledger, buyer)
    assert opened.pieces == TEXTS[0] and opened.tranches[1].opening is Opening.BAD
    assert "tranche 1 was paid, but leaf 0" in opened.sentences[0] and "relaymesh fraud prove" in opened.sentences[0]
    await forget_sealed(ledger, [opened])
    assert await kept_leaves(ledger) == [1]


async def test_one_job_is_opened_by_how_its_id_begins_and_others_stay() -> None:
    ledger, (buyer, _) = MemoryLedger(), wallets()
    for name in (JOB_ID, JobId("77" * 32)):
        traded = trade(JOB_ID, TEXTS[:1])
        (sealed,) = traded.sealed
        traded.job = replace(traded.job, job_id=name)
        done = replace(traded.rows[0], job_id=name, state=TrancheState.RELEASED, preimage=sealed.secret)
        done = done if name == JOB_ID else replace(done, payment_hash="77" * 32)
        kept = SealedRecord("client", traded.job.client, name, 0, sealed.commitment, sealed.leaves)
        await ledger.write((replace(traded.job, state=JobState.DONE), done, kept))
    assert not await needs_wallet(ledger)
    (opened,) = await open_sealed_jobs(ledger, None, "77")
    assert opened.job.job_id == "77" * 32 and opened.pieces == TEXTS[0]
    await forget_sealed(ledger, [opened])
    (opened,) = await open_sealed_jobs(ledger, buyer)
    assert opened.job.job_id == JOB_ID


async def test_a_client_that_starts_again_knows_of_what_was_paid_and_not_read() -> None:
    for is_paid in (True, False):
        ledger, (buyer, seller), traded = MemoryLedger(), wallets(), trade(texts=TEXTS[:1])
        await keep(ledger, traded)
        buyer.plan(LoseAnswer(paid=is_paid))
        await pay(traded.sealed[0], buyer, seller)
        recovered = await recover_client(ledger, buyer)
        assert [job.job_id for job in recovered.unread] == ([JOB_ID] if is_paid else [])
