"""Managing the relay over HTTP (NIP-86) with signed requests (NIP-98): who may, what it does, and that it lasts."""

import base64
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.keys import KeyPair
from relaymesh.units import Timestamp
from relaymesh_relay import sqlite_store
from relaymesh_relay.http_authorization import AUTHORIZATION_KIND, WINDOW_SECONDS, Authorizations
from relaymesh_relay.http_messages import BODY_BYTES_AT_MOST
from relaymesh_relay.management import CONFIGURED, METHODS, RPC_TYPE
from relaymesh_relay.moderation import Change, Listing
from relaymesh_relay.settings import Access, Identity, Network, Settings
from relaymesh_relay.sqlite_store import SqliteWriter
from relaymesh_relay.store import StorageError
from tests.relay.client import (
    ALICE,
    BOB,
    CAROL,
    NOW,
    Client,
    ClosedByRelay,
    RefusedByRelay,
    information,
    request,
    running_relay,
    settings_in,
    sign,
)

pytestmark = pytest.mark.anyio
ACCESS = Access(administrators=(ALICE.public_key,))
URL = "wss://relay.example/"


def authorize(
    body: bytes,
    *,
    key: KeyPair = ALICE,
    url: str = URL,
    method: str = "POST",
    at: int = NOW,
    kind: int = AUTHORIZATION_KIND,
    payload: str | None = None,
) -> str:
    """The header that authorizes a request."""
    tags = [["u", url], ["method", method], ["payload", payload or hashlib.sha256(body).hexdigest()]]
    event = sign(key, kind=kind, tags=tags, created_at=at)
    return "Nostr " + base64.b64encode(orjson.dumps(event.to_json())).decode()


async def post(url: str, body: bytes, authorization: str, kind: str = RPC_TYPE) -> tuple[int, bytes]:
    """The status and the body of the answer to a POST."""
    headers = f"Host: x\nContent-Type: {kind}\nContent-Length: {len(body)}\nAuthorization: {authorization}\n\n"
    head, answer = await request(url, f"POST / HTTP/1.1\n{headers}{body.decode()}")
    return int(head.split(" ")[1]), answer


async def manage(url: str, method: str, *parameters: Any) -> Any:
    """The result of a method, or its error."""
    # The clock has seconds: without a nonce two equal requests would have one authorization.
    body = orjson.dumps({"method": method, "params": parameters, "nonce": time.monotonic_ns()})
    status, answer = await post(url, body, authorize(body, url=url, at=int(time.time())))
    assert status == 200, answer
    document = orjson.loads(answer)
    return document["error"] if "error" in document else document["result"]


@pytest.fixture
def settings(memory_path: Path) -> Settings:
    """Settings with an administrator."""
    return settings_in(memory_path, access=ACCESS)


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    """The URL of a relay that Alice may manage."""
    async with running_relay(settings) as running:
        yield running


def check(header: str, body: bytes = b"{}", now: int = NOW, authorizations: Authorizations | None = None) -> str:
    chosen = authorizations or Authorizations()
    signers = (ALICE.public_key,)
    return chosen.check(header, method="POST", url=URL, body=body, signers=signers, now=Timestamp(now))


