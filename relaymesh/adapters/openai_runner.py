"""Any OpenAI-compatible model server as a runner: Ollama, llama.cpp, vLLM, LM Studio and whoever speaks like them.

RM-02, "Jobs". Chat and completions are streamed, embeddings come as one answer; what an OUTPUT's data looks like is
written at the top of `openai_answers`. Leaving a run's block closes its HTTP connection, which is how these servers
learn that nobody wants the rest; for the same reason a connection serves one job and is never kept. Prompts, outputs
and the API key appear in no message and no log.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

import aiohttp
import anyio
import orjson

from relaymesh.adapters.engine_details import Details, describe_model
from relaymesh.adapters.openai_answers import GeneratedAnswer, read_embeddings, refusal_or_error
from relaymesh.adapters.openai_requests import OpenAiCall, build_call, read_body
from relaymesh.adapters.server_sent_events import EventStreamParser, EventTooLarge
from relaymesh.errors import LocalProtocolError, RunnerError, UsageError
from relaymesh.ports.runners import RunItem, RunnerModel, RunRequest
from relaymesh.units import MILLISECONDS_PER_SECOND

MAXIMUM_ERROR_BYTES: Final = 65_536
MAXIMUM_MODELS: Final = 256
MAXIMUM_COUNTED_TEXTS: Final = 64


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """How long a model server may take and how much it may send.

    Args:
        connect_timeout_ms: For a connection to be made.
        details_timeout_ms: For a model list or a token count.
        first_output_timeout_ms: From the call to its first output, loading the model included. Only a backstop: the
            buyer's own deadline, much shorter, ends a run by leaving its block.
        idle_timeout_ms: Between two pieces of a stream that has begun.
        maximum_event_bytes: One event of a stream.
        maximum_answer_bytes: One whole answer.
    """

    connect_timeout_ms: int = 5_000
    details_timeout_ms: int = 5_000
    first_output_timeout_ms: int = 600_000
    idle_timeout_ms: int = 60_000
    maximum_event_bytes: int = 1_048_576
    maximum_answer_bytes: int = 67_108_864


class OpenAiRunner:
    """A model server behind an OpenAI-compatible API; an async context manager, to be entered before it is used.

    Args:
        base_url: Where the API is, for example `http://localhost:11434/v1`; without a path, `/v1` is meant.
        api_key: Sent as a bearer token.
        limits: Deadlines and sizes.
        job_types: What the models can do; None takes the engine's word, or where it says nothing, the models' names.
        socket_path: Connect to this unix socket instead of the URL's host.

    Raises:
        UsageError: The URL or the key cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        limits: RunnerLimits | None = None,
        job_types: tuple[str, ...] | None = None,
        socket_path: str | None = None,
    ) -> None:
        parts = _checked_url(base_url)
        if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key):
            raise UsageError("expected the API key to be printable ASCII; check what the key file or variable holds")
        if api_key is not None and parts.username is not None:
            raise UsageError("expected a key or a name in the URL, both came; leave the name and password out")
        self._base_url = base_url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")
        self._address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._headers = {"Accept-Encoding": "identity"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._limits = limits or RunnerLimits()
        self._job_types = job_types
        self._socket_path = socket_path
        self._session: aiohttp.ClientSession | None = None

    @property
    def address(self) -> str:
        """Where the server is, to be shown: without a name or password that the URL may carry."""
        return self._address

    async def __aenter__(self) -> Self:
        connector: aiohttp.BaseConnector
        if self._socket_path is not None:
            connector = aiohttp.UnixConnector(self._socket_path, force_close=True, limit=0)
        else:
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_seconds(self._limits.connect_timeout_ms)),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def models(self) -> tuple[RunnerModel, ...]:
        """What the server offers, with context, quantization and engine where it says; at most 256 models."""
        entries = await self._list_entries()
        answers: dict[str, Details] = {}

        async def ask(path: str, body: Mapping[str, object] | None) -> Details:
            # What is asked without a body is about the server, not about one model: once is enough.
            if body is not None:
                return await self._ask_root(path, body)
            if path not in answers:
                answers[path] = await self._ask_root(path, None)
            return answers[path]

        described = [await describe_model(entry, ask) for entry in entries]
        return tuple(
            model if self._job_types is None else replace(model, job_types=self._job_types)
            for model in described
            if model is not None
        )

    async def model_names(self) -> tuple[str, ...]:
        """Only the names, in one question; RunnerError if there is no such server."""
        names = [entry.get("id") for entry in await self._list_entries()]
        return tuple(name for name in names if isinstance(name, str) and name)

    def run(self, request: RunRequest) -> AbstractAsyncContextManager[AsyncIterator[RunItem]]:
        """Run one job; nothing is sent before the first item is asked for, so every failure comes from the iterator."""
        return aclosing(self._run_items(request))

    async def count_input_tokens(self, request: RunRequest) -> int | None:
        """The engine's own count, by llama.cpp's or vLLM's `/tokenize`; None from any other engine.

        Raises:
            RunnerRefused: The body is not a job of its type.
        """
        build_call(request)
        fields = read_body(request)
        if request.job_type != "chat":
            value = fields["prompt" if request.job_type == "completion" else "input"]
            texts = value if isinstance(value, list) else [value]
            return await self._count_tokens(texts, request.model)
        templated = (await self._ask_root("apply-template", {"messages": fields["messages"]})).get("prompt")
        if isinstance(templated, str):
            return await self._count_tokens([templated], request.model)
        counted = await self._ask_root("tokenize", {"model": request.model, "messages": fields["messages"]})
        count = counted.get("count")
        return count if type(count) is int else None

    async def _list_entries(self) -> list[Details]:
        listing = await self._ask_json(f"{self._base_url}/models", None)
        entries = listing.get("data")
        if not isinstance(entries, list):
            raise RunnerError(f"expected a model list from {self._address}, something else came; check the URL")
        return [entry for entry in entries[:MAXIMUM_MODELS] if isinstance(entry, dict)]

    async def _count_tokens(self, texts: list[object], model: str) -> int | None:
        if len(texts) > MAXIMUM_COUNTED_TEXTS:
            return None
        total = 0
        for text in texts:
            if not isinstance(text, str):
                return None
            # `content` is llama.cpp's name for it, `prompt` is vLLM's.
            question = {"model": model, "content": text, "prompt": text, "add_special": True, "parse_special": True}
            tokens = (await self._ask_root("tokenize", question)).get("tokens")
            if not isinstance(tokens, list):
                return None
            total += len(tokens)
        return total

    async def _run_items(self, request: RunRequest) -> AsyncGenerator[RunItem, None]:
        call = build_call(request)
        response: aiohttp.ClientResponse | None = None
        try:
            with anyio.fail_after(_seconds(self._limits.first_output_timeout_ms)):
                response = await self._post(call)
            if call.input_count:
                outputs, finished = read_embeddings(await self._read_all(response), call)
                for output in outputs:
                    yield output
                yield finished
            else:
                async with aclosing(self._generated_items(response, call)) as items:
                    async for item in items:
                        yield item
        except (aiohttp.ClientError, OSError) as error:
            raise self._failure(error) from error
        except EventTooLarge as error:
            raise RunnerError(f"the model server at {self._address}: {error}") from error
        finally:
            if response is not None:
                response.close()

    async def _generated_items(
        self, response: aiohttp.ClientResponse, call: OpenAiCall
    ) -> AsyncGenerator[RunItem, None]:
        answer = GeneratedAnswer(call)
        if response.content_type == "application/json":
            for output in answer.take(await self._read_all(response)):
                yield output
        else:
            stream = _EventStream(response, self._limits)
            while not answer.ended and (events := await stream.read()) is not None:
                for data in events:
                    for output in answer.take(data):
                        yield output
        yield answer.finished()

    async def _read_all(self, response: aiohttp.ClientResponse) -> bytes:
        pieces: list[bytes] = []
        received = 0
        with anyio.fail_after(_seconds(self._limits.first_output_timeout_ms)):
            while piece := await response.content.readany():
                received += len(piece)
                _check_size(received, self._limits.maximum_answer_bytes)
                pieces.append(piece)
        return b"".join(pieces)

    async def _post(self, call: OpenAiCall) -> aiohttp.ClientResponse:
        response = await self._opened().post(
            f"{self._base_url}/{call.path}",
            data=call.body,
            headers={"Content-Type": "application/json"},
            allow_redirects=False,
        )
        if response.status != 200:
            try:
                payload = await response.content.read(MAXIMUM_ERROR_BYTES)
            finally:
                response.close()
            raise refusal_or_error(response.status, _object_in(payload))
        return response

    async def _ask_root(self, path: str, body: Mapping[str, object] | None) -> Details:
        """One of the engine's own doors, beside the OpenAI API; empty when the server has no such door."""
        try:
            return await self._ask_json(f"{self._base_url.removesuffix('/v1')}/{path}", body)
        except RunnerError:
            return {}

    async def _ask_json(self, url: str, body: Mapping[str, object] | None) -> Details:
        method = "GET" if body is None else "POST"
        content = None if body is None else orjson.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            with anyio.fail_after(_seconds(self._limits.details_timeout_ms)):
                async with self._opened().request(
                    method, url, data=content, headers=headers, allow_redirects=False
                ) as response:
                    payload = await self._read_all(response)
        except (aiohttp.ClientError, OSError) as error:
            raise self._failure(error) from error
        if response.status != 200:
            reason = f"expected HTTP 200 from the model server at {self._address}, got {response.status}"
            raise RunnerError(f"{reason}; check the URL and the API key", retryable=response.status >= 500)
        return _object_in(payload)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise LocalProtocolError("expected the runner to be entered with `async with` before it is used")
        return self._session

    def _failure(self, error: Exception) -> RunnerError:
        if isinstance(error, aiohttp.ClientSSLError):
            reason = "presents no certificate that this machine trusts; install its authority or use another URL"
        elif isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            reason = "cannot be reached; start it, or give the URL where it listens"
        elif isinstance(error, TimeoutError):
            reason = "did not answer in time"
        else:
            reason = "broke the connection before its answer was complete"
        return RunnerError(f"the model server at {self._address} {reason}", retryable=True)


