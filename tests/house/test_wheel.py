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


def _run_installed(wheel: zipfile.ZipFile, folder: Path, *arguments: str) -> str:
    """What Python prints in an empty folder, with the wheel's content first on its path."""
    wheel.extractall(folder / "site")
    (folder / "empty").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder / "empty", env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_the_wheel_holds_what_is_imported(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    program = "import relaymesh.nostr.keys, relaymesh_relay; print(relaymesh.__file__, relaymesh_relay.__file__)"
    assert _run_installed(wheel, tmp_path, "-c", program).count(str(tmp_path)) == 2


def test_the_command_line_works_in_an_empty_directory(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    assert _run_installed(wheel, tmp_path, "-m", "relaymesh", "--version").startswith("relaymesh ")
