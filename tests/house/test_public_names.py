"""The package's face: few public names, documented, and nothing loaded before it is wanted."""

import ast
import inspect
import re
import subprocess
import sys

import pytest

import relaymesh
import relaymesh.errors
from tests.house import tree

MAXIMUM_PUBLIC_NAMES = 25

# What floor 0 and the package itself must not pull in: slow to load, or of a floor above.
LATE = "anyio asyncio aiohttp numpy prometheus_client pyln rich starlette structlog typer uvicorn websockets xllamacpp"


def _public_names() -> list[str]:
    return list(getattr(relaymesh, "__all__", ()))


def test_the_package_has_few_public_names() -> None:
    assert len(_public_names()) <= MAXIMUM_PUBLIC_NAMES
    assert len(set(_public_names())) == len(_public_names())


def test_every_public_name_is_there_and_documented() -> None:
    undocumented = [
        name
        for name in _public_names()
        if not isinstance(getattr(relaymesh, name), str) and not inspect.getdoc(getattr(relaymesh, name))
    ]
    assert not undocumented


def test_the_package_refuses_names_it_does_not_have() -> None:
    with pytest.raises(AttributeError):
        _ = relaymesh.no_such_name


@pytest.mark.parametrize(
    "module", ["relaymesh", "relaymesh.nostr.event", "relaymesh.nostr.keys", "relaymesh.nostr.messages"]
)
def test_floor_0_loads_nothing_from_above(module: str) -> None:
    program = f"import sys, {module}; print(sorted(set({LATE!r}.split()) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


def test_no_module_does_anything_when_it_is_imported() -> None:
    allowed = (
        ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
    )
    found = []
    for module in tree.code():
        for node in module.tree.body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_guard = isinstance(node, ast.If) and ast.unparse(node.test) in {
                "__name__ == '__main__'",
                "TYPE_CHECKING",
            }
            is_optional_import = isinstance(node, ast.Try) and all(
                isinstance(step, ast.Import | ast.ImportFrom | ast.Assign) for step in node.body
            )
            is_registration = module.floor == "cli" and re.search(
                r"\.(command|add_typer|callback)\(", ast.unparse(node)
            )
            if not (isinstance(node, allowed) or is_docstring or is_guard or is_optional_import or is_registration):
                found.append(f"{module.path}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert not found, "importing a module must have no effect:\n" + "\n".join(found)


def test_the_error_tree_drawn_in_errors_is_the_tree_of_classes() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (relaymesh.errors.__doc__ or "").splitlines():
        if found := re.match(r"^    ([│ ]*)(?:├── |└── )?([A-Z]\w+)", line):
            depth = len(found.group(1)) // 4 + (1 if "── " in line else 0)
            path[depth:] = [found.group(2)]
            drawn[found.group(2)] = path[depth - 1] if depth else "Exception"
    classes = {
        name: value.__bases__[0].__name__
        for name, value in vars(relaymesh.errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert drawn == classes
