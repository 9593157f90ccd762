"""What model servers answer becomes output data and counts."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from relaymesh.adapters.openai_runner import OpenAiRunner
from relaymesh.errors import RunnerError
from relaymesh.ports.runners import RunFinished, RunRequest
from tests.adapters.model_server import MODEL, Answer, ModelServer, serve_model
from tests.conformance.runners.rules import run_whole

pytestmark = pytest.mark.anyio

CHAT = RunRequest(MODEL, "chat", json.dumps({"messages": [{"role": "user", "content": "one two three"}]}), 16)
EMBEDDING = RunRequest(MODEL, "embedding", json.dumps({"input": ["a", "bb"]}), 0)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with serve_model() as server:
        yield server


@pytest.fixture
async def runner(server: ModelServer) -> AsyncIterator[OpenAiRunner]:
    async with OpenAiRunner(server.url) as runner:
        yield runner


async def test_tool_calls_come_as_compact_json_that_no_text_can_be_mistaken_for(
    server: ModelServer, runner: OpenAiRunner
) -> None:
    calls = [{"index": 0, "id": "x", "function": {"name": "look", "arguments": "{}"}}]

    async def call_a_tool(answer: Answer, body: dict[str, Any]) -> None:
        await answer.chunk({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]})
        await answer.chunk({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]})
        await answer.text('{"delta":{"tool_calls":[]}}')
        await answer.stop("tool_calls")

    server.script = call_a_tool
    data, finished = await run_whole(runner, CHAT)
    assert data[0] == '{"delta":' + json.dumps({"tool_calls": calls}, separators=(",", ":")) + "}"
    assert "".join(data[1:]) == '{"delta":{"tool_calls":[]}}'
    assert not any(piece.startswith('{"delta":') for piece in data[1:])
    assert finished.finish_reason == "stop"


async def test_a_server_that_does_not_count_is_counted_for(server: ModelServer, runner: OpenAiRunner) -> None:
    async def say_three(answer: Answer, body: dict[str, Any]) -> None:
        for word in ("a", "b", "c"):
            await answer.text(word)
        await answer.stop("length")

    server.script = say_three
    _, finished = await run_whole(runner, CHAT)
    prompt_bytes = len(json.dumps(json.loads(CHAT.body)["messages"], separators=(",", ":")))
    assert finished == RunFinished(input_tokens=-(-prompt_bytes // 4), output_tokens=3, finish_reason="length")


@pytest.mark.parametrize(
    "answer_data",
    [
        [],
        [{"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [[1.0]]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": []}],
        [{"embedding": [1.0]}, {"embedding": [1.0]}],
    ],
)
async def test_embeddings_that_do_not_fit_their_inputs_are_an_error(
    answer_data: list[object], server: ModelServer, runner: OpenAiRunner
) -> None:
    async def answer_with_data(answer: Answer, body: dict[str, Any]) -> None:
        await answer.begin(content_type="application/json")
        await answer.write(json.dumps({"data": answer_data}).encode())

    server.script = answer_with_data
    with pytest.raises(RunnerError, match="embedding"):
        async with runner.run(EMBEDDING) as items:
            await anext(items)
