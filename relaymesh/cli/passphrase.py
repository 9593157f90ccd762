"""Where the passphrase of an encrypted key (NIP-49) comes from: the environment, or a person at a terminal."""

import os
import sys
from pathlib import Path

import typer

from relaymesh.errors import UsageError

PASSPHRASE_VARIABLE = "RELAYMESH_PASSPHRASE"


def passphrase_for(path: Path) -> str | None:
    """What opens the key in this file; None where it needs nothing.

    Raises:
        UsageError: It needs a passphrase, and there is neither a variable nor a terminal.
    """
    is_encrypted = path.is_file() and path.read_text(encoding="utf-8", errors="replace").startswith("ncryptsec1")
    return ask_passphrase(confirm=False) if is_encrypted else None


def ask_passphrase(*, confirm: bool) -> str:
    """The passphrase; waits for a person, so call it before the event loop starts.

    Raises:
        UsageError: There is neither a variable nor a terminal, or it is empty.
    """
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is None and not sys.stdin.isatty():
        raise UsageError(
            f"expected a terminal to ask for the passphrase on, or the passphrase in {PASSPHRASE_VARIABLE}"
        )
    if given is None:
        given = str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
    if not given:
        raise UsageError(f"expected a passphrase in {PASSPHRASE_VARIABLE}, got an empty one")
    return given