class _EventStream:
    """The events of a streamed answer, as they arrive, within the limits."""

    def __init__(self, response: aiohttp.ClientResponse, limits: RunnerLimits) -> None:
        self._content = response.content
        self._limits = limits
        self._parser = EventStreamParser(limits.maximum_event_bytes)
        self._received = 0
        self._timeout_ms = limits.first_output_timeout_ms

    async def read(self) -> list[bytes] | None:
        """The data of the events that arrived next, perhaps none; None once the stream is over."""
        with anyio.fail_after(_seconds(self._timeout_ms)):
            piece = await self._content.readany()
        if not piece:
            return self._parser.finish() or None
        self._received += len(piece)
        _check_size(self._received, self._limits.maximum_answer_bytes)
        events = self._parser.feed(piece)
        if events:
            self._timeout_ms = self._limits.idle_timeout_ms
        return events


def _check_size(received: int, limit: int) -> None:
    if received > limit:
        raise RunnerError(f"expected an answer of at most {limit} bytes from the model server, more came")


def _checked_url(url: str) -> SplitResult:
    expected = "expected a model server's URL such as http://localhost:11434/v1; give one like it"
    try:
        parts = urlsplit(url)
        named = parts.hostname and parts.port != 0
    except ValueError as error:
        raise UsageError(expected) from error
    if parts.scheme not in ("http", "https") or not named or parts.query or parts.fragment:
        raise UsageError(expected)
    return parts


def _seconds(milliseconds: int) -> float:
    return milliseconds / MILLISECONDS_PER_SECOND


def _object_in(payload: bytes) -> Details:
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
