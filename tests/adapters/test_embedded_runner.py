"""The embedded engine with the model that ships in the package: what it says, where it listens, how it ends."""

import json
import math
import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from relaymesh.adapters.embedded_runner import (
    BUNDLED_MODEL_NAME,
    EmbeddedRunner,
    EmbeddedSettings,
    bundled_model_path,
    bundled_sentences,
)
from relaymesh.errors import RunnerError, RunnerRefused
from relaymesh.ports.runners import RunnerModel, RunRequest
from tests.conformance.runners.rules import RULES, Rule, RunnerUnderTest, run_whole

pytestmark = pytest.mark.anyio

OWNER_PROGRAM = """
import anyio
from relaymesh.adapters.embedded_runner import EmbeddedRunner

async def own():
    async with EmbeddedRunner.start() as runner:
        print(runner.process_id, runner.socket_path, flush=True)
        await anyio.sleep_forever()

anyio.run(own)
"""


@pytest.fixture(scope="module")
async def runner() -> AsyncIterator[EmbeddedRunner]:
    async with EmbeddedRunner.start() as runner:
        yield runner


def chat(question: str, maximum_output_tokens: int = 128, **fields: object) -> RunRequest:
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0} | fields
    return RunRequest(BUNDLED_MODEL_NAME, "chat", json.dumps(body), maximum_output_tokens)


def embed(texts: list[str]) -> RunRequest:
    return RunRequest(BUNDLED_MODEL_NAME, "embedding", json.dumps({"input": texts}), 0)


def process_of(runner: EmbeddedRunner) -> int:
    process_id = runner.process_id
    assert process_id is not None
    return process_id


async def wait_end(process_descriptor: int) -> None:
    """Wait until the process behind a pidfd has ended; the kernel says so by making the descriptor readable."""
    with anyio.fail_after(10):
        await anyio.wait_readable(process_descriptor)
    os.close(process_descriptor)


def has_ended(process_descriptor: int) -> bool:
    """Whether the process behind a pidfd has ended already."""
    try:
        return bool(select.select([process_descriptor], [], [], 0)[0])
    finally:
        os.close(process_descriptor)


def sockets_of(process_id: int) -> set[str]:
    """The inodes of a process's open sockets."""
    targets = [str(descriptor.readlink()) for descriptor in Path(f"/proc/{process_id}/fd").iterdir()]
    return {target[8:-1] for target in targets if target.startswith("socket:[")}


def inodes_in(table: str, column: int) -> dict[str, list[str]]:
    """One of the kernel's socket tables, by inode."""
    rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return {row[column]: row for row in rows}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_the_embedded_runner_conforms(rule: Rule, runner: EmbeddedRunner) -> None:
    await rule(RunnerUnderTest(runner, model=BUNDLED_MODEL_NAME))


async def test_it_answers_what_relaymesh_is_with_a_readable_sentence(runner: EmbeddedRunner) -> None:
    data, finished = await run_whole(runner, chat("What is RelayMesh?"))
    answer = "".join(data)
    assert answer.startswith("RelayMesh is an open market for AI inference that nobody owns.")
    assert answer.endswith(".")
    assert finished.finish_reason == "stop"
    assert finished.output_tokens >= len(data)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("How does RelayMesh work?", ("offers", "quote", "session", "Lightning")),
        ("What does a node do?", ("node", "inference")),
        ("How are nodes paid?", ("Lightning", "invoice")),
        ("can relays read my prompts", ("prompt",)),
        ("In one sentence: what is a receipt?", ("receipt", "signed")),
        ("Please explain what a quote is.", ("quote", "signed")),
        ("What is the capital of France?", ("RelayMesh",)),
    ],
)
async def test_it_answers_related_questions_sensibly(
    question: str, words: tuple[str, ...], runner: EmbeddedRunner
) -> None:
    data, finished = await run_whole(runner, chat(question))
    answer = "".join(data)
    assert all(word in answer for word in words), answer
    assert finished.finish_reason == "stop"


async def test_the_sentences_in_the_package_are_embedded_in_one_batch(runner: EmbeddedRunner) -> None:
    sentences = bundled_sentences()
    assert len(sentences) >= 16
    data, finished = await run_whole(runner, embed(list(sentences)))
    vectors = [json.loads(piece)["embedding"] for piece in data]
    assert len(vectors) == len(sentences)
    assert finished.input_tokens >= len(sentences)
    assert all(math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-3) for vector in vectors)


async def test_sentences_about_the_same_thing_are_nearer_than_others(runner: EmbeddedRunner) -> None:
    texts = ["The client pays the invoice.", "The client pays an invoice now.", "Frames are padded to 256 bytes."]
    data, _ = await run_whole(runner, embed(texts))
    first, near, far = (json.loads(piece)["embedding"] for piece in data)
    assert sum(map(float.__mul__, first, near)) > sum(map(float.__mul__, first, far))


