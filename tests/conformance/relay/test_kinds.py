"""NIP-01: what replaceable, addressable and ephemeral events are."""

import pytest

from tests.conformance.relay.subject import RelayClient, RelayUnderTest

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kind", [0, 3, 10_002, 19_999])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_of_a_replaceable_event_only_the_newest_is_found(
    relay: RelayUnderTest, client: RelayClient, kind: int, order: tuple[int, ...]
) -> None:
    author = relay.author()
    versions = [author.write(kind, seconds=age) for age in range(3)]
    await client.store(versions[order[0]])
    for age in order[1:]:
        await client.submit(versions[age])  # an older version may be refused
    assert await client.find(author.events | {"kinds": [kind]}) == [versions[2].id]
    assert await client.find({"ids": [versions[0].id]}) == []


async def test_replaceable_events_of_one_time_are_decided_by_the_lowest_id(
    relay: RelayUnderTest, client: RelayClient
) -> None:
    author = relay.author()
    lowest, *others = sorted((author.write(10_002) for _ in range(4)), key=lambda event: event.id)
    await client.store(others[0])
    for event in (lowest, *others[1:]):
        await client.submit(event)
    assert await client.find(author.events) == [lowest.id]


async def test_addressable_events_are_kept_one_for_each_author_and_identifier(
    relay: RelayUnderTest, client: RelayClient
) -> None:
    alice, bob = relay.author(), relay.author()
    first, second, of_bob = (
        alice.write(30_023, ("d", "main")),
        alice.write(30_023, ("d", "spare")),
        bob.write(30_023, ("d", "main")),
    )
    newer, of_other_kind = alice.write(30_023, ("d", "main"), seconds=1), alice.write(30_024, ("d", "main"))
    await client.store(first, second, of_bob, newer, of_other_kind)
    expected = {second.id, of_bob.id, newer.id, of_other_kind.id}
    assert set(await client.find(alice.events, bob.events)) == expected
    assert await client.find({"kinds": [30_023], "#d": ["main"]} | alice.events) == [newer.id]


async def test_a_replaced_event_that_comes_again_stays_replaced(relay: RelayUnderTest, client: RelayClient) -> None:
    author = relay.author()
    old, new = author.write(10_002), author.write(10_002, seconds=1)
    await client.store(old, new)
    await client.submit(old)
    assert await client.find(author.events) == [new.id]


async def test_a_regular_event_is_not_replaced(relay: RelayUnderTest, client: RelayClient) -> None:
    author = relay.author()
    events = [author.write(kind, seconds=age) for kind in (1, 7, 1_000, 9_999) for age in range(2)]
    await client.store(*events)
    assert set(await client.find(author.events)) == {event.id for event in events}


async def test_ephemeral_events_reach_listeners_and_are_not_stored(relay: RelayUnderTest) -> None:
    author = relay.author()
    for kind in (20_000, 29_999):
        event = author.write(kind)
        async with relay.connect() as listener, relay.connect() as sender:
            assert await listener.query(author.events) == []
            await sender.store(event)
            assert await listener.receive_live() == ("q", event.id)
            assert await sender.find(author.events) == []
