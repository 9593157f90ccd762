"""What the Python API takes and gives: plain values, in the words of the specification."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

Messages = str | Sequence[Mapping[str, Any]]


class Options(TypedDict, total=False):
    """What may be said about any purchase; what is left out is as the settings have it.

    Args:
        model: The model, as offers call it; any that does the job otherwise.
        models: Further models, tried in this order.
        max_msat: The most that it may cost, in millisatoshi.
        output_tokens: The longest answer.
        settlement: How to pay; one form and no other, or `auto`.
        policy: What counts among nodes.
        provider: Preferences, with the names that OpenRouter made known.
        parameters: Further fields of OpenAI's request, such as `temperature` or `tools`.
    """

    model: str
    models: Sequence[str]
    max_msat: int
    output_tokens: int
    settlement: Literal["auto", "prepay", "sealed", "postpay", "session"]
    policy: Literal["balanced", "cheapest", "fastest", "trusted"]
    provider: Mapping[str, Any]
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """What a purchase was and cost.

    Args:
        model: The model that served.
        node: Who served, as an npub.
        job_id: The job, under which the ledger has its evidence.
        cost_msat: What was paid, in millisatoshi; `fees_msat` more went to those who carried the payment.
        input_tokens: What the node counted; `output_tokens` likewise.
        receipt_id: The receipt that both sides signed; None where the node signed no record.
        is_verified: Whether there is one, and it agrees with what we measured; else `complaints` says what does not.
    """

    model: str
    node: str
    job_id: str
    cost_msat: int
    fees_msat: int
    input_tokens: int
    output_tokens: int
    receipt_id: str | None
    is_verified: bool
    complaints: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Bought):
    """A chat completion.

    Args:
        text: What the model said.
        message: The message as OpenAI's API has it, tool calls included.
        finish_reason: `stop`, `length`, `tool_calls` or another of OpenAI's words.
    """

    text: str
    message: Mapping[str, Any]
    finish_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings(Bought):
    """Embeddings, one for each text, in the order of the texts."""

    vectors: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """What a node promises to do a job for (RM-01, "Quote").

    Args:
        node: Who, as an npub.
        estimated_msat: What the job is likely to cost; `max_msat` is the most that it can.
        settlement: How it would be paid, why, and what both sides have at stake, in one sentence.
        valid_until_ms: Unix milliseconds.
        eta_in_ms: From the job to its first output.
    """

    node: str
    model: str
    estimated_msat: int
    max_msat: int | None
    settlement: str
    valid_until_ms: int
    eta_in_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """One price that is on the market now (RM-01, "Offer").

    Args:
        node: Who sells, as an npub.
        unit: What is counted; `input_msat` and `output_msat` are for `per` of them, a job costs `minimum_msat` or more.
        context_limit: Tokens of input and output together; 0 where the node does not say.
        free: How many jobs could begin at once.
    """

    node: str
    model: str
    job_types: tuple[str, ...]
    unit: str
    per: int
    input_msat: int
    output_msat: int
    minimum_msat: int
    context_limit: int
    output_limit: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A job of the ledger.

    Args:
        state: How it ended; `reason` says why, where it did not end well.
        created_at_ms: Unix milliseconds.
        evidence: What both sides signed, as `relaymesh receipts verify` takes it.
    """

    job_id: str
    state: str
    reason: str
    node: str
    model: str
    job_type: str
    charged_msat: int
    created_at_ms: int
    receipt_id: str | None
    evidence: Mapping[str, Any]
