"""The OpenAI runner against a model server that streams, stalls, lies and breaks."""

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web

from relaymesh.adapters.openai_runner import OpenAiRunner, RunnerLimits
from relaymesh.errors import LocalProtocolError, RunnerError, RunnerRefused, UsageError
from relaymesh.ports.runners import RunFinished, RunItem, RunOutput, RunRequest
from tests.adapters.model_server import MODEL, Answer, ModelServer, Script, echo, serve_model
from tests.conformance.runners.rules import RULES, Rule, RunnerUnderTest, run_whole

pytestmark = pytest.mark.anyio

CANARY = "canary-prompt"
CHAT = RunRequest(MODEL, "chat", json.dumps({"messages": [{"role": "user", "content": f"{CANARY} two three"}]}), 16)
EMBEDDING = RunRequest(MODEL, "embedding", json.dumps({"input": ["a", "bb"]}), 0)
SMALL = RunnerLimits(maximum_event_bytes=10_000, maximum_answer_bytes=1_000_000)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with serve_model() as server:
        yield server


@pytest.fixture
async def runner(server: ModelServer) -> AsyncIterator[OpenAiRunner]:
    async with OpenAiRunner(server.url, limits=SMALL) as runner:
        yield runner


async def fail_to_run(runner: OpenAiRunner, request: RunRequest = CHAT) -> tuple[list[RunItem], RunnerError]:
    """Run a job that fails: what came before, and the error."""
    items: list[RunItem] = []
    with anyio.fail_after(5), pytest.raises(RunnerError) as raised:
        async with runner.run(request) as stream:
            async for item in stream:
                items.append(item)  # noqa: PERF401 - what came before the error is wanted
    return items, raised.value


def status_script(
    status: int, payload: bytes = b'{"error": {"message": "canary-prompt", "type": "some_error"}}'
) -> Script:
    async def answer_with_status(answer: Answer, body: dict[str, Any]) -> None:
        await answer.begin(status, "application/json")
        await answer.write(payload)

    return answer_with_status


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_the_openai_runner_conforms(rule: Rule, server: ModelServer) -> None:
    async with OpenAiRunner(server.url, job_types=("chat", "completion", "embedding")) as runner:
        await rule(RunnerUnderTest(runner, model=MODEL))


async def test_the_body_that_is_sent_is_the_buyers_but_for_what_we_decide(
    server: ModelServer, runner: OpenAiRunner
) -> None:
    asked = {
        "messages": [{"role": "user", "content": "hello"}],
        "model": "other",
        "stream": False,
        "temperature": 0.25,
        "seed": 7,
        "max_completion_tokens": 9,
        "n_predict": 999,
        "id_slot": 1,
        "vendor_field": {"kept": [1.5]},
    }
    await run_whole(runner, RunRequest(MODEL, "chat", json.dumps(asked), 16))
    assert server.bodies == [
        {
            "messages": [{"role": "user", "content": "hello"}],
            "model": MODEL,
            "stream": True,
            "stream_options": {"include_usage": True},
            "n": 1,
            "temperature": 0.25,
            "seed": 7,
            "max_tokens": 9,
            "max_completion_tokens": 9,
            "vendor_field": {"kept": [1.5]},
        }
    ]


@pytest.mark.parametrize("field", [{"n": 2}, {"max_tokens": "9"}, {"max_tokens": 0}, {"max_completion_tokens": True}])
async def test_what_one_answer_cannot_hold_is_refused_before_anything_is_sent(
    field: dict[str, object], server: ModelServer, runner: OpenAiRunner
) -> None:
    body = json.loads(CHAT.body) | field
    with pytest.raises(RunnerRefused):
        await run_whole(runner, RunRequest(MODEL, "chat", json.dumps(body), 16))
    assert server.bodies == []


async def test_the_key_is_sent_as_a_bearer_token(server: ModelServer) -> None:
    async with OpenAiRunner(server.url, api_key="a-key") as runner:
        await run_whole(runner, CHAT)
    assert server.headers[0]["Authorization"] == "Bearer a-key"


@pytest.mark.parametrize("url", ["", "localhost:11434", "ftp://host/v1", "http://", "http://[::1", "http://h/v1?x=1"])
def test_a_url_that_cannot_be_used_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(UsageError, match="http://localhost:11434/v1"):
        OpenAiRunner(url)


def test_a_key_with_a_line_break_is_refused_without_being_shown() -> None:
    with pytest.raises(UsageError) as raised:
        OpenAiRunner("http://localhost/v1", api_key="secret\nkey")
    assert "secret" not in str(raised.value)


def test_a_key_and_a_password_in_the_url_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="both"):
        OpenAiRunner("http://user:secret@localhost/v1", api_key="key")


async def test_a_runner_that_was_not_entered_says_so() -> None:
    with pytest.raises(LocalProtocolError, match="async with"):
        await OpenAiRunner("http://localhost/v1").models()


