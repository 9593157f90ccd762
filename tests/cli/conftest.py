"""What the tests of the command line share."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a short name: a unix socket path holds about a hundred bytes, less than pytest folders have."""
    with TemporaryDirectory(prefix="rm-") as folder:
        yield Path(folder)
