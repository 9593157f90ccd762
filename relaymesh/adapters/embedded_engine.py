"""The process that holds llama.cpp: a program of its own, started by `embedded_runner` and by nobody else.

It is run by its path, imports nothing of RelayMesh and serves llama.cpp's HTTP on one unix socket, on no TCP port. Its
first line of standard input is a JSON object of settings; its only line of standard output says that it is ready or
why not. It ends when standard input ends, so it never outlives the program that started it, however that one ends.
What llama.cpp itself prints is thrown away: it could contain prompts.
"""

import contextlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any


def main() -> int:
    """Serve until standard input ends."""
    os.umask(0o077)
    answers = take_standard_output()
    settings = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=end_with_input, args=(settings["socket_path"],), daemon=True).start()
    try:
        import xllamacpp

        server = xllamacpp.Server(engine_parameters(xllamacpp, settings))
        answer = {"address": server.listening_address, "version": str(xllamacpp.__version__)}
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    os.write(answers, json.dumps(answer).encode() + b"\n")
    if "error" in answer:
        return 1
    threading.Event().wait()
    return 0


def take_standard_output() -> int:
    """Keep standard output for our one line, as the descriptor returned, and point both outputs at nothing."""
    answers = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.close(nothing)
    return answers


def end_with_input(socket_path: str) -> None:
    """Wait until whoever started us closes our input or dies, then end at once, whatever is running.

    Whoever was killed could not tidy up, so the socket and its folder, which holds nothing else, go with us.
    """
    while sys.stdin.buffer.read(4_096):
        pass
    with contextlib.suppress(OSError):
        Path(socket_path).unlink()
        Path(socket_path).parent.rmdir()
    os._exit(0)


def engine_parameters(xllamacpp: Any, settings: dict[str, Any]) -> Any:
    """Settings in llama.cpp's words; no prompt is kept once its job is over, so one buyer never meets another's."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = settings["model_path"]
    parameters.model_alias = {settings["model_name"]}
    parameters.hostnames = [settings["socket_path"]]
    parameters.cpuparams.n_threads = settings["threads"]
    parameters.cpuparams_batch.n_threads = settings["threads"]
    parameters.n_parallel = settings["parallel_jobs"]
    parameters.n_threads_http = settings["parallel_jobs"] + 4
    parameters.n_ctx = settings["context_limit"] * settings["parallel_jobs"]
    # An embedding's whole input has to fit into one physical batch.
    parameters.n_batch = parameters.n_ubatch = max(512, min(settings["context_limit"], 8_192))
    parameters.embedding = True
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    parameters.cache_prompt = False
    parameters.cache_ram_mib = 0
    parameters.endpoint_slots = False
    parameters.ui = False
    return parameters


if __name__ == "__main__":
    sys.exit(main())
