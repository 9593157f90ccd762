"""nostr-sdk, the Rust implementation, brings itself and our relay into agreement by Negentropy (NIP-77)."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from relaymesh.nostr.event import VerifiedEvent
from tests.real.programs import require_module
from tests.relay.client import BOB, NOW, Client, sign
from tests.relay.processes import relay_process

nostr_sdk = require_module("nostr_sdk")

pytestmark = pytest.mark.anyio

COMMON, HERE, THERE = 1_000, 500, 200


def their_event(event: VerifiedEvent) -> Any:
    return nostr_sdk.Event.from_json(json.dumps(event.to_json()))


async def their_client(url: str, directory: Path, events: list[VerifiedEvent]) -> Any:
    """A client of theirs, with a database that holds these events, connected to the relay."""
    nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())  # where its threads ask the database
    database = await nostr_sdk.NostrLmdb.open(str(directory / "theirs"))
    for event in events:
        await database.save_event(their_event(event))
    client = nostr_sdk.ClientBuilder().database(database).build()
    await client.add_relay(nostr_sdk.RelayUrl.parse(url))
    await client.connect(and_wait=timedelta(seconds=10))
    return client


async def ids_there(client: Any) -> set[str]:
    found = await client.database().query(nostr_sdk.Filter.from_json("{}"))
    return {event.id().to_hex() for event in found}


async def ids_here(url: str) -> set[str]:
    async with Client(url) as client:
        return set(await client.query({}))


async def store(url: str, events: list[VerifiedEvent]) -> None:
    async with Client(url) as client:
        for start in range(0, len(events), 500):
            await client.publish(*events[start : start + 500])
            for event in events[start : start + 500]:
                assert (await client.answer_to(event.id))[0]


async def sync(client: Any, wanted: str, direction: Any) -> Any:
    options = nostr_sdk.SyncOptions().direction(direction)
    output = await client.sync(nostr_sdk.Filter.from_json(wanted), opts=options)
    assert not output.failed
    return output.report


@pytest.mark.parametrize("step", [0, 1, 7])
async def test_both_sides_have_everything_after_it(tmp_path: Path, step: int) -> None:
    """Events of one time, of times that follow each other, and of times that are apart."""
    common = [sign(content=str(number), created_at=NOW + step * number) for number in range(COMMON)]
    only_here = [sign(BOB, content=f"here {number}", created_at=NOW + step * number) for number in range(HERE)]
    only_there = [sign(content=f"there {number}", created_at=NOW + step * number) for number in range(THERE)]
    with relay_process(tmp_path / "ours.sqlite3") as (_, url):
        await store(url, common + only_here)
        client = await their_client(url, tmp_path, common + only_there)
        report = await sync(client, "{}", nostr_sdk.SyncDirection.BOTH)
        assert {each.to_hex() for each in report.received} == {event.id for event in only_here}
        assert {each.to_hex() for each in report.sent} == {event.id for event in only_there}
        everything = {event.id for event in common + only_here + only_there}
        assert await ids_here(url) == await ids_there(client) == everything
        again = await sync(client, "{}", nostr_sdk.SyncDirection.BOTH)
        assert not again.received and not again.sent and not again.local and not again.remote
        await client.shutdown()


async def test_only_what_the_filter_asks_for_goes_one_way(tmp_path: Path) -> None:
    wanted, other = sign(kind=1, content="here"), sign(kind=7, content="here")
    theirs = sign(kind=1, content="there")
    with relay_process(tmp_path / "ours.sqlite3") as (_, url):
        await store(url, [wanted, other])
        client = await their_client(url, tmp_path, [theirs])
        report = await sync(client, '{"kinds":[1]}', nostr_sdk.SyncDirection.DOWN)
        assert [each.to_hex() for each in report.received] == [wanted.id]
        assert [each.to_hex() for each in report.local] == [theirs.id]
        assert await ids_there(client) == {wanted.id, theirs.id}
        assert await ids_here(url) == {wanted.id, other.id}
        await client.shutdown()


async def test_a_relay_that_compares_nothing_is_told_apart(tmp_path: Path) -> None:
    config = tmp_path / "relay.toml"
    config.write_text("[negentropy]\nenabled = false\n")
    with relay_process(tmp_path / "ours.sqlite3", "--config", str(config)) as (_, url):
        client = await their_client(url, tmp_path, [])
        output = await client.sync(nostr_sdk.Filter.from_json("{}"))
        assert "compares nothing" in next(iter(output.failed.values()))
        await client.shutdown()