@pytest.mark.parametrize("url", [URL, "https://relay.example", "wss://relay.example", "https://relay.example/"])
def test_an_authorization_names_the_relay_by_either_scheme(url: str) -> None:
    assert check(authorize(b"{}", url=url)) == ALICE.public_key
    assert check(authorize(b"{}", url=url).rstrip("=").replace("Nostr", "nostr")) == ALICE.public_key


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("", "must carry an Authorization header"),
        ("Basic eA==", "must carry an Authorization header"),
        ("Nostr !!", "an event of Nostr in base64"),
        ("Nostr e30=", "an event of Nostr in base64"),
        ("Nostr " + base64.b64encode(b"[" * 5_000).decode(), "an event of Nostr in base64"),
        (authorize(b"{}", kind=1), "of kind 27235, not 1"),
        (authorize(b"{}", at=NOW - WINDOW_SECONDS - 1), "within 60 seconds"),
        (authorize(b"{}", at=NOW + WINDOW_SECONDS + 1), "within 60 seconds"),
        (authorize(b"{}", url="wss://other.example"), "name this relay's URL"),
        (authorize(b"{}", url="ws://relay.example"), "name this relay's URL"),
        (authorize(b"{}", method="GET"), "name the method POST"),
        (authorize(b"{ }"), "SHA-256 of the body"),
        (authorize(b"{}", key=BOB), "one of the relay's administrators"),
    ],
)
def test_what_does_not_authorize_is_refused_in_one_sentence(header: str, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        check(header)


def test_a_forged_authorization_is_refused() -> None:
    event = sign(BOB, kind=AUTHORIZATION_KIND, tags=[["u", URL], ["method", "POST"]]).to_json()
    digest = hashlib.sha256(b"{}").hexdigest()
    genuine = sign(ALICE, kind=AUTHORIZATION_KIND, tags=[["u", URL], ["method", "POST"], ["payload", digest]])
    for forged in (genuine.to_json() | {"sig": event["sig"]}, genuine.to_json() | {"content": "x"}):
        with pytest.raises(RemoteProtocolError, match="must be a valid event"):
            check("Nostr " + base64.b64encode(orjson.dumps(forged)).decode())


def test_an_authorization_is_good_once_however_it_is_timed() -> None:
    authorizations = Authorizations()
    header = authorize(b"{}", at=NOW + WINDOW_SECONDS)
    check(header, authorizations=authorizations)
    for later in (0, WINDOW_SECONDS, 2 * WINDOW_SECONDS):
        check(authorize(b"{}", at=NOW + later - 1), now=NOW + later, authorizations=authorizations)
        with pytest.raises(RemoteProtocolError, match="used before"):
            check(header, now=NOW + later, authorizations=authorizations)
    with pytest.raises(RemoteProtocolError, match="within 60 seconds"):
        check(header, now=NOW + 2 * WINDOW_SECONDS + 1, authorizations=authorizations)


async def test_who_is_not_an_administrator_gets_401(url: str) -> None:
    body = b'{"method":"supportedmethods","params":[]}'
    now = int(time.time())
    assert (await post(url, body, authorize(body, url=url, at=now)))[0] == 200
    for authorization in (authorize(body, url=url, at=now), authorize(body, url=url, key=BOB, at=now), ""):
        status, answer = await post(url, body, authorization)
        assert status == 401 and list(orjson.loads(answer)) == ["error"]


async def test_without_administrators_there_is_no_management(relay_url: str, url: str) -> None:
    body = b'{"method":"supportedmethods","params":[]}'
    assert (await post(relay_url, body, authorize(body, url=relay_url)))[0] == 405
    assert not {86, 98} & set((await information(relay_url))["supported_nips"])
    assert {86, 98} <= set((await information(url))["supported_nips"])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (f"Content-Type: {RPC_TYPE}\nContent-Length: {BODY_BYTES_AT_MOST + 1}\n\n", 413),
        (f"Content-Type: {RPC_TYPE}\nTransfer-Encoding: chunked\n\n", 411),
        ("Content-Type: application/json\nContent-Length: 2\n\n{}", 415),
        (f"Content-Type: {RPC_TYPE}\nContent-Length: 2\n\n{{}}", 401),
    ],
)
async def test_what_is_no_request_of_the_standard_is_refused(url: str, headers: str, status: int) -> None:
    head, _ = await request(url, f"POST / HTTP/1.1\nHost: x\n{headers}")
    assert head.startswith(f"HTTP/1.1 {status} ")


@pytest.mark.parametrize("body", [b"", b"[]", b'{"params":[]}', b'{"method":"x","params":{}}', b"[" * 9_999])
async def test_a_body_of_another_shape_is_named(url: str, body: bytes) -> None:
    headers = f"Host: x\nContent-Type: {RPC_TYPE}\nContent-Length: {len(body)}\n"
    authorization = authorize(body, url=url, at=int(time.time()))
    text = f"POST / HTTP/1.1\n{headers}Authorization: {authorization}\n\n"
    _, answer = await request(url, text + body.decode())
    assert b"the body must" in answer


async def test_every_method_is_listed_and_an_unknown_one_is_not_known(url: str) -> None:
    assert await manage(url, "supportedmethods") == list(METHODS)
    assert "not known here" in await manage(url, "createrole", "x")
    assert await manage(url, "listeventsneedingmoderation") == []


async def test_a_banned_author_is_removed_and_refused_until_unbanned(url: str) -> None:
    async with Client(url) as client:
        bad, good, address = sign(BOB), sign(CAROL), sign(BOB, kind=30_000, tags=[["d", "x"]])
        for event in (bad, good, address):
            assert (await client.submit(event))[0]
        assert await manage(url, "banpubkey", BOB.public_key, "spam") is True
        assert await client.query({}) == [good.id]
        for event in (bad, address, sign(BOB, kind=20_001)):
            accepted, message = await client.submit(event)
            assert not accepted and message.startswith("blocked:")
        assert await manage(url, "listbannedpubkeys") == [{"pubkey": BOB.public_key, "reason": "spam"}]
        assert await manage(url, "unbanpubkey", BOB.public_key) is True
        assert await manage(url, "listbannedpubkeys") == []
        assert (await client.submit(bad))[0] and (await client.submit(address))[0]


