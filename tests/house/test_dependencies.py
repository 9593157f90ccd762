"""Every dependency is declared, explained, pinned by hash, and used."""

import re
import sys
import tomllib
from functools import cache
from importlib import metadata

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house import tree

# Needed by what they are named for, never imported by us.
NOT_IMPORTED = {"bitstring": "bolt11", "pyln-proto": "pyln-client"}
PLATFORMS = (
    {"sys_platform": "linux", "platform_machine": "x86_64"},
    {"sys_platform": "darwin", "platform_machine": "arm64"},
)
PYTHONS = ("3.11", "3.12")


@cache
def _project() -> dict[str, list[Requirement]]:
    project = tomllib.loads((tree.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {
        "run time": [Requirement(text) for text in project["project"]["dependencies"]],
        "development": [Requirement(text) for text in project["dependency-groups"]["development"]],
        "real": [Requirement(text) for text in project["dependency-groups"]["real"]],
    }


@cache
def _locked(name: str = "requirements.lock") -> list[tuple[Requirement, int]]:
    """Each requirement of a lock with the number of its hashes."""
    text = (tree.ROOT / name).read_text(encoding="utf-8")
    blocks = re.split(r"^(?=[a-z0-9])", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)
    return [
        (Requirement(block.split("\\")[0].split(" --hash")[0].strip()), block.count("--hash=sha256:"))
        for block in blocks
        if block.strip()
    ]


def _explained(heading: str) -> list[str]:
    text = (tree.ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)


@pytest.mark.parametrize(
    ("group", "heading"),
    [("run time", "At run time"), ("development", "For development"), ("real", "Against other people's programs")],
)
def test_every_dependency_is_explained(group: str, heading: str) -> None:
    assert sorted(_explained(heading)) == sorted(requirement.name for requirement in _project()[group])


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-real.lock"])
def test_everything_in_a_lock_is_pinned_by_hash_and_by_nothing_else(lock: str) -> None:
    assert _locked(lock)
    loose = [str(requirement) for requirement, hashes in _locked(lock) if not hashes or requirement.url]
    assert not loose
    assert all([specifier.operator for specifier in locked.specifier] == ["=="] for locked, _ in _locked(lock))


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform["sys_platform"])
def test_the_lock_gives_every_platform_one_fitting_version(python: str, platform: dict[str, str]) -> None:
    here = {name: str(value) for name, value in default_environment().items()}
    environment = {**here, "python_version": python, "python_full_version": f"{python}.0", **platform}

    def applies(requirement: Requirement) -> bool:
        return requirement.marker is None or requirement.marker.evaluate(environment)

    for requirement in (*_project()["run time"], *_project()["development"], *_project()["real"]):
        versions = {  # both locks may pin it, if they agree
            next(iter(locked.specifier)).version
            for locked, _ in (*_locked(), *_locked("requirements-real.lock"))
            if canonicalize_name(locked.name) == canonicalize_name(requirement.name) and applies(locked)
        }
        assert len(versions) == applies(requirement), f"{requirement}: {versions}: run `make lock`"
        assert all(version in requirement.specifier for version in versions), (
            f"{requirement}: {versions}: run `make lock`"
        )


@cache
def _imported(*folders: str) -> dict[tuple[str, ...], str]:
    """The distributions that provide an imported package, with the place that imports it; neither Python's nor ours."""
    ours = {"relaymesh", "relaymesh_relay", "tests", "bench"}
    providers = metadata.packages_distributions()
    return {
        tuple(
            sorted({canonicalize_name(distribution) for distribution in providers.get(root, (root,))})
        ): f"{path}:{line}"
        for path, name, line in ((m.path, name, line) for m in tree.modules(*folders) for name, line in tree.imports(m))
        if (root := name.split(".")[0]) not in sys.stdlib_module_names and root not in ours
    }


def test_what_is_shipped_imports_only_what_it_declares() -> None:
    declared = {canonicalize_name(requirement.name) for requirement in _project()["run time"]}
    imported = _imported("relaymesh/", "relay/")
    undeclared = {" or ".join(names): where for names, where in imported.items() if not declared & set(names)}
    assert not undeclared


def test_every_dependency_is_used() -> None:
    used = {name for names in _imported("relaymesh/", "relay/") for name in names}
    unused = [
        requirement.name
        for requirement in _project()["run time"]
        if canonicalize_name(NOT_IMPORTED.get(requirement.name, requirement.name)) not in used
    ]
    assert not unused, f"remove them, or use them: {unused}"
