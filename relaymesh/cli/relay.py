"""`relaymesh relay serve`: run the bundled relay."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from relaymesh.cli.options import JsonOption
from relaymesh.cli.running import run

relay_commands = typer.Typer(no_args_is_help=True, help="Run the bundled relay.")


@relay_commands.callback()
def _relay() -> None:
    """Run the bundled relay."""


@relay_commands.command("serve", short_help="Serve Nostr events until Ctrl-C.")
def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on [default: 127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="The port; 0 takes a free one [default: 7777].", max=65_535)] = None,
    database: Annotated[
        Path | None, typer.Option(help="The SQLite file of events [default: relay.sqlite3 in the data folder].")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of the relay's settings; flags go before it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Serve Nostr events until Ctrl-C; any NIP-01 relay can take its place."""

    async def command() -> None:
        from relaymesh.cli.settings_source import data_directory, load_settings
        from relaymesh_relay.server import serve as serve_relay
        from relaymesh_relay.settings import choose_settings

        file = (
            data_directory(load_settings(None)) / "relay.sqlite3" if database is None and config is None else database
        )
        reread = partial(choose_settings, config, host=host, port=port, database=file)

        def announce(url: str) -> None:
            print(
                json.dumps({"relay_url": url}) if as_json else f"relay listening on {url}; Ctrl-C ends it", flush=True
            )

        def log(line: str) -> None:
            print(line, file=sys.stderr, flush=True)

        await serve_relay(reread(), started=announce, log=log, reread=reread)

    run(command)
