"""Why nobody serves: of many reasons the one that is nearest to being served."""

from typing import Any

import pytest

from relaymesh.gateway.verdicts import near_matches
from relaymesh.units import AmountMsat
from tests.gateway.place import chat, gateway_to
from tests.roles.market import Market, chat_row

pytestmark = pytest.mark.anyio


async def test_who_would_serve_for_more_money_counts_before_who_never_could() -> None:
    async with Market().open() as market:
        await market.add_node(chat_row(context_limit=8))
        await market.add_node(chat_row(minimum_msat=AmountMsat(9_000)))
        async with gateway_to(market) as http:
            response = await http.post("/chat/completions", json=chat(relaymesh={"max_msat": 5_000}))
    assert response.status_code == 402 and "9000 msat" in response.json()["error"]["message"]


async def test_parameters_that_no_node_takes_together_are_all_named() -> None:
    tools: Any = {"tools": [{}], "response_format": {"type": "json_object"}}
    async with Market().open() as market:
        await market.add_node(chat_row(capabilities=("stream", "tools")))
        await market.add_node(chat_row(capabilities=("stream", "json")))
        async with gateway_to(market) as http:
            response = await http.post("/chat/completions", json=chat(**tools))
    assert response.status_code == 400
    assert "takes tools, response_format together" in response.json()["error"]["message"]


async def test_a_model_for_other_jobs_is_no_unknown_model() -> None:
    async with Market().open() as market:
        await market.add_node(chat_row(job_types=("chat", "completion")))
        async with gateway_to(market) as http:
            response = await http.post("/embeddings", json={"model": "echo", "input": "x"})
    assert response.status_code == 400 and "for chat, completion only" in response.json()["error"]["message"]


async def test_a_node_that_nobody_may_ask_is_not_there() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        async with gateway_to(market) as http:
            response = await http.post("/chat/completions", json=chat(provider={"ignore": [node.key.public_key]}))
    assert response.status_code == 404 and response.json()["error"]["code"] == "no_allowed_node"


def test_near_matches_are_names_that_are_like_it() -> None:
    known = ("llama-3-8b", "llama-3-70b", "mistral-7b", "Qwen2.5-7B")
    assert near_matches("llama3-8b", known)[0] == "llama-3-8b"
    assert near_matches("qwen2.5-7b", known)[0] == "Qwen2.5-7B"
    assert near_matches("mistral", known) == ["mistral-7b"]
    assert near_matches("zzz", known) == []
