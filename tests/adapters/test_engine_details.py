"""What engines say about themselves beyond the OpenAI API reaches the model list."""

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from relaymesh.adapters.openai_runner import OpenAiRunner
from relaymesh.errors import RunnerError
from relaymesh.ports.runners import RunnerModel, RunRequest
from tests.adapters.model_server import MODEL, ModelServer, serve_model

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


async def test_models_come_with_what_their_engine_says(server: ModelServer, runner: OpenAiRunner) -> None:
    server.pages["/v1/models"] = {
        "data": [
            {"id": "tiny-q8_0.gguf", "owned_by": "llamacpp", "meta": {"n_ctx_train": 8_192}},
            {"id": "llama3:8b", "owned_by": "library"},
            {"id": "nomic-embed-text", "owned_by": "library"},
            {"id": "Llama-3.1-8B-AWQ", "owned_by": "vllm", "max_model_len": 16_384},
            {"id": "qwen", "owned_by": "organization_owner"},
            {"id": "text-embedding-3", "owned_by": "somebody"},
            {"id": ""},
            "nonsense",
        ]
    }
    server.pages["/props"] = {"default_generation_settings": {"n_ctx": 4_096}, "build_info": "b5000-abc"}
    server.pages["/api/version"] = {"version": "0.9.1"}
    server.pages["/api/show"] = {
        "capabilities": ["completion", "tools"],
        "details": {"quantization_level": "Q4_K_M"},
        "parameters": "stop  x\nnum_ctx    8192\n",
    }
    server.pages["/api/v0/models"] = {
        "data": [{"id": "qwen", "type": "vlm", "quantization": "Q4_0", "max_context_length": 32_768}]
    }
    generating = ("chat", "completion")
    assert await runner.models() == (
        RunnerModel("tiny-q8_0.gguf", generating, 4_096, "q8_0", "llama.cpp b5000-abc"),
        RunnerModel("llama3:8b", generating, 8_192, "q4_k_m", "ollama 0.9.1"),
        RunnerModel("nomic-embed-text", generating, 8_192, "q4_k_m", "ollama 0.9.1"),
        RunnerModel("Llama-3.1-8B-AWQ", generating, 16_384, "awq", "vllm"),
        RunnerModel("qwen", generating, 32_768, "q4_0", "lm studio"),
        RunnerModel("text-embedding-3", ("embedding",)),
    )


async def test_what_an_operator_says_about_job_types_is_believed(server: ModelServer) -> None:
    async with OpenAiRunner(server.url, job_types=("embedding",)) as runner:
        assert [model.job_types for model in await runner.models()] == [("embedding",)]


async def test_an_engine_that_hides_its_details_still_lists_its_models(
    server: ModelServer, runner: OpenAiRunner
) -> None:
    server.pages["/v1/models"] = {"data": [{"id": "a", "owned_by": "library"}, {"id": "b", "owned_by": "llamacpp"}]}
    server.pages["/props"] = web.Response(text="not json")
    assert [model.name for model in await runner.models()] == ["a", "b"]


async def test_ollama_is_not_offered_beyond_what_it_will_serve(server: ModelServer, runner: OpenAiRunner) -> None:
    server.pages["/v1/models"] = {"data": [{"id": "a", "owned_by": "library"}]}
    server.pages["/api/show"] = {"model_info": {"llama.context_length": 131_072}}
    assert (await runner.models())[0].context_limit == 4_096


@pytest.mark.parametrize("page", [{"data": "x"}, {}, web.Response(text="<html>")])
async def test_something_that_is_no_model_server_is_an_error(
    page: object, server: ModelServer, runner: OpenAiRunner
) -> None:
    server.pages["/v1/models"] = page
    with pytest.raises(RunnerError, match="model list"):
        await runner.models()


async def test_llama_cpp_counts_input_with_its_own_template(server: ModelServer, runner: OpenAiRunner) -> None:
    server.pages["/apply-template"] = {"prompt": "<|im_start|>"}
    server.pages["/tokenize"] = {"tokens": [1, 2, 3]}
    assert await runner.count_input_tokens(CHAT) == 3
    assert await runner.count_input_tokens(EMBEDDING) == 6


async def test_vllm_counts_input_by_messages(server: ModelServer, runner: OpenAiRunner) -> None:
    server.pages["/tokenize"] = {"count": 11}
    assert await runner.count_input_tokens(CHAT) == 11


async def test_a_server_that_cannot_count_input_gives_none(runner: OpenAiRunner) -> None:
    assert await runner.count_input_tokens(CHAT) is None
