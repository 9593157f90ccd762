"""What `quote` and `infer` have in common: a job from what a person typed."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relaymesh.errors import RemoteProtocolError, UsageError
from relaymesh.units import MAXIMUM_INTEGER

if TYPE_CHECKING:
    from relaymesh.market.policy import Policy
    from relaymesh.market.preferences import Preferences
    from relaymesh.roles.buying import Wanted
    from relaymesh.settings import Settings

NOT_SERVED = 2
"""The exit code when the market was reached and nobody served, or what was bought is incomplete."""

PromptArgument = Annotated[str | None, typer.Argument(help="The prompt; standard input when it is left out or `-`.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="The model; any that can chat otherwise.")]
MaximumOption = Annotated[
    int | None, typer.Option("--max-msat", help="The most the job may cost.", min=1, max=MAXIMUM_INTEGER)
]
OutputOption = Annotated[
    int | None, typer.Option("--output-tokens", help="The longest answer.", min=1, max=MAXIMUM_INTEGER)
]

AuctionOption = Annotated[
    bool | None, typer.Option("--auction", help="Call on everybody for bids, instead of asking the best nodes.")
]
PolicyOption = Annotated[
    str | None, typer.Option("--policy", help="What counts among nodes: balanced, cheapest, fastest or trusted.")
]
SettlementOption = Annotated[
    str | None,
    typer.Option(
        "--settlement", help="How to pay: auto, or require prepay, sealed, postpay or session and take nothing else."
    ),
]
PreferOption = Annotated[
    list[str] | None,
    typer.Option(
        "--prefer",
        help="A preference, NAME=VALUE, with the names that OpenRouter made known: order, only, ignore, sort, "
        "max_price.prompt, allow_fallbacks, quantizations, data_collection, …; may be given several times.",
    ),
]


def read_preference_options(given: list[str] | None) -> "Preferences":
    """The preferences that were given as NAME=VALUE; lists are separated by commas, objects by a dot in the name.

    Raises:
        UsageError: One is unknown or of the wrong form.
    """
    from relaymesh.market.preferences import read_preferences

    said: dict[str, Any] = {}
    for each in given or ():
        name, separator, value = each.partition("=")
        if not separator:
            raise UsageError(f"expected a preference as NAME=VALUE, got {each}")
        outer, _, inner = name.partition(".")
        read = _read_value(outer, value)
        if inner:
            part = said.setdefault(outer, {})
            if not isinstance(part, dict):
                raise UsageError(f"expected {outer} or its parts, got both")
            part[inner] = read
        else:
            said[outer] = read
    try:
        return read_preferences(said)
    except RemoteProtocolError as error:
        raise UsageError(str(error)) from error


def _read_value(name: str, value: str) -> Any:
    if name in ("order", "only", "ignore", "quantizations"):
        return [each.strip() for each in value.split(",") if each.strip()]
    if value in ("true", "false"):
        return value == "true"
    return int(value) if value.isascii() and value.isdigit() else value


def read_policy(name: str) -> "Policy":
    """The policy of this name; UsageError when there is none."""
    from relaymesh.market.policy import POLICIES

    if name not in POLICIES:
        raise UsageError(f"expected a policy among {', '.join(POLICIES)}, got {name}")
    return POLICIES[name]


def read_prompt(prompt: str | None) -> str:
    """The prompt, from the argument or from standard input; waits for that, so call it before the event loop starts.

    Raises:
        UsageError: There is none.
    """
    if prompt in (None, "-"):
        if sys.stdin.isatty():
            raise UsageError("expected a prompt as an argument or on standard input; try: relaymesh infer 'Hello'")
        prompt = sys.stdin.buffer.read().decode(errors="surrogateescape")
    if not prompt or not prompt.strip():
        raise UsageError("expected a prompt, got an empty one")
    try:
        prompt.encode()
    except UnicodeEncodeError:  # how Python hands over bytes that are no text
        raise UsageError("expected a prompt in UTF-8, got bytes that are no such text") from None
    return prompt


def wanted_chat(
    prompt: str,
    settings: "Settings",
    *,
    model: str | None,
    max_msat: int | None,
    output_tokens: int | None,
    policy: str | None = None,
    prefer: list[str] | None = None,
    is_streamed: bool = True,
) -> "Wanted":
    """The chat completion that was asked for, and how nodes are to be chosen for it and paid."""
    from relaymesh.roles.buying import Wanted
    from relaymesh.units import AmountMsat

    tokens = output_tokens or settings.client.output_tokens
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": tokens}
    wanted = Wanted(
        "chat",
        json.dumps(body, ensure_ascii=False),
        AmountMsat(max_msat or settings.client.max_msat),
        model=model,
        output_tokens=tokens,
        capabilities=("stream",),
        maximum_pow_bits=settings.client.maximum_pow_bits,
        policy=read_policy(policy or settings.client.policy),
        preferences=read_preference_options(prefer),
        settlement=settings.client.settlement,
        maximum_exposure_msat=settings.client.maximum_exposure_msat,
        is_streamed=is_streamed,
        has_credit=bool(settings.client.credit_key_file),
    )
    _check_askable(wanted)
    return wanted


def _check_askable(wanted: "Wanted") -> None:
    """Say at once what no market could answer."""
    from pydantic import ValidationError

    if wanted.settlement == "postpay" and not wanted.has_credit:
        raise UsageError("expected client.credit_key_file with postpay: a node lends only to keys that it knows")
    try:
        wanted.to_request()
    except ValidationError:
        asked = f"{wanted.output_tokens} output tokens or {wanted.maximum_msat} msat"
        raise UsageError(f"no market can be asked for {asked}; ask for less") from None
