"""What `quote` and `infer` have in common: a job from what a person typed."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from relaymesh.errors import UsageError
from relaymesh.units import MAXIMUM_INTEGER

if TYPE_CHECKING:
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
    prompt: str, settings: "Settings", *, model: str | None, max_msat: int | None, output_tokens: int | None
) -> "Wanted":
    """The chat completion that was asked for."""
    from pydantic import ValidationError

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
    )
    try:
        wanted.to_request()
    except ValidationError:
        raise UsageError(
            f"no market can be asked for {tokens} output tokens or {wanted.maximum_msat} msat; ask for less"
        ) from None
    return wanted
