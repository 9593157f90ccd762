"""A node that sells nonsense sealed is paid for one tranche of it, and what its buyer keeps proves it."""

import pytest

from relaymesh.machines import sealed_tranche
from relaymesh.machines.records import JobState, TrancheState
from relaymesh.market.prosecution import PaidLeaves, prove_fraud
from relaymesh.nostr.keys import verify
from relaymesh.ports.ledger import JobQuery
from relaymesh.protocol.fraud_proof import Disclosure
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.roles.sealed_recovery import Opening, open_sealed_jobs
from tests.roles.market import Market, purchase, wanted

pytestmark = pytest.mark.anyio


async def test_a_leaf_that_does_not_open_costs_one_tranche_and_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    def sell_nonsense(secret: bytes, keyed_by: object, tranche: int, leaf: int, plaintext: bytes) -> bytes:
        return bytes(len(plaintext) + 16)

    monkeypatch.setattr(sealed_tranche, "seal_leaf", sell_nonsense)
    async with Market().open() as market:
        node = await market.add_node(settlement=(SettlementTerm(order="sealed", tranche_units=8),))
        async with market.client() as client:
            bought = await purchase(client, wanted(settlement="sealed"))
        assert bought.pieces == [] and "not what was committed to" in bought.bought.reason
        (found,) = await market.client_ledger.find_jobs(JobQuery())
        assert found.job.state is JobState.FAILED
        (row,) = found.tranches
        assert row.state is TrancheState.RELEASED and row.preimage is not None
        assert (await node.wallet.info()).balance_msat == row.amount_msat == found.job.charged_msat
        (opened,) = await open_sealed_jobs(market.client_ledger, None)
        assert [tranche.opening for tranche in opened.tranches] == [Opening.BAD]
        evidence = [
            Disclosure(record.event, record.plaintext or None)
            for record in await market.client_ledger.find_evidence(found.job.job_id)
        ]
        (sealed,) = await market.client_ledger.find_sealed("client")
        (proven,) = prove_fraud(evidence, [PaidLeaves(sealed.commitment, sealed.leaves, row.preimage)], verify)
        assert (proven.verdict.claim, proven.verdict.accused) == ("bad-ciphertext", node.key.public_key)
