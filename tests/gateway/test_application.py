"""The gateway whole: over real HTTP, against a market in memory."""

import base64
import json
from array import array
from typing import Any

import anyio
import anyio.abc
import httpx
import pytest

from relaymesh.errors import LedgerError
from relaymesh.machines.records import JobState, LedgerRecord
from relaymesh.nostr.identifiers import encode_public_key
from relaymesh.ports.ledger import JobQuery
from relaymesh.ports.memory_lightning import FailPayment
from relaymesh.ports.memory_runner import RunScript
from relaymesh.ports.runners import RunnerModel
from relaymesh.roles.client import ClientSettings
from relaymesh.units import AmountMsat
from tests.gateway.place import chat, gateway_to, open_gateway
from tests.roles.market import Market, chat_row

pytestmark = pytest.mark.anyio


def events(text: str) -> list[dict[str, Any]]:
    """A stream's events but the last, which says that it is over."""
    parts = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
    assert parts[-1] == "[DONE]"
    return [json.loads(part) for part in parts[:-1]]


def error_of(response: httpx.Response) -> dict[str, Any]:
    told: dict[str, Any] = response.json()["error"]
    assert set(told) == {"message", "type", "param", "code"}
    return told


async def test_a_chat_completion_says_what_it_cost_and_who_signed_for_it() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        async with gateway_to(market) as http:
            response = await http.post("/chat/completions", json=chat("one two three"))
        body = response.json()
        assert response.status_code == 200, body
        assert body["object"] == "chat.completion" and body["model"] == "echo"
        assert body["choices"][0]["message"] == {"role": "assistant", "content": "one two three"}
        assert body["choices"][0]["finish_reason"] == "stop"
        paid = (await node.wallet.info()).balance_msat
        assert body["usage"]["cost_msat"] == paid > 0
        assert body["usage"]["completion_tokens"] == 3
        assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 3
        assert response.headers["x-relaymesh-node"].startswith("npub1")
        assert body["relaymesh"]["verified"] is True
        evidence = {record.event.id for record in await market.client_ledger.find_evidence()}
        assert {response.headers["x-relaymesh-quote"], response.headers["x-relaymesh-receipt"]} <= evidence


