"""The parts of docs/ and nips/ that the code writes: `make docs` puts them there, test_documentation.py compares them.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`; everything outside is written by people.
"""

import ast
import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import typing
from collections.abc import Callable, Iterator
from types import ModuleType

import typer

import relaymesh.machines
from relaymesh.machines.machine import TransitionTable
from relaymesh_relay.metrics import METRICS
from tests.house import docstrings, tree
from tests.nips import files, tables

PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def modules_of(package: ModuleType) -> Iterator[ModuleType]:
    """Every module below a package, imported, in the order of their names."""
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def optional_module(name: str) -> ModuleType | None:
    """A module of ours, or None while it does not exist."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            return None
        raise


# ── state diagrams ────────────────────────────────────────────────────────────────────────────────────────────────


def transition_tables() -> dict[tuple[str, str], tuple[TransitionTable[typing.Any], str]]:
    """(module, name) of every transition table with the table and what is said of it: below it, or of its module."""
    found = {}
    for module in modules_of(relaymesh.machines):
        notes = _strings_below_assignments(module)
        for name, value in vars(module).items():
            if isinstance(value, TransitionTable) and name in notes:
                first_line = (inspect.getdoc(module) or "").split("\n\n")[0]
                found[module.__name__, name] = (value, notes[name] or " ".join(first_line.split()))
    return found


def state_diagrams() -> str:
    """Every transition table as a Mermaid diagram under a heading of its own."""
    lines = []
    for (module, name), (table, note) in transition_tables().items():
        title = module.rpartition(".")[2].replace("_", " ").capitalize()
        said = [f"`{module}.{name}`. {note}".rstrip(), ""]
        lines += [f"### {title}", "", *said, "```mermaid", table.diagram().rstrip(), "```", ""]
    return "\n".join(lines)


def _strings_below_assignments(module: ModuleType) -> dict[str, str]:
    body = ast.parse(inspect.getsource(module)).body
    notes = {}
    for node, following in zip(body, [*body[1:], ast.Pass()], strict=True):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                match following:
                    case ast.Expr(value=ast.Constant(value=str(note))):
                        notes[name] = " ".join(note.split())
                    case _:
                        notes[name] = ""
    return notes


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────────


# typer carries a click of its own, without types for those outside: commands are `Any` here.


def application() -> typing.Any:
    """The command line as click sees it, or None while there is none."""
    module = optional_module("relaymesh.cli.application")
    return None if module is None else typer.main.get_command(module.application)


def commands(command: typing.Any = None, path: str = "relaymesh") -> Iterator[tuple[str, typing.Any]]:
    """Every command and group with its full name, parents first."""
    command = command or application()
    if command is None:
        return
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from commands(child, f"{path} {name}")


def command_reference() -> str:
    """Every command with its arguments and options."""
    lines = []
    for path, command in commands():
        lines += [f"## `{path}`", "", _plain(command.help or ""), ""]
        rows = [_parameter_row(p) for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
        if rows:
            lines += ["| | | default |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _parameter_row(parameter: typing.Any) -> str:
    names = [f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts)]
    if parameter.param_type_name == "argument":
        names = [f"`{parameter.name.upper()}`"]
    default = parameter.default
    has_default = default not in (None, False, ()) and not callable(default) and "UNSET" not in repr(default)
    shown = f"`{default}`" if has_default else "required" if parameter.required else ""
    return f"| {', '.join(names)} | {_cell(_plain(getattr(parameter, 'help', None) or ''))} | {shown} |"


def _plain(text: str) -> str:
    return "\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.replace("\b", "")))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────


def settings_of(module_name: str) -> dict[str, type[typing.Any]]:
    """The settings tables that a module's `Settings` is made of: table name to dataclass; "" for its own fields."""
    module = optional_module(module_name)
    root = getattr(module, "Settings", None)
    if not isinstance(root, type) or not dataclasses.is_dataclass(root):
        return {}
    return {"": root} | dict(_tables_in(root, ""))


def _tables_in(kind: type[typing.Any], place: str) -> Iterator[tuple[str, type[typing.Any]]]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        inner = hints[field.name]
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            yield f"{place}{field.name}", inner
            yield from _tables_in(inner, f"{place}{field.name}.")


def setting_rows(kind: type[typing.Any]) -> Iterator[tuple[str, str, object]]:
    """(name, what its docstring says, default) of every plain field of a settings dataclass."""
    hints = typing.get_type_hints(kind)
    notes = docstrings.argument_notes(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield field.name, notes.get(field.name, ""), default


def _settings_reference(module_name: str) -> str:
    lines = []
    for table, kind in settings_of(module_name).items():
        rows = [
            f"| `{name}` | {_cell(note)} | {'required' if default is dataclasses.MISSING else f'`{_toml(default)}`'} |"
            for name, note, default in setting_rows(kind)
        ]
        if rows:
            first = (inspect.getdoc(kind) or "").splitlines()[0]
            heading = [f"### `[{table}]`", "", first, ""] if table else []
            lines += [*heading, "| setting | | default |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _toml(value: object) -> str:
    match value:
        case tuple() | frozenset():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False)


def relaymesh_settings() -> str:
    """What the RelayMesh commands read from their file."""
    return _settings_reference("relaymesh.settings")


def relay_settings() -> str:
    """What the bundled relay reads from its file."""
    return _settings_reference("relaymesh_relay.settings")


def relay_metrics() -> str:
    """What the bundled relay exports."""
    rows = [
        f"| `{metric.name}` | {metric.type} | {f'`{metric.label}`' if metric.label else ''} | {metric.meaning} |"
        for metric in METRICS
    ]
    return "\n".join(["| metric | type | label | what it counts |", "|---|---|---|---|", *rows, ""])


PARTS: dict[str, Callable[[], str]] = {
    "state-diagrams": state_diagrams,
    "commands": command_reference,
    "settings": relaymesh_settings,
    "relay-settings": relay_settings,
    "relay-metrics": relay_metrics,
    **tables.PARTS,
}


def regenerate(text: str) -> str:
    """A document with every generated part as it ought to be."""
    return PART.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]()}{match[3]}", text)


def main() -> None:
    """Write the generated parts of every document anew, and what is generated below nips/."""
    for path in tree.files():
        if path.endswith(".md") and (text := tree.text_of(path)) and PART.search(text):
            new = regenerate(text)
            if new != text:
                (tree.ROOT / path).write_text(new, encoding="utf-8")
                print(f"wrote {path}")
    files.write()


if __name__ == "__main__":
    main()
