"""Whatever a person can type, set, meet or measure stands in the reference, and what stands there is true."""

import ast
import re

import pytest

from relaymesh.nostr.kinds import Kind, is_addressable, is_ephemeral, is_regular, is_replaceable
from relaymesh.protocol.refusal import RETRYABLE, RefusalCode
from relaymesh_relay.metrics import METRICS
from tests.house import generate, tree

DOCUMENTS = tuple(path for path in tree.files() if path.endswith(".md") and not path.startswith("tests/"))
METRIC_CLASSES = frozenset({"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"})


def _read(path: str) -> str:
    return tree.text_of(path) or ""


def _rows(path: str) -> list[list[str]]:
    """The cells of every table row whose first cell holds something."""
    lines = [line for line in _read(path).splitlines() if line.startswith("|") and not line.startswith("|---")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in rows if row[0]]


@pytest.mark.parametrize("path", DOCUMENTS)
def test_generated_parts_are_up_to_date(path: str) -> None:
    assert _read(path) == generate.regenerate(_read(path)), f"{path} is out of date: run `make docs`"


def test_every_generated_part_stands_in_some_document() -> None:
    placed = {match[2] for path in DOCUMENTS for match in generate.PART.finditer(_read(path))}
    assert placed == set(generate.PARTS)


def test_every_transition_table_has_its_diagram() -> None:
    tables = sum(
        isinstance(node, ast.Call) and ast.unparse(node.func).split("[")[0].endswith("TransitionTable")
        for module in tree.modules("relaymesh/")
        for node in module.nodes
    )
    assert len(generate.transition_tables()) == tables, "a table is a public name of its machine's module"


def test_every_kind_is_documented() -> None:
    stored = {
        "addressable": is_addressable,
        "ephemeral": is_ephemeral,
        "regular": is_regular,
        "replaceable": is_replaceable,
    }
    rows = {(int(row[0]), row[1].strip("`"), row[2]) for row in _rows("docs/reference/kinds.md") if row[0].isdigit()}
    expected = {
        (kind.value, kind.name, how) for kind in Kind for how, is_stored_so in stored.items() if is_stored_so(kind)
    }
    assert rows == expected


def test_every_refusal_code_is_documented() -> None:
    rows = {(row[0].strip("`"), row[1]) for row in _rows("docs/reference/errors.md") if row[1] in {"yes", "no"}}
    assert rows == {(code.value, "yes" if RETRYABLE[code] else "no") for code in RefusalCode}


def test_every_exception_is_documented() -> None:
    errors = next(module for module in tree.code() if module.name == "relaymesh.errors")
    classes = {
        node.name: [ast.unparse(base) for base in node.bases]
        for node in errors.tree.body
        if isinstance(node, ast.ClassDef)
    }
    abstract = {"RelayMeshError", "ProtocolError", "PortError"}
    rows = {row[0].strip("`") for row in _rows("docs/reference/errors.md") if re.fullmatch(r"`[A-Z]\w+`", row[0])}
    assert rows == set(classes) - abstract


def test_every_command_and_option_says_what_it_does() -> None:
    silent = [path for path, command in generate.commands() if not command.help]
    silent += [
        f"{path} {parameter.opts[-1]}"
        for path, command in generate.commands()
        for parameter in command.params
        if not getattr(parameter, "help", None)
    ]
    assert not silent


def test_a_command_line_that_exists_is_found() -> None:
    has_commands = any(module.floor == "cli" and "Typer(" in module.text for module in tree.code())
    assert bool(list(generate.commands())) == has_commands


@pytest.mark.parametrize("module", ["relaymesh.settings", "relaymesh_relay.settings"])
def test_every_setting_says_what_it_does(module: str) -> None:
    tables = generate.settings_of(module)
    assert bool(tables) == any(found.name == module for found in tree.code())
    silent = [
        f"{table}.{name}" for table, kind in tables.items() for name, note, _ in generate.setting_rows(kind) if not note
    ]
    assert not silent, "name it under Args: in the docstring"


def test_every_metric_is_documented() -> None:
    metrics = {(metric.name, metric.type) for metric in METRICS} | {
        (node.args[0].value, ast.unparse(node.func).split(".")[-1].lower())
        for module in tree.code()
        if "prometheus_client" in module.text
        for node in module.nodes
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] in METRIC_CLASSES
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    rows = {(row[0].strip("`"), row[1]) for row in _rows("docs/reference/metrics.md") if row[0].startswith("`")}
    assert rows == metrics


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_between_documents_lead_somewhere(path: str) -> None:
    targets = re.findall(r"\]\((?!\w+:)([^)#\s]+)", _read(path))
    broken = [target for target in targets if not ((tree.ROOT / path).parent / target).exists()]
    assert not broken, f"{path} links to nothing: {broken}"


def test_the_readme_leads_with_the_two_commands() -> None:
    first_block = re.search(r"```\w*\n(.*?)```", _read("README.md"), re.DOTALL)
    assert first_block is not None
    assert first_block[1].split() == ["make", "demo", "make", "test"]


def test_the_changelog_keeps_its_form() -> None:
    text = _read("CHANGELOG.md")
    assert re.search(r"^## \[Unreleased\]$", text, re.MULTILINE)
    headings = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert headings <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_there_is_a_licence() -> None:
    assert _read("LICENSE").startswith("MIT License")
    assert 'license = "MIT"' in _read("pyproject.toml")
