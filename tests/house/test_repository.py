"""What must stand in no file: places on somebody's machine, registries, secrets, notes to self, silenced checks."""

import ast
import os
import re

import pytest

from tests.house import tree

SELF = "tests/house/test_repository.py"
TEXTS = tuple(path for path in tree.files() if path != SELF and tree.text_of(path) is not None)

PLACES = re.compile(r"(?<![\w.~/-])/(work|root|opt|home/\w+|Users/\w+)/\w|\.\./shared\b")
REGISTRIES = re.compile(
    r"pypi\.(org|io)|pythonhosted|npmjs\.(org|com)|crates\.io|index\.docker|--(extra-)?index-url|--find-links|"
    r"deb\.debian|proxy\.golang"
)
SECRETS = re.compile(
    r"nsec1[02-9ac-hj-np-z]{58}|-----BEGIN [A-Z ]*PRIVATE KEY-----|\bgh[pousr]_\w{30}|\bsk-[A-Za-z0-9]{32}|"
    r"AKIA[0-9A-Z]{16}"
)
NOTES = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|\bstage [ABC]\b|\bissue #?\d+\b", re.IGNORECASE)
SILENCED = re.compile(r"#\s*(?:type:\s*ignore|noqa|pragma:|pyright:|mypy:|ruff:)")
SILENCED_WITH_REASON = re.compile(
    r"#\s*(?:type:\s*ignore\[[\w, -]+\]|noqa:\s*[A-Z]+\d+(?:, [A-Z]+\d+)*)\s+[#—-]\s*\S+ \S+"
)
SKIPS = re.compile(r"\bpytest\.(skip|xfail|importorskip)\(|@pytest\.mark\.(skip|skipif|xfail)\b")


def _lines(pattern: re.Pattern[str], paths: tuple[str, ...], unless: re.Pattern[str] | None = None) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()[:100]}"
        for path in paths
        for number, line in enumerate((tree.text_of(path) or "").splitlines(), 1)
        if pattern.search(line) and not (unless and unless.search(line))
    ]


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    assert not _lines(PLACES, TEXTS)


def test_no_file_names_a_registry() -> None:
    allowed = ("Makefile",)  # `make lock` says that no index is to be written into the lock
    found = [line for line in _lines(REGISTRIES, TEXTS) if not line.startswith(allowed)]
    assert not found
    assert all("--no-emit-" in line for line in _lines(REGISTRIES, allowed))


def test_no_file_holds_a_secret() -> None:
    # The standards' own examples are public; tests may hold them.
    assert not _lines(SECRETS, tuple(path for path in TEXTS if not path.startswith("tests/")))


def test_there_are_no_notes_to_self() -> None:
    assert not _lines(NOTES, tuple(path for path in TEXTS if path != "docs/checks.md"))


def test_nothing_is_left_to_be_implemented() -> None:
    found = [
        f"{module.path}:{node.lineno}"
        for module in tree.everything()
        for node in module.nodes
        if isinstance(node, ast.Name) and node.id == "NotImplementedError"
    ]
    assert not found


def test_a_silenced_check_names_its_rule_and_gives_its_reason() -> None:
    python = tuple(path for path in TEXTS if path.endswith(".py") and path != "tests/house/test_public_names.py")
    found = _lines(SILENCED, python, unless=SILENCED_WITH_REASON)
    assert not found, "write `# type: ignore[rule]  # why` or `# noqa: RULE - why`:\n" + "\n".join(found)


def test_no_test_is_skipped_but_those_that_need_other_peoples_programs() -> None:
    about_others = ("tests/real/", "tests/conformance/relay/")  # the latter may be pointed at anybody's relay
    assert not _lines(
        SKIPS, tuple(path for path in TEXTS if path.endswith(".py") and not path.startswith(about_others))
    )


def _is_on_a_virtual_clock(module: tree.Module) -> bool:
    """Whether the module or its folder's conftest turns the clock by hand: sleeping then takes no time."""
    return any("MockClock" in (tree.text_of(path) or "") for path in (module.path, _conftest(module)) if path in TEXTS)


def _conftest(module: tree.Module) -> str:
    return module.path.rpartition("/")[0] + "/conftest.py"


def test_no_test_sleeps() -> None:
    found = []
    for module in tree.modules("tests/"):
        if _is_on_a_virtual_clock(module):
            continue
        for node in module.nodes:
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith(("sleep", "sleep_until")):
                continue
            if [ast.unparse(argument) for argument in node.args] != ["0"]:
                found.append(f"{module.path}:{node.lineno}: {ast.unparse(node)}")
    assert not found, "wait for a condition; a test that sleeps is slow or wrong:\n" + "\n".join(found)


Function = ast.FunctionDef | ast.AsyncFunctionDef
CHECKS = frozenset({"raises", "fail", "warns", "suppress", "rule"})


def _checks_something(function: Function, checkers: set[str]) -> bool:
    """Whether it asserts, expects an exception, refuses all but one, or calls something that does."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert | ast.Try):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).split(".")[-1]
            if name in CHECKS | checkers or name.lstrip("_").startswith(("assert", "check", "expect", "verify")):
                return True
    return False


def _checking_functions(module: tree.Module) -> set[str]:
    """The names of the module's functions that check something, themselves or through one another."""
    functions = [node for node in module.nodes if isinstance(node, Function)]
    checkers: set[str] = set()
    while more := {f.name for f in functions if f.name not in checkers and _checks_something(f, checkers)}:
        checkers |= more
    return checkers


def test_every_test_can_fail() -> None:
    found = []
    for module in tree.modules("tests/"):
        tests = {node.name for node in module.nodes if isinstance(node, Function) and node.name.startswith("test_")}
        found += [f"{module.path}: {name}" for name in tests - _checking_functions(module)] if tests else []
    assert not found, "these check nothing:\n" + "\n".join(found)


@pytest.mark.parametrize("path", [".ci/run"])
def test_what_is_run_is_executable(path: str) -> None:
    assert os.access(tree.ROOT / path, os.X_OK)
