"""What the commands write: strangers' words made safe to show, and streams that can take whatever is written."""

import os
import shutil
import sys
import unicodedata
from pathlib import Path

_KEPT = frozenset("\n\t")
_OBEYED = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode's classes of control characters, of halves of characters, and of line and paragraph ends."""
_TURNING = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))
"""What turns the direction of the text after it (UAX #9), and so makes it read otherwise than it is."""
_SHORT_NPUB = 12


def clean_line(text: str) -> str:
    """A stranger's words on one line: a terminal obeys control characters, so none of them reaches one."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_control(character) else character for character in text)


def clean_text(text: str) -> str:
    """The same for text of many lines, which keeps its line ends and tabs."""
    return "".join(character if character in _KEPT else clean_line(character) for character in text)


def short_npub(node: str) -> str:
    """How a node's public key begins, as people see it everywhere."""
    from relaymesh.nostr.event import PublicKey
    from relaymesh.nostr.identifiers import encode_public_key

    return f"{encode_public_key(PublicKey(node))[:_SHORT_NPUB]}…"


def prepare_streams() -> None:
    """Make sure that there are three standard streams, and that no character stops a command half-way.

    Who starts a command with one of them closed would otherwise find the command's own sockets in its place.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8")  # None is what Python has for a closed descriptor
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name) or os.fdopen(descriptor, "w", encoding="utf-8")
        stream.reconfigure(errors="replace")
        setattr(sys, name, stream)


def program_name() -> str:
    """How a person can call this program in another terminal: by its name where that is found, else by its path."""
    name = Path(sys.argv[0]).name
    return name if name == "relaymesh" and shutil.which(name) else f"{sys.executable} -m relaymesh"


def give_up_output() -> None:
    """Write nothing more to standard output: what is still buffered for it would fail again at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in _OBEYED or unicodedata.bidirectional(character) in _TURNING