async def test_a_url_without_a_path_means_v1(server: ModelServer) -> None:
    async with OpenAiRunner(server.url.removesuffix("/v1")) as runner:
        assert await runner.model_names() == (MODEL,)


async def test_output_arrives_before_the_answer_is_complete(server: ModelServer, runner: OpenAiRunner) -> None:
    first_was_read = anyio.Event()

    async def wait_for_the_reader(answer: Answer, body: dict[str, Any]) -> None:
        await answer.text("first")
        await first_was_read.wait()
        await answer.text("second")
        await answer.stop()

    server.script = wait_for_the_reader
    with anyio.fail_after(5):
        async with runner.run(CHAT) as items:
            assert await anext(items) == RunOutput("first")
            first_was_read.set()
            assert await anext(items) == RunOutput("second")


async def test_leaving_the_block_hangs_up_on_the_server(server: ModelServer, runner: OpenAiRunner) -> None:
    async def talk_for_ever(answer: Answer, body: dict[str, Any]) -> None:
        while True:
            await answer.text("more ")
            await anyio.lowlevel.checkpoint()

    server.script = talk_for_ever
    with anyio.fail_after(5):
        async with runner.run(CHAT) as items:
            await anext(items)
        await server.hung_up.wait()
    assert server.hung_up.is_set()


async def test_cancelling_before_the_first_output_hangs_up_on_the_server(
    server: ModelServer, runner: OpenAiRunner
) -> None:
    asked = anyio.Event()

    async def think_for_ever(answer: Answer, body: dict[str, Any]) -> None:
        asked.set()
        await anyio.sleep_forever()

    server.script = think_for_ever
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_whole, runner, CHAT)
            await asked.wait()
            tasks.cancel_scope.cancel()
        await server.hung_up.wait()
    assert server.hung_up.is_set()


async def test_a_server_that_ignores_its_limit_is_cut_off(server: ModelServer, runner: OpenAiRunner) -> None:
    async def talk_for_ever(answer: Answer, body: dict[str, Any]) -> None:
        while True:
            await answer.text("more ")
            await anyio.lowlevel.checkpoint()

    server.script = talk_for_ever
    data, finished = await run_whole(runner, CHAT)
    assert data == ["more "] * 16
    assert finished.finish_reason == "length"
    with anyio.fail_after(5):
        await server.hung_up.wait()


async def test_a_server_that_does_not_stream_is_understood(server: ModelServer, runner: OpenAiRunner) -> None:
    async def answer_whole(answer: Answer, body: dict[str, Any]) -> None:
        await answer.begin(content_type="application/json")
        message = {"role": "assistant", "content": "all at once"}
        whole = {
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 3},
        }
        await answer.write(json.dumps(whole).encode())

    server.script = answer_whole
    data, finished = await run_whole(runner, CHAT)
    assert data == ["all at once"]
    assert finished == RunFinished(5, 3, "stop")


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_body_is_refused_without_the_servers_words(
    status: int, server: ModelServer, runner: OpenAiRunner
) -> None:
    server.script = status_script(status)
    items, error = await fail_to_run(runner)
    assert isinstance(error, RunnerRefused)
    assert not items
    assert not error.retryable
    assert "some_error" in str(error)
    assert CANARY not in str(error)


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(401, False), (404, False), (302, False), (408, True), (429, True), (500, True), (503, True)],
)
async def test_a_failing_server_is_no_refusal(
    status: int, retryable: bool, server: ModelServer, runner: OpenAiRunner
) -> None:
    server.script = status_script(status)
    _, error = await fail_to_run(runner)
    assert not isinstance(error, RunnerRefused)
    assert error.retryable is retryable
    assert CANARY not in str(error)


async def test_a_redirect_is_not_followed(server: ModelServer, runner: OpenAiRunner) -> None:
    server.pages["/v1/models"] = web.Response(status=302, headers={"Location": server.url + "/elsewhere"})
    server.pages["/v1/elsewhere"] = {"data": [{"id": "trap"}]}
    with pytest.raises(RunnerError, match="302"):
        await runner.models()

    async def redirect(answer: Answer, body: dict[str, Any]) -> None:
        answer.response = web.StreamResponse(status=307, headers={"Location": server.url + "/completions"})
        await answer.response.prepare(answer.request)

    server.script = redirect
    _, error = await fail_to_run(runner)
    assert "307" in str(error)
    assert len(server.bodies) == 1


async def test_an_error_type_that_quotes_the_prompt_is_not_repeated(server: ModelServer, runner: OpenAiRunner) -> None:
    server.script = status_script(400, b'{"error": {"type": "bad canary-prompt two three", "code": "canary prompt"}}')
    _, error = await fail_to_run(runner)
    assert "canary" not in str(error)


