"""`relaymesh node serve`: sell inference with the model server that is already here."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relaymesh.cli.options import ConfigOption, JsonOption, RelayOption, WalletOption, wallet_flags
from relaymesh.cli.passphrase import passphrase_for
from relaymesh.cli.running import guarded, run
from relaymesh.cli.terminal import clean_line

if TYPE_CHECKING:
    from relaymesh.nostr.keys import KeyPair
    from relaymesh.settings import Settings

node_commands = typer.Typer(no_args_is_help=True, help="Sell inference.")


@node_commands.callback()
def _node() -> None:
    """Sell inference."""


@node_commands.command("serve")
@guarded
def serve(
    config: ConfigOption = None,
    relay: RelayOption = None,
    runner: Annotated[str | None, typer.Option(help="auto, openai or embedded.")] = None,
    url: Annotated[
        str | None, typer.Option(help="The model server's OpenAI-compatible API, for --runner openai.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="The address on which clients connect.")] = None,
    port: Annotated[
        int | None, typer.Option(help="The port on which clients connect; 0 takes a free one.", max=65_535)
    ] = None,
    label: Annotated[str | None, typer.Option(help="The offer's name.")] = None,
    wallet: WalletOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish offers and serve jobs until Ctrl-C.

    Without options it looks for Ollama, llama.cpp, vLLM and LM Studio on this machine, and says what it found.
    """
    flags: dict[str, dict[str, Any]] = {
        "network": {"relays": relay or None},
        "wallet": wallet_flags(wallet),
        "node": {"runner": runner, "runner_url": url, "host": host, "port": port, "label": label},
    }
    from relaymesh.adapters.key_files import load_or_create_key
    from relaymesh.cli.settings_source import data_directory, load_settings

    settings = load_settings(config, flags)
    key_file = data_directory(settings) / "node.key"
    key = load_or_create_key(key_file, passphrase=passphrase_for(key_file))
    run(lambda: _serve(settings, key, as_json))


@node_commands.command("debts", short_help="Show what was delivered on credit and never paid.")
@guarded
def debts(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what was delivered on credit and never paid, and who answers for it; `node.forgiven_jobs` forgives it."""
    from relaymesh.cli.credit import show_debts
    from relaymesh.cli.settings_source import load_settings

    settings = load_settings(config, {})
    run(lambda: show_debts(settings, as_json=as_json))


async def _serve(settings: "Settings", key: "KeyPair", as_json: bool) -> None:
    import anyio

    from relaymesh.cli.wiring import ServingNode, open_node
    from relaymesh.nostr.identifiers import encode_public_key

    def announce(node: ServingNode) -> None:
        offer = node.offer.offer
        facts = {
            "node": encode_public_key(node.key.public_key),
            "public_key": node.key.public_key,
            "offer": node.offer.address,
            "offer_id": node.offer.event.id,
            "lightning_node_id": offer.ln_pubkey,
            "runner": node.runner.description,
            "models": list(offer.models),
            "relays": list(settings.network.relays),
        }
        if as_json:
            print(json.dumps(facts), flush=True)
            return
        print(f"Found {facts['runner']} with {', '.join(map(clean_line, offer.models))}.")
        for other in node.runner.others:
            models = ", ".join(map(clean_line, other.models)) or "no models"
            print(f"Also found {other.name} with {models}; to sell those instead: --runner openai --url {other.url}")
        for row in offer.rows:
            price = f"{row.input_msat:,} msat in, {row.output_msat:,} msat out per {row.per:,} {row.unit}s"
            what = f"{clean_line(row.model)} for {', '.join(row.job_types)}"
            print(f"Offering {what}: {price}, at least {row.minimum_msat:,} msat.")
        print(f"Serving as {facts['node']} on {', '.join(settings.network.relays)}; Ctrl-C ends it.", flush=True)

    async with open_node(settings, key) as node:
        announce(node)
        await anyio.sleep_forever()