async def test_a_banned_event_is_removed_and_refused_until_allowed(url: str) -> None:
    async with Client(url) as client:
        event, other = sign(BOB, content="bad"), sign(BOB, content="good")
        await client.submit(event)
        await client.submit(other)
        assert await manage(url, "banevent", event.id) is True
        assert await client.query({}) == [other.id]
        assert (await client.submit(event))[1].startswith("blocked:")
        assert await manage(url, "listbannedevents") == [{"id": event.id, "reason": ""}]
        assert await manage(url, "allowevent", event.id) is True
        assert await client.submit(event) == (True, "")


async def test_allowed_keys_make_a_member_list(url: str) -> None:
    async with Client(url) as client:
        assert (await client.submit(sign(BOB)))[0]
        assert await manage(url, "allowpubkey", CAROL.public_key) is True
        assert (await client.submit(sign(BOB, content="2")))[1].startswith("restricted:")
        assert (await client.submit(sign(CAROL)))[0]
        assert (await information(url))["limitation"]["restricted_writes"] is True
        assert await manage(url, "listallowedpubkeys") == [{"pubkey": CAROL.public_key, "reason": ""}]
        assert await manage(url, "unallowpubkey", CAROL.public_key) is True
        assert (await client.submit(sign(BOB, content="3")))[0]


async def test_what_the_settings_list_is_shown_and_stays(memory_path: Path) -> None:
    access = replace(ACCESS, members=(CAROL.public_key,), denied_authors=(BOB.public_key,))
    async with running_relay(settings_in(memory_path, access=access)) as url:
        assert await manage(url, "listallowedpubkeys") == [{"pubkey": CAROL.public_key, "reason": CONFIGURED}]
        assert await manage(url, "listbannedpubkeys") == [{"pubkey": BOB.public_key, "reason": CONFIGURED}]
        assert CONFIGURED in await manage(url, "unallowpubkey", CAROL.public_key)
        assert CONFIGURED in await manage(url, "unbanpubkey", BOB.public_key)


async def test_kinds_are_allowed_and_disallowed_over_the_settings(memory_path: Path) -> None:
    access = replace(ACCESS, allowed_kinds=(1, 7), denied_kinds=(4,))
    async with running_relay(settings_in(memory_path, access=access)) as url, Client(url) as client:

        async def taken() -> list[int]:
            return [kind for kind in (1, 4, 7, 8) if (await client.submit(sign(BOB, kind, str(time.time_ns()))))[0]]

        assert await taken() == [1, 7] == await manage(url, "listallowedkinds")
        for method, kind in (("allowkind", 4), ("allowkind", 8), ("disallowkind", 7), ("disallowkind", 1)):
            assert await manage(url, method, kind) is True
        assert await taken() == [4, 8] == await manage(url, "listallowedkinds")


async def test_allowing_one_kind_of_an_open_relay_refuses_no_other(url: str) -> None:
    async with Client(url) as client:
        await manage(url, "disallowkind", 1)
        assert (await client.submit(sign()))[1].startswith("blocked:")
        await manage(url, "allowkind", 1)
        assert await manage(url, "listallowedkinds") == []
        assert (await client.submit(sign()))[0] and (await client.submit(sign(kind=7)))[0]


async def test_the_name_the_description_and_the_icon_change_at_once(url: str) -> None:
    for method, text in (("name", "Anew"), ("description", "<b>"), ("icon", "https://example.org/i.png")):
        assert await manage(url, f"changerelay{method}", text) is True
        assert (await information(url))[method] == text
    _, page = await request(url, "GET / HTTP/1.1\nHost: x\n\n")
    assert b"<h1>Anew</h1><p>&lt;b&gt;</p>" in page


async def test_a_blocked_address_is_cut_and_kept_out(memory_path: Path) -> None:
    settings = settings_in(memory_path, access=ACCESS, network=Network(address_header="X-Real-IP"))
    bad, good = "X-Real-IP: 192.0.2.1\r\n", "X-Real-IP: 192.0.2.2\r\n"
    async with running_relay(settings) as url, Client(url, bad) as cut, Client(url, good) as kept:
        assert await manage(url, "blockip", "192.0.2.1", "flood") is True
        assert await manage(url, "listblockedips") == [{"ip": "192.0.2.1", "reason": "flood"}]
        with pytest.raises(ClosedByRelay):
            await cut.receive()
        with pytest.raises(RefusedByRelay, match="403"):
            await Client(url, bad).__aenter__()
        assert await kept.query({}) == []
        assert await manage(url, "unblockip", "192.0.2.1") is True
        async with Client(url, bad) as back:
            assert await back.query({}) == []


