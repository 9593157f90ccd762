"""Names in full, modules and functions that fit on a screen, ports with one idea."""

import ast
import itertools
from collections.abc import Iterator
from pathlib import PurePosixPath

from tests.house import tree

REFUSED_MODULES = frozenset("core utils util common helpers helper manager service handler types models misc".split())
REFUSED_WORDS = frozenset(
    "msg msgs pk pks sk pubkey privkey seckey req reqs resp conn conns ctx cfg conf evt evts amt addr addrs idx num "
    "cnt cb fn func buf tmp val vals mgr util utils params prev cur curr desc sats btc sub subs src dst ptr obj attr "
    "attrs elem elems iter impl proc recv svc hdr lst arr ts".split()
)
# Names that others chose: fields of our messages are called as on the wire, pytest's fixtures as in pytest.
NAMES_OF_OTHERS = frozenset({"ln_pubkey", "tmp_path", "tmp_path_factory"})

MAXIMUM_MODULE_LINES = 400
MAXIMUM_FUNCTION_LINES = 40
MAXIMUM_PORT_METHODS = 4
MAXIMUM_FILE_BYTES = 6 * 1024 * 1024

# Brought in unchanged, held by its checksum in tests/bench.
UNCHANGED = frozenset({"bench/relay_bench.py"})


def _ours(modules: tuple[tree.Module, ...]) -> list[tree.Module]:
    return [module for module in modules if module.path not in UNCHANGED]


def test_no_module_is_called_by_a_name_that_says_nothing() -> None:
    found = [
        module.path
        for module in tree.everything()
        if REFUSED_MODULES & {PurePosixPath(part).stem for part in PurePosixPath(module.path).parts}
    ]
    assert not found, f"say what is in them: {found}"


def _defined_names(module: tree.Module) -> Iterator[tuple[str, int]]:
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr, node.lineno


def test_names_are_words_in_full() -> None:
    found = sorted(
        {
            f"{module.path}:{line}: {name}"
            for module in _ours(tree.everything())
            for name, line in _defined_names(module)
            if name not in NAMES_OF_OTHERS and REFUSED_WORDS & set(name.lower().split("_"))
        }
    )
    assert not found, "write the word:\n" + "\n".join(found)


def test_modules_stay_short() -> None:
    found = [
        f"{module.path}: {lines} lines"
        for module in _ours(tree.modules("relaymesh/", "relay/", "bench/", "examples/"))
        if (lines := module.text.count("\n")) > MAXIMUM_MODULE_LINES
    ]
    assert not found, f"more than {MAXIMUM_MODULE_LINES} lines have two names:\n" + "\n".join(found)


def test_functions_stay_short() -> None:
    found = [
        f"{module.path}:{node.lineno}: {node.name} has {lines} lines"
        for module in _ours(tree.modules("relaymesh/", "relay/", "bench/", "examples/"))
        for node in module.nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAXIMUM_FUNCTION_LINES
    ]
    assert not found, f"more than {MAXIMUM_FUNCTION_LINES} lines have two names:\n" + "\n".join(found)


def test_a_port_has_one_idea() -> None:
    found = []
    for module in tree.modules("relaymesh/ports/"):
        for node in module.nodes:
            if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases):
                methods = [m.name for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)]
                if len(methods) > MAXIMUM_PORT_METHODS:
                    found.append(f"{module.path}:{node.lineno}: {node.name} has {len(methods)} methods")
    assert not found, "\n".join(found)


def test_no_file_is_too_large_to_keep_for_ever() -> None:
    sizes = {path: (tree.ROOT / path).stat().st_size for path in tree.files()}
    found = {path: size for path, size in sizes.items() if size > MAXIMUM_FILE_BYTES}
    assert not found, f"every version of a file stays in the history: {found}"


def test_tests_mirror_the_tree() -> None:
    packages = {module.floor for module in tree.modules("relaymesh/")} | {"conformance", "house", "real", "vectors"}
    outside = {"bench", "chaos", "examples", "nips", "relay"}
    folders = {
        PurePosixPath(path).parts[1] for path in tree.files() if path.startswith("tests/") and path.count("/") > 1
    }
    assert not folders - packages - outside, "a test lies where what it tests lies"


def test_no_two_test_modules_share_a_path_and_none_is_a_package() -> None:
    assert not [path for path in tree.files() if path.startswith("tests/") and path.endswith("__init__.py")]
    for module in tree.modules("tests/"):
        names = [node.name for node in module.tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        twice = [name for name, group in itertools.groupby(sorted(names)) if len(list(group)) > 1]
        assert not twice, f"{module.path}: the second hides the first: {twice}"
