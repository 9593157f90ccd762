"""OpenAI's own Python client buys through the gateway: what it asks is answered, what is answered it can read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio.to_thread
import pytest

from relaymesh.ports.memory_runner import RunScript
from relaymesh.units import AmountMsat
from tests.gateway.place import gateway_to
from tests.real.programs import require_module
from tests.roles.market import Market, chat_row

openai = require_module("openai")

pytestmark = pytest.mark.anyio
SAID: Any = [{"role": "user", "content": "one two three"}]
SCHEMA: Any = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
TOOLS: Any = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": SCHEMA}}]
CALL = (
    '{"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":"{\\"a\\""}}]}}',
    '{"delta":{"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]}}',
)


@asynccontextmanager
async def buying(market: Market) -> AsyncIterator[Any]:
    async with gateway_to(market) as http, openai.AsyncOpenAI(base_url=str(http.base_url), api_key="any") as client:
        yield client


async def test_it_chats_whole_and_streamed_and_reads_what_it_cost() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with buying(market) as client:
            whole = await client.chat.completions.create(model="echo", messages=SAID)
            stream = await client.chat.completions.create(
                model="echo", messages=SAID, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
    assert whole.choices[0].message.content == "one two three"
    assert whole.usage.completion_tokens == 3 and whole.usage.cost_msat > 0
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "one two three"
    assert chunks[-1].usage.completion_tokens == 3
    assert whole.relaymesh["verified"] and len(chunks[-1].relaymesh["receipt"]) == 64


async def test_it_is_told_of_tool_calls() -> None:
    async with Market().open() as market:
        await market.add_node(chat_row(capabilities=("stream", "tools")), script=RunScript(pieces=CALL))
        async with buying(market) as client:
            whole = await client.chat.completions.create(model="echo", messages=SAID, tools=TOOLS)
            async with client.chat.completions.stream(model="echo", messages=SAID, tools=TOOLS) as stream:
                streamed = await stream.get_final_completion()
    for completion in (whole, streamed):
        assert completion.choices[0].finish_reason == "tool_calls"
        assert completion.choices[0].message.tool_calls[0].function.arguments == '{"a":1}'


async def test_it_reads_embeddings_models_and_completions() -> None:
    async with Market().open() as market:
        await market.add_node(chat_row(job_types=("embedding",), output_msat=AmountMsat(0), output_limit=0))
        await market.add_node(chat_row(job_types=("completion",)))
        async with buying(market) as client:
            packed = await client.embeddings.create(model="echo", input=["one", "two"])  # it asks for base64
            plain = await client.embeddings.create(model="echo", input=["one", "two"], encoding_format="float")
            models = [model.id async for model in client.models.list()]
            text = await client.completions.create(model="auto", prompt="one two")
    assert [len(each.embedding) for each in packed.data] == [8, 8]
    assert packed.data[1].embedding == pytest.approx(plain.data[1].embedding)
    assert models == ["echo"] and text.choices[0].text == "one two"


async def test_its_errors_are_the_right_ones_and_it_never_pays_again_by_itself() -> None:
    async with Market().open() as market:
        node = await market.add_node(script=RunScript(fails_after=1), tranche_units=None)
        async with buying(market) as client:
            with pytest.raises(openai.NotFoundError, match="not offered"):
                await client.chat.completions.create(model="absent", messages=SAID)
            with pytest.raises(openai.BadRequestError, match="tools"):
                await client.chat.completions.create(model="echo", messages=SAID, tools=TOOLS)
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.create(model="echo", messages=SAID)
            assert node.runner.counts.started == 1
            stream = await client.chat.completions.create(model="echo", messages=SAID, stream=True)
            with pytest.raises(openai.APIError, match="runner failed"):
                [chunk async for chunk in stream]


async def test_its_blocking_client_works_too() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with gateway_to(market) as http:
            with openai.OpenAI(base_url=str(http.base_url), api_key="any") as client:
                ask = partial(client.chat.completions.create, model="echo", messages=SAID)
                whole = await anyio.to_thread.run_sync(ask)
    assert whole.choices[0].message.content == "one two three"
