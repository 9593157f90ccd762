"""A small model server on loopback that does what a test tells it to."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from aiohttp import web

MODEL = "scripted"
Script = Callable[["Answer", dict[str, Any]], Awaitable[None]]


@dataclass
class Answer:
    """What a script writes its answer to."""

    request: web.Request
    response: web.StreamResponse | None = None

    async def begin(self, status: int = 200, content_type: str = "text/event-stream") -> None:
        """Send the status line and headers."""
        self.response = web.StreamResponse(status=status, headers={"Content-Type": content_type})
        await self.response.prepare(self.request)

    async def write(self, data: bytes) -> None:
        """Send bytes of the body, beginning an event stream first if nothing was begun."""
        if self.response is None:
            await self.begin()
        assert self.response is not None
        await self.response.write(data)

    async def chunk(self, value: object) -> None:
        """Send one event."""
        await self.write(b"data: " + json.dumps(value).encode() + b"\n\n")

    async def text(self, text: str) -> None:
        """Send one text delta."""
        await self.chunk({"choices": [{"index": 0, "delta": {"content": text}}]})

    async def stop(self, reason: str = "stop") -> None:
        """Send the finish reason and the end of the stream."""
        await self.chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        await self.write(b"data: [DONE]\n\n")

    def break_off(self) -> None:
        """Cut the connection."""
        assert self.request.transport is not None
        self.request.transport.abort()


@dataclass
class ModelServer:
    """The server: where it is, what it was asked, whether callers hung up."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    pages: dict[str, object] = field(default_factory=dict)
    script: Script | None = None
    hung_up: anyio.Event = field(default_factory=anyio.Event)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Chat and completions: the script, or an echo of the prompt word by word."""
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        answer = Answer(request)
        try:
            await (self.script or echo)(answer, body)
        except (ConnectionError, anyio.get_cancelled_exc_class()):
            # aiohttp cancels a handler whose caller has closed the connection.
            self.hung_up.set()
            raise
        return answer.response or web.Response(status=500)

    async def embed(self, request: web.Request) -> web.StreamResponse:
        """Embeddings: the script, or a vector per input, in reverse order as some servers do."""
        body = await request.json()
        self.bodies.append(body)
        answer = Answer(request)
        if self.script is not None:
            await self.script(answer, body)
            return answer.response or web.Response(status=500)
        inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [{"index": index, "embedding": [0.5, float(len(text))]} for index, text in enumerate(inputs)]
        return web.json_response({"data": data[::-1], "usage": {"prompt_tokens": len(inputs)}})

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Whatever else a test has put under this path."""
        if request.path not in self.pages:
            return web.json_response({"error": {"type": "not_found_error"}}, status=404)
        page = self.pages[request.path]
        return page if isinstance(page, web.Response) else web.json_response(page)


async def echo(answer: Answer, body: dict[str, Any]) -> None:
    """Say the prompt's words as far as max_tokens reaches, as chat or as completion."""
    if body["model"] != MODEL:
        await answer.begin(404, "application/json")
        await answer.write(b'{"error": {"type": "not_found_error", "message": "canary"}}')
        return
    is_chat = "messages" in body
    words = (body["messages"][-1]["content"] if is_chat else body["prompt"]).split()
    for number, word in enumerate(words[: body["max_tokens"]]):
        text = word if number == 0 else f" {word}"
        choice = {"index": 0, "delta": {"content": text}} if is_chat else {"index": 0, "text": text}
        await answer.chunk({"choices": [choice]})
    said = min(len(words), body["max_tokens"])
    reason = "length" if said < len(words) else "stop"
    await answer.chunk({"choices": [{"index": 0, "delta": {}, "text": "", "finish_reason": reason}]})
    await answer.chunk({"choices": [], "usage": {"prompt_tokens": len(words), "completion_tokens": said}})
    await answer.write(b"data: [DONE]\n\n")


@asynccontextmanager
async def serve_model() -> AsyncIterator[ModelServer]:
    """Serve on a free port of 127.0.0.1 while the block lasts."""
    server = ModelServer(pages={"/v1/models": {"data": [{"id": MODEL}]}})
    application = web.Application()
    application.router.add_post("/v1/chat/completions", server.generate)
    application.router.add_post("/v1/completions", server.generate)
    application.router.add_post("/v1/embeddings", server.embed)
    application.router.add_route("*", "/{path:.*}", server.page)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield server
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()
