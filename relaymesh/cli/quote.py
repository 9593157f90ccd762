"""`relaymesh quote`: what the best nodes would ask for a job, bindingly, without buying it."""

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
from relaymesh.cli.options import ConfigOption, JsonOption, RelayOption
from relaymesh.cli.running import guarded, run
from relaymesh.cli.terminal import clean_line, short_npub
from relaymesh.errors import RelayError

if TYPE_CHECKING:
    from relaymesh.market.bids import Bid, Way
    from relaymesh.roles.buying import Wanted
    from relaymesh.settings import Settings


@guarded
def quote(
    prompt: PromptArgument = None,
    model: ModelOption = None,
    max_msat: MaximumOption = None,
    output_tokens: OutputOption = None,
    auction: AuctionOption = None,
    policy: PolicyOption = None,
    prefer: PreferOption = None,
    settlement: SettlementOption = None,
    relay: RelayOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the best nodes for binding quotes; they learn the job's size, not the prompt.

    With --auction everybody may bid, and everybody may read the job's size and the budget.
    """

    from relaymesh.cli.buying import read_prompt, wanted_chat
    from relaymesh.cli.settings_source import load_settings

    buying = {"way": "open" if auction else None, "settlement": settlement}
    settings = load_settings(config, {"network": {"relays": relay or None}, "client": buying})
    text = read_prompt(prompt)
    wanted = wanted_chat(
        text, settings, model=model, max_msat=max_msat, output_tokens=output_tokens, policy=policy, prefer=prefer
    )

    async def command() -> int:
        answer = await _ask(settings, wanted)
        if as_json:
            print(json.dumps(answer))
        else:
            _tell(answer)
        return 0 if answer["quotes"] else NOT_SERVED

    run(command)


async def _ask(settings: "Settings", wanted: "Wanted") -> dict[str, Any]:
    """The best nodes' quotes and refusals, and why those nodes."""
    from relaymesh.cli.credit import load_credit_key
    from relaymesh.cli.wiring import open_market
    from relaymesh.market.explanation import explain
    from relaymesh.roles.negotiation import collect_quotes

    credit_key = load_credit_key(settings)
    async with open_market(settings) as (market, relays):
        selection = await market.wait_for_choice(
            wanted.to_request(),
            settings.client.discovery_seconds,
            policy=wanted.counting,
            count=wanted.preferences.count(settings.client.candidates),
        )
        if not market.is_in_view:
            raise RelayError(market.unreachable)
        way: Way = "open" if settings.client.way == "open" else "directed"
        collected = (
            await collect_quotes(
                relays, market.clock, selection, way=way, standings=market.standings, credit_key=credit_key
            )
            if selection.chosen
            else None
        )
    explanation = explain(selection)
    return {
        "quotes": [_describe(bid) for bid in (collected.quotes if collected else ())],
        "refusals": {node: refusal.to_wire() for node, refusal in (collected.refusals if collected else ())},
        "sentence": explanation.sentence(),
        "explanation": explanation.to_json(),
    }


def _describe(bid: "Bid") -> dict[str, Any]:
    choice, answer = bid.choice, bid.quote
    return {
        "node": choice.candidate.offer.node,
        "label": choice.candidate.offer.label,
        "model": answer.row.model,
        "estimated_msat": answer.estimated_msat,
        "max_msat": answer.max_msat,
        "settlement": [term.model_dump(mode="json") for term in answer.settlement],
        "chosen_term": bid.chosen.to_json(),
        "valid_until_ms": answer.valid_until_ms,
        "eta_in_ms": answer.eta_in_ms,
    }


def _tell(answer: dict[str, Any]) -> None:
    for entry in answer["quotes"]:
        print(
            f"{short_npub(entry['node'])}/{entry['label']}: {clean_line(entry['model'])} "
            f"at most {entry['max_msat']:,} msat, first output in about {entry['eta_in_ms']} ms"
        )
        print(f"  {clean_line(entry['chosen_term']['sentence'])}")
    for node, refusal in answer["refusals"].items():
        print(f"{short_npub(node)}: {clean_line(refusal)}")
    print(answer["sentence"], file=sys.stderr)
