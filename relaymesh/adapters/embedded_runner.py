"""The embedded engine as a runner: llama.cpp in a process of its own, behind a unix socket that only we can reach.

RM-02, "Jobs". The process listens on no TCP port; its socket lies in a folder of mode 0700. It is spoken to by the very
code that speaks to any OpenAI-compatible server. It ends with this program, however that ends; if it dies by itself,
its running jobs fail with RunnerError and the next use starts another one.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Self

import anyio
import anyio.abc
import anyio.to_thread
import orjson

from relaymesh.adapters import embedded_engine
from relaymesh.adapters.openai_runner import OpenAiRunner
from relaymesh.errors import RunnerError
from relaymesh.ports.runners import RunItem, RunnerModel, RunRequest
from relaymesh.units import MILLISECONDS_PER_SECOND

BUNDLED_MODEL_NAME: Final = "relaymesh-tiny"
BUNDLED_MODEL_FILE: Final = "relaymesh-tiny.gguf"
BUNDLED_SENTENCES_FILE: Final = "embedding-sentences.txt"
JOB_TYPES: Final = ("chat", "completion", "embedding")

DEATH_GRACE_SECONDS: Final = 0.3
STOP_GRACE_SECONDS: Final = 0.5
STOP_DEADLINE_SECONDS: Final = 1.5
MAXIMUM_SOCKET_PATH: Final = 100
"""The kernel takes 108 bytes, some systems 104."""
MAXIMUM_ANSWER_BYTES: Final = 65_536


def bundled_model_path() -> Path:
    """The demonstration model that ships inside the package (see examples/tiny_model)."""
    return Path(str(resources.files("relaymesh") / "assets" / BUNDLED_MODEL_FILE))


def bundled_sentences() -> tuple[str, ...]:
    """The sentences that ship inside the package, for the demonstration's batch of embeddings."""
    text = (resources.files("relaymesh") / "assets" / BUNDLED_SENTENCES_FILE).read_text(encoding="utf-8")
    return tuple(text.strip().splitlines())


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """How the embedded engine runs.

    Args:
        model_name: What requests call the model.
        threads: Computing threads; one leaves shared cores to the others.
        context_limit: Tokens of prompt and output of one job.
        parallel_jobs: Jobs computed at the same time; further ones wait in the engine.
        start_timeout_ms: For the process to load the model.
    """

    model_name: str = BUNDLED_MODEL_NAME
    threads: int = 1
    context_limit: int = 1_024
    parallel_jobs: int = 4
    start_timeout_ms: int = 60_000


