"""From a job's output to OpenAI's answers, whole or piece by piece (RM-02, "Jobs").

An output of text is the text itself; one that begins with `{"delta":` is the JSON of a delta: tool calls, reasoning,
refusals. Embeddings come one output each. A node is a stranger: what has not this form is `MalformedOutput`.
"""

from array import array
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import orjson

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.job_outcome import JobEnded
from relaymesh.protocol.fields import JobType
from relaymesh.units import Timestamp

STRUCTURED: Final = '{"delta":'
END_OF_STREAM: Final = b"data: [DONE]\n\n"
FINISH_REASONS: Final = frozenset(("stop", "length", "content_filter", "tool_calls", "function_call"))
FLOAT_BYTES: Final = 4


class MalformedOutput(RemoteProtocolError):
    """A node's output is not what its job type's output is."""


@dataclass(frozen=True, slots=True)
class Naming:
    """What every piece of one answer repeats.

    Args:
        identity: The answer's id, without its prefix.
        created: Unix seconds.
        model: The model that answers, by the name it is sold under.
    """

    identity: str
    created: Timestamp
    model: str


def usage_of(outcome: JobEnded) -> dict[str, int]:
    """What was counted, by the node's record, and what it cost; zeros where the node sent no record."""
    units = None if outcome.metering is None else outcome.metering.record.units
    read, written = (0, 0) if units is None else (units.input_tokens, units.output_tokens)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "cost_msat": outcome.paid_msat,
    }


class Answer(Protocol):
    """One kind of answer, being put together."""

    def take(self, data: str, naming: Naming) -> bytes:
        """Take one output; returns it as an event of a stream. Raises MalformedOutput."""
        ...

    def end(self, finish_reason: str, naming: Naming) -> dict[str, Any]:
        """The event, as an object, that says why a stream ends."""
        ...

    def counts(self, usage: Mapping[str, int], naming: Naming) -> dict[str, Any]:
        """The event, as an object, that carries a stream's counts."""
        ...

    def whole(self, finish_reason: str, usage: Mapping[str, int], naming: Naming) -> dict[str, Any]:
        """Everything taken, as one answer."""
        ...


def answer_for(job_type: JobType, *, is_base64: bool = False) -> Answer:
    """The kind of answer that a job of this type gets."""
    if job_type == "chat":
        return ChatAnswer()
    return EmbeddingAnswer(is_base64) if job_type == "embedding" else CompletionAnswer()


def finish_reason_of(outcome: JobEnded) -> str:
    """Why the engine stopped, where the node's record says it in a known word."""
    said = None if outcome.metering is None else outcome.metering.record.error
    return said if said in FINISH_REASONS else "stop"


@dataclass(slots=True)
class ChatAnswer:
    """A chat completion: a message and, where the model calls tools, their calls."""

    _texts: list[str] = field(default_factory=list)
    _extra: dict[str, Any] = field(default_factory=dict)
    _head: bytes = b""

    def take(self, data: str, naming: Naming) -> bytes:
        """A delta; the first of an answer says who speaks."""
        if data.startswith(STRUCTURED):
            delta = _read_delta(data)
            _merge(self._extra, delta)
            return self._event(delta, naming)
        self._texts.append(data)
        if not self._head:
            return self._event({"content": data}, naming)
        return b'%b{"content":%b},"finish_reason":null}]}\n\n' % (self._head, orjson.dumps(data))

    def _event(self, delta: dict[str, Any], naming: Naming) -> bytes:
        is_first = not self._head
        if is_first:
            start = orjson.dumps({**_chat_head(naming, "chat.completion.chunk"), "choices": []})[:-2]
            self._head = b'data: %b{"index":0,"delta":' % start
        said = {"role": "assistant", **delta} if is_first else delta
        return b'%b%b,"finish_reason":null}]}\n\n' % (self._head, orjson.dumps(said))

    def end(self, finish_reason: str, naming: Naming) -> dict[str, Any]:
        """An empty delta with the reason."""
        choice = {"index": 0, "delta": {}, "finish_reason": self._reason(finish_reason)}
        return {**_chat_head(naming, "chat.completion.chunk"), "choices": [choice]}

    def counts(self, usage: Mapping[str, int], naming: Naming) -> dict[str, Any]:
        """A chunk without a choice."""
        return {**_chat_head(naming, "chat.completion.chunk"), "choices": [], "usage": usage}

    def whole(self, finish_reason: str, usage: Mapping[str, int], naming: Naming) -> dict[str, Any]:
        """A `chat.completion`."""
        content = "".join(self._texts) if self._texts or not self._extra else None
        message = {"role": "assistant", "content": content, **_without_indexes(self._extra)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason(finish_reason)}
        return {**_chat_head(naming, "chat.completion"), "choices": [choice], "usage": usage}

    def _reason(self, finish_reason: str) -> str:
        return "tool_calls" if finish_reason == "stop" and "tool_calls" in self._extra else finish_reason


