"""`relaymesh quote`: what the best nodes would ask for a job, bindingly, without buying it."""

import json
import sys
from typing import Any

from relaymesh.cli.buying import MaximumOption, ModelOption, OutputOption, PromptArgument
from relaymesh.cli.options import ConfigOption, JsonOption, RelayOption
from relaymesh.cli.running import run
from relaymesh.errors import RelayError


def quote(
    prompt: PromptArgument = None,
    model: ModelOption = None,
    max_msat: MaximumOption = None,
    output_tokens: OutputOption = None,
    relay: RelayOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the best nodes for binding quotes; they learn the job's size, not the prompt."""

    async def command() -> int:
        from relaymesh.cli.buying import read_prompt, wanted_chat
        from relaymesh.cli.settings_source import load_settings
        from relaymesh.cli.wiring import open_market
        from relaymesh.market.explanation import explain
        from relaymesh.roles.negotiation import collect_quotes

        settings = load_settings(config, {"network": {"relays": relay or None}})
        wanted = wanted_chat(read_prompt(prompt), settings, model=model, max_msat=max_msat, output_tokens=output_tokens)
        async with open_market(settings) as (market, relays):
            selection = await market.wait_for_choice(wanted.to_request(), settings.client.discovery_seconds)
            if not market.is_in_view:
                raise RelayError(market.unreachable)
            collected = await collect_quotes(relays, market.clock, selection) if selection.chosen else None
        quotes: list[dict[str, Any]] = [
            {
                "node": choice.candidate.offer.node,
                "label": choice.candidate.offer.label,
                "model": answer.row.model,
                "estimated_msat": answer.estimated_msat,
                "max_msat": answer.max_msat,
                "settlement": [term.model_dump(mode="json") for term in answer.settlement],
                "valid_until_ms": answer.valid_until_ms,
                "eta_in_ms": answer.eta_in_ms,
            }
            for choice, answer in (collected.quotes if collected is not None else ())
        ]
        refusals = {node: refusal.to_wire() for node, refusal in (collected.refusals if collected is not None else ())}
        explanation = explain(selection)
        if as_json:
            print(json.dumps({"quotes": quotes, "refusals": refusals, "explanation": explanation.to_json()}))
        else:
            for entry in quotes:
                print(
                    f"{entry['node'][:8]}…/{entry['label']}: {entry['model']} at most {entry['max_msat']:,} msat, "
                    f"first output in about {entry['eta_in_ms']} ms"
                )
            for node, refusal in refusals.items():
                print(f"{node[:8]}…: {refusal}")
            print(explanation.sentence(), file=sys.stderr)
        return 0 if quotes else 2

    run(command)
