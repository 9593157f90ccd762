"""What a model server says about itself beyond the OpenAI API: context, quantization, engine, what a model can do.

Each engine has a door of its own: llama.cpp `/props`, Ollama `/api/show`, LM Studio `/api/v0/models`, vLLM puts it in
the model list. What cannot be read stays None; nothing here ever fails a model list.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Final

from relaymesh.ports.runners import RunnerModel

Details = dict[str, object]
Ask = Callable[[str, Mapping[str, object] | None], Awaitable[Details]]
"""Asks the server's root for a path (POST when there is a body); gives back its JSON object, empty on any failure."""

GENERATING: Final = ("chat", "completion")
EMBEDDING: Final = ("embedding",)

OLLAMA_DEFAULT_CONTEXT: Final = 4_096
"""What Ollama gives a model on a small machine unless its parameters say otherwise; beyond it prompts are cut short."""

QUANTIZATION: Final = re.compile(r"(?:^|[^a-z0-9])(i?q\d(?:_[a-z0-9]+)*|b?f16|f32|fp8|mxfp4|awq|gptq)(?=$|[^a-z0-9_])")


class Engine(Enum):
    """Which program answers, as far as its model list gives it away; the value is what `owned_by` says there."""

    LLAMA_CPP = "llamacpp"
    VLLM = "vllm"
    OLLAMA = "library"
    LM_STUDIO = "organization_owner"
    OTHER = ""


def recognise_engine(entry: Mapping[str, object]) -> Engine:
    """The engine behind one entry of a model list."""
    for engine in Engine:
        if engine.value and entry.get("owned_by") == engine.value:
            return engine
    return Engine.OTHER


async def describe_model(entry: Mapping[str, object], ask: Ask) -> RunnerModel | None:
    """One entry of the model list with what its engine adds; None for an entry without a name."""
    name = entry.get("id")
    if not isinstance(name, str) or not name:
        return None
    match recognise_engine(entry):
        case Engine.LLAMA_CPP:
            return _llama_cpp_model(name, entry, await ask("props", None))
        case Engine.OLLAMA:
            return _ollama_model(name, await ask("api/show", {"model": name}), await ask("api/version", None))
        case Engine.LM_STUDIO:
            return _lm_studio_model(name, await ask("api/v0/models", None))
        case Engine.VLLM:
            context = _positive(entry.get("max_model_len"))
            return RunnerModel(name, _guess_job_types(name), context, quantization_in(name), "vllm")
        case Engine.OTHER:
            return RunnerModel(name, _guess_job_types(name), quantization=quantization_in(name))


def quantization_in(name: str) -> str | None:
    """The quantization that a model's or a file's name states, in lower case; None when it states none."""
    found = QUANTIZATION.search(name.lower())
    return found.group(1) if found else None


def _llama_cpp_model(name: str, entry: Mapping[str, object], properties: Details) -> RunnerModel:
    context = _positive(_object(properties.get("default_generation_settings")).get("n_ctx"))
    meta = _object(entry.get("meta"))
    context = context or _positive(meta.get("n_ctx")) or _positive(meta.get("n_ctx_train"))
    build = properties.get("build_info")
    engine = f"llama.cpp {build}" if isinstance(build, str) and build else "llama.cpp"
    stated = (meta.get("ftype"), properties.get("model_ftype"), name, properties.get("model_path"))
    quantization = next(filter(None, (quantization_in(str(value)) for value in stated)), None)
    return RunnerModel(name, _guess_job_types(name), context, quantization, engine)


def _ollama_model(name: str, shown: Details, version: Details) -> RunnerModel:
    capabilities = shown.get("capabilities")
    job_types: tuple[str, ...] = _guess_job_types(name)
    if isinstance(capabilities, list):
        job_types = (GENERATING if "completion" in capabilities else ()) + (
            EMBEDDING if "embedding" in capabilities else ()
        )
    quantization = _object(shown.get("details")).get("quantization_level")
    number = version.get("version")
    return RunnerModel(
        name,
        job_types,
        _ollama_context(shown),
        quantization.lower() if isinstance(quantization, str) and quantization else None,
        f"ollama {number}" if isinstance(number, str) else "ollama",
    )


def _ollama_context(shown: Details) -> int | None:
    stated = re.search(r"^num_ctx\s+(\d{1,9})\s*$", str(shown.get("parameters", "")), re.MULTILINE)
    if stated:
        return int(stated.group(1)) or None
    for field, value in _object(shown.get("model_info")).items():
        if field.endswith(".context_length") and _positive(value):
            return min(_positive(value) or 0, OLLAMA_DEFAULT_CONTEXT)
    return None


def _lm_studio_model(name: str, listing: Details) -> RunnerModel:
    entries = listing.get("data")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("id") == name:
            context = _positive(entry.get("loaded_context_length")) or _positive(entry.get("max_context_length"))
            quantization = entry.get("quantization")
            return RunnerModel(
                name,
                EMBEDDING if entry.get("type") == "embeddings" else GENERATING,
                context,
                quantization.lower() if isinstance(quantization, str) and quantization else None,
                "lm studio",
            )
    return RunnerModel(name, _guess_job_types(name), quantization=quantization_in(name), engine="lm studio")


def _guess_job_types(name: str) -> tuple[str, ...]:
    return EMBEDDING if "embed" in name.lower() else GENERATING


def _positive(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _object(value: object) -> Details:
    return value if isinstance(value, dict) else {}
