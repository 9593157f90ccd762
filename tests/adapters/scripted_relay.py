"""A relay that says exactly what a test tells it to, on a real socket."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import orjson
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from relaymesh.nostr.event import Event

Script = Callable[["ScriptedRelay", ServerConnection, list[Any]], Awaitable[None]]


class ScriptedRelay:
    """Notes what clients say and lets a script answer.

    Args:
        script: Called with every message of every client.
        greeting: Sent to each client that connects.
    """

    def __init__(self, script: Script, greeting: tuple[str, ...] = ()) -> None:
        self._script = script
        self._greeting = greeting
        self.url = ""
        self.heard: list[list[Any]] = []
        self.connections = 0

    async def serve_client(self, connection: ServerConnection) -> None:
        self.connections += 1
        try:
            for text in self._greeting:
                await connection.send(text)
            async for heard in connection:
                message = orjson.loads(heard)
                self.heard.append(message)
                await self._script(self, connection, message)
        except ConnectionClosed:
            pass


async def say(connection: ServerConnection, *message: Any) -> None:
    """Send a message to the client."""
    await connection.send(orjson.dumps(message).decode())


def event_text(subscription_id: str, event: Event) -> str:
    """An `EVENT` message of a relay."""
    return orjson.dumps(["EVENT", subscription_id, event.to_json()]).decode()


@asynccontextmanager
async def scripted_relay(script: Script, greeting: tuple[str, ...] = ()) -> AsyncIterator[ScriptedRelay]:
    """A scripted relay, for as long as the block lasts."""
    relay = ScriptedRelay(script, greeting)
    with anyio.fail_after(20):
        async with serve(relay.serve_client, "127.0.0.1", 0, compression=None, close_timeout=0.1) as server:
            relay.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            yield relay
