"""The Python API over a market that is all in memory: everything a program or a notebook can do with it."""

import ast
import inspect
import json
from contextlib import aclosing
from types import CodeType
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import relaymesh
from relaymesh.market.verification import verify_evidence
from relaymesh.nostr.identifiers import encode_public_key
from relaymesh.nostr.keys import verify
from relaymesh.ports import memory_runner
from relaymesh.ports.ledger import JobQuery
from relaymesh.ports.memory_runner import RunScript
from relaymesh.protocol.evidence_files import parse_evidence_text
from relaymesh.units import AmountMsat
from tests.roles.market import Market, MarketNode, chat_row

pytestmark = pytest.mark.anyio

PROMPT = "one two three"


async def wait_idle(node: MarketNode) -> None:
    """Until the node runs nothing; the runs of these tests would take longer by themselves."""
    for _ in range(20_000):  # turns of the loop, in which a clock by hand stands still
        if not node.runner.counts.running:
            return
        await anyio.lowlevel.checkpoint()
    raise AssertionError("the node goes on")


async def test_a_chat_completion_is_awaited_whole(market: Market) -> None:
    node = await market.add_node()
    async with relaymesh.Client() as client:
        answer = await client.chat(PROMPT, output_tokens=32)
    assert answer.text == answer.message["content"] == PROMPT
    assert answer.node == encode_public_key(node.key.public_key) and answer.model == "echo"
    assert answer.cost_msat == (await node.wallet.info()).balance_msat > 0
    assert answer.is_verified and answer.receipt_id and answer.finish_reason == "stop"
    assert (answer.input_tokens, answer.output_tokens) == (3, 3)


async def test_a_chat_completion_comes_piece_by_piece(market: Market) -> None:
    await market.add_node()
    async with relaymesh.Client() as client:
        chat = client.chat([{"role": "user", "content": PROMPT}], model="echo")
        pieces = [piece async for piece in chat]
    assert pieces == ["one", " two", " three"]
    assert chat.answer is not None and chat.answer.text == PROMPT


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # which closes what a loop leaves; trio wants it closed by hand
async def test_leaving_the_loop_stops_the_node_and_pays_for_no_more(market: Market) -> None:
    node = await market.add_node(script=RunScript(pace_ms=200), tranche_units=8)
    async with relaymesh.Client() as client:
        async for _ in client.chat("word " * 50):
            break
        await wait_idle(node)
    async with relaymesh.Client() as client:
        (receipt,) = await client.receipts()
        assert receipt.state == "cancelled" and receipt.charged_msat < 1_000


async def test_closing_an_answer_stops_the_node_too(market: Market) -> None:
    node = await market.add_node(script=RunScript(pace_ms=200), tranche_units=8)
    async with relaymesh.Client() as client:
        async with aclosing(aiter(client.chat("word " * 50))) as pieces:
            assert await anext(pieces) == "word"
        await wait_idle(node)


async def test_two_answers_at_the_same_time_are_not_mixed_up(market: Market) -> None:
    await market.add_node(script=RunScript(pace_ms=5))
    texts: dict[str, str] = {}
    async with relaymesh.Client() as client, anyio.create_task_group() as tasks:

        async def ask(prompt: str) -> None:
            texts[prompt] = "".join([piece async for piece in client.chat(prompt)])

        for number in range(4):
            tasks.start_soon(ask, f"{number} is the number")
    assert all(prompt == text for prompt, text in texts.items()) and len(texts) == 4


async def test_embeddings_come_in_the_order_of_the_texts(market: Market) -> None:
    await market.add_node(chat_row(job_types=("embedding",), output_msat=AmountMsat(0)))
    async with relaymesh.Client() as client:
        both = await client.embed(["an offer", "a quote"])
        one = await client.embed("a quote")
    assert len(both.vectors) == 2 and both.vectors[1] == one.vectors[0] != both.vectors[0]
    assert both.cost_msat > 0


