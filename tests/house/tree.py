"""The repository as the house checks see it: its files, its modules, their syntax trees."""

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BUILT = re.compile(
    r"(^|/)(\.git|\.venv|\.venv-real|\.hypothesis|\.coverage[^/]*|\.\w+_cache|__pycache__|dist|build)(/|$)"
)

FLOORS_BELOW_THE_LINE = ("nostr", "protocol", "market", "machines")
MODULES_BELOW_THE_LINE = ("relaymesh.units", "relaymesh.errors")


@dataclass(frozen=True, slots=True)
class Module:
    """A Python file: its path below the root, its dotted name, its text, its syntax tree and every node of that."""

    path: str
    name: str
    text: str
    tree: ast.Module
    nodes: tuple[ast.AST, ...]

    @property
    def floor(self) -> str:
        """The package or module directly below `relaymesh`, e.g. `nostr`; the top name for everything else."""
        parts = self.name.split(".")
        return parts[1] if parts[0] == "relaymesh" and len(parts) > 1 else parts[0]

    @property
    def is_below_the_line(self) -> bool:
        """Whether this module may neither wait nor touch the world."""
        return self.name in MODULES_BELOW_THE_LINE or (
            self.name.startswith("relaymesh.") and self.floor in FLOORS_BELOW_THE_LINE
        )


@cache
def files() -> tuple[str, ...]:
    """Every file that is or could be committed, as a path below the root."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        paths = {path for path in listing.stdout.split("\0") if path and (ROOT / path).is_file()}
    else:  # an exported tree without its history
        found = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()}
        paths = {path for path in found if not _BUILT.search(path)}
    return tuple(sorted(paths))


@cache
def text_of(path: str) -> str | None:
    """A file's text, or None if it is not text."""
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


@cache
def modules(*folders: str) -> tuple[Module, ...]:
    """The Python files below these folders (relative to the root), parsed."""
    return tuple(_parse(path) for path in files() if path.endswith(".py") and path.startswith(folders))


def code() -> tuple[Module, ...]:
    """Both packages: what is shipped."""
    return modules("relaymesh/", "relay/")


def everything() -> tuple[Module, ...]:
    """All Python there is: shipped, tests, benchmarks, examples."""
    return modules("relaymesh/", "relay/", "tests/", "bench/", "examples/")


def imports(module: Module) -> Iterator[tuple[str, int]]:
    """Every name a module imports, absolute, with its line: `import a.b` gives a.b, `from a import b` gives a.b."""
    for node in module.nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


@cache
def _parse(path: str) -> Module:
    text = text_of(path) or ""
    name = path.removeprefix("relay/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    syntax = ast.parse(text, filename=path)
    return Module(path, name, text, syntax, tuple(ast.walk(syntax)))
