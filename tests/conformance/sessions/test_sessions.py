"""Connections in memory and over WebSocket keep the same rules."""

import pytest

from relaymesh.adapters.direct_sessions import WebSocketDialer, WebSocketListener
from relaymesh.ports.memory_sessions import MemoryNetwork
from tests.conformance.sessions.rules import RULES, Rule, SessionsUnderTest

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_connections_in_memory(rule: Rule) -> None:
    network = MemoryNetwork()
    await rule(SessionsUnderTest(network.dialer(), network.listener(), "ws://nobody.example"))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_connections_over_websocket(rule: Rule, free_tcp_port: int) -> None:
    subject = SessionsUnderTest(
        WebSocketDialer(allow_private=True),
        WebSocketListener("127.0.0.1", 0),
        f"ws://127.0.0.1:{free_tcp_port}",
    )
    await rule(subject)
