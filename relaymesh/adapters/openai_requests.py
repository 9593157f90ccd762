"""From a JOB's body to the call that an OpenAI-compatible server gets (RM-02, "Jobs").

The body is the buyer's and hostile: what decides model, streaming, the number of choices and the output limit is
written by us, engine-specific ways around them are taken out, and every other field passes to the engine untouched.
Nothing that is raised here quotes the body.
"""

from dataclasses import dataclass
from typing import Final

import orjson

from relaymesh.errors import LocalProtocolError, RunnerRefused
from relaymesh.ports.runners import RunRequest

PATHS: Final = {"chat": "chat/completions", "completion": "completions", "embedding": "embeddings"}
"""The job types an OpenAI-compatible server runs, and where."""

OUTPUT_LIMIT_FIELDS: Final = ("max_tokens", "max_completion_tokens")

OVERRIDING_FIELDS: Final = (
    "n_predict",  # llama.cpp prefers it to max_tokens
    "num_predict",
    "max_new_tokens",
    "n_cmpl",  # llama.cpp's other name for n
    "best_of",
    "echo",
    "id_slot",  # llama.cpp: would let one buyer read another's cache
    "slot_id",
    "response_fields",
    "return_progress",
    "timings_per_token",
    "lora",
    "options",  # Ollama's own door to the engine's settings
    "keep_alive",
)
"""Engine-specific fields that would change what the answer looks like, costs or touches."""


@dataclass(frozen=True, slots=True)
class OpenAiCall:
    """One call to a model server.

    Args:
        path: Below the base URL.
        body: What is sent, JSON.
        output_limit: Tokens the answer may have; 0 for embeddings.
        input_count: How many embeddings are asked for; 0 otherwise.
        prompt_bytes: UTF-8 length of the prompt, for a server that does not count.
    """

    path: str
    body: bytes
    output_limit: int
    input_count: int
    prompt_bytes: int


def build_call(request: RunRequest) -> OpenAiCall:
    """The call for one job.

    Raises:
        RunnerRefused: The body is not a job of that type, or asks for what one answer cannot hold.
    """
    if request.job_type not in PATHS:
        raise RunnerRefused(f"this runner serves {', '.join(PATHS)}; a {request.job_type!r} job came")
    fields = read_body(request)
    for name in OVERRIDING_FIELDS:
        fields.pop(name, None)
    fields["model"] = request.model
    if request.job_type == "embedding":
        return _embedding_call(fields)
    return _generating_call(fields, request)


def read_body(request: RunRequest) -> dict[str, object]:
    """The body as a JSON object; RunnerRefused for anything else."""
    try:
        fields = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        # Not chained: the decoder's error carries the whole text, which is the buyer's prompt.
        raise RunnerRefused("expected the job's body to be JSON, what came is not; send a JSON object") from None
    if not isinstance(fields, dict):
        raise RunnerRefused("expected the job's body to be a JSON object; send one with the OpenAI API's fields")
    return fields


def count_inputs(value: object) -> int:
    """How many embeddings an `input` field asks for: a text or token list is one; RunnerRefused if it is neither."""
    if isinstance(value, str):
        return 1
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return 1
        if all(isinstance(item, str | list) for item in value):
            return len(value)
    raise RunnerRefused("expected input to be a text or a non-empty list of texts; send it so")


def _embedding_call(fields: dict[str, object]) -> OpenAiCall:
    input_value = fields.get("input")
    input_count = count_inputs(input_value)
    fields.pop("stream", None)
    fields.pop("stream_options", None)
    return OpenAiCall(
        path=PATHS["embedding"],
        body=orjson.dumps(fields),
        output_limit=0,
        input_count=input_count,
        prompt_bytes=len(orjson.dumps(input_value)),
    )


def _generating_call(fields: dict[str, object], request: RunRequest) -> OpenAiCall:
    prompt = _prompt(fields, request.job_type)
    if fields.get("n") not in (None, 1):
        raise RunnerRefused("expected n to be 1, one answer per job; send one job for each answer")
    fields["n"] = 1
    output_limit = _output_limit(fields, request.maximum_output_tokens)
    # Both names where both may be known: a server that knows only `max_tokens` must be bounded too.
    if fields.get("max_completion_tokens") is not None:
        fields["max_completion_tokens"] = output_limit
    fields["max_tokens"] = output_limit
    fields["stream"] = True
    fields["stream_options"] = {"include_usage": True}
    return OpenAiCall(
        path=PATHS[request.job_type],
        body=orjson.dumps(fields),
        output_limit=output_limit,
        input_count=0,
        prompt_bytes=len(orjson.dumps(prompt)),
    )


def _prompt(fields: dict[str, object], job_type: str) -> object:
    if job_type == "chat":
        messages = fields.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
            raise RunnerRefused("expected messages to be a non-empty list of objects; send a conversation")
        return messages
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise RunnerRefused("expected prompt to be one non-empty text; send one job for each prompt")
    return prompt


def _output_limit(fields: dict[str, object], maximum_output_tokens: int) -> int:
    if maximum_output_tokens < 1:
        raise LocalProtocolError(f"expected at least 1 output token to be allowed, got {maximum_output_tokens}")
    limit = maximum_output_tokens
    for name in OUTPUT_LIMIT_FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        if type(value) is not int or value < 1:
            raise RunnerRefused(f"expected {name} to be a whole number of at least 1")
        limit = min(limit, value)
    return limit