async def test_a_stream_begins_with_the_speaker_and_ends_with_the_reason_and_the_receipt() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with gateway_to(market) as http:
            response = await http.post("/chat/completions", json=chat("one two three", stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "x-relaymesh-node" in response.headers and "x-relaymesh-receipt" not in response.headers
    told = events(response.text)
    assert told[0]["choices"][0]["delta"] == {"role": "assistant", "content": "one"}
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in told) == "one two three"
    assert [each["choices"][0]["finish_reason"] for each in told] == [None, None, None, "stop"]
    assert len(told[-1]["relaymesh"]["receipt"]) == 64
    assert all(each["choices"] and "usage" not in each for each in told), "nobody asked for a chunk of counts"


async def test_a_stream_carries_its_counts_where_they_are_asked_for() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with gateway_to(market) as http:
            asked = chat("one two", stream=True, stream_options={"include_usage": True})
            told = events((await http.post("/chat/completions", json=asked)).text)
    assert told[-1]["choices"] == [] and told[-1]["usage"]["completion_tokens"] == 2
    assert told[-1]["usage"]["cost_msat"] == told[-1]["relaymesh"]["cost_msat"] > 0


async def test_tool_calls_arrive_whole_and_in_pieces() -> None:
    pieces = (
        '{"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]}}',
        '{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\\"a\\":"}}]}}',
        '{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}}',
    )
    tools = [{"type": "function", "function": {"name": "f"}}]
    async with Market().open() as market:
        await market.add_node(chat_row(capabilities=("stream", "tools")), script=RunScript(pieces=pieces))
        async with gateway_to(market) as http:
            whole = (await http.post("/chat/completions", json=chat(tools=tools))).json()
            told = events((await http.post("/chat/completions", json=chat(tools=tools, stream=True))).text)
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": None, "tool_calls": [call]}
    assert whole["choices"][0]["finish_reason"] == told[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert [each["choices"][0]["delta"].get("tool_calls", [{}])[0].get("index") for each in told] == [0, 0, 0, None]


async def test_a_text_completion_and_a_model_that_is_any() -> None:
    async with Market().open() as market:
        await market.add_node(chat_row(job_types=("chat", "completion")))
        async with gateway_to(market) as http:
            whole = (await http.post("/completions", json={"model": "auto", "prompt": ["one two"]})).json()
            asked = {"model": "auto", "prompt": "one two", "stream": True}
            told = events((await http.post("/completions", json=asked)).text)
    assert whole["object"] == "text_completion" and whole["model"] == "echo"
    assert whole["choices"][0]["text"] == "one two"
    assert [each["choices"][0]["text"] for each in told] == ["one", " two", ""]


async def test_embeddings_come_as_numbers_or_in_base64() -> None:
    async with Market().open() as market:
        await market.add_node(chat_row(job_types=("embedding",), output_msat=AmountMsat(0), output_limit=0))
        async with gateway_to(market) as http:
            asked = {"model": "echo", "input": ["one", "two"]}
            plain = (await http.post("/embeddings", json=asked)).json()
            packed = (await http.post("/embeddings", json={**asked, "encoding_format": "base64"})).json()
    assert [each["index"] for each in plain["data"]] == [0, 1]
    assert set(plain["usage"]) == {"prompt_tokens", "total_tokens", "cost_msat"}
    unpacked = [array("f", base64.b64decode(each["embedding"])).tolist() for each in packed["data"]]
    assert unpacked == [array("f", each["embedding"]).tolist() for each in plain["data"]]


async def test_models_are_the_market_merged() -> None:
    async with Market().open() as market:
        await market.add_node(chat_row(output_msat=AmountMsat(4_000)))
        await market.add_node(chat_row(output_msat=AmountMsat(1_000), context_limit=8_192))
        await market.add_node(chat_row(model="large"))
        async with gateway_to(market) as http:
            listed = (await http.get("/models")).json()
            one = (await http.get("/models/echo")).json()
            absent = await http.get("/models/ecko")
    assert [each["id"] for each in listed["data"]] == ["echo", "large"]
    assert one == listed["data"][0]
    assert (one["nodes"], one["free_nodes"], one["context_length"]) == (2, 2, 8_192)
    assert one["pricing"][0]["output_msat"] == {"lowest": 1_000_000, "p50": 1_000_000, "p90": 4_000_000}
    assert absent.status_code == 404 and "echo" in error_of(absent)["message"]


@pytest.mark.parametrize(
    ("data", "parameter"),
    [
        (b'{"model": "echo", "messages": [', None),
        (b"[]", None),
        (b'{"messages": [{}]}', "model"),
        (b'{"model": "echo"}', "messages"),
        (b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "n": 2}', "n"),
        (b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "logprobs": true}', "logprobs"),
        (b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', "max_tokens"),
        (b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "tools": [{}]}', "tools"),
        (b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "max_tokens": 99999}', "max_tokens"),
        (b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "provider": {"x": 1}}', "provider"),
        (b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "relaymesh": {"x": 1}}', "relaymesh"),
    ],
)
async def test_what_is_wrong_with_a_request_is_named(data: bytes, parameter: str | None) -> None:
    async with Market().open() as market:
        await market.add_node(chat_row(context_limit=0))
        async with gateway_to(market) as http:
            response = await http.post("/chat/completions", content=data)
        assert (await market.buyer.info()).balance_msat == 1_000_000
    assert response.status_code == 400
    assert error_of(response)["param"] == parameter
    assert response.headers["x-should-retry"] == "false"


async def test_a_model_that_nobody_offers_is_answered_at_once_with_those_that_are_like_it() -> None:
    async with Market().open() as market:
        await market.add_node(chat_row(model="llama-3-8b"))
        async with gateway_to(market, settings=ClientSettings(discovery_seconds=60)) as http:
            response = await http.post("/chat/completions", json=chat(model="llama3-8B"))
    assert response.status_code == 404
    assert "llama-3-8b" in error_of(response)["message"] and error_of(response)["code"] == "model_not_found"


async def test_a_prompt_over_every_context_and_a_budget_under_every_price() -> None:
    async with Market().open() as market:
        await market.add_node(chat_row(context_limit=64, output_limit=256))
        async with gateway_to(market) as http:
            long = await http.post("/chat/completions", json=chat("word " * 100))
            dear = await http.post("/chat/completions", json=chat("one", relaymesh={"max_msat": 5}))
            price = error_of(dear)["message"].split()[3]
            enough = await http.post("/chat/completions", json=chat("one", relaymesh={"max_msat": int(price)}))
    assert long.status_code == 400 and error_of(long)["code"] == "context_length_exceeded"
    assert dear.status_code == 402 and error_of(dear)["param"] == "relaymesh.max_msat"
    assert enough.status_code == 200, "what it says it may cost is enough"


async def test_nobody_with_room_is_a_reason_to_come_again() -> None:
    async with Market().open() as market, market.client() as client:
        await market.add_node(maximum_jobs=1, script=RunScript(pace_ms=50, pieces=("x",) * 30))
        async with gateway_to(market) as http, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: http.post("/chat/completions", json=chat()))
            while not market.nodes[0].runner.counts.running:
                await anyio.lowlevel.checkpoint()
            asked = chat(provider={"allow_fallbacks": False})
            response = await http.post("/chat/completions", json=asked)
            tasks.cancel_scope.cancel()
        assert client.candidates
    assert response.status_code == 503, response.text
    assert int(response.headers["retry-after"]) >= 1 and "x-should-retry" not in response.headers


async def test_a_wallet_that_cannot_pay_is_402() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with gateway_to(market) as http:
            market.buyer.plan(FailPayment())
            response = await http.post("/chat/completions", json=chat())
    assert response.status_code == 402 and error_of(response)["type"] == "insufficient_quota"


async def test_the_next_model_is_tried_where_nobody_serves_the_first_and_not_once_something_was_delivered() -> None:
    async with Market().open() as market:
        await market.add_node(chat_row(model="echo"))
        broken = await market.add_node(chat_row(model="broken"), script=RunScript(fails_after=1), tranche_units=None)
        broken.runner.served = (RunnerModel("broken", ("chat",)),)
        async with gateway_to(market) as http:
            served = await http.post("/chat/completions", json=chat(model="absent", models=["missing", "echo"]))
            failed = await http.post("/chat/completions", json=chat(model="broken", models=["echo"]))
    assert served.status_code == 200 and served.json()["model"] == "echo"
    assert failed.status_code == 502 and failed.json()["model"] == "broken"


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_runner_that_fails_in_mid_answer_is_told_with_what_was_delivered_and_paid(is_streamed: bool) -> None:
    async with Market().open() as market:
        node = await market.add_node(script=RunScript(fails_after=2), tranche_units=None)
        async with gateway_to(market) as http:
            response = await http.post("/chat/completions", json=chat("one two three", stream=is_streamed))
        paid = (await node.wallet.info()).balance_msat
    if is_streamed:
        told = events(response.text)
        assert response.status_code == 200 and "".join(x["choices"][0]["delta"].get("content", "") for x in told)
        last = told[-1]
    else:
        last = response.json()
        assert response.status_code == 502 and last["choices"][0]["message"]["content"] == "one two"
        assert response.headers["x-should-retry"] == "false", "a library must not pay again by itself"
    assert last["error"]["code"] == "runner-failed" and last["choices"][0]["finish_reason"] == "error"
    assert last["usage"]["cost_msat"] == paid > 0
    assert "one" not in last["error"]["message"]


async def test_a_reader_who_leaves_stops_the_runner_and_pays_no_more() -> None:
    async with Market().open() as market:
        node = await market.add_node(script=RunScript(pieces=("word ",) * 4_000, pace_ms=5), tranche_units=16)
        async with gateway_to(market) as http:
            async with http.stream("POST", "/chat/completions", json=chat(stream=True)) as response:
                async for line in response.aiter_lines():
                    if "word" in line:
                        break
            with anyio.fail_after(5):
                while node.runner.counts.running:
                    await anyio.lowlevel.checkpoint()
            with anyio.fail_after(5):
                while not (jobs := await market.client_ledger.find_jobs(JobQuery(side="client"))):
                    await anyio.lowlevel.checkpoint()
                while jobs[0].job.state is JobState.OPEN:
                    jobs = await market.client_ledger.find_jobs(JobQuery(side="client"))
        paid = (await node.wallet.info()).balance_msat
    assert jobs[0].job.state is JobState.CANCELLED
    assert paid == jobs[0].job.charged_msat < 1_000


async def test_preferences_and_an_explanation_go_with_a_request() -> None:
    async with Market().open() as market:
        cheap = await market.add_node(chat_row(output_msat=AmountMsat(1)))
        other = await market.add_node()
        async with gateway_to(market) as http:
            asked = chat(provider={"ignore": [cheap.key.public_key]}, relaymesh={"explain": True, "policy": "cheapest"})
            told = (await http.post("/chat/completions", json=asked)).json()["relaymesh"]
    assert [row["chosen"] for row in told["explanation"]["rows"] if row["node"] == other.key.public_key] == [True]
    assert told["explanation"]["policy"] == "cheapest"


async def test_what_is_the_gateways_own_reaches_no_node() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        async with gateway_to(market) as http:
            asked = chat("x", user="alice", metadata={"a": "b"}, provider={}, relaymesh={}, temperature=0.5, seed=None)
            assert (await http.post("/chat/completions", json=asked)).status_code == 200
        (job,) = await node.ledger.find_jobs(JobQuery(side="node"))
    assert job.job.state is JobState.DONE


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8787"}, 200),
        ({"host": "[::1]"}, 200),
        ({"host": "rebound.example:8787"}, 403),
        ({"host": "127.0.0.1.rebound.example"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "https://mine.example"}, 200),
    ],
)
async def test_a_web_page_of_somebody_else_cannot_spend(headers: dict[str, str], status: int) -> None:
    async with Market().open() as market:
        await market.add_node()
        async with gateway_to(market, origins=("https://mine.example",)) as http:
            response = await http.post("/chat/completions", json=chat(), headers=headers)
            preflight = await http.options(
                "/chat/completions",
                headers={**headers, "access-control-request-method": "POST"},
            )
    assert response.status_code == status
    if "origin" in headers:
        assert response.headers.get("access-control-allow-origin") == (headers["origin"] if status == 200 else None)
        assert preflight.status_code == status
    if status == 403:
        error_of(response)


