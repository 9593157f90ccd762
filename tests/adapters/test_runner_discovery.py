"""Model servers on this machine are found where they listen, quickly, and nothing else is taken for one."""

import anyio
import anyio.abc
import pytest
from aiohttp import web

from relaymesh.adapters.runner_discovery import KNOWN_SERVERS, FoundServer, KnownServer, find_servers
from tests.adapters.model_server import MODEL, serve_model

pytestmark = pytest.mark.anyio


async def test_the_servers_that_answer_are_found_in_order_with_their_models() -> None:
    async with serve_model() as gone:
        pass
    async with serve_model() as first, serve_model() as second:
        second.pages["/v1/models"] = {"data": [{"id": "one"}, {"id": "two"}]}
        servers = (
            KnownServer("Second", second.url),
            KnownServer("Gone", gone.url),
            KnownServer("First", first.url),
        )
        assert await find_servers(servers) == (
            FoundServer("Second", second.url, ("one", "two")),
            FoundServer("First", first.url, (MODEL,)),
        )


async def test_a_web_server_that_is_no_model_server_is_not_found() -> None:
    async with serve_model() as server:
        server.pages["/v1/models"] = web.Response(text="<html>It works!</html>")
        assert await find_servers((KnownServer("Web", server.url),)) == ()


async def test_servers_that_say_nothing_do_not_hold_the_search_up() -> None:
    released = anyio.Event()

    async def say_nothing(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await released.wait()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, say_nothing)
        started = anyio.current_time()
        silent = KnownServer("Silent", f"http://127.0.0.1:{port}/v1")
        assert await find_servers((silent,) * 4) == ()
        assert anyio.current_time() - started < 2
        released.set()
        tasks.cancel_scope.cancel()


def test_the_known_servers_are_the_usual_four_on_this_machine() -> None:
    assert {server.name: server.url for server in KNOWN_SERVERS} == {
        "Ollama": "http://127.0.0.1:11434/v1",
        "llama.cpp": "http://127.0.0.1:8080/v1",
        "vLLM": "http://127.0.0.1:8000/v1",
        "LM Studio": "http://127.0.0.1:1234/v1",
    }
