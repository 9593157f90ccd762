"""Other people's programs: absent ones are skipped where a person tests, and are a failure in CI."""

import importlib
import os
import shutil
from pathlib import Path
from types import ModuleType

import pytest


def require_module(name: str) -> ModuleType:
    """Import a library that only `make real` installs; without it the whole test module is skipped, saying so."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{name} is not installed; `make real` installs it", allow_module_level=True)


def require_program(name: str, installed: Path) -> str:
    """Where this program is, which runs what `make real` put at `installed`; without them the module is skipped."""
    program = shutil.which(name)
    if program is not None and installed.exists():
        return program
    raise _absent(
        f"{name} is not there" if program is None else f"{installed.name} is not installed; `make real` installs it"
    )


def require_postgresql() -> Path:
    """The folder of PostgreSQL's server programs, which Debian keeps out of the PATH; the newest where there are many.

    Without them whatever asks is skipped, or fails in CI.
    """
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    if folders:
        return folders[-1]
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    raise _absent("PostgreSQL's server is not there; install the package postgresql")


def _absent(reason: str) -> BaseException:
    """Fails in CI; what a test module that needs something absent raises elsewhere, to be skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    return pytest.skip.Exception(reason, allow_module_level=True)
