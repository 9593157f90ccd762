"""What docstrings say about arguments and fields, for whatever is generated from them."""

import inspect
import re
from typing import Any


def argument_notes(kind: type[Any]) -> dict[str, str]:
    """What a class's docstring says under `Args:`, by argument."""
    text = inspect.getdoc(kind) or ""
    notes: dict[str, str] = {}
    name = ""
    for line in text.partition("Args:\n")[2].splitlines():
        if match := re.match(r"    (\w+): (.*)", line):
            name = match.group(1)
            notes[name] = match.group(2)
        elif name and line.startswith("        "):
            notes[name] += " " + line.strip()
        elif line.strip():
            break
    return notes
