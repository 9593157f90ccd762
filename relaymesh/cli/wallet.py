"""`relaymesh wallet`: connect a Lightning wallet and see what is in it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from relaymesh.cli.options import ConfigOption, JsonOption, WalletOption
from relaymesh.cli.running import run

wallet_commands = typer.Typer(no_args_is_help=True, help="Connect and look into a Lightning wallet.")


@wallet_commands.command("connect", short_help="Connect a wallet, and remember it.")
def connect(
    lightning_rpc: Annotated[Path, typer.Argument(help="Core Lightning's lightning-rpc socket, or a simulated one.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that the wallet answers, and remember it in the settings file."""

    async def command() -> None:
        from relaymesh.adapters.core_lightning import CoreLightningWallet
        from relaymesh.cli.settings_source import remember

        socket = lightning_rpc.expanduser().absolute()
        info = await CoreLightningWallet(socket).info()
        path = remember(config, "wallet", "lightning_rpc", str(socket))
        if as_json:
            print(json.dumps({"public_key": info.public_key, "network": info.network, "settings": str(path)}))
        else:
            print(f"Connected {info.alias or info.public_key} on {info.network}; remembered in {path}.")

    run(command)


@wallet_commands.command("balance")
def balance(wallet: WalletOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what the wallet has, and what it can send and receive now."""

    async def command() -> None:
        from relaymesh.cli.settings_source import load_settings
        from relaymesh.cli.wiring import open_wallet

        purse = {"lightning_rpc": str(wallet) if wallet else None}
        info = await open_wallet(load_settings(config, {"wallet": purse}).wallet).info()
        if as_json:
            amounts = {
                "balance_msat": info.balance_msat,
                "spendable_msat": info.spendable_msat,
                "receivable_msat": info.receivable_msat,
            }
            print(json.dumps({"public_key": info.public_key, "network": info.network, **amounts}))
        else:
            print(
                f"{info.balance_msat:,} msat on {info.network}: {info.spendable_msat:,} can be sent now, "
                f"{info.receivable_msat:,} can be received now"
            )

    run(command)
