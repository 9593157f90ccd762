"""Beyond NIP-01, where it is announced: deletion, expiration, authentication, counting, protected events."""

from typing import Any

import pytest

from tests.conformance.relay.subject import START, RelayClient, RelayUnderTest

pytestmark = pytest.mark.anyio


async def test_an_author_can_delete_own_events_and_no_others(relay: RelayUnderTest, client: RelayClient) -> None:
    relay.require_nip(9)
    alice, bob = relay.author(), relay.author()
    mine, kept, theirs = alice.write(), alice.write(), bob.write()
    await client.store(mine, kept, theirs)
    deletion = alice.write(5, ("e", mine.id), ("e", theirs.id), ("k", "1"), seconds=1)
    await client.submit(deletion)  # a relay may refuse a request that names events of others
    rightful = alice.write(5, ("e", mine.id), ("k", "1"), seconds=2)
    await client.store(rightful)
    found = set(await client.find(alice.events, bob.events)) - {deletion.id}
    assert found == {kept.id, theirs.id, rightful.id}


async def test_a_deleted_event_stays_out(relay: RelayUnderTest, client: RelayClient) -> None:
    relay.require_nip(9)
    author = relay.author()
    event = author.write()
    await client.store(event, author.write(5, ("e", event.id), ("k", "1"), seconds=1))
    await client.submit(event)
    assert await client.find({"ids": [event.id]}) == []


async def test_deleting_a_deletion_request_has_no_effect(relay: RelayUnderTest, client: RelayClient) -> None:
    relay.require_nip(9)
    author = relay.author()
    event = author.write()
    deletion = author.write(5, ("e", event.id), ("k", "1"), seconds=1)
    await client.store(event, deletion)
    await client.submit(author.write(5, ("e", deletion.id), ("k", "5"), seconds=2))
    await client.submit(event)
    assert await client.find({"ids": [event.id, deletion.id]}) == [deletion.id]


@pytest.mark.parametrize(("kind", "identifier"), [(30_023, "post"), (10_002, "")])
async def test_a_deletion_by_address_takes_what_is_older_and_leaves_what_is_newer(
    relay: RelayUnderTest, client: RelayClient, kind: int, identifier: str
) -> None:
    relay.require_nip(9)
    author = relay.author()
    tags = [("d", identifier)] if identifier else []
    wanted = author.events | {"kinds": [kind]}
    address = f"{kind}:{author.key.public_key}:{identifier}"
    await client.store(author.write(kind, *tags), author.write(5, ("a", address), ("k", str(kind)), seconds=5))
    assert await client.find(wanted) == []
    await client.submit(author.write(kind, *tags, seconds=4))
    assert await client.find(wanted) == []
    newer = author.write(kind, *tags, seconds=6)
    await client.store(newer)
    assert await client.find(wanted) == [newer.id]


async def test_what_has_expired_is_not_sent(relay: RelayUnderTest, client: RelayClient) -> None:
    relay.require_nip(40)
    author = relay.author()
    expired, valid = (
        author.write(1, ("expiration", str(START))),
        author.write(1, ("expiration", str(START + 100_000))),
    )
    await client.submit(expired)
    await client.store(valid)
    assert await client.find(author.events) == [valid.id]


async def count(client: RelayClient, *filters: dict[str, Any]) -> int:
    await client.send("COUNT", "c", *filters)
    while True:
        match await client.receive():
            case ["COUNT", "c", {"count": int(number)}]:
                return number
            case ["CLOSED" | "NOTICE", *reason]:
                raise AssertionError(reason)


async def test_count_says_how_many_events_match(relay: RelayUnderTest, client: RelayClient) -> None:
    relay.require_nip(45)
    author = relay.author()
    await client.store(*(author.write(kind) for kind in (1, 1, 1, 7)))
    assert await count(client, author.events) == 4
    assert await count(client, author.events | {"kinds": [1]}) == 3
    assert await count(client, author.events | {"kinds": [1]}, author.events) == 4
    assert await count(client, relay.author().events) == 0


async def test_an_authentication_is_no_event_to_pass_on(relay: RelayUnderTest, client: RelayClient) -> None:
    relay.require_nip(42)
    author = relay.author()
    event = author.write(22_242, ("relay", relay.url), ("challenge", "none"))
    await client.query(author.events)
    async with relay.connect() as sender:
        await sender.submit(event)
        last = author.write()
        await sender.store(last)
        assert await sender.find({"ids": [event.id]}) == []
    assert await client.receive_live() == ("q", last.id)


async def challenge_for(client: RelayClient, relay: RelayUnderTest) -> str:
    """A challenge, provoked by a protected event if the relay sends none by itself."""
    await client.publish(relay.author().write(1, ("-",)))
    return await client.receive_challenge()


async def test_a_client_authenticates_as_several_authors(relay: RelayUnderTest) -> None:
    relay.require_nip(42)
    async with relay.connect() as client:
        challenge = await challenge_for(client, relay)
        for author in (relay.author(), relay.author()):
            accepted, message = await client.authenticate(author.key, challenge)
            assert accepted, message


async def test_an_authentication_for_another_challenge_relay_or_time_is_refused(relay: RelayUnderTest) -> None:
    relay.require_nip(42)
    key = relay.author().key
    async with relay.connect() as client:
        challenge = await challenge_for(client, relay)
        assert not (await client.authenticate(key, "0" * 32))[0]
        assert not (await client.authenticate(key, challenge, url="wss://relay.example"))[0]
        assert not (await client.authenticate(key, challenge, seconds=3_600))[0]
        assert not (await client.authenticate(key, challenge, seconds=-3_600))[0]


async def test_a_protected_event_is_refused_from_anybody_who_has_not_authenticated(
    relay: RelayUnderTest, client: RelayClient
) -> None:
    relay.require_nip(70)
    author = relay.author()
    await client.refused(author.write(1, ("-",)).to_json())
    assert await client.find(author.events) == []


async def test_a_protected_event_is_taken_from_its_authenticated_author_only(relay: RelayUnderTest) -> None:
    relay.require_nip(70)
    author, other = relay.author(), relay.author()
    event = author.write(1, ("-",))
    async with relay.connect() as client:
        challenge = await challenge_for(client, relay)
        assert (await client.authenticate(other.key, challenge))[0]
        await client.refused(event.to_json())
        assert (await client.authenticate(author.key, challenge))[0]
        await client.store(event, other.write(1, ("-",)))  # who authenticated first still is
        assert await client.find({"ids": [event.id]}) == [event.id]
