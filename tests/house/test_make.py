"""The Makefile: it takes the first Python that really runs, and says in one sentence what to install when none does."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import tree

MAKE = shutil.which("make") or "make"
FITTING = """#!/bin/sh
case "$1" in
  -c) exit 0 ;;
  --version) echo "{name} that fits" ;;
  *) exit 9 ;;
esac
"""
STAND_IN = "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n"
TOO_NEW = "#!/bin/sh\nexit 1\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh checkout's files that the Makefile reads, and an empty `bin` with the tools it calls."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(tree.ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "cat", "sed", "rm", "echo"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    return tmp_path


def _put(checkout: Path, name: str, script: str) -> None:
    path = checkout / "bin" / name
    path.write_text(script.format(name=name), encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(checkout / "bin"), "HOME": str(checkout)}
    return subprocess.run(
        [MAKE, *arguments], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )


def test_a_python_that_is_there_but_does_not_run_is_passed_over(checkout: Path) -> None:
    _put(checkout, "python3.12", STAND_IN)
    _put(checkout, "python3.11", FITTING)
    _put(checkout, "python3", FITTING)
    assert "Creating .venv with python3.11 that fits, once." in _make(checkout, "demo").stdout


def test_the_newest_python_that_fits_is_taken_first(checkout: Path) -> None:
    for name in ("python3", "python3.11", "python3.12"):
        _put(checkout, name, FITTING)
    assert "Creating .venv with python3.12 that fits, once." in _make(checkout, "test").stdout


def test_a_python_named_by_the_caller_comes_before_all_others(checkout: Path) -> None:
    _put(checkout, "python3.12", FITTING)
    _put(checkout, "my-python", FITTING)
    assert "my-python that fits" in _make(checkout, "demo", "PYTHON=my-python").stdout


@pytest.mark.parametrize(
    ("circumstance", "fits"),
    [
        ("sys.version_info = (3, 11, 0)", True),
        ("sys.version_info = (3, 12, 9)", True),
        ("sys.version_info = (3, 10, 14)", False),
        ("sys.version_info = (3, 13, 0)", False),
        ("sys.modules['ensurepip'] = None", False),
        ("sys.modules['venv'] = None", False),
    ],
)
def test_a_python_proves_its_version_and_its_venv_module(circumstance: str, fits: bool) -> None:
    question = re.search(r"^FITS := (.+)$", (tree.ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert question is not None
    program = f"import sys; {circumstance}\n{question[1]}"
    assert (subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0) == fits


def test_when_no_python_fits_one_sentence_says_what_to_install(checkout: Path) -> None:
    _put(checkout, "python3", TOO_NEW)
    outcome = _make(checkout, "demo")
    assert outcome.returncode != 0
    said = [line for line in outcome.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1
    assert "Python 3.11 or 3.12" in said[0]
    assert "python3-venv" in said[0]
    assert not (checkout / ".venv").exists()


def test_an_environment_that_is_up_to_date_is_left_alone(checkout: Path) -> None:
    stamp = checkout / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.write_text(f"{checkout}\n", encoding="utf-8")
    assert "up to date" in _make(checkout, ".venv/.installed").stdout
    newer = stamp.stat().st_mtime + 10
    os.utime(checkout / "requirements.lock", (newer, newer))
    assert "python3" in _make(checkout, ".venv/.installed").stderr


def test_an_environment_that_was_moved_with_its_checkout_is_built_anew(checkout: Path) -> None:
    stamp = checkout / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.write_text("/elsewhere\n", encoding="utf-8")
    _put(checkout, "python3", FITTING)
    assert "Creating .venv" in _make(checkout, ".venv/.installed").stdout


def test_every_target_is_in_the_help() -> None:
    text = (tree.ROOT / "Makefile").read_text(encoding="utf-8")
    declared = {name for line in re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE) for name in line.split()}
    explained = set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
    assert declared - {"moved"} == explained
    helped = subprocess.run([MAKE, "help"], cwd=tree.ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([a-z-]+)", helped, re.MULTILINE)) == explained
