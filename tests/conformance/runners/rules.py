"""What every runner keeps to: plain async functions, to be run against one's own.

from tests.conformance.runners.rules import RULES, RunnerUnderTest

@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_my_runner(rule):
    async with my_runner() as runner:
        await rule(RunnerUnderTest(runner, model="name"))
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import pytest

from relaymesh.errors import RunnerError, RunnerRefused
from relaymesh.ports.runners import RunFinished, RunItem, Runner, RunOutput, RunRequest

DEADLINE_SECONDS = 20.0


@dataclass(frozen=True)
class RunnerUnderTest:
    """A runner with one model that can chat, complete and embed, and says at least five tokens to `prompt`."""

    runner: Runner
    model: str
    prompt: str = "What is RelayMesh? Please tell me about it."

    def request(self, job_type: str, body: dict[str, object], maximum_output_tokens: int = 64) -> RunRequest:
        """A job for the model."""
        return RunRequest(self.model, job_type, json.dumps(body), maximum_output_tokens)

    def chat(self, maximum_output_tokens: int = 64) -> RunRequest:
        """A chat with one question, decided by no chance."""
        body = {"messages": [{"role": "user", "content": self.prompt}], "temperature": 0}
        return self.request("chat", body, maximum_output_tokens)


Rule = Callable[[RunnerUnderTest], Awaitable[None]]


async def run_whole(runner: Runner, request: RunRequest) -> tuple[list[str], RunFinished]:
    """Run a job to its end: its output data and its closing item, which has to come last and once."""
    with anyio.fail_after(DEADLINE_SECONDS):
        async with runner.run(request) as stream:
            items: list[RunItem] = [item async for item in stream]
    *outputs, finished = items
    assert isinstance(finished, RunFinished)
    data = [item.data for item in outputs if isinstance(item, RunOutput)]
    assert len(data) == len(outputs)
    return data, finished


async def a_runner_names_its_models(subject: RunnerUnderTest) -> None:
    model = next(model for model in await subject.runner.models() if model.name == subject.model)
    assert {"chat", "completion", "embedding"} <= set(model.job_types)
    assert model.context_limit is None or model.context_limit > 0


async def a_chat_streams_pieces_and_then_finishes_once(subject: RunnerUnderTest) -> None:
    data, finished = await run_whole(subject.runner, subject.chat())
    assert len(data) > 1
    assert all(data)
    assert finished.input_tokens > 0
    assert 0 < finished.output_tokens <= 64
    assert finished.finish_reason in ("stop", "length")


async def a_completion_streams_pieces_and_then_finishes_once(subject: RunnerUnderTest) -> None:
    request = subject.request("completion", {"prompt": subject.prompt, "temperature": 0})
    data, finished = await run_whole(subject.runner, request)
    assert all(data)
    assert finished.input_tokens > 0


async def output_stops_at_the_limit_whatever_the_body_asks_for(subject: RunnerUnderTest) -> None:
    body = {"messages": [{"role": "user", "content": subject.prompt}], "temperature": 0}
    for asked in ({}, {"max_tokens": 1_000}, {"max_completion_tokens": 1_000}, {"n_predict": 1_000}):
        data, finished = await run_whole(subject.runner, subject.request("chat", body | asked, 3))
        assert len(data) <= 3
        assert finished.output_tokens <= 3
        assert finished.finish_reason == "length"


async def a_body_may_ask_for_less_than_the_limit_but_openai_fields_alone_decide(subject: RunnerUnderTest) -> None:
    body = {
        "messages": [{"role": "user", "content": subject.prompt}],
        "model": "another",
        "stream": False,
        "temperature": 0,
    }
    data, _ = await run_whole(subject.runner, subject.request("chat", body, 64))
    assert len(data) > 1


async def embeddings_come_one_piece_per_input_in_order(subject: RunnerUnderTest) -> None:
    inputs = ["an offer", "a quote", "a receipt"]
    data, finished = await run_whole(subject.runner, subject.request("embedding", {"input": inputs}, 0))
    items = [json.loads(piece) for piece in data]
    assert [item["index"] for item in items] == [0, 1, 2]
    assert all(item["object"] == "embedding" and item["embedding"] for item in items)
    assert len({len(item["embedding"]) for item in items}) == 1
    assert finished.output_tokens == 0
    single, _ = await run_whole(subject.runner, subject.request("embedding", {"input": "an offer"}, 0))
    assert json.loads(single[0])["embedding"] == pytest.approx(items[0]["embedding"], abs=1e-3)


async def a_body_that_is_no_job_is_refused_without_being_quoted(subject: RunnerUnderTest) -> None:
    bodies = [
        ("chat", "canary-prompt is no JSON"),
        ("chat", '["canary-prompt"]'),
        ("chat", '{"messages": "canary-prompt"}'),
        ("chat", '{"messages": []}'),
        ("completion", '{"prompt": {"canary-prompt": 1}}'),
        ("embedding", '{"input": {"canary-prompt": 1}}'),
        ("embedding", '{"input": []}'),
    ]
    for job_type, body in bodies:
        with pytest.raises(RunnerRefused) as refusal:
            await run_whole(subject.runner, RunRequest(subject.model, job_type, body, 8))
        assert "canary" not in str(refusal.value)
        assert "canary" not in repr(refusal.value.__cause__)


async def an_unknown_model_is_an_error(subject: RunnerUnderTest) -> None:
    request = RunRequest("no-such-model", "chat", subject.chat().body, 8)
    with pytest.raises(RunnerError):
        await run_whole(subject.runner, request)


async def leaving_a_run_early_leaves_the_runner_usable(subject: RunnerUnderTest) -> None:
    for _ in range(3):
        async with subject.runner.run(subject.chat()) as items:
            async for _item in items:
                break
    data, _ = await run_whole(subject.runner, subject.chat())
    assert len(data) > 1


async def a_run_that_is_never_read_does_nothing(subject: RunnerUnderTest) -> None:
    async with subject.runner.run(subject.chat()):
        pass


async def jobs_run_side_by_side_and_do_not_mix(subject: RunnerUnderTest) -> None:
    alone, _ = await run_whole(subject.runner, subject.chat())
    answers: list[str] = []

    async def ask() -> None:
        data, _ = await run_whole(subject.runner, subject.chat())
        answers.append("".join(data))

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(ask)
    assert answers == ["".join(alone)] * 6


async def input_tokens_are_counted_as_the_engine_will_count_them(subject: RunnerUnderTest) -> None:
    counted = await subject.runner.count_input_tokens(subject.chat())
    _, finished = await run_whole(subject.runner, subject.chat())
    assert counted in (None, finished.input_tokens)


async def a_cancelled_run_ends_at_once(subject: RunnerUnderTest) -> None:
    with anyio.fail_after(2):
        with anyio.CancelScope() as scope:
            async with subject.runner.run(subject.chat()) as items:
                async for _item in items:
                    scope.cancel()
                    await anyio.sleep_forever()
        assert scope.cancelled_caught


RULES: tuple[Rule, ...] = (
    a_runner_names_its_models,
    a_chat_streams_pieces_and_then_finishes_once,
    a_completion_streams_pieces_and_then_finishes_once,
    output_stops_at_the_limit_whatever_the_body_asks_for,
    a_body_may_ask_for_less_than_the_limit_but_openai_fields_alone_decide,
    embeddings_come_one_piece_per_input_in_order,
    a_body_that_is_no_job_is_refused_without_being_quoted,
    an_unknown_model_is_an_error,
    leaving_a_run_early_leaves_the_runner_usable,
    a_run_that_is_never_read_does_nothing,
    jobs_run_side_by_side_and_do_not_mix,
    input_tokens_are_counted_as_the_engine_will_count_them,
    a_cancelled_run_ends_at_once,
)