async def test_it_says_what_it_is(runner: EmbeddedRunner) -> None:
    (model,) = await runner.models()
    assert model == RunnerModel(
        name=BUNDLED_MODEL_NAME,
        job_types=("chat", "completion", "embedding"),
        context_limit=1_024,
        quantization="q8_0",
        engine=model.engine,
        weights_sha256=model.weights_sha256,
    )
    assert model.engine is not None and model.engine.startswith("llama.cpp (xllamacpp ")
    assert model.weights_sha256 is not None and len(model.weights_sha256) == 64


def test_the_model_file_is_small_and_labelled_for_what_it_is() -> None:
    content = bundled_model_path().read_bytes()
    assert len(content) <= 6_000_000
    assert b"RelayMesh Tiny (demonstration model)" in content[:4_096]


async def test_it_listens_on_one_unix_socket_and_on_no_network_port(runner: EmbeddedRunner) -> None:
    await run_whole(runner, chat("What is a node?", 4))
    sockets = sockets_of(process_of(runner))
    assert sockets
    for table in ("tcp", "tcp6", "udp", "udp6"):
        assert not sockets & inodes_in(table, 9).keys()
    listening = [row for inode, row in inodes_in("unix", 6).items() if inode in sockets and len(row) > 7]
    (path,) = {Path(row[7]) for row in listening}
    assert path == runner.socket_path
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


async def test_a_prompt_beyond_the_context_is_refused(runner: EmbeddedRunner) -> None:
    with pytest.raises(RunnerRefused):
        await run_whole(runner, chat("offer " * 2_000))


async def test_when_the_engine_is_killed_its_job_fails_and_the_next_one_gets_a_new_engine() -> None:
    async with EmbeddedRunner.start() as runner:
        killed = process_of(runner)
        with anyio.fail_after(10), pytest.raises(RunnerError) as raised:
            async with runner.run(chat("Tell me about sessions.", 900, ignore_eos=True)) as items:
                await anext(items)
                os.kill(killed, signal.SIGKILL)
                async for _item in items:
                    pass
        assert not isinstance(raised.value, RunnerRefused)
        assert raised.value.retryable
        data, _ = await run_whole(runner, chat("What is RelayMesh?"))
        assert data
        assert process_of(runner) != killed


async def test_an_engine_that_died_between_jobs_is_replaced_without_a_failure() -> None:
    async with EmbeddedRunner.start() as runner:
        ended = os.pidfd_open(process_of(runner))
        os.kill(process_of(runner), signal.SIGKILL)
        await wait_end(ended)
        data, _ = await run_whole(runner, chat("What is RelayMesh?"))
        assert data


async def test_leaving_the_block_ends_the_process_and_removes_its_folder() -> None:
    async with EmbeddedRunner.start() as runner:
        ended = os.pidfd_open(process_of(runner))
        assert runner.socket_path.is_socket()
    assert has_ended(ended)
    assert not runner.socket_path.parent.exists()
    assert runner.process_id is None


async def test_an_engine_that_hangs_is_ended_within_two_seconds() -> None:
    started = anyio.current_time()
    async with EmbeddedRunner.start() as runner:
        ended = os.pidfd_open(process_of(runner))
        os.kill(process_of(runner), signal.SIGSTOP)
        started = anyio.current_time()
    assert anyio.current_time() - started < 2
    assert has_ended(ended)


async def test_cancelling_ends_the_process_too() -> None:
    ended = -1
    with anyio.fail_after(10):
        with anyio.CancelScope() as scope:
            async with EmbeddedRunner.start() as runner:
                ended = os.pidfd_open(process_of(runner))
                async with runner.run(chat("Tell me about sessions.", 900, ignore_eos=True)) as items:
                    await anext(items)
                    scope.cancel()
                    await anyio.sleep_forever()
        assert scope.cancelled_caught
    assert has_ended(ended)


async def test_the_engine_ends_when_its_owner_is_killed() -> None:
    async with await anyio.open_process([sys.executable, "-c", OWNER_PROGRAM], stderr=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        with anyio.fail_after(20):
            line = b""
            while not line.endswith(b"\n"):
                line += await owner.stdout.receive()
        process_id, socket_path = line.decode().split()
        assert Path(socket_path).is_socket()
        ended = os.pidfd_open(int(process_id))
        owner.kill()
        await owner.wait()
        await wait_end(ended)
    assert not Path(socket_path).parent.exists()


async def test_a_model_that_cannot_be_loaded_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"GGUF" + bytes(100))
    for path in (garbage, tmp_path / "missing.gguf"):
        with pytest.raises(RunnerError, match=path.name):
            async with EmbeddedRunner.start(path):
                pass


async def test_settings_choose_name_and_context() -> None:
    settings = EmbeddedSettings(model_name="mine", context_limit=256, parallel_jobs=1)
    async with EmbeddedRunner.start(settings=settings) as runner:
        (model,) = await runner.models()
    assert (model.name, model.context_limit) == ("mine", 256)
