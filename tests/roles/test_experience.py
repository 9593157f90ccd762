"""A buyer that buys twice knows more the second time, and follows those whom it trusts."""

import anyio
import pytest

from relaymesh.market.directory import Directory
from relaymesh.market.outcomes import Result
from relaymesh.market.probation import NEWCOMER_MSAT
from relaymesh.market.reputation import HOUR_SECONDS
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.memory_runner import RunScript
from relaymesh.protocol.assertion import build_assertion_event
from relaymesh.protocol.fraud_proof import build_fraud_proof
from relaymesh.protocol.manifest import Benchmark, CapabilityBands, Manifest, build_manifest
from relaymesh.protocol.refusal import RefusalCode, refuse
from relaymesh.protocol.stake import LightningBacking, StakeCommitment, build_stake
from relaymesh.roles import experience as experience_module
from relaymesh.roles.experience import Experience, ExperienceSettings
from relaymesh.units import AmountMsat, Timestamp
from tests.market.builders import NOW, node, signed_offer
from tests.market.fraud_builders import cases
from tests.market.populations import SELLER, own
from tests.market.test_stake import LIGHTNING_NODE
from tests.roles.market import Market, loop_clock, purchase

pytestmark = pytest.mark.anyio
FRIEND = KeyPair(b"\x31" * 32)


async def test_a_client_knows_after_a_restart_what_it_knew_before() -> None:
    async with Market().open() as market:
        seller = (await market.add_node()).key.public_key
        async with market.client() as client:
            await client.market.wait_complete(5)
            await purchase(client)
            client.tools.experience.tell(client.market.directory, loop_clock().timestamp)
            before = client.market.standings[seller]
        async with market.client() as client:
            client.tools.experience.tell(client.market.directory, loop_clock().timestamp)
            after = client.market.standings[seller]
        assert after == before
        assert (after.successes_milli, after.reasons[0]) == (1_000, "1 of 1 own jobs done")
        assert after.first_output_ms is not None and after.job_limit_msat == 2 * NEWCOMER_MSAT


async def test_a_failure_is_remembered_and_a_busy_node_is_none() -> None:
    async with Market().open() as market:
        broken = (await market.add_node(script=RunScript(fails_after=0))).key.public_key
        async with market.client() as client:
            await purchase(client)
            client.tools.experience.book_refusals([(broken, refuse(RefusalCode.BUSY, "no room"))])
        experience = Experience()
        await experience.recall(market.client_ledger)
        seen = experience.reputation.standing(broken, loop_clock().timestamp)
        assert (seen.successes_milli, seen.failures_milli) == (0, 1_000)
        [outcome] = experience.reputation.evidence(broken, loop_clock().timestamp).own
        assert outcome.result is Result.FAILED


async def test_receipts_that_a_trusted_key_stands_by_are_fetched_and_counted() -> None:
    async with Market().open() as market:
        seller = (await market.add_node()).key.public_key
        async with market.client() as client:
            await purchase(client)
        now = loop_clock().timestamp
        told = Experience()
        await told.recall(market.client_ledger)
        said = told.reputation.make_assertion(seller, now, seq=1, valid_until=Timestamp(now + 3_600))
        publisher = market.connect_relays()
        for record in await market.client_ledger.find_evidence():
            if record.event.kind == Kind.RECEIPT:
                await publisher.publish(record.event)
        await publisher.publish(FRIEND.sign(build_assertion_event(said, seller, FRIEND.public_key, now)))

        for trusted, trust in (({FRIEND.public_key: 1_000}, 200), ({}, 0)):
            reader = Experience(ExperienceSettings(trusted))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(reader.follow, market.connect_relays(), loop_clock)
                await anyio.sleep(5)
                tasks.cancel_scope.cancel()
            assert reader.reputation.standing(seller, now).trust_milli == trust


def manifest_of(author: KeyPair, decode: int) -> Manifest:
    benchmark = Benchmark(
        model="tiny",
        prefill_tokens_per_1000s=1,
        decode_tokens_per_1000s=decode,
        measured_at=loop_clock().timestamp,
    )
    return Manifest(
        seq=1,
        valid_until=Timestamp(loop_clock().timestamp + 3_600),
        role="node",
        bands=CapabilityBands(cpu=4, memory=4, disk=4, gpu=None, network=4),
        benchmarks=(benchmark,),
    )