@pytest.mark.parametrize(
    ("method", "parameters", "words"),
    [
        ("banpubkey", [], "a public key in 64"),
        ("banpubkey", ["ABC"], "a public key in 64"),
        ("banpubkey", [BOB.public_key, 5], "a reason must be a text"),
        ("banpubkey", [BOB.public_key, "x" * 5_001], "a reason must be a text"),
        ("banevent", [1], "an event's id in 64"),
        ("allowevent", ["x"], "an event's id in 64"),
        ("allowkind", ["1"], "a kind from 0"),
        ("disallowkind", [True], "a kind from 0"),
        ("disallowkind", [65_536], "a kind from 0"),
        ("changerelayname", [None], "a text of at most"),
        ("blockip", ["here"], "an IPv4 or IPv6 address"),
        ("blockip", ["127.0.0.1"], "own address cannot be blocked"),
        ("unblockip", [7], "must be an address"),
    ],
)
async def test_a_wrong_parameter_is_named_in_one_sentence(
    url: str, method: str, parameters: list[Any], words: str
) -> None:
    assert words in await manage(url, method, *parameters)


async def test_decisions_outlast_the_relay(settings: Settings) -> None:
    event = sign(CAROL)
    async with running_relay(settings) as url:
        for method, value in (
            ("banpubkey", BOB.public_key),
            ("banevent", event.id),
            ("changerelayname", "Lasting"),
            ("disallowkind", 7),
            ("blockip", "192.0.2.9"),
        ):
            assert await manage(url, method, value) is True
    async with running_relay(settings) as url, Client(url) as client:
        for refused in (sign(BOB), event, sign(CAROL, kind=7)):
            assert (await client.submit(refused))[1].startswith("blocked:")
        assert (await information(url))["name"] == "Lasting"
        assert [entry["ip"] for entry in await manage(url, "listblockedips")] == ["192.0.2.9"]


async def test_a_removal_that_was_broken_off_goes_on_at_the_next_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "REMOVED_AT_ONCE", 2)
    decide = SqliteWriter.decide
    async with running_relay(settings) as url, Client(url) as client:
        for number in range(5):
            await client.submit(sign(BOB, content=str(number)))
        monkeypatch.setattr(SqliteWriter, "decide", lambda writer, change: decide(writer, change) and False)
        await manage(url, "banpubkey", BOB.public_key)
        assert len(await client.query({})) == 3
    monkeypatch.setattr(SqliteWriter, "decide", decide)
    async with running_relay(settings) as url, Client(url) as client:
        for number in range(10):  # each answer is a turn of the writer's, and so is each part of the removal
            assert (await client.submit(sign(CAROL, content=str(number))))[0]
        assert await client.query({"authors": [BOB.public_key]}) == []


async def test_a_decision_that_cannot_be_kept_has_no_effect(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise StorageError("the decision could not be kept: disk I/O error")

    monkeypatch.setattr(SqliteWriter, "decide", fail)
    assert "try again later" in await manage(url, "banpubkey", BOB.public_key)
    async with Client(url) as client:
        assert (await client.submit(sign(BOB)))[0]


async def test_what_is_on_its_way_when_its_author_is_banned_is_not_stored(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = SqliteWriter.write
    bans = [Change(Listing.BANNED_AUTHOR, BOB.public_key, "")]

    def ban_first(writer: SqliteWriter, records: Any) -> Any:
        if bans:
            writer.decide(bans.pop())
        return write(writer, records)

    monkeypatch.setattr(SqliteWriter, "write", ban_first)
    async with running_relay(settings) as url, Client(url) as client:
        accepted, message = await client.submit(sign(BOB))
        assert not accepted and message == "blocked: this event or its author is banned here"
        assert await client.query({}) == []


async def test_a_relay_behind_a_proxy_is_managed_under_its_own_url(memory_path: Path) -> None:
    settings = settings_in(memory_path, access=ACCESS, identity=Identity(url="wss://relay.example"))
    body = b'{"method":"supportedmethods","params":[]}'
    async with running_relay(settings) as url:
        now = int(time.time())
        assert (await post(url, body, authorize(body, url="https://relay.example/", at=now)))[0] == 200
        assert (await post(url, body, authorize(body, url=url, at=now)))[0] == 401
