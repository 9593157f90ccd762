"""`relaymesh demo`: a market on this machine, a purchase in it, and what it cost whom."""

from typing import Annotated

import typer

from relaymesh.cli.options import JsonOption
from relaymesh.cli.running import run


def demo(
    stay: Annotated[
        bool, typer.Option("--stay", help="Keep the mesh up afterwards, for commands of your own.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start a relay, a Lightning network and three nodes, buy a chat completion and embeddings, show the evidence."""

    async def command() -> int:
        from relaymesh.cli.demo_story import tell

        return await tell(stay=stay, as_json=as_json)

    run(command)