async def test_a_manifest_stands_in_for_what_was_not_observed() -> None:
    async with Market().open() as market:
        seller = await market.add_node()
        made = build_manifest(manifest_of(seller.key, 33_000), "main", seller.key.public_key, loop_clock().timestamp)
        await market.connect_relays().publish(seller.key.sign(made))
        async with market.client() as client:
            await client.market.wait_complete(5)
            client.tools.experience.tell(client.market.directory, loop_clock().timestamp)
            seen = client.market.standings[seller.key.public_key]
            assert (seen.output_units_per_1000s, seen.successes_milli) == (33_000, 0)
            assert "speed as its manifest claims" in seen.reasons
            await purchase(client)
            client.tools.experience.tell(client.market.directory, loop_clock().timestamp)
            assert client.market.standings[seller.key.public_key].output_units_per_1000s != 33_000


def test_whoever_is_not_known_is_a_newcomer_and_a_loss_makes_all_newcomers_smaller() -> None:
    directory, experience = Directory(), Experience()
    directory.apply(signed_offer(node(7)).event, "wss://relay.example", NOW)
    experience.tell(directory, NOW)
    assert directory.standing(node(7)).job_limit_msat == NEWCOMER_MSAT
    assert directory.standings.get(node(8)) == directory.standing(node(7)) == experience.reputation.newcomer(NOW)
    experience.reputation.book(SELLER, own(Result.FAILED, lost_msat=AmountMsat(5)))
    experience.tell(directory, NOW)
    assert directory.standing(node(7)).job_limit_msat == NEWCOMER_MSAT // 2
    assert directory.standing(SELLER).failures_milli == 1_000
    later = Timestamp(NOW + 24 * HOUR_SECONDS)
    experience.tell(directory, later)
    assert directory.standing(SELLER).failures_milli < 1_000


async def test_a_client_holds_fraud_that_is_proven_and_none_that_is_claimed() -> None:
    proven, claimed = (next(case for case in cases() if case.is_proven is wanted) for wanted in (True, False))
    async with Market().open() as market, market.client() as client:
        await client.market.wait_complete(5)
        now = loop_clock().timestamp
        for case in (claimed, proven, proven):
            event = FRIEND.sign(build_fraud_proof(case.proof, FRIEND.public_key, now))
            await market.connect_relays().publish(event)
        await anyio.sleep(1)
        client.tools.experience.tell(client.market.directory, loop_clock().timestamp)
        seen = client.market.directory.standing(proven.proof.accused)
        assert seen.failures_milli >= 15_000 and f"proven fraud: {proven.proof.claim}" in seen.reasons


def test_no_more_fraud_proofs_are_decided_than_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experience_module, "PROOFS_PER_SECOND", 2)
    reader, decided = Experience(), []
    reader.on_fraud = lambda verdict, proof: decided.append(verdict.key)
    proofs = [case.proof for case in cases() if case.is_proven]
    for proof in proofs[:4]:
        reader.take(FRIEND.sign(build_fraud_proof(proof, FRIEND.public_key, NOW)), NOW)
    assert len(decided) <= 2
    reader.take(FRIEND.sign(build_fraud_proof(proofs[3], FRIEND.public_key, NOW)), Timestamp(NOW + 1))
    assert len(decided) == len(set(decided)) >= 2


async def test_a_stake_counts_in_a_clients_standings_once_its_backing_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(experience_module, "recover_signer", lambda text, signature: LIGHTNING_NODE)
    async with Market().open() as market:
        seller = (await market.add_node()).key
        now = loop_clock().timestamp
        for lightning_node, units in ((LIGHTNING_NODE, 900), ("03" + "cd" * 32, 0)):
            backing = LightningBacking(type="lightning", ln_pubkey=lightning_node, signature="y" * 104)
            stake = StakeCommitment(
                seq=now + (units == 0),
                units=900,
                issued_at=now,
                valid_until=Timestamp(now + 90 * 86_400),
                backing=backing,
            )
            await market.connect_relays().publish(
                seller.sign(build_stake(stake, seller.public_key, Timestamp(stake.seq)))
            )
            async with market.client() as client:
                await client.market.wait_complete(5)
                client.tools.experience.tell(client.market.directory, Timestamp(now + 2))
                assert client.market.directory.standing(seller.public_key).stake_units in (units, units - 1)
