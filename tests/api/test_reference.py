"""What is written about the Python API: examples that run, and a reference with every name."""

import ast
import inspect
import re
import runpy

import pytest

import relaymesh
from tests.house import tree
from tests.roles.market import Market

EXAMPLES = tuple(path for path in tree.files() if re.fullmatch(r"examples/\w+\.py", path))
REFERENCE = tree.ROOT / "docs/reference/python.md"
ROW = re.compile(r"^\| `(\w+)` \| (.+) \|$", re.MULTILINE)


def _first_line(thing: object) -> str:
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split()).rstrip(".")


@pytest.mark.anyio
@pytest.mark.parametrize("path", EXAMPLES)
async def test_every_example_runs(path: str, market: Market, capsys: pytest.CaptureFixture[str]) -> None:
    await market.add_node()
    await runpy.run_path(str(tree.ROOT / path))["main"]()
    assert "What is an offer?" in capsys.readouterr().out, "the echo of the prompt was bought"


def test_the_examples_are_found() -> None:
    assert {"examples/buy.py", "examples/compare.py"} <= set(EXAMPLES)


def test_the_reference_has_every_public_name_and_every_method_with_what_it_is() -> None:
    methods = {
        name: value
        for name, value in vars(relaymesh.Client).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    said = {name: getattr(relaymesh, name) for name in relaymesh.__all__} | methods
    assert dict(ROW.findall(REFERENCE.read_text(encoding="utf-8"))) == {
        name: _first_line(thing) for name, thing in said.items()
    }


def test_the_names_for_type_checkers_are_the_names_there_are() -> None:
    source = ast.parse((tree.ROOT / "relaymesh/__init__.py").read_text(encoding="utf-8"))
    (imported,) = [
        node for node in ast.walk(source) if isinstance(node, ast.ImportFrom) and node.module == "relaymesh.api"
    ]
    assert [alias.name for alias in imported.names] == relaymesh.__all__ == sorted(relaymesh.__all__)
