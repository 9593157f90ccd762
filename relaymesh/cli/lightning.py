"""`relaymesh lightning serve`: a simulated Lightning network with a funded wallet, to try everything with."""

import json
from pathlib import Path
from typing import Annotated

import typer

from relaymesh.cli.options import ConfigOption, JsonOption
from relaymesh.cli.running import guarded, run
from relaymesh.errors import UsageError

FIRST_WALLETS = ("buyer=100000000", "node=1000000")

lightning_commands = typer.Typer(no_args_is_help=True, help="Run a simulated Lightning network.")


@lightning_commands.callback()
def _lightning() -> None:
    """Run a simulated Lightning network."""


@lightning_commands.command("serve", short_help="Run wallets of play money until Ctrl-C.")
@guarded
def serve(
    directory: Annotated[
        Path | None, typer.Option(help="Where it lives; `lightning` in the data folder otherwise.")
    ] = None,
    wallet: Annotated[list[str] | None, typer.Option("--wallet", help="NAME=MSAT; may be given several times.")] = None,
    wallet_connect: Annotated[
        list[str] | None,
        typer.Option(help="A relay's URL: serve every wallet there by Nostr Wallet Connect; may be repeated."),
    ] = None,
    lnd_port: Annotated[
        int | None,
        typer.Option(
            help="Serve every wallet by LND's REST interface at this port too; 0 takes a free one.", min=0, max=65_535
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run wallets and a routing hub until Ctrl-C; the money in them is play money and survives a restart."""

    from relaymesh.cli.settings_source import data_directory, load_settings

    folder = directory if directory is not None else data_directory(load_settings(config)) / "lightning"
    run(lambda: _serve(folder, tuple(wallet or FIRST_WALLETS), tuple(wallet_connect or ()), lnd_port, as_json))


async def _serve(
    folder: Path, wallets: tuple[str, ...], relay_urls: tuple[str, ...], lnd_port: int | None, as_json: bool
) -> None:
    import anyio

    from relaymesh.cli.clock import system_clock
    from relaymesh.lightning_sim.__main__ import describe, serve_lnd_at
    from relaymesh.lightning_sim.plan import NetworkPlan, WalletPlan
    from relaymesh.lightning_sim.server import LightningNetwork
    from relaymesh.lightning_sim.wallet_connect import serve_wallets

    plan = NetworkPlan(tuple(WalletPlan(*_read_wallet(text)) for text in wallets))
    async with (
        LightningNetwork.start(folder, plan, lambda: system_clock().unix_ms) as network,
        serve_wallets(network, relay_urls, system_clock) as connections,
        serve_lnd_at(network, lnd_port) as lnd,
    ):
        facts = describe(network, connections, lnd)
        if as_json:
            print(json.dumps(facts), flush=True)
        else:
            _tell(facts)
        await anyio.sleep_forever()


def _tell(facts: dict[str, object]) -> None:
    wallets = facts["wallets"]
    assert isinstance(wallets, dict)
    print("A simulated Lightning network is running; Ctrl-C ends it, and what it holds is play money.")
    for name, wallet in wallets.items():
        print(f"{name}: {wallet['balance_msat']:,} msat; to use it give `infer`, `node serve` or `wallet balance`")
        print(f"  --wallet {wallet['rpc_path']}")
        if "wallet_connect" in wallet:
            print(f"  --wallet {wallet['wallet_connect']} (by Nostr Wallet Connect; the file is a secret)")
        if "lnd" in wallet:
            print(f"  --wallet {wallet['lnd']} (by LND's REST interface, {facts['lnd_url']}; the file is a secret)")
    print(
        "`relaymesh wallet connect PATH` remembers one of them instead. A real wallet is connected the same way, Core "
        "Lightning's by ~/.lightning/bitcoin/lightning-rpc, LND's by its https:// address and its macaroon file.",
        flush=True,
    )


def _read_wallet(text: str) -> tuple[str, int]:
    name, _, amount = text.partition("=")
    if not name or not amount.isdecimal():
        raise UsageError(f"expected --wallet NAME=MSAT with a whole number, got {text}")
    return name, int(amount)
