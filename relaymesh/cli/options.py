"""The options that several commands share."""

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

Role = Literal["client", "node", "router"]
ROLES: Final[tuple[Role, ...]] = ("client", "node", "router")
"""Who keeps a ledger."""

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file of settings; config.toml in the data folder otherwise.")
]
RelayOption = Annotated[list[str] | None, typer.Option("--relay", help="A relay's URL; may be given several times.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
WalletOption = Annotated[
    Path | None,
    typer.Option(
        "--wallet",
        help="A lightning-rpc socket, or a file with a connection (NWC or LND), instead of the connected wallet.",
    ),
]
PrivateOption = Annotated[
    bool | None,
    typer.Option("--allow-private", help="Also connect to nodes on loopback and private addresses."),
]
KeyOption = Annotated[Path | None, typer.Option("--key", help="The key file to sign with.")]


def wallet_flags(path: Path | None) -> dict[str, str | None]:
    """The settings that `--wallet` stands for: a plain file holds a connection, anything else is to be a socket."""
    if path is None:
        return {"lightning_rpc": None, "connection_file": None}
    if path.expanduser().is_file():
        return {"lightning_rpc": "", "connection_file": str(path)}
    return {"lightning_rpc": str(path), "connection_file": ""}