async def test_each_job_has_a_connection_of_its_own(server: ModelServer, runner: OpenAiRunner) -> None:
    callers = set()

    async def note_the_caller(answer: Answer, body: dict[str, Any]) -> None:
        assert answer.request.transport is not None
        callers.add(answer.request.transport.get_extra_info("peername"))
        await echo(answer, body)

    server.script = note_the_caller
    for _ in range(3):
        await run_whole(runner, CHAT)
    assert len(callers) == 3


async def test_an_error_message_of_any_size_is_survived(server: ModelServer, runner: OpenAiRunner) -> None:
    server.script = status_script(500, b"x" * 1_000_000)
    _, error = await fail_to_run(runner)
    assert len(str(error)) < 200


@pytest.mark.parametrize(
    "tail",
    [
        b"data: {not json canary-prompt}\n\n",
        b"data: [1, 2]\n\n",
        b'data: {"error": {"message": "canary-prompt", "code": 500}}\n\n',
        b"data: " + b"y" * 20_000,
        b"y" * 20_000,
        b"",
        b": ping\n\n",
        b'data: {"choices": "none", "usage": [], "x": null}\n\n',
        b'data: {"choices": [7, {"delta": 5}, {"delta": {"content": 3}}]}\n\n',
    ],
)
async def test_a_malformed_or_unfinished_stream_is_an_error_after_what_it_brought(
    tail: bytes, server: ModelServer, runner: OpenAiRunner
) -> None:
    async def begin_well(answer: Answer, body: dict[str, Any]) -> None:
        await answer.text("good")
        await answer.write(tail)

    server.script = begin_well
    items, error = await fail_to_run(runner)
    assert items == [RunOutput("good")]
    assert not isinstance(error, RunnerRefused)
    assert CANARY not in str(error)
    assert CANARY not in repr(error.__cause__)


async def test_an_error_event_in_place_of_the_first_output_keeps_its_status(
    server: ModelServer, runner: OpenAiRunner
) -> None:
    async def refuse_late(answer: Answer, body: dict[str, Any]) -> None:
        await answer.chunk({"error": {"code": 400, "type": "exceed_context_size_error", "message": CANARY}})

    server.script = refuse_late
    _, error = await fail_to_run(runner)
    assert isinstance(error, RunnerRefused)
    assert "exceed_context_size_error" in str(error)


async def test_a_connection_that_breaks_in_mid_stream_is_a_retryable_error(
    server: ModelServer, runner: OpenAiRunner
) -> None:
    async def break_off(answer: Answer, body: dict[str, Any]) -> None:
        await answer.text("good")
        answer.break_off()

    server.script = break_off
    items, error = await fail_to_run(runner)
    assert items == [RunOutput("good")]
    assert error.retryable
    assert "127.0.0.1" in str(error)


async def test_an_answer_beyond_the_limit_is_an_error(server: ModelServer, runner: OpenAiRunner) -> None:
    async def ramble(answer: Answer, body: dict[str, Any]) -> None:
        while True:
            await answer.write(b": " + b"z" * 5_000 + b"\n")

    server.script = ramble
    _, error = await fail_to_run(runner)
    assert "1000000 bytes" in str(error)


@pytest.mark.parametrize(
    ("outputs", "limits"), [(0, RunnerLimits(first_output_timeout_ms=300)), (1, RunnerLimits(idle_timeout_ms=100))]
)
async def test_a_server_that_stalls_is_given_up(outputs: int, limits: RunnerLimits, server: ModelServer) -> None:
    async def stall(answer: Answer, body: dict[str, Any]) -> None:
        for _ in range(outputs):
            await answer.text("good")
        await anyio.sleep_forever()

    server.script = stall
    async with OpenAiRunner(server.url, limits=limits) as runner:
        items, error = await fail_to_run(runner)
    assert len(items) == outputs
    assert error.retryable
    assert "in time" in str(error)
    with anyio.fail_after(5):
        await server.hung_up.wait()


async def test_a_server_that_is_not_there_is_named() -> None:
    async with serve_model() as gone:
        url = gone.url
    async with OpenAiRunner(url) as runner:
        _, error = await fail_to_run(runner)
        assert error.retryable
        assert url.removesuffix("/v1") in str(error)
        with pytest.raises(RunnerError, match="cannot be reached"):
            await runner.models()


async def test_a_password_in_the_url_is_never_shown() -> None:
    async with serve_model() as gone:
        url = gone.url.replace("http://", "http://user:secret@")
    async with OpenAiRunner(url) as runner:
        _, error = await fail_to_run(runner)
    assert "secret" not in str(error)


async def test_no_prompt_output_or_key_is_ever_logged(server: ModelServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with OpenAiRunner(server.url, api_key="canary-key") as runner:
        await run_whole(runner, CHAT)
        server.script = status_script(500)
        await fail_to_run(runner)
    assert "canary" not in caplog.text.replace("canary_", "")
