"""Where a command's settings come from: defaults, then the TOML file, then the environment, then flags."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relaymesh.configuration import build_settings, format_document, merge_documents, parse_document, read_environment
from relaymesh.errors import UsageError
from relaymesh.settings import Settings

ENVIRONMENT_PREFIX = "RELAYMESH"


def default_directory() -> Path:
    """The system's usual folder for RelayMesh's keys, ledger and settings."""
    import platformdirs

    return Path(platformdirs.user_data_dir("relaymesh", appauthor=False))


def load_settings(file: Path | None, flags: Mapping[str, Mapping[str, Any]] | None = None) -> Settings:
    """The settings in force.

    Args:
        file: A TOML file; None takes `config.toml` in the default folder, where there is one.
        flags: What the command line said, table by table; None values were not given.

    Raises:
        UsageError: The file cannot be read, or something in it is unknown or of the wrong form.
    """
    given = {
        table: {name: value for name, value in entries.items() if value is not None}
        for table, entries in (flags or {}).items()
    }
    document = merge_documents(_read_file(file), read_environment(os.environ, Settings, ENVIRONMENT_PREFIX), given)
    return build_settings(document, Settings)


def data_directory(settings: Settings) -> Path:
    """Where this process keeps its files; made with mode 0700 when it is not there."""
    directory = Path(settings.files.directory).expanduser() if settings.files.directory else default_directory()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {directory} cannot be made: {error.strerror}; choose another") from error
    return directory


def remember(file: Path | None, table: str, entries: Mapping[str, object]) -> Path:
    """Write some settings into the settings file, keeping the others; comments in the file are lost.

    Raises:
        UsageError: The file cannot be read or written.
    """
    path = file or default_directory() / "config.toml"
    document = merge_documents(_read_file(path) if path.exists() else {}, {table: dict(entries)})
    build_settings(document, Settings)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(format_document(document), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the settings cannot be written to {path}: {error.strerror}") from error
    return path


def _read_file(file: Path | None) -> dict[str, Any]:
    path = file or default_directory() / "config.toml"
    try:
        return parse_document(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        if file is None and isinstance(error, FileNotFoundError):
            return {}
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"the settings cannot be read from {path}: {reason}") from error