async def test_pages_that_are_not_there_and_wrong_methods_are_errors_of_the_same_shape() -> None:
    async with Market().open() as market, gateway_to(market) as http:
        absent, wrong = await http.get("/files"), await http.get("/chat/completions")
        large = await http.post("/chat/completions", content=b" " * 4_000_001)
        empty = await http.post("/chat/completions", json=chat())
    assert (absent.status_code, wrong.status_code, large.status_code) == (404, 405, 413)
    assert all(error_of(each)["type"] == "invalid_request_error" for each in (absent, wrong, large))
    assert empty.status_code == 404 and "not offered" in error_of(empty)["message"]


@pytest.mark.parametrize("piece", ['{"delta":{"tool_calls":5}}', '{"delta":"x"}', '{"delta":{"a":1', '{"delta":null}'])
async def test_a_node_that_sends_garbage_is_stopped_and_said_to_have(piece: str) -> None:
    async with Market().open() as market:
        await market.add_node(script=RunScript(pieces=("fine", piece, " canary"), pace_ms=1), tranche_units=None)
        async with gateway_to(market) as http:
            whole = await http.post("/chat/completions", json=chat(max_tokens=200))
            told = events((await http.post("/chat/completions", json=chat(max_tokens=200, stream=True))).text)
    assert whole.status_code == 502 and error_of(whole)["code"] == told[-1]["error"]["code"] == "malformed_output"
    assert error_of(whole) == told[-1]["error"]
    assert "canary" not in json.dumps(told)