@dataclass(slots=True)
class CompletionAnswer:
    """A text completion."""

    _texts: list[str] = field(default_factory=list)

    def take(self, data: str, naming: Naming) -> bytes:
        """A piece of text."""
        self._texts.append(data)
        return event(self._object([{"index": 0, "text": data, "logprobs": None, "finish_reason": None}], naming))

    def end(self, finish_reason: str, naming: Naming) -> dict[str, Any]:
        """An empty piece with the reason."""
        return self._object([{"index": 0, "text": "", "logprobs": None, "finish_reason": finish_reason}], naming)

    def counts(self, usage: Mapping[str, int], naming: Naming) -> dict[str, Any]:
        """A piece without a choice."""
        return {**self._object([], naming), "usage": usage}

    def whole(self, finish_reason: str, usage: Mapping[str, int], naming: Naming) -> dict[str, Any]:
        """A `text_completion`."""
        choice = {"index": 0, "text": "".join(self._texts), "logprobs": None, "finish_reason": finish_reason}
        return {**self._object([choice], naming), "usage": usage}

    def _object(self, choices: list[dict[str, Any]], naming: Naming) -> dict[str, Any]:
        identity = f"cmpl-{naming.identity}"
        told = {"id": identity, "object": "text_completion", "created": naming.created, "model": naming.model}
        return {**told, "choices": choices}


@dataclass(slots=True)
class EmbeddingAnswer:
    """A list of embeddings, as numbers or, where `is_base64`, as their 32-bit floats in base64."""

    is_base64: bool = False
    _items: list[dict[str, Any]] = field(default_factory=list)

    def take(self, data: str, naming: Naming) -> bytes:
        """One embedding."""
        try:
            vector = orjson.loads(data)["embedding"]
            numbers = array("f", b64decode(vector, validate=True)) if isinstance(vector, str) else array("f", vector)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError):
            raise MalformedOutput("the node sent something that is no embedding") from None  # which would be quoted
        told = b64encode(numbers.tobytes()).decode() if self.is_base64 else vector
        told = numbers.tolist() if isinstance(told, str) and not self.is_base64 else told
        self._items.append({"object": "embedding", "index": len(self._items), "embedding": told})
        return b""

    def end(self, finish_reason: str, naming: Naming) -> dict[str, Any]:
        """Embeddings are not streamed."""
        return {}

    def counts(self, usage: Mapping[str, int], naming: Naming) -> dict[str, Any]:
        """Embeddings are not streamed."""
        return self.whole("stop", usage, naming)

    def whole(self, finish_reason: str, usage: Mapping[str, int], naming: Naming) -> dict[str, Any]:
        """A list of embeddings; they have no output to be counted."""
        counted = {name: usage[name] for name in ("prompt_tokens", "total_tokens", "cost_msat")}
        return {"object": "list", "data": self._items, "model": naming.model, "usage": counted}


def event(told: Mapping[str, Any]) -> bytes:
    """An object as one event of a stream."""
    return b"data: %b\n\n" % orjson.dumps(told)


def _chat_head(naming: Naming, kind: str) -> dict[str, Any]:
    identity = f"chatcmpl-{naming.identity}"
    return {"id": identity, "object": kind, "created": naming.created, "model": naming.model}


def _read_delta(data: str) -> dict[str, Any]:
    try:
        delta = orjson.loads(data)["delta"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise MalformedOutput("the node sent a delta that is none") from None  # which would be quoted
    if not isinstance(delta, dict) or not _has_calls_in_order(delta.get("tool_calls", [])):
        raise MalformedOutput("the node sent a delta that is none")
    return {name: value for name, value in delta.items() if name not in ("content", "role")}


def _has_calls_in_order(calls: Any) -> bool:
    return isinstance(calls, list) and all(
        isinstance(call, dict)
        and type(call.get("index", 0)) is int
        and isinstance(call.get("function", {}), dict)
        and all(isinstance(value, str | None) for value in call.get("function", {}).values())
        for call in calls
    )


def _merge(known: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Join a delta to what came before: texts grow, calls grow by their index, anything else is replaced."""
    for name, value in delta.items():
        if name == "tool_calls":
            for call in value:
                _merge_call(known.setdefault(name, []), call)
        elif isinstance(value, str) and isinstance(known.get(name), str):
            known[name] += value
        else:
            known[name] = value


def _merge_call(calls: list[dict[str, Any]], call: Mapping[str, Any]) -> None:
    place = call.get("index", 0)
    found = next((each for each in calls if each["index"] == place), None)
    if found is None:
        calls.append({**call, "index": place, "function": dict(call.get("function", {}))})
        return
    function = found["function"]
    for name, value in call.get("function", {}).items():
        function[name] = (function.get(name) or "") + (value or "")


def _without_indexes(extra: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in a whole message: there, calls are in order and say no index."""
    told = dict(extra)
    if "tool_calls" in told:
        told["tool_calls"] = [
            {"type": "function", **{name: value for name, value in call.items() if name != "index"}}
            for call in told["tool_calls"]
        ]
    return told
