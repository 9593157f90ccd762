"""What is installed is the whole of it: both packages, their data, their commands, the licence."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house import tree


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built as an installer would, without isolation and without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=tree.ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_both_packages(wheel: zipfile.ZipFile) -> None:
    shipped = {
        path.removeprefix("relay/")
        for path in tree.files()
        if path.startswith(("relaymesh/", "relay/relaymesh_relay/"))
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == shipped


def test_the_wheel_holds_the_types_the_commands_and_the_licence(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "relaymesh/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "relaymesh = relaymesh.cli:main" in wheel.read(entry_points).decode()


def test_the_wheel_works_in_an_empty_directory(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    program = "import relaymesh.nostr.keys, relaymesh_relay; print(relaymesh.__file__, relaymesh_relay.__file__)"
    outcome = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert outcome.stdout.count(str(tmp_path)) == 2
