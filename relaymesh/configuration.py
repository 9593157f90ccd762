"""A TOML document into frozen settings: one table per section, every name known, every value of the right form."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final, TypeVar, get_type_hints

import orjson

from relaymesh.errors import UsageError

MAXIMUM_PORT: Final = 65_535

SettingsT = TypeVar("SettingsT")


def parse_document(text: str, source: str) -> dict[str, Any]:
    """TOML text as nested tables; `source` names it in the error.

    Raises:
        UsageError: It is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the settings in {source} are not valid TOML: {error}") from error


def read_environment(environment: Mapping[str, str], kind: type[Any], prefix: str) -> dict[str, Any]:
    """The tables that variables called `<PREFIX>_<TABLE>_<SETTING>` spell out, in upper case.

    A value is read as TOML where it is TOML, as text otherwise; a list may be written with commas.

    Raises:
        UsageError: A variable names a setting that its table does not have.
    """
    document: dict[str, Any] = {}
    for table, section in _sections(kind).items():
        start = f"{prefix}_{table}_".upper()
        known = {f"{start}{'_'.join(path).upper()}": (path, hint) for path, hint in _settings_of(section)}
        for variable, value in environment.items():
            if variable in known:
                path, hint = known[variable]
                place = document.setdefault(table, {})
                for name in path[:-1]:
                    place = place.setdefault(name, {})
                place[path[-1]] = _read_value(value, hint)
            elif variable.startswith(start):
                raise UsageError(f"the settings know no variable {variable}; known are {', '.join(known)}")
    return document


def merge_documents(*documents: Mapping[str, Any]) -> dict[str, Any]:
    """Tables joined setting by setting; the later document wins."""
    merged: dict[str, Any] = {}
    for document in documents:
        for name, value in document.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(name, {}), Mapping)
            merged[name] = merge_documents(merged.get(name, {}), value) if both else value
    return merged


def format_document(document: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of plain values, and of such tables, as TOML text."""
    lines: list[str] = []
    for table, entries in document.items():
        plain = {name: value for name, value in entries.items() if not isinstance(value, Mapping)}
        lines += [f"[{table}]", *(f"{name} = {_format_value(value)}" for name, value in plain.items()), ""]
        inner = {f"{table}.{name}": value for name, value in entries.items() if isinstance(value, Mapping)}
        lines += [format_document(inner)] if inner else []
    return "\n".join(lines)


def build_settings(document: Mapping[str, Any], kind: type[SettingsT]) -> SettingsT:
    """The settings in a document, one dataclass per table; what it leaves out keeps its default.

    Raises:
        UsageError: A name is unknown or a value has the wrong form.
    """
    sections = _sections(kind)
    for name in document:
        if name not in sections:
            raise UsageError(f"the settings know no [{name}]; known are {', '.join(sections)}")
    return kind(**{name: _build_section(name, sections[name], table) for name, table in document.items()})


def _sections(kind: type[Any]) -> dict[str, type[Any]]:
    hints = get_type_hints(kind)
    return {entry.name: hints[entry.name] for entry in fields(kind) if is_dataclass(hints[entry.name])}


def _settings_of(section: type[Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every setting of a table and of the tables in it: the names that lead to it, and its type."""
    hints = get_type_hints(section)
    for entry in fields(section):
        hint = hints[entry.name]
        if is_dataclass(hint) and isinstance(hint, type):
            for path, inner in _settings_of(hint):
                yield (entry.name, *path), inner
        else:
            yield (entry.name,), hint


def _build_section(name: str, kind: Any, table: object) -> Any:
    import pydantic  # slow to import, and needed only where there is something to read

    _check_section(name, kind, table)
    try:
        # By way of JSON, where strict still lets an array become a tuple.
        return pydantic.TypeAdapter(kind).validate_json(orjson.dumps(table), strict=True)
    except (pydantic.ValidationError, TypeError) as error:
        if not isinstance(error, pydantic.ValidationError):
            raise UsageError(f"the settings in [{name}] have the wrong form: {error}") from error
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"the setting {name}.{where} has the wrong form: {first['msg']}") from error


def _check_section(name: str, kind: Any, table: object) -> None:
    """Refuse names that a table does not know, and what no type tells apart."""
    if not isinstance(table, Mapping):
        raise UsageError(f"the setting {name} must be a table")
    known, inner = [each.name for each in fields(kind)], _sections(kind)
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"the settings know no {name}.{key}; known are {', '.join(known)}")
        if key in inner:
            _check_section(f"{name}.{key}", inner[key], value)
        if isinstance(value, int) and value < 0:
            raise UsageError(f"the setting {name}.{key} must be at least 0, not {value}")
        if key == "host" and value == "":  # which a socket would take for every address
            raise UsageError(f"the setting {name}.{key} must name an address, for example 127.0.0.1")
        if key == "port" and isinstance(value, int) and value > MAXIMUM_PORT:
            raise UsageError(f"the setting {name}.{key} must be at most {MAXIMUM_PORT}, not {value}")


def _read_value(text: str, hint: Any) -> Any:
    if str(hint).startswith("tuple") and not text.lstrip().startswith("["):
        return [_read_value(part.strip(), str) for part in text.split(",") if part.strip()]
    if hint is str:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _format_value(value: Any) -> str:
    # JSON's strings, integers, booleans and arrays of them are TOML as well, but for one character.
    return orjson.dumps(value).decode().replace("\x7f", "\\u007f")
