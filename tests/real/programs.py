"""Other people's programs: absent ones are skipped where a person tests, and are a failure in CI."""

import importlib
import os
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
