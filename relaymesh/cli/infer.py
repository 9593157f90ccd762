"""`relaymesh infer`: buy one answer, streamed as it is made."""

import json
import sys
from typing import TYPE_CHECKING, Any

from relaymesh.cli.buying import (
    NOT_SERVED,
    AuctionOption,
    MaximumOption,
    ModelOption,
    OutputOption,
    PolicyOption,
    PreferOption,
    PromptArgument,
    SettlementOption,
)
from relaymesh.cli.options import ConfigOption, JsonOption, PrivateOption, RelayOption, WalletOption, wallet_flags
from relaymesh.cli.running import guarded, run
from relaymesh.cli.terminal import clean_line, clean_text, short_npub
from relaymesh.errors import RelayError

if TYPE_CHECKING:
    from relaymesh.roles.buying import Wanted
    from relaymesh.settings import Settings


@guarded
def infer(
    prompt: PromptArgument = None,
    model: ModelOption = None,
    max_msat: MaximumOption = None,
    output_tokens: OutputOption = None,
    auction: AuctionOption = None,
    policy: PolicyOption = None,
    prefer: PreferOption = None,
    settlement: SettlementOption = None,
    relay: RelayOption = None,
    allow_private: PrivateOption = None,
    wallet: WalletOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Buy a chat completion from the node that is best for it, and pay it over Lightning.

    The answer goes to standard output, what it cost to standard error.
    """

    from relaymesh.cli.buying import read_prompt, wanted_chat
    from relaymesh.cli.settings_source import load_settings

    network = {"relays": relay or None, "allow_private": allow_private}
    purse = wallet_flags(wallet)
    buying = {"way": "open" if auction else None, "settlement": settlement}
    settings = load_settings(config, {"network": network, "wallet": purse, "client": buying})
    text = read_prompt(prompt)
    wanted = wanted_chat(
        text,
        settings,
        model=model,
        max_msat=max_msat,
        output_tokens=output_tokens,
        policy=policy,
        prefer=prefer,
        is_streamed=not as_json,  # which is printed at the end
    )
    run(lambda: _buy(settings, wanted, as_json))


async def _buy(settings: "Settings", wanted: "Wanted", as_json: bool) -> int:
    """Buy, and say what came and what it cost."""
    from relaymesh.cli.wiring import open_client
    from relaymesh.roles.buying import buy

    pieces: list[str] = []
    is_shown = sys.stdout.isatty()  # a file or another program gets the answer as it is

    async def deliver(data: str) -> None:
        pieces.append(data)
        if not as_json:
            sys.stdout.write(clean_text(data) if is_shown else data)
            sys.stdout.flush()

    async with open_client(settings) as client:
        bought = await buy(client, wanted, deliver)
        if bought.outcome is None and not client.market.is_in_view:
            raise RelayError(client.market.unreachable)
    summary = describe(bought)
    if as_json:
        print(json.dumps({"text": "".join(pieces), **summary}))
    elif bought.outcome is not None:
        print(flush=True)
        print(_sentence(summary), file=sys.stderr)
        if summary["settlement"] is not None:
            print(f"[{clean_line(summary['settlement']['sentence'])}]", file=sys.stderr)
    if bought.reason:
        print(f"relaymesh: {clean_line(bought.reason)}", file=sys.stderr)
    return NOT_SERVED if bought.reason else 0


def describe(bought: Any) -> dict[str, Any]:
    """What a purchase came to, as `--json` prints it."""
    outcome, contract = bought.outcome, bought.contract
    if outcome is None or contract is None:
        return {"state": "not served", "reason": bought.reason, "paid_msat": 0}
    return {
        "state": outcome.state.value,
        "reason": bought.reason,
        "node": contract.node,
        "model": contract.quote.row.model,
        "settlement": None if bought.chosen_term is None else bought.chosen_term.to_json(),
        "quoted_max_msat": contract.quote.max_msat,
        "paid_msat": outcome.paid_msat,
        "committed_msat": outcome.committed_msat,
        "fees_msat": outcome.fees_msat,
        "job_id": outcome.job_id,
        "receipt_id": outcome.receipt.id if outcome.receipt is not None else None,
        "verified": outcome.is_verified,
        "complaints": list(outcome.complaints),
    }


def _sentence(summary: dict[str, Any]) -> str:
    evidence = "signed by both sides" if summary["verified"] else "; ".join(summary["complaints"]) or "not verified"
    return (
        f"[{summary['paid_msat']:,} msat to {short_npub(summary['node'])} for {clean_line(summary['model'])}, "
        f"{summary['fees_msat']:,} msat routing fees; receipt {str(summary['receipt_id'])[:8]}…, {evidence}]"
    )
