"""`relaymesh keys`: make and show an identity's key."""

import json
from pathlib import Path
from typing import Annotated

import typer

from relaymesh.cli.options import ConfigOption, JsonOption
from relaymesh.cli.passphrase import ask_passphrase, passphrase_for
from relaymesh.cli.running import guarded

key_commands = typer.Typer(no_args_is_help=True, help="Make and show keys.")
FileOption = Annotated[Path | None, typer.Option("--file", help="The key file; node.key in the data folder otherwise.")]


@key_commands.command("new", short_help="Make a new key in a file of its own.")
@guarded
def new(
    file: FileOption = None,
    encrypt: Annotated[
        bool,
        typer.Option(
            "--encrypt", help="Protect it with a passphrase (NIP-49), asked for or from RELAYMESH_PASSPHRASE."
        ),
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new key in a file that only its owner can read; an existing file is never overwritten."""
    from relaymesh.adapters.key_files import create_key
    from relaymesh.nostr.keys import KeyPair

    path = _path(file, config)
    key = KeyPair.generate()
    passphrase = ask_passphrase(confirm=True) if encrypt else None
    create_key(path, key, passphrase=passphrase)
    _tell(key.public_key, path, as_json)


@key_commands.command("show", short_help="Show a key file's public key.")
@guarded
def show(file: FileOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show a key file's public key; the secret stays in the file."""
    from relaymesh.adapters.key_files import load_key

    path = _path(file, config)
    key = load_key(path, passphrase=passphrase_for(path))
    _tell(key.public_key, path, as_json)


def _path(file: Path | None, config: Path | None) -> Path:
    from relaymesh.cli.settings_source import data_directory, load_settings

    return file if file is not None else data_directory(load_settings(config)) / "node.key"


def _tell(public_key: str, path: Path, as_json: bool) -> None:
    from relaymesh.nostr.event import PublicKey
    from relaymesh.nostr.identifiers import encode_public_key

    npub = encode_public_key(PublicKey(public_key))
    if as_json:
        print(json.dumps({"npub": npub, "public_key": public_key, "file": str(path)}))
    else:
        print(f"{npub}\n{public_key}\nkept in {path}")
