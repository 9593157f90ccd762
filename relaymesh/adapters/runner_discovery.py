"""Looks for the model servers that people usually run on their own machine (RM-02, "Jobs").

Each known server has a port it listens on unless told otherwise. What answers there with a model list in the OpenAI
API's shape is taken; what does not answer within the second is not there.
"""

from dataclasses import dataclass
from typing import Final

import anyio

from relaymesh.adapters.openai_runner import OpenAiRunner
from relaymesh.errors import RunnerError
from relaymesh.units import MILLISECONDS_PER_SECOND

SEARCH_TIMEOUT_MS: Final = 900


@dataclass(frozen=True, slots=True)
class KnownServer:
    """A model server by name, and where it listens unless told otherwise."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A model server that answered: its name, the URL for `OpenAiRunner`, the models it listed."""

    name: str
    url: str
    models: tuple[str, ...]


KNOWN_SERVERS: Final = (
    KnownServer("Ollama", "http://127.0.0.1:11434/v1"),
    KnownServer("llama.cpp", "http://127.0.0.1:8080/v1"),
    KnownServer("vLLM", "http://127.0.0.1:8000/v1"),
    KnownServer("LM Studio", "http://127.0.0.1:1234/v1"),
)


async def find_servers(servers: tuple[KnownServer, ...] = KNOWN_SERVERS) -> tuple[FoundServer, ...]:
    """Ask all of them at once and give back those that answered, in the order given; takes less than a second."""
    found: dict[KnownServer, FoundServer] = {}

    async def look(server: KnownServer) -> None:
        with anyio.move_on_after(SEARCH_TIMEOUT_MS / MILLISECONDS_PER_SECOND):
            async with OpenAiRunner(server.url) as runner:
                try:
                    models = await runner.model_names()
                except RunnerError:
                    return
                found[server] = FoundServer(server.name, server.url, models)

    async with anyio.create_task_group() as tasks:
        for server in servers:
            tasks.start_soon(look, server)
    return tuple(found[server] for server in servers if server in found)
