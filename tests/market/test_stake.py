"""What a stake comes to: never more than stated, seen and left, whatever its author says."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.market.fraud import Verdict
from relaymesh.market.stake import (
    MAXIMUM_COUNTED_UNITS,
    UNSEEN_CAPACITY_UNITS,
    CheckedStake,
    check_stake,
    decayed_units,
    slash_units,
    weigh_stakes,
)
from relaymesh.nostr.event import PublicKey
from relaymesh.protocol.fields import MAXIMUM_QUANTITY
from relaymesh.protocol.fraud_proof import FraudClaim
from relaymesh.protocol.slash import SLASH_MILLI
from relaymesh.protocol.stake import LightningBacking, StakeCommitment, build_stake, read_stake
from relaymesh.units import Timestamp
from tests.market import builders

NOW, DAY = builders.NOW, 86_400
LIGHTNING_NODE = "02" + "ab" * 32
claims: st.SearchStrategy[FraudClaim] = st.sampled_from(sorted(SLASH_MILLI))


def stake(
    number: int = 1,
    *,
    units: int = 50_000,
    issued_at: int = NOW,
    seq: int = NOW,
    backing: str | None = LIGHTNING_NODE,
    days: int = 90,
    signed_at: int | None = None,
) -> CheckedStake:
    said = StakeCommitment(
        seq=seq,
        units=units,
        issued_at=Timestamp(issued_at),
        valid_until=Timestamp(issued_at + days * DAY),
        backing=None if backing is None else LightningBacking(type="lightning", ln_pubkey=backing, signature="y" * 104),
    )
    author = builders.node(number)
    event = builders.sign(build_stake(said, author, Timestamp(signed_at or max(issued_at, NOW))))
    return check_stake(read_stake(event), lambda _text, _signature: backing)


def verdict(number: int = 1, claim: FraudClaim = "equivocation", key: str = "aa" * 32) -> Verdict:
    return Verdict(True, claim, builders.node(number), "proven", (), (), key)


def units_of(*stakes: CheckedStake, proven: tuple[Verdict, ...] = (), capacity: int | None = 10**9) -> list[int]:
    found = weigh_stakes(stakes, proven, NOW, capacity=lambda _: capacity)
    return [found[PublicKey(each.signed.author)].units for each in stakes]


@given(st.integers(0, MAXIMUM_QUANTITY), st.integers(1, 366 * DAY), st.integers(-DAY, 400 * DAY), st.integers(0, DAY))
def test_a_stake_decays_in_a_straight_line_to_nothing(units: int, lifetime: int, age: int, later: int) -> None:
    said = StakeCommitment(seq=1, units=units, issued_at=NOW, valid_until=Timestamp(NOW + lifetime))
    left, then = (decayed_units(said, Timestamp(NOW + each)) for each in (age, age + later))
    assert units >= left >= then >= 0
    assert left == units * min(max(lifetime - age, 0), lifetime) // lifetime
    assert decayed_units(said, Timestamp(NOW)) == units and decayed_units(said, said.valid_until) == 0


def test_half_of_a_stake_is_left_half_way() -> None:
    said = stake(days=90).signed.stake
    assert decayed_units(said, Timestamp(NOW + 45 * DAY)) == 25_000


def test_a_stake_without_backing_counts_nothing_and_says_so() -> None:
    bare = stake(backing=None)
    [weight] = weigh_stakes((bare,), (), NOW, capacity=lambda _: 10**9).values()
    assert (weight.units, weight.backing, weight.stated_units) == (0, "none", 50_000)


def test_a_signature_by_another_node_or_over_another_text_is_a_forgery() -> None:
    signed = stake().signed
    texts: list[str] = []

    def recover(text: str, signature: str) -> str | None:
        texts.append(text)
        return "03" + "ab" * 32

    forged = check_stake(signed, recover)
    assert forged.backing == "forged" and units_of(forged) == [0]
    assert check_stake(signed, lambda _text, _signature: None).backing == "forged"
    assert texts == [f"RelayMesh stake of {signed.author}: 50000 units, {NOW} to {NOW + 90 * DAY}"]


def test_nothing_counts_beyond_the_cap_and_a_boast_does_not_shelter_from_a_slash() -> None:
    boast = stake(units=MAXIMUM_QUANTITY)
    assert units_of(boast) == [MAXIMUM_COUNTED_UNITS]
    assert units_of(boast, proven=(verdict(),)) == [MAXIMUM_COUNTED_UNITS // 2]


def test_a_key_that_costs_nothing_backs_little() -> None:
    assert units_of(stake(), capacity=None) == [UNSEEN_CAPACITY_UNITS]


def test_keys_that_share_a_lightning_node_share_what_it_backs() -> None:
    early, late = stake(2, issued_at=NOW - 1), stake(1)
    assert units_of(late, early, capacity=60_000) == [60_000 - 49_999, 49_999]
    assert sum(units_of(*(stake(number) for number in range(1, 9)), capacity=60_000)) == 60_000
    assert units_of(stake(1), stake(2, backing="03" + "ab" * 32), capacity=60_000) == [50_000, 50_000]


def test_of_two_commitments_of_one_key_the_one_with_the_higher_seq_counts_in_any_order() -> None:
    old, new = stake(units=9_000), stake(units=7_000, seq=NOW + 1)
    for order in ((old, new), (new, old)):
        [weight] = weigh_stakes(order, (), NOW, capacity=lambda _: 10**9).values()
        assert weight.units == 7_000


def test_a_fraud_takes_its_share_of_its_own_key_and_of_later_stakes_too() -> None:
    assert units_of(stake(1), stake(2), proven=(verdict(1, "price-over-quote"),)) == [37_500, 50_000]
    assert units_of(stake(1, seq=NOW + 9), proven=(verdict(1),)) == [25_000]


def test_a_verdict_that_proves_nothing_takes_nothing() -> None:
    assert slash_units(1_000, (replace(verdict(), is_proven=False),)) == 1_000


def test_the_last_unit_can_be_lost() -> None:
    assert slash_units(1, (verdict(claim="price-over-quote"),)) == 0


@given(st.integers(0, MAXIMUM_COUNTED_UNITS), st.lists(st.tuples(claims, st.integers(0, 30)), max_size=8), st.randoms())
def test_slashes_count_once_each_in_any_order(units: int, frauds: list[tuple[FraudClaim, int]], random: Random) -> None:
    proven = [
        verdict(1, claim, f"{number:064x}")
        for claim, number in {number: (claim, number) for claim, number in frauds}.values()
    ]
    shuffled = [*proven, *proven]
    random.shuffle(shuffled)
    left = slash_units(units, proven)
    assert left == slash_units(units, shuffled)
    assert 0 <= left <= units and (left < units or not proven or units == 0)
    least = units
    for each in proven:
        least = least * (1_000 - SLASH_MILLI[each.claim]) // 1_000
    assert left >= least - len(proven), "a slash is partial"


@pytest.mark.parametrize("seconds", [0, 91 * DAY])
def test_stakes_outside_their_time_are_weighed_without_surprise(seconds: int) -> None:
    found = weigh_stakes((stake(),), (), Timestamp(NOW + seconds), capacity=lambda _: 10**9)
    assert [each.units for each in found.values()] == [50_000 if seconds == 0 else 0]
