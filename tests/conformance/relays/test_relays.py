"""Relays in memory and relays over WebSocket keep the same rules."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from relaymesh.adapters.websocket_relays import WebSocketRelays
from relaymesh.machines.relay_connection_interface import RelayConnectionSettings
from relaymesh.ports.memory_relays import MemoryRelay, MemoryRelays
from relaymesh.ports.relays import Relays
from tests.adapters.severable import SeverableProxy, severable
from tests.conformance.relays.rules import RULES, RelaysUnderTest, Rule
from tests.relay.client import running_relay, settings_in

pytestmark = pytest.mark.anyio

QUICK = RelayConnectionSettings(first_retry_ms=20, last_retry_ms=100)


class MemoryRelaysUnderTest:
    """Two relays in memory."""

    def __init__(self) -> None:
        first, second = MemoryRelay("ws://first.example"), MemoryRelay("ws://second.example")
        self._relays = (first, second)
        self.urls = (first.url, second.url)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Relays]:
        yield MemoryRelays(self._relays)

    async def fail(self, url: str) -> None:
        self._relays[self.urls.index(url)].fail()

    async def recover(self, url: str) -> None:
        self._relays[self.urls.index(url)].recover()


class WebSocketRelaysUnderTest:
    """Two bundled relays, each behind a cable that can be pulled."""

    def __init__(self, first: SeverableProxy, second: SeverableProxy) -> None:
        self._cables = (first, second)
        self.urls = (f"ws://127.0.0.1:{first.port}", f"ws://127.0.0.1:{second.port}")

    def connect(self) -> AbstractAsyncContextManager[Relays]:
        return WebSocketRelays(self.urls, settings=QUICK)

    async def fail(self, url: str) -> None:
        await self._cables[self.urls.index(url)].pull()

    async def recover(self, url: str) -> None:
        await self._cables[self.urls.index(url)].plug_in()


@asynccontextmanager
async def _two_bundled_relays(directory: Path) -> AsyncIterator[RelaysUnderTest]:
    async with AsyncExitStack() as stack:
        cables = []
        for name in ("first", "second"):
            (directory / name).mkdir()
            url = await stack.enter_async_context(running_relay(settings_in(directory / name)))
            port = urlsplit(url).port
            assert port is not None
            cables.append(await stack.enter_async_context(severable(port)))
        yield WebSocketRelaysUnderTest(cables[0], cables[1])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_relays_in_memory(rule: Rule) -> None:
    await rule(MemoryRelaysUnderTest())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_relays_over_websocket(rule: Rule, tmp_path: Path) -> None:
    async with _two_bundled_relays(tmp_path) as subject:
        await rule(subject)
