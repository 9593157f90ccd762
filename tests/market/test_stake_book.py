"""A reader's stakes: weighed as time passes, taken from by fraud once, never more of them than there is room for."""

from dataclasses import replace

import pytest

from relaymesh.market import stake_book
from relaymesh.market.stake_book import StakeBook
from relaymesh.protocol.stake import SignedStake
from relaymesh.units import Timestamp
from tests.market import builders
from tests.market.test_stake import DAY, LIGHTNING_NODE, NOW, stake, verdict

ONE, TWO = builders.node(1), builders.node(2)


def book() -> StakeBook:
    return StakeBook(lambda _text, _signature: LIGHTNING_NODE)


def signed(number: int = 1, *, units: int = 1_000, seq: int = NOW) -> SignedStake:
    return stake(number, units=units, seq=seq).signed


def test_a_stake_counts_once_it_was_weighed_and_decays() -> None:
    held = book()
    held.place(signed(units=900))
    assert held.units(ONE) == 0
    assert held.weigh(NOW) == (ONE,) and held.units(ONE) == 900
    assert held.weigh(NOW) == ()
    assert held.weigh(Timestamp(NOW + 45 * DAY)) == (ONE,) and held.units(ONE) == 450
    assert held.weigh(Timestamp(NOW + 90 * DAY)) == (ONE,) and held.units(ONE) == 0


def test_of_two_stakes_of_a_key_the_newer_counts_whichever_comes_first() -> None:
    older, newer = signed(units=900), signed(units=300, seq=NOW + 1)
    for first, second in ((older, newer), (newer, older)):
        held = book()
        held.place(first)
        held.place(second)
        held.weigh(NOW)
        assert held.units(ONE) == 300


def test_fraud_takes_its_share_once() -> None:
    held = book()
    held.place(signed(units=900))
    assert held.convict(verdict())
    assert not held.convict(verdict())
    assert not held.convict(replace(verdict(key="bb" * 32), is_proven=False))
    assert held.weigh(NOW) == (ONE,) and held.units(ONE) == 450


def test_a_forged_backing_backs_nothing() -> None:
    held = StakeBook(lambda _text, _signature: None)
    held.place(signed())
    assert held.weigh(NOW) == () and held.units(ONE) == 0


def test_the_oldest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stake_book, "MAXIMUM_STAKES", 1)
    monkeypatch.setattr(stake_book, "MAXIMUM_FRAUDS", 1)
    held = book()
    held.place(signed(1))
    held.place(signed(2))
    assert held.weigh(NOW) == (TWO,)
    assert held.convict(verdict(key="aa" * 32)) and held.convict(verdict(key="bb" * 32))
    assert held.convict(verdict(key="aa" * 32))
