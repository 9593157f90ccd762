"""The command line as a whole: every command registered, nothing heavy imported until a command runs."""

from typing import Annotated

import typer

from relaymesh.cli import demo
from relaymesh.cli.node import node_commands

application = typer.Typer(
    name="relaymesh",
    help="An open market for AI inference that nobody owns.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"relaymesh {version('relaymesh')}")
        raise typer.Exit


@application.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """An open market for AI inference that nobody owns."""


application.command("demo")(demo.demo)
application.add_typer(node_commands, name="node")