async def test_a_node_that_leaves_an_embedding_out_is_found_out(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    await market.add_node(chat_row(job_types=("embedding",), output_msat=AmountMsat(0)))
    monkeypatch.setattr(memory_runner, "_pieces", lambda *_: ('{"embedding":[1,2]}',))
    async with relaymesh.Client() as client:
        with pytest.raises(relaymesh.NotServed, match="expected 2 embeddings, the node sent 1") as caught:
            await client.embed(["an offer", "a quote"])
        assert caught.value.is_paid and caught.value.cost_msat > 0


async def test_quotes_bind_and_cost_nothing(market: Market) -> None:
    dear = await market.add_node(chat_row(output_msat=AmountMsat(9_000)))
    cheap = await market.add_node(chat_row(output_msat=AmountMsat(1_000)))
    async with relaymesh.Client() as client:
        quotes = await client.quote(PROMPT)
        answer = await client.chat(PROMPT)
    assert {quote.node for quote in quotes} == {encode_public_key(node.key.public_key) for node in (dear, cheap)}
    taken = next(quote for quote in quotes if quote.node == answer.node)
    assert taken.max_msat is not None and answer.cost_msat <= taken.max_msat and "at stake" in taken.settlement


async def test_offers_and_explanations_show_the_market(market: Market) -> None:
    await market.add_node()
    async with relaymesh.Client() as client:
        (offer,) = await client.offers()
        assert (offer.model, offer.unit, offer.output_msat, offer.job_types) == ("echo", "byte", 4_000, ("chat",))
        assert await client.offers("absent") == ()
        explanation = await client.explain(PROMPT)
        assert [row.chosen for row in explanation.rows] == [True]
        assert "model not offered" in (await client.explain(PROMPT, model="absent")).sentence()


async def test_receipts_hold_what_anybody_can_verify(market: Market) -> None:
    await market.add_node()
    async with relaymesh.Client() as client:
        answer = await client.chat(PROMPT)
        (receipt,) = await client.receipts()
    assert (receipt.job_id, receipt.receipt_id, receipt.charged_msat) == (
        answer.job_id,
        answer.receipt_id,
        answer.cost_msat,
    )
    (item,) = parse_evidence_text(json.dumps(receipt.evidence))
    assert verify_evidence(item, verify).holds


async def test_what_nobody_serves_is_an_error_that_says_why_and_that_nothing_was_paid(market: Market) -> None:
    await market.add_node()
    async with relaymesh.Client() as client:
        with pytest.raises(relaymesh.NotServed, match="absent") as caught:
            await client.chat(PROMPT, model="absent")
        assert not caught.value.is_paid and caught.value.cost_msat == 0
        with pytest.raises(relaymesh.NotServed):
            [piece async for piece in client.chat(PROMPT, max_msat=1)]
        with pytest.raises(relaymesh.NotServed):
            await client.quote(PROMPT, model="absent")


async def test_an_answer_that_breaks_off_is_an_error_with_what_came_and_what_it_cost(market: Market) -> None:
    await market.add_node(script=RunScript(fails_after=2), tranche_units=None)
    async with relaymesh.Client() as client:
        chat = client.chat(PROMPT, settlement="prepay")
        pieces: list[str] = []
        with pytest.raises(relaymesh.NotServed) as caught:
            await gather(chat, pieces)
        assert pieces == ["one", " two"] and chat.answer is None
        assert caught.value.partial == "one two" and caught.value.is_paid and caught.value.cost_msat > 0
        assert "one" not in str(caught.value)


async def gather(chat: relaymesh.Chat, pieces: list[str]) -> None:
    async for piece in chat:
        pieces += [piece]


async def test_an_error_leaves_the_block_as_it_is_and_in_no_group(market: Market) -> None:
    await market.add_node()
    for error in (relaymesh.NotServed("for the test"), ZeroDivisionError()):
        with pytest.raises(type(error)) as caught:
            async with relaymesh.Client() as client:
                await client.chat(PROMPT)
                raise error
        assert caught.value is error


async def test_a_deadline_around_an_answer_gives_it_up(market: Market) -> None:
    node = await market.add_node(script=RunScript(first_output_ms=60_000))
    async with relaymesh.Client() as client:
        with anyio.move_on_after(0.5) as scope:
            await client.chat(PROMPT)
        assert scope.cancelled_caught
        await wait_idle(node)


async def test_what_makes_no_sense_is_refused_before_anybody_is_asked(market: Market) -> None:
    await market.add_node()
    async with relaymesh.Client() as client:
        for options in ({"max_msat": 0}, {"settlement": "barter"}, {"policy": "luckiest"}, {"parameters": {"n": 2}}):
            with pytest.raises(relaymesh.UsageError):
                await client.chat(PROMPT, **options)
        with pytest.raises(relaymesh.UsageError, match="JSON"):
            await client.chat(PROMPT, parameters={"stop": object()})
    assert await market.client_ledger.find_evidence() == ()


async def test_outside_of_its_block_a_client_says_so() -> None:
    with pytest.raises(relaymesh.UsageError, match="async with"):
        await relaymesh.Client().chat(PROMPT)


async def test_the_next_answer_comes_from_the_session_of_the_last(market: Market) -> None:
    node = await market.add_node()
    async with relaymesh.Client() as client:
        for _ in range(3):
            await client.chat(PROMPT)
    assert len({job.job.session_id for job in await node.ledger.find_jobs(JobQuery())}) == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # which notebooks run on
async def test_a_notebook_cell_runs_it_in_the_loop_that_is_there(market: Market) -> None:
    await market.add_node()
    cell = """
import relaymesh
async with relaymesh.Client() as client:
    answer = await client.chat("one two three")
    streamed = [piece async for piece in client.chat("four five")]
"""
    code = compile(cell, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)  # as IPython does
    names: dict[str, Any] = {}
    assert isinstance(code, CodeType)
    cell_run = eval(code, names)
    assert inspect.iscoroutine(cell_run)
    await cell_run
    assert names["answer"].text == PROMPT and names["streamed"] == ["four", " five"]
