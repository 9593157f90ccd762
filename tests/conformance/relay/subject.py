"""The relay that these rules are held against: what it announces, authors that nobody used before, and clients of it.

A rule looks only at events of its own authors, so a relay may hold whatever it likes. What a relay does not announce,
or does not take from anybody, is passed over with the reason; our own relay has no such excuse.
"""

import itertools
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Self

import httpx
import pytest

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.authentication import build_authentication
from relaymesh.nostr.event import UnsignedEvent, VerifiedEvent
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.proof_of_work import mine
from relaymesh.nostr.relay_information import MEDIA_TYPE, RelayInformation, RelayLimitation, parse_relay_information
from relaymesh.units import Timestamp
from tests.relay.client import PATIENCE_SECONDS, Client

START: Final = int(time.time()) - 600
"""The time that rules count from: lately, since a relay may refuse what is older, and not ahead of its clock."""

REASON: Final = re.compile(r"[a-z]+(-[a-z]+)*: *\S")
"""A machine-readable prefix, a colon and words (NIP-01)."""

_POLICIES: Final = ("auth-required:", "blocked:", "pow:", "rate-limited:", "restricted:")
_numbers = itertools.count()


@dataclass(frozen=True)
class Author:
    """A fresh key, and the work that the relay asks of its events (NIP-13)."""

    key: KeyPair
    bits: int

    def write(
        self, kind: int = 1, *tags: tuple[str, ...], seconds: int = 0, content: str | None = None
    ) -> VerifiedEvent:
        """An event that nobody has seen, made so many seconds after `START`."""
        text = f"event {next(_numbers)}" if content is None else content
        event = UnsignedEvent(self.key.public_key, Timestamp(START + seconds), kind, tags, text)
        return self.key.sign(mine(event, self.bits) if self.bits else event)

    @property
    def events(self) -> dict[str, Any]:
        """The filter of all that this author wrote."""
        return {"authors": [self.key.public_key]}


class RelayUnderTest:
    """One relay, wherever it runs.

    Args:
        url: Where it is reached.
        is_ours: Whether it is the bundled relay, which passes over nothing.
    """

    def __init__(self, url: str, *, is_ours: bool) -> None:
        self.url = url
        self.document = _read_document(url)
        """Its information document as it was sent (NIP-11); None when it has none."""
        self.information = _read_information(self.document)
        self._is_ours = is_ours

    @property
    def limitation(self) -> RelayLimitation:
        """The limits that it announces."""
        return self.information.limitation or RelayLimitation()

    def author(self) -> Author:
        """Somebody new."""
        return Author(KeyPair.generate(), self.limitation.min_pow_difficulty or 0)

    def pass_over(self, reason: str) -> NoReturn:
        """Leave a rule out because this relay promises nothing about it."""
        if self._is_ours:
            pytest.fail(f"our relay may not be excused: {reason}")
        pytest.skip(reason)

    def require_nip(self, number: int) -> None:
        """Go on only if the relay says that it supports this NIP."""
        if number not in (self.information.supported_nips or ()):
            self.pass_over(f"the relay does not announce NIP-{number:02}")

    def require_limit(self, name: str) -> int:
        """What the relay announces under this name of NIP-11's `limitation`."""
        value: int | None = getattr(self.limitation, name)
        if value is None:
            self.pass_over(f"the relay does not announce {name}")
        return value

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["RelayClient"]:
        """A client, authenticated where the relay serves no other."""
        if self.limitation.payment_required:
            self.pass_over("the relay wants to be paid")
        async with RelayClient(self) as client:
            if self.limitation.auth_required:
                await client.send("REQ", "who", {"limit": 0})
                assert await client.authenticate(self.author().key, await client.receive_challenge()) == (True, "")
            yield client


class RelayClient(Client):
    """A client of a relay that may say more than it was asked."""

    def __init__(self, relay: RelayUnderTest) -> None:
        super().__init__(relay.url)
        self._relay = relay

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self

    async def store(self, *events: VerifiedEvent) -> None:
        """Publish events that must be taken, one after the other."""
        for event in events:
            accepted, message = await self.submit(event)
            if not accepted and message.startswith(_POLICIES):
                self._relay.pass_over(f"the relay's policy: {message}")
            assert accepted, message

    async def refused(self, event: dict[str, Any]) -> str:
        """Publish what must be refused in due form; the reason."""
        await self.send("EVENT", event)
        accepted, message = await self.answer_to(event["id"])
        assert not accepted
        assert REASON.match(message), f"a refusal needs a prefix and words, not {message!r}"
        return message

    async def find(self, *filters: dict[str, Any]) -> list[str]:
        """The ids of what is stored, in the order it came; nothing live comes of it."""
        return [event["id"] for event in await self.find_events(*filters)]

    async def find_events(self, *filters: dict[str, Any]) -> list[dict[str, Any]]:
        """What is stored, in the order it came; nothing live comes of it."""
        name = f"find {next(_numbers)}"
        events = await self.query_events(*filters, subscription_id=name)
        await self.send("CLOSE", name)
        return events

    async def receive_refusal_of_anything(self, event_id: str) -> None:
        """An OK that refuses, or a NOTICE: a relay need not see an event in what is none."""
        while True:
            match await self.receive():
                case ["OK", answered, False, str(message)] if answered == event_id:
                    assert REASON.match(message)
                    return
                case ["NOTICE", str()]:
                    return

    async def receive_live(self) -> tuple[str, str]:
        """The next event, by the name of its subscription and its id."""
        while True:
            match await self.receive():
                case ["EVENT", str(name), {"id": str(event_id)}]:
                    return name, event_id

    async def receive_challenge(self) -> str:
        """What the relay wants signed (NIP-42), once it has reason to ask."""
        try:
            while True:
                match await self.receive():
                    case ["AUTH", str(challenge)]:
                        return challenge
        except TimeoutError:
            self._relay.pass_over("the relay asks nobody to authenticate")

    async def authenticate(
        self, key: KeyPair, challenge: str, *, url: str | None = None, seconds: int = 0
    ) -> tuple[bool, str]:
        """Answer a challenge, so many seconds ago; the relay's OK."""
        now = Timestamp(int(time.time()) - seconds)
        event = key.sign(build_authentication(key.public_key, url or self._relay.url, challenge, now))
        await self.send("AUTH", event.to_json())
        return await self.answer_to(event.id)


def _read_document(url: str) -> httpx.Response | None:
    address = url.replace("ws", "http", 1)
    try:
        response = httpx.get(address, headers={"Accept": MEDIA_TYPE}, timeout=PATIENCE_SECONDS, follow_redirects=True)
    except httpx.HTTPError:
        return None
    return response if response.is_success and "json" in response.headers.get("Content-Type", "") else None


def _read_information(document: httpx.Response | None) -> RelayInformation:
    """What the relay announces; nothing if it cannot be read, which a rule of its own complains of."""
    try:
        return RelayInformation() if document is None else parse_relay_information(document.content)
    except RemoteProtocolError:
        return RelayInformation()
