"""What the documents tell a person to run, runs: Python blocks by running them, shell blocks by their commands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.house import generate, tree

DOCUMENTS = tuple(path for path in tree.files() if path.endswith(".md") and not path.startswith("tests/"))
BLOCK = re.compile(r"^```(python|sh|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# Programs that are not ours; whoever follows the document has them or is told where to get them.
OTHER_PROGRAMS = frozenset(
    "cat cd cp curl docker export git jq kill ls lightning-cli mkdir nak pip python python3".split()
)


def _blocks(*languages: str) -> list[tuple[str, str]]:
    return [
        (path, match[2])
        for path in DOCUMENTS
        for match in BLOCK.finditer(tree.text_of(path) or "")
        if match[1] in languages
    ]


def _commands() -> list[tuple[str, list[str]]]:
    """Every command line of every shell block, continuation lines joined, prompts and comments removed."""
    found = []
    for path, block in _blocks("sh", "console"):
        is_session = any(line.startswith("$ ") for line in block.splitlines())
        for line in block.replace("\\\n", " ").splitlines():
            if is_session and not line.startswith("$ "):
                continue
            for part in re.split(r"\||&&|;", line.removeprefix("$ ")):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]
                if words:
                    found.append((path, words))
    return found


def test_python_blocks_run(tmp_path: Path) -> None:
    failed = []
    for path, block in _blocks("python"):
        outcome = subprocess.run(
            [sys.executable, "-W", "error", "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        failed += [f"{path}:\n{block}\n{outcome.stderr}"] if outcome.returncode else []
    assert not failed, "\n".join(failed)


def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (tree.ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def _unknown_in(words: list[str]) -> str | None:
    """What of a `relaymesh` command line does not exist, or None."""
    known = dict(generate.commands())
    path, rest = words[0], words[1:]
    while rest and f"{path} {rest[0]}" in known:
        path, rest = f"{path} {rest[0]}", rest[1:]
    command = known.get(path)
    if command is None:
        return path
    if getattr(command, "commands", None) and rest and not rest[0].startswith("-"):
        return f"{path} {rest[0]}"
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in options | {"--help"}]
    return unknown[0] if unknown else None


def _module_exists(name: str) -> bool:
    path = name.replace(".", "/")
    candidates = (f"{path}.py", f"{path}/__main__.py", f"relay/{path}/__main__.py")
    return name == "pytest" or any((tree.ROOT / candidate).exists() for candidate in candidates)


def test_shell_blocks_name_commands_that_exist() -> None:
    wrong = []
    for path, words in _commands():
        program = words[0].removeprefix(".venv/bin/")
        match program:
            case "make":
                wrong += [
                    f"{path}: make {word}" for word in words[1:] if "=" not in word and word not in _make_targets()
                ]
            case "relaymesh":
                unknown = _unknown_in(["relaymesh", *words[1:]])
                wrong += [f"{path}: {shlex.join(words)}: {unknown}"] if unknown else []
            case "python" | "python3" if words[1:2] == ["-m"]:
                wrong += [] if _module_exists(words[2]) else [f"{path}: {shlex.join(words)}"]
            case "relaymesh-relay" | "uv" | "ruff" | "pytest":
                pass
            case _ if program not in OTHER_PROGRAMS and not (tree.ROOT / program).exists():
                wrong.append(f"{path}: {program}")
    assert not wrong


def test_the_readme_has_commands_to_check() -> None:
    assert ("README.md", ["make", "demo"]) in _commands()
