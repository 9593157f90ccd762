"""What a router weighs with a client: nothing until it has stake and was watched for days, and less for every lie."""

import pytest

from relaymesh.market.probation import ROUTER_DAYS, ROUTER_RANKINGS, RouterRecord
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.memory_relays import MemoryRelay
from relaymesh.protocol.stake import LightningBacking, StakeCommitment, build_stake
from relaymesh.roles import routers
from relaymesh.roles.market_view import MarketView
from relaymesh.roles.routers import RouterExaminer
from relaymesh.units import Timestamp
from tests.roles.market import loop_clock

pytestmark = pytest.mark.anyio
ROUTER, OTHER = KeyPair(b"\x64" * 32), KeyPair(b"\x65" * 32)
LIGHTNING_NODE = "02" + "ab" * 32
SEASONED = RouterRecord(days=ROUTER_DAYS, right=ROUTER_RANKINGS)


def put_stake(relay: MemoryRelay, key: KeyPair, units: int) -> None:
    now = loop_clock().timestamp
    backing = LightningBacking(type="lightning", ln_pubkey=LIGHTNING_NODE, signature="y" * 104)
    ends_at = Timestamp(now + 30 * 86_400)
    stake = StakeCommitment(seq=now, units=units, issued_at=now, valid_until=ends_at, backing=backing)
    assert relay.accept(key.sign(build_stake(stake, key.public_key, now)))[0]


async def weigh(relay: MemoryRelay, record: RouterRecord) -> int:
    relays = relay.connect()
    async with MarketView(relays, loop_clock) as view:
        await view.wait_complete(1)
        examiner = RouterExaminer(relays, view, loop_clock, {ROUTER.public_key: record})
        return examiner.weigh(ROUTER.public_key)


async def test_stake_and_days_and_right_rankings_make_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routers, "recover_signer", lambda text, signature: LIGHTNING_NODE)
    relay = MemoryRelay()
    assert await weigh(relay, SEASONED) == 0
    put_stake(relay, ROUTER, 50_000)
    assert await weigh(relay, SEASONED) == 1_000
    assert await weigh(relay, RouterRecord()) == 0
    assert 0 < await weigh(relay, RouterRecord(days=9, right=200, wrong=1)) < 1_000


async def test_a_stake_that_its_lightning_node_did_not_sign_weighs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routers, "recover_signer", lambda text, signature: None)
    relay = MemoryRelay()
    put_stake(relay, ROUTER, 50_000)
    assert await weigh(relay, SEASONED) == 0


async def test_two_routers_do_not_weigh_by_the_same_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routers, "recover_signer", lambda text, signature: LIGHTNING_NODE)
    relay = MemoryRelay()
    put_stake(relay, ROUTER, 50_000)
    put_stake(relay, OTHER, 50_000)
    first = min((ROUTER, OTHER), key=lambda key: key.public_key)
    assert await weigh(relay, SEASONED) == (1_000 if first is ROUTER else 0)
