"""The options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file of settings; config.toml in the data folder otherwise.")
]
RelayOption = Annotated[list[str] | None, typer.Option("--relay", help="A relay's URL; may be given several times.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
WalletOption = Annotated[
    Path | None, typer.Option("--wallet", help="A lightning-rpc socket, instead of the connected wallet.")
]
PrivateOption = Annotated[
    bool | None,
    typer.Option("--allow-private", help="Also connect to nodes on loopback and private addresses."),
]
KeyOption = Annotated[Path | None, typer.Option("--key", help="The key file to sign with.")]
