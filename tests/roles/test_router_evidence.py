"""What a router makes of evidence: receipts, proven fraud, stakes; what is false it counts and forgets."""

from collections.abc import Iterator
from dataclasses import replace

import anyio
import pytest

from relaymesh.nostr.event import UnsignedEvent, VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.ledger import Ledger
from relaymesh.ports.memory_ledger import MemoryLedger
from relaymesh.ports.memory_relays import MemoryRelay
from relaymesh.protocol.assertion import read_assertion
from relaymesh.protocol.fraud_proof import build_fraud_proof
from relaymesh.protocol.slash import read_slash
from relaymesh.protocol.stake import LightningBacking, StakeCommitment, build_stake
from relaymesh.roles import experience
from relaymesh.roles.experience import Experience, ExperienceSettings
from relaymesh.roles.market_view import MarketView
from relaymesh.roles.router_evidence import RouterEvidence
from relaymesh.units import Timestamp
from tests.market.fraud_builders import FraudCase, cases
from tests.nips import example_reputation
from tests.roles.market import EPOCH_MS, loop_clock

pytestmark = pytest.mark.anyio
ROUTER, WITNESS, NODE = (KeyPair(bytes([number]) * 32) for number in (0x61, 0x62, 0x63))
PROVEN = [case for case in cases() if case.is_proven]


class Desk:
    """The keeper of evidence, a relay, and what it published there."""

    def __init__(self, ledger: Ledger | None = None, relay: MemoryRelay | None = None) -> None:
        self.relay = relay or MemoryRelay()
        self.ledger = ledger or MemoryLedger()
        self.relays = self.relay.connect()
        self.view = MarketView(self.relays, loop_clock)
        self.evidence = RouterEvidence(self.relays, self.view, ROUTER, self.ledger, loop_clock, 86_400)

    def published(self, kind: Kind) -> tuple[VerifiedEvent, ...]:
        return self.relay.query((Filter(kinds=(kind,)),))


def proof_event(case: FraudCase) -> VerifiedEvent:
    now = Timestamp(EPOCH_MS // 1_000)
    return WITNESS.sign(build_fraud_proof(case.proof, WITNESS.public_key, now))


async def test_a_proven_fraud_is_slashed_once_and_asserted() -> None:
    desk = Desk()
    for case in PROVEN[:1] * 2:
        desk.evidence.take(proof_event(case))
    await desk.evidence.tell()
    await desk.evidence.tell()
    [slash] = desk.published(Kind.SLASH)
    accused = PROVEN[0].proof.accused
    assert read_slash(slash).slash.accused == accused
    [assertion] = [read_assertion(each) for each in desk.published(Kind.REPUTATION_ASSERTION)]
    assert assertion.subject == accused and assertion.assertion.rank == 0 and len(assertion.assertion.proofs) == 1
    assert desk.view.directory.standing(accused).failures_milli > 0


async def test_replicas_with_one_ledger_slash_once_together() -> None:
    relay, ledger = MemoryRelay(), MemoryLedger()
    desks = [Desk(ledger, relay) for _ in range(3)]
    for desk in desks:
        desk.evidence.take(proof_event(PROVEN[0]))
        await desk.evidence.tell()
    assert len(desks[0].published(Kind.SLASH)) == 1


async def test_a_slash_that_no_relay_took_is_published_later() -> None:
    desk = Desk()
    desk.evidence.take(proof_event(PROVEN[0]))
    desk.relay.fail()
    await desk.evidence.tell()
    desk.relay.recover()
    assert not desk.published(Kind.SLASH)
    await desk.evidence.tell()
    assert len(desk.published(Kind.SLASH)) == 1


def _false_evidence() -> Iterator[VerifiedEvent]:
    proof = proof_event(PROVEN[0])
    yield from (proof_event(case) for case in cases() if not case.is_proven)
    unsigned = UnsignedEvent(WITNESS.public_key, proof.created_at, Kind.RECEIPT, (("p", "x"),), "{}")
    yield WITNESS.sign(unsigned)
    yield WITNESS.sign(replace(unsigned, kind=Kind.FRAUD_PROOF))


async def test_what_proves_nothing_is_counted_and_changes_nothing() -> None:
    desk = Desk()
    false = list(_false_evidence())
    for event in false:
        desk.evidence.take(event)
    await desk.evidence.tell()
    assert desk.evidence.refused == len(false) > 5
    assert not desk.published(Kind.SLASH) and not desk.published(Kind.REPUTATION_ASSERTION)


async def test_what_a_node_claims_of_its_machine_counts_until_it_was_seen_to_work() -> None:
    relay = MemoryRelay()
    assert relay.accept(example_reputation.make_manifest())[0]
    relays = relay.connect()
    experience = Experience(ExperienceSettings(newcomer_msat=None))
    node = example_reputation.make_manifest().public_key
    async with MarketView(relays, loop_clock, experience=experience) as view, anyio.create_task_group() as tasks:
        evidence = RouterEvidence(relays, view, ROUTER, MemoryLedger(), loop_clock, 86_400)
        tasks.start_soon(evidence.run)
        await anyio.sleep(61)
        standing = view.directory.standing(node)
        assert standing.output_units_per_1000s is not None and standing.successes_milli == 0
        tasks.cancel_scope.cancel()


async def test_a_backed_stake_counts_in_the_standing_and_decays(monkeypatch: pytest.MonkeyPatch) -> None:
    lightning_node = "02" + "ab" * 32
    monkeypatch.setattr(experience, "recover_signer", lambda text, signature: lightning_node)
    desk = Desk()
    now = loop_clock().timestamp
    backing = LightningBacking(type="lightning", ln_pubkey=lightning_node, signature="y" * 104)
    ends_at = Timestamp(now + 7_200)
    stake = StakeCommitment(seq=now, units=500, issued_at=now, valid_until=ends_at, backing=backing)
    await desk.relays.publish(NODE.sign(build_stake(stake, NODE.public_key, now)))
    async with desk.view, anyio.create_task_group() as tasks:
        tasks.start_soon(desk.evidence.run)
        await anyio.sleep(1)
        assert desk.view.directory.standing(NODE.public_key).stake_units in (499, 500)
        await anyio.sleep(3_600)
        assert 240 <= desk.view.directory.standing(NODE.public_key).stake_units <= 250
        await anyio.sleep(3_700)
        assert desk.view.directory.standing(NODE.public_key).stake_units == 0
        tasks.cancel_scope.cancel()
