"""A clock that nobody shares: node and client say so and stop, before anything wrong is signed."""

import pytest

from relaymesh.errors import UsageError
from relaymesh.ports.memory_relays import MemoryRelay, MemoryRelays
from relaymesh.roles.clock_check import check_clock
from relaymesh.roles.market_view import MarketView
from tests.roles.market import Market, loop_clock, purchase, wanted

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("offsets", [(), (20,), (-20,), (0, 3_600), (0, -1, 900, 5)])
def test_a_clock_that_most_relays_share_is_good_enough(offsets: tuple[int, ...]) -> None:
    check_clock({f"ws://relay-{number}.test": offset for number, offset in enumerate(offsets)})


@pytest.mark.parametrize(
    ("offsets", "words"), [((21,), "21 s behind"), ((-90, -95), "95 s ahead"), ((0, 30, 40), "40 s behind")]
)
def test_a_clock_that_most_relays_deny_is_refused_with_what_to_do(offsets: tuple[int, ...], words: str) -> None:
    with pytest.raises(UsageError, match=f"{words}.*set the clock"):
        check_clock({f"ws://relay-{number}.test": offset for number, offset in enumerate(offsets)})


async def test_a_node_whose_clock_is_off_publishes_nothing() -> None:
    market = Market()
    market.clock_offset_seconds = 60
    with pytest.raises(BaseExceptionGroup) as raised:
        async with market.open():
            await market.add_node()
    assert raised.group_contains(UsageError, match="60 s behind")
    assert market.relays[0].query(()) == ()


async def test_a_buyer_whose_clock_is_off_is_told_so_instead_of_finding_nobody() -> None:
    market = Market()
    with pytest.raises(BaseExceptionGroup) as raised:
        async with market.open():
            await market.add_node()
            market.clock_offset_seconds = -60
            async with market.client() as client:
                await purchase(client, wanted())
    assert raised.group_contains(UsageError, match="60 s ahead")


async def test_a_list_of_offers_under_a_clock_that_is_off_is_refused() -> None:
    relay = MemoryRelay()
    relays = MemoryRelays((relay,))
    relays.clock_offsets = {relay.url: 60}
    with pytest.raises(BaseExceptionGroup) as raised:
        async with MarketView(relays, loop_clock) as market:
            await market.wait_complete(1)
    assert raised.group_contains(UsageError)
