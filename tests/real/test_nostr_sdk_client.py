"""Our relay, as a process, served to the client of nostr-sdk, the Rust implementation."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from tests.real.programs import require_module
from tests.relay.processes import complaints, relay_process

nostr_sdk = require_module("nostr_sdk")

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def relay_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with relay_process(tmp_path_factory.mktemp("relay") / "relay.sqlite3") as (process, url):
        yield url
        process.terminate()
        assert complaints(process) == ""


class Person:
    """A key and a connected client that authenticates with it."""

    def __init__(self, url: str) -> None:
        nostr_sdk.nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())  # where it calls the signer back
        self.url = nostr_sdk.RelayUrl.parse(url)
        self.keys = nostr_sdk.Keys.generate()
        authenticator = nostr_sdk.SignerAuthenticator(self.keys)
        self.client = nostr_sdk.ClientBuilder().authenticator(authenticator).build()
        self.filter = nostr_sdk.Filter().author(self.keys.public_key())

    def sign(self, kind: int, content: str = "", tags: tuple[tuple[str, ...], ...] = (), seconds: int = 0) -> Any:
        builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(kind), content)
        builder = builder.tags([nostr_sdk.Tag.parse(list(tag)) for tag in tags])
        return builder.custom_created_at(nostr_sdk.Timestamp.from_secs(1_750_000_000 + seconds)).finalize(self.keys)

    async def publish(self, event: Any) -> str | None:
        """Why the relay refused it; None if it did not."""
        output = await self.client.send_event(event)
        reason: str | None = output.failed.get(self.url)
        assert (reason is None) == (output.success == [self.url])
        return reason

    async def find(self) -> list[str]:
        target = nostr_sdk.ReqTarget.auto([self.filter])
        return [event.content() for event in await self.client.fetch_events(target, timedelta(seconds=10))]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Person]:
    someone = Person(url)
    await someone.client.add_relay(someone.url)
    await someone.client.connect(timedelta(seconds=10))
    yield someone
    await someone.client.shutdown()


@pytest.fixture
async def person(relay_url: str) -> AsyncIterator[Person]:
    async with connected(relay_url) as someone:
        yield someone


async def test_it_publishes_and_finds(person: Person) -> None:
    for number in range(3):
        assert await person.publish(person.sign(1, f"é {number}", seconds=number)) is None
    assert await person.find() == ["é 2", "é 1", "é 0"]


async def test_it_is_sent_what_it_subscribed_to(person: Person, relay_url: str) -> None:
    async with connected(relay_url) as other, asyncio.timeout(10):
        notifications = person.client.notifications()
        await person.client.subscribe(nostr_sdk.ReqTarget.auto([other.filter]))
        while await other.publish(other.sign(20_001, "ephemeral")) is not None:  # `mute:` until somebody listens
            pass
        while not (notification := await notifications.next()).is_new_event():
            pass
        assert notification.event.content() == "ephemeral"


async def test_it_finds_only_the_newest_of_what_is_replaced(person: Person) -> None:
    for kind in (10_002, 30_023):
        for content, seconds in (("old", 0), ("new", 2), ("late", 1)):
            await person.publish(person.sign(kind, f"{kind} {content}", (("d", "x"),), seconds))
    assert sorted(await person.find()) == ["10002 new", "30023 new"]


async def test_what_it_deletes_is_gone_and_stays_out(person: Person) -> None:
    event, kept = person.sign(1, "deleted"), person.sign(1, "kept")
    for each in (event, kept):
        assert await person.publish(each) is None
    assert await person.publish(person.sign(5, "deletion", (("e", event.id().to_hex()), ("k", "1")), 1)) is None
    reason = await person.publish(event)
    assert reason is not None and reason.startswith("blocked:")
    assert await person.find() == ["deletion", "kept"]


async def test_it_authenticates_by_itself_to_publish_a_protected_event(person: Person) -> None:
    assert await person.publish(person.sign(1, "protected", (("-",),))) is None
    assert await person.find() == ["protected"]
