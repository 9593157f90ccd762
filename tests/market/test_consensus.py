"""Opinions put together: nobody without weight changes anything, and nobody alone overrules what all others see."""

from hypothesis import given
from hypothesis import strategies as st

from relaymesh.market.consensus import OWN_WEIGHT_MILLI, Opinion, combine
from relaymesh.nostr.event import PublicKey
from tests.market.builders import node

lists = st.lists(st.integers(1, 12).map(node), unique=True, max_size=8).map(tuple)
opinions = st.lists(st.builds(Opinion, lists, st.integers(0, 1_000)), max_size=4)


def nodes(*numbers: int) -> tuple[PublicKey, ...]:
    return tuple(map(node, numbers))


@given(lists, st.lists(lists, max_size=4))
def test_routers_on_probation_change_nothing(own: tuple[PublicKey, ...], others: list[tuple[PublicKey, ...]]) -> None:
    alone = combine([Opinion(own, OWN_WEIGHT_MILLI)])
    assert alone == own
    assert combine([Opinion(own, OWN_WEIGHT_MILLI), *(Opinion(each, 0) for each in others)]) == alone


@given(opinions)
def test_the_order_of_opinions_does_not_matter(given_opinions: list[Opinion]) -> None:
    assert combine(reversed(given_opinions)) == combine(given_opinions)


def test_two_routers_that_agree_outweigh_one_view() -> None:
    own, theirs = Opinion(nodes(1, 2), 1_000), Opinion(nodes(2, 1), 900)
    assert combine([own, theirs]) == nodes(1, 2)
    assert combine([own, theirs, theirs]) == nodes(2, 1)
    assert combine([own, Opinion(nodes(3), 300)]) == nodes(1, 2, 3)
