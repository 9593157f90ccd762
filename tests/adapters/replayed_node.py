"""A Core Lightning node that answers what was recorded: JSON-RPC on a unix socket, one script per method."""

import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.abc

from relaymesh.lightning_sim.sockets import Connection, Listener

VECTORS: Final = Path(__file__).parents[1] / "vectors" / "lightning"
CLOSE: Final[dict[str, Any]] = {"connection_closed_without_reply": True}
HANG: Final[dict[str, Any]] = {"never": "answers"}
UNKNOWN_METHOD: Final[dict[str, Any]] = {"error": {"code": -32601, "message": "Unknown command"}}


@cache
def recorded() -> dict[str, Any]:
    """All recorded exchanges by name."""
    exchanges: dict[str, Any] = json.loads((VECTORS / "core_lightning_26_06_6.json").read_text(encoding="utf-8"))
    return exchanges


def response_of(name: str) -> dict[str, Any]:
    """What the node answered then."""
    response: dict[str, Any] = recorded()[name]["response"]
    return response


class ReplayedNode:
    """Answers each method with its script's next response, and with the last one for ever after.

    Attributes:
        requests: Every request, in order.
        asked: Set when a request arrives, then replaced.
        hung_up: Set when a client closes that was kept waiting or was told something that makes no sense.
    """

    def __init__(self, rpc_path: Path, scripts: dict[str, list[dict[str, Any]]]) -> None:
        self.rpc_path = rpc_path
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.asked = anyio.Event()
        self.hung_up = anyio.Event()
        self._scripts = {method: deque(responses) for method, responses in scripts.items()}

    def calls(self, method: str) -> list[dict[str, Any]]:
        """The parameters of every call of this method."""
        return [parameters for name, parameters in self.requests if name == method]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["ReplayedNode"]:
        """Answer until the block ends."""
        with Listener(self.rpc_path) as listener:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._accept, listener, tasks)
                yield self
                tasks.cancel_scope.cancel()

    async def _accept(self, listener: Listener, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            tasks.start_soon(self._answer, await listener.accept())

    async def _answer(self, connection: Connection) -> None:
        with connection:
            request = json.loads(await connection.receive())
            self.requests.append((request["method"], request["params"]))
            asked, self.asked = self.asked, anyio.Event()
            asked.set()
            script = self._scripts.get(request["method"], deque([UNKNOWN_METHOD]))
            response = script.popleft() if len(script) > 1 else script[0]
            if response is HANG or "text" in response:
                await connection.send(response.get("text", "").encode())
                await connection.receive()
                self.hung_up.set()
            elif response != CLOSE:
                await connection.send(
                    json.dumps({**response, "jsonrpc": "2.0", "id": request["id"]}).encode() + b"\n\n"
                )


@asynccontextmanager
async def replay(directory: Path, **scripts: list[dict[str, Any]]) -> AsyncIterator[ReplayedNode]:
    """A node with these scripts; underscores in method names stand for hyphens; `getinfo` is alice's unless given."""
    named = {"getinfo": [response_of("getinfo_alice")]} | {
        name.replace("_", "-"): responses for name, responses in scripts.items()
    }
    async with ReplayedNode(directory / "lightning-rpc", named).serve() as node:
        yield node
