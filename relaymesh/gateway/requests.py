"""From an HTTP request's body to a job: what is ours is read and taken out, everything else goes to the node untouched.

A body is in the shape of the OpenAI API. Beside it stand OpenRouter's `provider` and `models`, and `relaymesh`. What no
node can honour is refused by name, rather than ignored; what tells a service who its user is stays here.
"""

from dataclasses import dataclass
from typing import Any, Final, get_args

import orjson
from pydantic import ValidationError

from relaymesh.errors import RemoteProtocolError
from relaymesh.gateway.failures import TOO_LARGE, RequestFailed, bad_request
from relaymesh.market.policy import POLICIES, Policy
from relaymesh.market.preferences import NO_PREFERENCES, Preferences, read_preferences
from relaymesh.market.request import SettlementPolicy
from relaymesh.protocol.fields import SETTLEMENT_FORMS, JobType
from relaymesh.roles.buying import LONGEST_TOKEN_BYTES, MAXIMUM_BODY_BYTES, Wanted
from relaymesh.settings import Client as BuyingSettings
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat

ANY_MODEL: Final = "auto"
"""The name that stands for any model that can do the job."""
MAXIMUM_MODELS: Final = 8
MAXIMUM_NAME: Final = 100
KEPT_HERE: Final = (
    "model",
    "models",
    "provider",
    "relaymesh",
    "stream",
    "stream_options",
    "encoding_format",
    "user",  # who asks is nobody's business but ours
    "metadata",
    "store",
    "safety_identifier",
    "prompt_cache_key",
    "service_tier",
)
"""What is ours, or tells who asks: no node sees it."""
TOOL_TOKEN_BYTES: Final = 96
"""What one token of a tool's arguments may come to: each comes in the JSON of a delta."""
GENERATING: Final = ("chat", "completion")
OUTPUT_LIMITS: Final = ("max_completion_tokens", "max_tokens")
NOT_CARRIED: Final = ("logprobs", "top_logprobs", "audio", "best_of", "echo", "suffix")
"""What a node's output has no room for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, read.

    Args:
        wanted: The job, for the first of the models.
        models: The models that will do, best first; None for any.
        is_streamed: Whether the answer is to come piece by piece.
        includes_usage: Whether a stream ends with the counts in the usual place.
        explains: Whether the answer says which nodes were considered, and why this one was taken.
        is_base64: Whether embeddings are wanted as text.
    """

    wanted: Wanted
    models: tuple[str | None, ...]
    is_streamed: bool = False
    includes_usage: bool = False
    explains: bool = False
    is_base64: bool = False


@dataclass(frozen=True, slots=True)
class _Terms:
    """What `relaymesh` may say."""

    max_msat: int
    settlement: SettlementPolicy
    policy: Policy
    explain: bool = False


def read_request(job_type: JobType, data: bytes, settings: BuyingSettings) -> Asked:
    """Read a request's body.

    Args:
        settings: What holds where the request says nothing.

    Raises:
        RequestFailed: Something in it is wrong, or no node could honour it; never quotes more than a field's name.
    """
    fields = _read_object(data)
    models = _read_models(fields)
    terms = _read_terms(fields.get("relaymesh"), settings)
    is_streamed = _flag("stream", fields.get("stream"))
    includes_usage = _read_stream_options(fields.get("stream_options"), is_streamed)
    encoding = fields.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise bad_request("encoding_format must be float or base64", "encoding_format")
    preferences = _read_provider(fields.get("provider"))
    _refuse_what_nobody_carries(fields)
    body = {name: value for name, value in fields.items() if name not in KEPT_HERE and value is not None}
    tokens = _prepare(job_type, body, settings) if job_type in GENERATING else _prepare_embedding(body, is_streamed)
    needed = _needed(body, is_streamed)
    wanted = Wanted(
        job_type,
        orjson.dumps(body).decode(),
        AmountMsat(terms.max_msat),
        model=models[0],
        output_tokens=tokens,
        capabilities=needed,
        maximum_pow_bits=settings.maximum_pow_bits,
        policy=terms.policy,
        preferences=preferences,
        settlement=terms.settlement,
        maximum_exposure_msat=settings.maximum_exposure_msat,
        is_streamed=is_streamed,
        has_credit=bool(settings.credit_key_file),
        token_bytes=TOOL_TOKEN_BYTES if "tools" in needed else LONGEST_TOKEN_BYTES,
    )
    _check_size(wanted)
    return Asked(wanted, models, is_streamed, includes_usage, terms.explain, encoding == "base64")


def _check_size(wanted: Wanted) -> None:
    if len(wanted.body.encode()) > MAXIMUM_BODY_BYTES:
        raise RequestFailed(TOO_LARGE)
    try:
        wanted.to_request()
    except ValidationError:
        raise bad_request("no market can be asked for so much; ask for less output") from None