class EmbeddedRunner:
    """llama.cpp with one model; made by `EmbeddedRunner.start`. It listens at `socket_path` and nowhere else."""

    def __init__(self, model_path: Path, settings: EmbeddedSettings, folder: Path) -> None:
        self._model_path = model_path
        self._settings = settings
        self.socket_path = folder / "engine.sock"
        self._server = OpenAiRunner("http://embedded", job_types=JOB_TYPES, socket_path=str(self.socket_path))
        self._process: anyio.abc.Process | None = None
        self._starting = anyio.Lock()
        self._is_doubtful = False
        self._engine_name = "llama.cpp"
        self._weights_sha256: str | None = None

    @classmethod
    @asynccontextmanager
    async def start(
        cls, model_path: Path | None = None, settings: EmbeddedSettings | None = None
    ) -> AsyncIterator[Self]:
        """Run the engine while the block lasts.

        Args:
            model_path: A GGUF file; None takes the demonstration model in the package.
            settings: How to run it.

        Raises:
            RunnerError: The engine cannot be started with this model.
        """
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(TemporaryDirectory(prefix="relaymesh-", ignore_cleanup_errors=True))
            runner = cls(model_path or bundled_model_path(), settings or EmbeddedSettings(), Path(folder))
            await stack.enter_async_context(runner._server)
            stack.push_async_callback(runner._stop)
            await runner._ensure_running()
            yield runner

    @property
    def process_id(self) -> int | None:
        """The engine's process; None while there is none."""
        return self._process.pid if self._process is not None and _is_alive(self._process) else None

    async def models(self) -> tuple[RunnerModel, ...]:
        """The one model, with its context, quantization, engine and the hash of its file."""
        await self._ensure_running()
        if self._weights_sha256 is None:
            self._weights_sha256 = await anyio.to_thread.run_sync(_hash_file, self._model_path)
        return tuple(
            replace(model, engine=self._engine_name, weights_sha256=self._weights_sha256)
            for model in await self._server.models()
        )

    def run(self, request: RunRequest) -> AbstractAsyncContextManager[AsyncIterator[RunItem]]:
        """Run one job, starting the engine again first if it has died."""
        return aclosing(self._run_items(request))

    async def count_input_tokens(self, request: RunRequest) -> int | None:
        """llama.cpp's own count, chat template included."""
        await self._ensure_running()
        return await self._server.count_input_tokens(request)

    async def _run_items(self, request: RunRequest) -> AsyncGenerator[RunItem, None]:
        if request.model != self._settings.model_name:
            raise RunnerError(f"this engine runs {self._settings.model_name!r}; {request.model!r} was asked for")
        await self._ensure_running()
        try:
            async with self._server.run(request) as items:
                async for item in items:
                    yield item
        except RunnerError as error:
            self._is_doubtful = error.retryable
            raise

    async def _ensure_running(self) -> None:
        async with self._starting:
            if self._is_doubtful and self._process is not None:
                # A dying process closes its connections a moment before the kernel calls it dead.
                with anyio.move_on_after(DEATH_GRACE_SECONDS):
                    await self._process.wait()
                self._is_doubtful = False
            if self._process is None or not _is_alive(self._process):
                await self._stop()
                try:
                    await self._start_process()
                except BaseException:
                    # Killed, not asked to end: an engine that is asked tidies its folder away, which is still needed.
                    if self._process is not None and self._process.returncode is None:
                        self._process.kill()
                    await self._stop()
                    raise

    async def _start_process(self) -> None:
        if not self._model_path.is_file():
            raise RunnerError(f"there is no model file {self._model_path.name}; give the path of a GGUF file")
        if len(os.fsencode(self.socket_path)) > MAXIMUM_SOCKET_PATH:
            raise RunnerError("the folder for temporary files has too long a path for a socket; set TMPDIR shorter")
        self.socket_path.unlink(missing_ok=True)
        # By its path and without the working folder in the module path: what lies there must not be imported.
        # In a session of its own, Ctrl-C at a terminal reaches us alone, and we end it.
        self._process = await anyio.open_process(
            [sys.executable, "-P", embedded_engine.__file__], stderr=subprocess.DEVNULL, start_new_session=True
        )
        with anyio.move_on_after(self._settings.start_timeout_ms / MILLISECONDS_PER_SECOND):
            answer = await self._exchange(self._process)
            if "version" in answer:
                self._engine_name = f"llama.cpp (xllamacpp {answer['version']})"
                return
            reason = str(answer.get("error", "it ended without a word"))
            raise RunnerError(f"the embedded engine could not load {self._model_path.name}: {reason[:200]}")
        raise RunnerError(f"the embedded engine did not load {self._model_path.name} in time", retryable=True)

    async def _exchange(self, process: anyio.abc.Process) -> dict[str, object]:
        assert process.stdin is not None and process.stdout is not None
        settings = asdict(self._settings)
        settings |= {"model_path": str(self._model_path), "socket_path": str(self.socket_path)}
        answer = b""
        try:
            await process.stdin.send(orjson.dumps(settings) + b"\n")
            while not answer.endswith(b"\n") and len(answer) < MAXIMUM_ANSWER_BYTES:
                answer += await process.stdout.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            return {}
        value = orjson.loads(answer)
        return value if isinstance(value, dict) else {}

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # Shielded, so that a cancelled program leaves no process behind; bounded, so that it still ends in time.
        with anyio.move_on_after(STOP_DEADLINE_SECONDS, shield=True):
            assert process.stdin is not None
            await process.stdin.aclose()
            with anyio.move_on_after(STOP_GRACE_SECONDS):
                await process.wait()
            if process.returncode is None:
                process.kill()
            await process.aclose()


def _is_alive(process: anyio.abc.Process) -> bool:
    """Whether the process still runs, by the kernel's word: the event loop learns of a death only later."""
    if process.returncode is not None:
        return False
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
