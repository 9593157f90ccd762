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
    reason = (
        f"{name} is not there" if program is None else f"{installed.name} is not installed; `make real` installs it"
    )
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)
