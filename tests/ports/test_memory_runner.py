"""The memory runner keeps to the port's rules and to its script."""

import json

import anyio
import pytest
from trio.testing import MockClock

from relaymesh.errors import RunnerError, RunnerRefused
from relaymesh.ports.memory_runner import MemoryRunner, RunScript
from relaymesh.ports.runners import RunFinished, RunnerModel, RunOutput, RunRequest
from tests.conformance.runners.rules import RULES, Rule, RunnerUnderTest, run_whole

pytestmark = pytest.mark.anyio

ECHO = RunRequest("echo", "chat", json.dumps({"messages": [{"role": "user", "content": "one two three"}]}), 16)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_the_memory_runner_conforms(rule: Rule) -> None:
    await rule(RunnerUnderTest(MemoryRunner(), model="echo"))


async def test_it_echoes_the_last_message_word_by_word() -> None:
    data, finished = await run_whole(MemoryRunner(), ECHO)
    assert data == ["one", " two", " three"]
    assert finished == RunFinished(input_tokens=3, output_tokens=3, finish_reason="stop")


async def test_it_says_what_its_script_says() -> None:
    data, _ = await run_whole(MemoryRunner(RunScript(pieces=("yes", ", indeed"))), ECHO)
    assert data == ["yes", ", indeed"]


async def test_a_model_may_have_a_script_of_its_own() -> None:
    served = (RunnerModel("quick", ("chat",)), RunnerModel("mute", ("chat",)))
    runner = MemoryRunner(served=served, scripts={"mute": RunScript(refuses=True)})
    data, _ = await run_whole(runner, RunRequest("quick", "chat", ECHO.body, 16))
    assert data
    with pytest.raises(RunnerRefused):
        await run_whole(runner, RunRequest("mute", "chat", ECHO.body, 16))


@pytest.mark.parametrize("fails_after", [0, 1, 2, 3, 9])
async def test_it_fails_after_as_many_outputs_as_its_script_says(fails_after: int) -> None:
    runner = MemoryRunner(RunScript(fails_after=fails_after))
    outputs = 0
    with pytest.raises(RunnerError):
        async with runner.run(ECHO) as items:
            async for item in items:
                assert isinstance(item, RunOutput)
                outputs += 1
    assert outputs == min(fails_after, 3)
    assert (runner.counts.failed, runner.counts.stopped, runner.counts.running) == (1, 0, 0)


async def test_it_counts_runs_that_were_left() -> None:
    runner = MemoryRunner()
    async with runner.run(ECHO) as items:
        await anext(items)
        assert runner.counts.running == 1
    await run_whole(runner, ECHO)
    assert (runner.counts.stopped, runner.counts.finished, runner.counts.running) == (1, 1, 0)


async def test_a_runner_that_cannot_count_says_so() -> None:
    assert await MemoryRunner(RunScript(counts_input=False)).count_input_tokens(ECHO) is None


def test_on_a_virtual_clock_an_hour_of_output_takes_no_time() -> None:
    async def watch() -> tuple[float, float]:
        runner = MemoryRunner(RunScript(pieces=("tick",) * 4, first_output_ms=1_000, pace_ms=1_200_000))
        started = anyio.current_time()
        async with runner.run(ECHO) as items:
            await anext(items)
            first = anyio.current_time() - started
            async for _item in items:
                pass
        return first, anyio.current_time() - started

    clock = MockClock(autojump_threshold=0)
    assert anyio.run(watch, backend="trio", backend_options={"clock": clock}) == (1.0, 3_601.0)
