"""NIP-01: what a subscription brings, stored and live, and when it ends."""

import pytest

from tests.conformance.relay.subject import START, RelayClient, RelayUnderTest

pytestmark = pytest.mark.anyio


async def test_stored_events_come_newest_first_and_equal_times_by_lowest_id(
    relay: RelayUnderTest, client: RelayClient
) -> None:
    author = relay.author()
    events = [author.write(seconds=number // 3) for number in range(9)]
    await client.store(*events)
    expected = [event.id for event in sorted(events, key=lambda event: (-event.created_at, event.id))]
    assert await client.find(author.events) == expected


async def test_a_limit_takes_the_newest(relay: RelayUnderTest, client: RelayClient) -> None:
    author = relay.author()
    events = [author.write(seconds=number) for number in (3, 1, 4, 0, 2)]
    await client.store(*events)
    assert await client.find(author.events | {"limit": 2}) == [events[2].id, events[0].id]


async def test_a_limit_holds_for_stored_events_only(relay: RelayUnderTest, client: RelayClient) -> None:
    author = relay.author()
    await client.query(author.events | {"limit": 1})
    live = [author.write(seconds=number) for number in range(3)]
    async with relay.connect() as sender:
        await sender.store(*live)
    assert [await client.receive_live() for _ in live] == [("q", event.id) for event in live]


async def test_a_limit_of_each_filter_holds_for_itself(relay: RelayUnderTest, client: RelayClient) -> None:
    one, other = relay.author(), relay.author()
    events = [author.write(seconds=number) for author in (one, other) for number in range(3)]
    await client.store(*events)
    found = await client.find(one.events | {"limit": 1}, other.events | {"limit": 2})
    assert set(found) == {events[2].id, events[4].id, events[5].id}


async def test_conditions_of_one_filter_must_all_hold_and_filters_are_alternatives(
    relay: RelayUnderTest, client: RelayClient
) -> None:
    alice, bob = relay.author(), relay.author()
    by_alice, by_bob = alice.write(1, ("t", "a")), bob.write(7, ("t", "a"))
    await client.store(by_alice, by_bob)
    assert await client.find(alice.events | {"kinds": [7]}) == []
    assert await client.find(bob.events | {"#t": ["a"]}) == [by_bob.id]
    assert await client.find(bob.events | {"#t": ["a"], "#e": [by_alice.id]}) == []
    assert set(await client.find(alice.events, bob.events | {"kinds": [7]})) == {by_alice.id, by_bob.id}


async def test_values_of_one_condition_are_alternatives(relay: RelayUnderTest, client: RelayClient) -> None:
    alice, bob = relay.author(), relay.author()
    events = [alice.write(1, ("t", "a")), bob.write(7, ("t", "b"), ("t", "c")), alice.write(6)]
    await client.store(*events)
    authors = {"authors": [alice.key.public_key, bob.key.public_key]}
    both = {events[0].id, events[1].id}
    assert set(await client.find(authors | {"kinds": [1, 7]})) == both
    assert set(await client.find(authors | {"#t": ["a", "c"]})) == both
    assert set(await client.find({"ids": [event.id for event in events]})) == {event.id for event in events}


async def test_an_event_that_matches_several_filters_comes_once(relay: RelayUnderTest, client: RelayClient) -> None:
    author = relay.author()
    event = author.write(1, ("t", "a"), ("t", "b"))
    await client.store(event)
    assert await client.find(author.events | {"#t": ["a", "b"]}, author.events, {"ids": [event.id]}) == [event.id]


async def test_since_and_until_are_inclusive(relay: RelayUnderTest, client: RelayClient) -> None:
    author = relay.author()
    events = [author.write(seconds=number) for number in range(4)]
    await client.store(*events)
    wanted = author.events | {"since": START + 1, "until": START + 2}
    assert await client.find(wanted) == [events[2].id, events[1].id]


async def test_tags_are_found_by_their_first_value_and_by_nothing_like_it(
    relay: RelayUnderTest, client: RelayClient
) -> None:
    author = relay.author()
    event = author.write(1, ("t", "first", "second"), ("T", "capital"), ("word", "long"))
    await client.store(event)
    assert await client.find(author.events | {"#t": ["first"]}) == [event.id]
    assert await client.find(author.events | {"#T": ["capital"]}) == [event.id]
    for wanted in ({"#t": ["second"]}, {"#t": ["FIRST"]}, {"#t": ["fir"]}, {"#t": ["capital"]}, {"#T": ["first"]}):
        assert await client.find(author.events | wanted) == []


async def test_live_events_reach_every_subscription_that_asks_and_no_other(relay: RelayUnderTest) -> None:
    author = relay.author()
    wanted, last = author.write(1, ("t", "wanted")), author.write(1, ("t", "wanted"), ("t", "else"), seconds=1)
    async with relay.connect() as one, relay.connect() as other, relay.connect() as sender:
        await one.query(author.events | {"#t": ["wanted"]}, subscription_id="first")
        await one.query({"kinds": [7], **author.events}, author.events, subscription_id="second")
        await other.query(author.events | {"#t": ["else"]}, subscription_id="third")
        await sender.store(wanted, last)
        received = [await one.receive_live() for _ in range(4)]
        assert sorted(received) == sorted((name, event.id) for name in ("first", "second") for event in (wanted, last))
        assert await other.receive_live() == ("third", last.id)


async def test_close_ends_a_subscription(relay: RelayUnderTest, client: RelayClient) -> None:
    author = relay.author()
    await client.query(author.events, subscription_id="closing")
    await client.query(author.events, subscription_id="open")
    await client.send("CLOSE", "closing")
    await client.send("CLOSE", "never opened")
    assert await client.query(author.events, subscription_id="after") == []  # so the relay has read the CLOSE
    await client.send("CLOSE", "after")
    events = [author.write(seconds=number) for number in range(2)]
    async with relay.connect() as sender:
        await sender.store(*events)
    assert [await client.receive_live() for _ in events] == [("open", event.id) for event in events]


async def test_a_subscription_of_the_same_name_replaces_the_first(relay: RelayUnderTest, client: RelayClient) -> None:
    author = relay.author()
    first, second = author.write(1), author.write(7)
    await client.query(author.events | {"kinds": [1]}, subscription_id="one")
    await client.query(author.events | {"kinds": [7]}, subscription_id="one")
    async with relay.connect() as sender:
        await sender.store(first, second)
    assert await client.receive_live() == ("one", second.id)


async def test_a_name_belongs_to_its_connection(relay: RelayUnderTest, client: RelayClient) -> None:
    author, event = relay.author(), relay.author().write()
    async with relay.connect() as other:
        await client.query({"ids": [event.id]}, subscription_id="same")
        await other.query(author.events, subscription_id="same")
        await other.send("CLOSE", "same")
        assert await other.query(author.events, subscription_id="after") == []
        await other.store(event)
    assert await client.receive_live() == ("same", event.id)


@pytest.mark.parametrize("name", ["x" * 64, 'quote" and \\', "ünïcode 😀", "0"])
async def test_a_subscription_may_have_any_name(relay: RelayUnderTest, client: RelayClient, name: str) -> None:
    if len(name) > (relay.limitation.max_subid_length or 64):
        relay.pass_over("the relay announces that names must be shorter")
    assert await client.query(relay.author().events, subscription_id=name) == []


async def test_what_is_published_while_stored_events_are_read_comes_exactly_once(relay: RelayUnderTest) -> None:
    author = relay.author()
    events = [author.write(seconds=number) for number in range(60)]
    async with relay.connect() as sender, relay.connect() as reader:
        await sender.publish(*events[:30])
        await reader.send("REQ", "q", author.events)
        await sender.publish(*events[30:])
        for event in events:
            accepted, message = await sender.answer_to(event.id)
            assert accepted, message
        received = [(await reader.receive_live())[1] for _ in events]
    assert sorted(received) == sorted(event.id for event in events)


async def test_a_fragmented_message_is_put_together_and_pings_between_are_answered(
    relay: RelayUnderTest, client: RelayClient
) -> None:
    author = relay.author()
    await client.send_frame(b'["REQ","q",', 1, is_final=False)
    await client.send_frame(b"ping", 9)
    await client.send_frame(b'{"limit":1,"authors":["', 0, is_final=False)
    await client.send_frame(author.key.public_key.encode() + b'"]}]', 0)
    assert await client.receive_frame_of(10) == b"ping"
    assert (await client.receive())[:2] == ["EOSE", "q"]  # what follows is a hint (NIP-67)
