"""The command line as a whole: every command registered, nothing heavy imported until a command runs."""

from typing import Annotated

import typer

from relaymesh.cli.demo import demo
from relaymesh.cli.explain import explain
from relaymesh.cli.fraud import fraud_commands
from relaymesh.cli.gateway import gateway_commands
from relaymesh.cli.infer import infer
from relaymesh.cli.keys import key_commands
from relaymesh.cli.ledger import ledger_commands
from relaymesh.cli.lightning import lightning_commands
from relaymesh.cli.manifest import manifest
from relaymesh.cli.node import node_commands
from relaymesh.cli.offers import offers
from relaymesh.cli.quote import quote
from relaymesh.cli.receipts import receipt_commands
from relaymesh.cli.relay import relay_commands
from relaymesh.cli.reputation import reputation_commands
from relaymesh.cli.router import router_commands
from relaymesh.cli.running import fail
from relaymesh.cli.traffic import traffic
from relaymesh.cli.wallet import wallet_commands

application = typer.Typer(
    name="relaymesh",
    help="An open market for AI inference that nobody owns.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@application.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --version: print one JSON object.")] = False,
) -> None:
    """An open market for AI inference that nobody owns."""
    if version:
        from importlib.metadata import version as version_of

        number = version_of("relaymesh")
        print(f'{{"version": "{number}"}}' if as_json else f"relaymesh {number}")
        raise typer.Exit
    if as_json:
        fail("--json stands after the command, or beside --version", 2)


application.command("demo", short_help="Run a whole market on this machine, and buy in it.")(demo)
application.command("offers", short_help="Show who offers what, and who has room.")(offers)
application.command("traffic", short_help="Show the market's messages as they pass.")(traffic)
application.command("quote", short_help="Ask the best nodes for binding quotes.")(quote)
application.command("explain", short_help="Show which nodes would be asked, and why.")(explain)
application.command("infer", short_help="Buy an answer, and pay it over Lightning.")(infer)
application.command("manifest", short_help="Say what a machine can do, from a file.")(manifest)
for name, commands in {
    "node": node_commands,
    "router": router_commands,
    "gateway": gateway_commands,
    "relay": relay_commands,
    "wallet": wallet_commands,
    "lightning": lightning_commands,
    "receipts": receipt_commands,
    "ledger": ledger_commands,
    "fraud": fraud_commands,
    "reputation": reputation_commands,
    "keys": key_commands,
}.items():
    application.add_typer(commands, name=name)
