"""From an OpenAI-compatible server's answer to output data (RM-02, "Jobs").

What an OUTPUT's data is:

- `chat`, `completion`: the text delta itself.
- `chat`, everything else a delta can carry (tool calls, reasoning, refusals): compact JSON,
  `{"delta":{"tool_calls":[…]}}`, with the server's fields. So that a reader can tell the two apart, a text delta that
  happens to begin with `{"delta":` is handed on in two pieces, its first character alone: data that begins with
  `{"delta":` is never text.
- `embedding`: one OUTPUT for each input, in the order of the inputs: the compact JSON of that item of the answer's
  `data` list, `{"object":"embedding","index":0,"embedding":[…]}`. One piece per item lets credit and delivery flow
  item by item, and a buyer reads each as it comes.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

import orjson

from relaymesh.adapters.openai_requests import OpenAiCall
from relaymesh.errors import RunnerError, RunnerRefused
from relaymesh.ports.runners import RunFinished, RunOutput

END_OF_STREAM: Final = b"[DONE]"
STRUCTURED_PREFIX: Final = '{"delta":'
TEXT_FIELDS: Final = frozenset({"content", "role"})
BYTES_PER_TOKEN: Final = 4
"""A rough rule for a server that does not count its input."""

ERROR_WORD: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def describe_error(payload: object) -> str:
    """What kind of error a server says it had, for a message: its type or code, never its text, which may quote."""
    error = payload.get("error") if isinstance(payload, dict) else None
    if isinstance(error, dict):
        for name in ("type", "code"):
            word = error.get(name)
            if isinstance(word, str) and ERROR_WORD.fullmatch(word):
                return f" ({word})"
    return ""


class GeneratedAnswer:
    """Reads one generated answer, chunk by chunk, and keeps its counts."""

    def __init__(self, call: OpenAiCall) -> None:
        self._call = call
        self._pieces = 0
        self._input_tokens: int | None = None
        self._output_tokens: int | None = None
        self._finish_reason: str | None = None
        self.ended = False

    def take(self, data: bytes) -> Iterator[RunOutput]:
        """The outputs in one event's data; `ended` becomes true when nothing more is to be read."""
        if data == END_OF_STREAM:
            self.ended = True
            return
        chunk = _parse_object(data)
        if chunk.get("error") is not None:
            raise self._reported_error(chunk)
        self._take_usage(chunk)
        for choice in _objects(chunk.get("choices")):
            if choice.get("index", 0) == 0:
                yield from self._take_choice(choice)

    def finished(self) -> RunFinished:
        """The closing item, once the stream is over; RunnerError when it broke off before the engine was done."""
        if self._finish_reason is None and not self.ended:
            raise RunnerError("the model server closed the stream before its answer was finished", retryable=True)
        estimate = -(-self._call.prompt_bytes // BYTES_PER_TOKEN)
        return RunFinished(
            input_tokens=estimate if self._input_tokens is None else self._input_tokens,
            output_tokens=self._pieces if self._output_tokens is None else self._output_tokens,
            finish_reason="length" if self._finish_reason == "length" else "stop",
        )

    def _reported_error(self, chunk: Mapping[str, object]) -> RunnerError:
        error = chunk["error"]
        code = error.get("code") if isinstance(error, dict) else None
        if self._pieces == 0 and type(code) is int and 400 <= code < 600:
            return refusal_or_error(code, chunk)
        return RunnerError(f"the model server reported an error while it ran{describe_error(chunk)}", retryable=True)

    def _take_usage(self, chunk: Mapping[str, object]) -> None:
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._input_tokens = _count(usage.get("prompt_tokens"), self._input_tokens)
            self._output_tokens = _count(usage.get("completion_tokens"), self._output_tokens)

    def _take_choice(self, choice: Mapping[str, object]) -> Iterator[RunOutput]:
        # A server that does not stream answers with a `message` where a stream has a `delta`.
        delta = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
        if isinstance(delta, dict):
            structured = {name: value for name, value in delta.items() if name not in TEXT_FIELDS and value}
            if structured:
                yield RunOutput(orjson.dumps({"delta": structured}).decode())
            text = delta.get("content")
            if isinstance(text, str) and text:
                yield from self._take_text(text)
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and self._finish_reason is None:
            self._finish_reason = reason

    def _take_text(self, text: str) -> Iterator[RunOutput]:
        # A piece of text is one token or more, so a server that went on beyond its limit shows here.
        if self._pieces >= self._call.output_limit:
            self._finish_reason = "length"
            self.ended = True
            return
        self._pieces += 1
        if text.startswith(STRUCTURED_PREFIX):
            yield RunOutput(text[0])
            text = text[1:]
        yield RunOutput(text)


def read_embeddings(data: bytes, call: OpenAiCall) -> tuple[tuple[RunOutput, ...], RunFinished]:
    """The outputs of an embedding call, one for each input, and the closing item."""
    answer = _parse_object(data)
    items = sorted(_objects(answer.get("data")), key=_embedding_index)
    if [item.get("index") for item in items] != list(range(call.input_count)):
        raise RunnerError(f"expected {call.input_count} embeddings numbered from 0, the model server sent others")
    usage = answer.get("usage")
    input_tokens = _count(usage.get("prompt_tokens"), None) if isinstance(usage, dict) else None
    if input_tokens is None:
        input_tokens = -(-call.prompt_bytes // BYTES_PER_TOKEN)
    outputs = tuple(RunOutput(orjson.dumps(_embedding_item(item)).decode()) for item in items)
    return outputs, RunFinished(input_tokens=input_tokens, output_tokens=0, finish_reason="stop")


def _embedding_index(item: Mapping[str, object]) -> int:
    index = item.get("index")
    return index if type(index) is int else -1


def _embedding_item(item: Mapping[str, object]) -> dict[str, object]:
    embedding = item.get("embedding")
    if not isinstance(embedding, str) and not (
        isinstance(embedding, list) and embedding and all(isinstance(number, int | float) for number in embedding)
    ):
        raise RunnerError("expected each embedding to be a list of numbers, the model server sent something else")
    return {"object": "embedding", "index": item["index"], "embedding": embedding}


def _parse_object(data: bytes) -> dict[str, object]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        # Not chained: the decoder's error carries the whole text, which is the engine's output.
        raise RunnerError("expected JSON from the model server, what came is not", retryable=True) from None
    if not isinstance(value, dict):
        raise RunnerError("expected a JSON object from the model server, something else came", retryable=True)
    return value


def _objects(value: object) -> list[dict[str, object]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _count(value: object, otherwise: int | None) -> int | None:
    return value if type(value) is int and value >= 0 else otherwise


def refusal_or_error(status: int, payload: object) -> RunnerError:
    """What an HTTP status that is not 200 means: the body's fault, or the server's."""
    kind = describe_error(payload)
    if status in (401, 403):
        return RunnerError(f"the model server wants another API key (HTTP {status}); set the one it accepts")
    if status == 404:
        return RunnerError(f"the model server does not know this model or path (HTTP 404){kind}; check URL and model")
    if status in (408, 409, 425, 429) or status >= 500:
        return RunnerError(f"the model server cannot run the job now (HTTP {status}){kind}", retryable=True)
    if 400 <= status < 500:
        return RunnerRefused(f"the model server refused the job's body (HTTP {status}){kind}")
    return RunnerError(f"expected HTTP 200 from the model server, got {status}")
