"""A request to vanish removes everything of its author, for good (NIP-62)."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from relaymesh.nostr.event import VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair
from relaymesh_relay.pipeline import VANISHED_AT_ONCE
from relaymesh_relay.settings import Access, Identity, Limits
from relaymesh_relay.store import Standing
from tests.relay.client import ALICE, BOB, CAROL, NOW, Client, information, running_relay, settings_in, sign
from tests.relay.histories import record, search
from tests.relay.test_sqlite_store import opened

pytestmark = pytest.mark.anyio

EVERYWHERE = ["relay", "ALL_RELAYS"]


def vanish(key: KeyPair = ALICE, created_at: int = NOW + 10, tags: list[list[str]] | None = None) -> VerifiedEvent:
    return sign(key, 62, "goodbye", [EVERYWHERE] if tags is None else tags, created_at)


async def test_everything_of_the_author_is_gone_when_the_request_is_answered(memory_path: Path) -> None:
    mine = [
        sign(kind=62, tags=[EVERYWHERE], created_at=NOW - 1),
        sign(content="a note"),
        sign(kind=0, content="{}"),
        sign(kind=5, tags=[["e", "0" * 64]]),
        sign(kind=30_023, tags=[["d", "x"]]),
    ]
    others = [sign(BOB, content="a note", tags=[["p", ALICE.public_key]]), sign(BOB, 1_059, "to somebody else")]
    later = sign(content="later", created_at=NOW + 11)
    wrap = sign(CAROL, 1_059, tags=[["p", BOB.public_key], ["p", ALICE.public_key, "wss://relay.example"]])
    settings = settings_in(memory_path, access=Access(private_to_recipients=False))
    async with running_relay(settings) as url, Client(url) as client:
        for event in (*mine, *others, later, wrap):
            assert (await client.submit(event))[0]
        request = vanish()
        assert await client.submit(request) == (True, "")
        assert set(await client.query({})) == {request.id, later.id, *(event.id for event in others)}
        await client.send("COUNT", "c", {"authors": [ALICE.public_key]})
        assert await client.receive() == ["COUNT", "c", {"count": 2}]


async def test_what_vanished_never_comes_back_and_what_is_newer_may(client: Client) -> None:
    note, same_time = sign(content="old"), sign(created_at=NOW + 10)
    wrap = sign(CAROL, 1_059, tags=[["p", ALICE.public_key]])
    for event in (note, wrap):
        assert (await client.submit(event))[0]
    request = vanish()
    assert (await client.submit(request))[0]
    unseen = sign(content="never seen here", created_at=NOW - 1)
    for event in (note, wrap, same_time, unseen, vanish(created_at=NOW + 9)):
        accepted, message = await client.submit(event)
        assert not accepted and message.startswith("blocked:")
    assert (await client.submit(sign(created_at=NOW + 11)))[0]
    assert (await client.submit(sign(CAROL, 1_059, tags=[["p", ALICE.public_key]], created_at=NOW + 11)))[0]
    assert (await client.submit(request))[1].startswith("duplicate:")


async def test_deleting_the_request_has_no_effect(client: Client) -> None:
    request, note = vanish(), sign()
    await client.submit(request)
    assert (await client.submit(sign(kind=5, tags=[["e", request.id]], created_at=NOW + 20)))[0]
    assert await client.query({"kinds": [62]}) == [request.id]
    assert (await client.submit(note))[1].startswith("blocked:")
    unseen = vanish(created_at=NOW + 30)
    await client.submit(sign(kind=5, tags=[["e", unseen.id]], created_at=NOW + 40))
    assert (await client.submit(unseen))[0]


async def test_it_lasts_beyond_a_restart(memory_path: Path) -> None:
    note = sign()
    async with running_relay(settings_in(memory_path)) as url, Client(url) as client:
        await client.submit(note)
        await client.submit(vanish())
    async with running_relay(settings_in(memory_path)) as url, Client(url) as client:
        assert (await client.submit(note))[1].startswith("blocked:")
        assert await client.query({"kinds": [1]}) == []


@pytest.mark.parametrize(
    ("identity", "tags", "is_taken"),
    [
        (Identity(), [["relay", "URL"]], True),
        (Identity(), [["relay", "wss://other.example"], ["relay", "URL/"]], True),
        (Identity(), [["relay", "wss://other.example"]], False),
        (Identity(), [["relay", "all_relays"]], False),
        (Identity(), [["relay", "no url"]], False),
        (Identity(), [], False),
        (Identity(url="wss://relay.example.com"), [["relay", "wss://Relay.Example.com/"]], True),
        (Identity(url="wss://relay.example.com"), [["relay", "URL"]], False),
        (Identity(url="wss://relay.example.com"), [EVERYWHERE], True),
    ],
)
async def test_only_a_request_that_names_this_relay_is_taken(
    memory_path: Path, identity: Identity, tags: list[list[str]], is_taken: bool
) -> None:
    note = sign()
    async with running_relay(settings_in(memory_path, identity=identity)) as url, Client(url) as client:
        await client.submit(note)
        request = vanish(tags=[[name, value.replace("URL", url)] for name, value in tags])
        accepted, message = await client.submit(request)
        assert accepted == is_taken and (accepted or message.startswith("invalid:"))
        assert await client.query({}) == [request.id if is_taken else note.id]


@pytest.mark.parametrize(
    "settings",
    [
        {"access": Access(denied_authors=(ALICE.public_key,))},
        {"access": Access(allowed_authors=(BOB.public_key,))},
        {"access": Access(allowed_kinds=(7,))},
        {"access": Access(authenticate_to_write=True)},
        {"limits": Limits(proof_of_work_bits=20)},
    ],
)
async def test_a_request_is_followed_whoever_may_post_here(memory_path: Path, settings: dict[str, Any]) -> None:
    async with running_relay(settings_in(memory_path)) as url, Client(url) as client:
        assert (await client.submit(sign()))[0]
    async with running_relay(settings_in(memory_path, **settings)) as url, Client(url) as client:
        assert not (await client.submit(sign(content="another")))[0]
        request = vanish()
        assert (await client.submit(request))[0]
        assert await client.query({}) == [request.id]


async def test_a_relay_that_refuses_the_kind_does_not_announce_it(memory_path: Path) -> None:
    async with running_relay(settings_in(memory_path)) as url:
        assert 62 in (await information(url))["supported_nips"]
    async with running_relay(settings_in(memory_path, access=Access(denied_kinds=(62,)))) as url:
        assert 62 not in (await information(url))["supported_nips"]
        async with Client(url) as client:
            assert (await client.submit(vanish()))[1].startswith("blocked:")


async def test_whoever_wrote_much_vanishes_piece_by_piece(memory_path: Path) -> None:
    events = [sign(content=str(number)) for number in range(2 * VANISHED_AT_ONCE + 1)]
    async with running_relay(settings_in(memory_path)) as url, Client(url) as client:
        for start in range(0, len(events), 500):
            await client.publish(*events[start : start + 500])
            for event in events[start : start + 500]:
                assert (await client.answer_to(event.id))[0]
        await client.submit(vanish())
        answers = [await client.submit(sign(BOB, content=str(number))) for number in range(3)]
        assert answers == [(True, "")] * 3  # each waited behind at most one piece
        assert await client.query({"authors": [ALICE.public_key], "kinds": [1]}) == []


def test_what_a_crash_left_is_removed_later(tmp_path: Path) -> None:
    events = [sign(content=str(number)) for number in range(5)]
    with opened(tmp_path) as (writer, _):
        writer.write([record(event) for event in (*events, vanish())])
        assert writer.remove_vanished(2)
    with opened(tmp_path) as (writer, reader):
        assert len(search(reader, Filter(kinds=(1,)))) == 3
        assert [writer.remove_vanished(2) for _ in range(3)] == [True, False, False]
        assert search(reader, Filter(kinds=(1,))) == []


def test_what_vanished_cannot_be_read_from_the_file(tmp_path: Path) -> None:
    with opened(tmp_path) as (writer, _):
        writer.write([record(sign(content="what nobody shall read again")), record(vanish())])
        writer.remove_vanished(10)
    assert b"nobody shall read" not in (tmp_path / "events.sqlite3").read_bytes()


def test_a_file_of_version_1_is_brought_to_ours(tmp_path: Path) -> None:
    of_alice, of_bob, of_carol = sign(), sign(BOB), sign(CAROL)
    requests = [vanish(ALICE), vanish(ALICE, NOW - 1), vanish(CAROL, tags=[["relay", "wss://other.example"]])]
    with opened(tmp_path) as (writer, _):
        writer.write([record(event) for event in (of_alice, of_bob, of_carol, *requests)])
    database = sqlite3.connect(tmp_path / "events.sqlite3")
    database.executescript("DROP TABLE vanished; DROP TABLE vanishing; PRAGMA user_version = 1;")
    database.close()
    with opened(tmp_path) as (writer, reader):
        assert not writer.remove_vanished(10)
        assert set(search(reader, Filter(kinds=(1,)))) == {of_bob.id, of_carol.id}
        assert writer.write([record(of_alice), record(of_bob)]) == [Standing.VANISHED, Standing.KNOWN]
    with opened(tmp_path) as (_, reader):
        assert reader.standing(of_alice) is Standing.VANISHED