def _read_object(data: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        where = error.pos  # not chained: the decoder's error carries the whole text, which is the prompt
    else:
        if isinstance(fields, dict):
            return fields
        raise bad_request("the request's body must be a JSON object", code="invalid_json")
    raise bad_request(f"the request's body is not valid JSON, from character {where} on", code="invalid_json")


def _read_models(fields: dict[str, Any]) -> tuple[str | None, ...]:
    further = fields.get("models", [])
    if not isinstance(further, list) or len(further) > MAXIMUM_MODELS:
        raise bad_request(f"models must be a list of at most {MAXIMUM_MODELS} names", "models")
    said = [fields["model"]] if fields.get("model") is not None else []
    if not said and not further:
        raise bad_request(f"model is missing; name one, or {ANY_MODEL} for any", "model", "missing_parameter")
    for name, place in ((name, "model" if name in said else "models") for name in (*said, *further)):
        if not isinstance(name, str) or not 0 < len(name) <= MAXIMUM_NAME:
            raise bad_request(f"a model's name is a text of 1 to {MAXIMUM_NAME} characters", place)
    names = dict.fromkeys([*said, *further])
    return tuple(None if name == ANY_MODEL else name for name in names)


def _read_terms(said: Any, settings: BuyingSettings) -> _Terms:
    terms = {} if said is None else said
    known = ("max_msat", "settlement", "policy", "explain")
    if not isinstance(terms, dict) or not set(terms) <= set(known):
        raise bad_request(f"relaymesh must be an object of {', '.join(known)}", "relaymesh")
    most = terms.get("max_msat", settings.max_msat)
    if type(most) is not int or not 1 <= most <= MAXIMUM_INTEGER:
        raise bad_request("relaymesh.max_msat must be a whole number of millisatoshi, at least 1", "relaymesh.max_msat")
    settlement = terms.get("settlement", settings.settlement)
    if settlement not in get_args(SettlementPolicy)[:1] + SETTLEMENT_FORMS:
        forms = ", ".join(("auto", *SETTLEMENT_FORMS))
        raise bad_request(f"relaymesh.settlement must be one of {forms}", "relaymesh.settlement")
    if settlement == "postpay" and not settings.credit_key_file:
        raise bad_request("postpay needs client.credit_key_file in the gateway's settings", "relaymesh.settlement")
    policy = terms.get("policy", settings.policy)
    if not isinstance(policy, str) or policy not in POLICIES:
        raise bad_request(f"relaymesh.policy must be one of {', '.join(POLICIES)}", "relaymesh.policy")
    return _Terms(most, settlement, POLICIES[policy], _flag("relaymesh.explain", terms.get("explain")))


def _read_provider(said: Any) -> Preferences:
    if said is None:
        return NO_PREFERENCES
    if not isinstance(said, dict):
        raise bad_request("provider must be an object", "provider")
    try:
        return read_preferences(said)
    except RemoteProtocolError as error:
        raise bad_request(str(error), "provider") from None


def _read_stream_options(said: Any, is_streamed: bool) -> bool:
    if said is None:
        return False
    if not is_streamed or not isinstance(said, dict):
        raise bad_request("stream_options is an object, and goes with stream", "stream_options")
    return _flag("stream_options.include_usage", said.get("include_usage"))


def _flag(name: str, said: Any) -> bool:
    if said is not None and not isinstance(said, bool):
        raise bad_request(f"{name} must be true or false", name)
    return bool(said)


def _refuse_what_nobody_carries(fields: dict[str, Any]) -> None:
    refused = [name for name in NOT_CARRIED if fields.get(name) not in (None, False, 0)]
    if fields.get("n") not in (None, 1):
        refused.append("n")
    if fields.get("modalities") not in (None, ["text"]):
        refused.append("modalities")
    if refused:
        names = ", ".join(refused)
        raise bad_request(f"no node's answer can carry {names}; leave it out", refused[0], "unsupported_parameter")


def _prepare(job_type: JobType, body: dict[str, Any], settings: BuyingSettings) -> int:
    """Check what is said to a model, and say how much it may answer; returns that, in tokens."""
    if job_type == "chat":
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
            raise bad_request("messages must be a list of objects, at least one", "messages")
    else:
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = body["prompt"] = prompt[0]
        if not isinstance(prompt, str) or not prompt:
            raise bad_request("prompt must be one text; send one request for each", "prompt")
    given = {name: body[name] for name in OUTPUT_LIMITS if body.get(name) is not None}
    for name, value in given.items():
        if type(value) is not int or value < 1:
            raise bad_request(f"{name} must be a whole number, at least 1", name)
    tokens: int = min(given.values(), default=settings.output_tokens)
    for name in OUTPUT_LIMITS:
        body.pop(name, None)
    body["max_tokens"] = tokens
    return tokens


def _prepare_embedding(body: dict[str, Any], is_streamed: bool) -> int:
    if is_streamed:
        raise bad_request("embeddings are not streamed", "stream")
    given = body.get("input")
    is_list = isinstance(given, list) and given and all(isinstance(each, str | int | list) for each in given)
    if not is_list and not (isinstance(given, str) and given):
        raise bad_request("input must be a text or a list of texts, at least one", "input")
    return 0


def _needed(body: dict[str, Any], is_streamed: bool) -> tuple[str, ...]:
    """What the node must offer beyond plain text (RM-01, "Offer")."""
    shape = body.get("response_format")
    needs = {
        "stream": is_streamed,
        "tools": bool(body.get("tools") or body.get("functions")),
        "json": isinstance(shape, dict) and shape.get("type") != "text",
        "images": _has_images(body.get("messages")),
    }
    return tuple(name for name, is_needed in needs.items() if is_needed)


def _has_images(messages: Any) -> bool:
    contents = [each.get("content") for each in messages] if isinstance(messages, list) else []
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(isinstance(part, dict) and part.get("type") == "image_url" for part in parts)