async def test_a_ledger_that_cannot_be_written_is_said_and_nothing_is_bought(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(records: tuple[LedgerRecord, ...]) -> None:
        raise LedgerError("the disk is full")

    async with Market().open() as market:
        node = await market.add_node()
        async with gateway_to(market) as http:
            monkeypatch.setattr(market.client_ledger, "write", refuse)
            response = await http.post("/chat/completions", json=chat())
        assert (await node.wallet.info()).balance_msat == 0
    assert response.status_code == 500 and error_of(response)["code"] == "ledger"


async def test_a_gateway_that_stops_gives_up_what_it_is_buying_and_tells_whoever_waits() -> None:
    async with Market().open() as market, market.client() as client:
        node = await market.add_node(script=RunScript(pieces=("word ",) * 4_000, pace_ms=5), tranche_units=16)
        assert await client.market.wait_complete(5)
        stopping = anyio.Event()

        async def serve(*, task_status: anyio.abc.TaskStatus[str]) -> None:
            async with open_gateway(client) as url:
                task_status.started(url)
                await stopping.wait()

        async with httpx.AsyncClient() as http, anyio.create_task_group() as tasks:
            url = await tasks.start(serve)
            asked = chat(stream=True, max_tokens=250)
            async with http.stream("POST", f"{url}/chat/completions", json=asked) as response:
                pieces = response.aiter_text()
                assert "word" in await anext(pieces)
                stopping.set()
                rest = "".join([piece async for piece in pieces])
    assert events(rest)[-1]["error"]["code"] == "cancelled"
    assert node.runner.counts.stopped == 1
    (job,) = await market.client_ledger.find_jobs(JobQuery(side="client"))
    assert job.job.state is JobState.CANCELLED and job.job.charged_msat == (await node.wallet.info()).balance_msat


async def test_a_node_that_fails_before_its_first_output_is_replaced_without_anybody_noticing() -> None:
    free = chat_row(input_msat=AmountMsat(0), output_msat=AmountMsat(0), minimum_msat=AmountMsat(0))
    async with Market().open() as market:
        broken = await market.add_node(free, script=RunScript(fails_after=0))
        sound = await market.add_node()
        async with gateway_to(market) as http:
            asked = chat("one two", stream=True)
            answers = [await http.post("/chat/completions", json=asked) for _ in range(3)]
    assert broken.runner.counts.failed >= 1 and sound.runner.counts.finished == 3
    served = {answer.headers["x-relaymesh-node"] for answer in answers}
    assert served == {encode_public_key(sound.key.public_key)}
    for answer in answers:
        told = events(answer.text)
        assert "".join(each["choices"][0]["delta"].get("content", "") for each in told) == "one two"
        assert not any("error" in each for each in told)
