"""Commands by themselves: quick to ask for help, one sentence when something is wrong, never a traceback."""

import json
import os
import stat
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from relaymesh.cli.application import application
from tests.cli.processes import Home
from tests.house.generate import commands

WRONG: dict[str, tuple[list[str], str]] = {
    "no relay": (["offers"], "no relay answers"),
    "no relay to quote from": (["quote", "hello"], "no relay answers"),
    "no relay to explain from": (["explain", "hello"], "no relay answers"),
    "a policy nobody has": (["quote", "hello", "--policy", "nicest"], "balanced"),
    "a preference nobody has": (["quote", "hello", "--prefer", "zdr=true"], "zdr"),
    "a choice that is not there": (["explain", "--replay", "absent.json"], "absent.json"),
    "no wallet": (["infer", "hello"], "no wallet is connected"),
    "no wallet to look into": (["wallet", "balance"], "no wallet is connected"),
    "a wallet to look into that is not there": (
        ["wallet", "balance", "--wallet", "/nonexistent/rpc"],
        "/nonexistent/rpc",
    ),
    "a wallet that is not there": (["wallet", "connect", "/nonexistent/lightning-rpc"], "/nonexistent/lightning-rpc"),
    "a node without a wallet": (["node", "serve", "--runner", "openai"], "no wallet is connected"),
    "a runner nobody knows": (["node", "serve", "--runner", "magic"], "node.runner"),
    "settings that are not there": (["offers", "--config", "absent.toml"], "absent.toml"),
    "no such job": (["receipts", "show", "00"], "receipts list"),
    "evidence that is not there": (["receipts", "verify", "absent.json"], "absent.json"),
    "a side nobody has": (["receipts", "list", "--side", "router"], "client or node"),
    "a wallet without an amount": (["lightning", "serve", "--wallet", "me"], "NAME=MSAT"),
    "a network in no folder": (["lightning", "serve", "--directory", "/dev/null"], "choose another"),
    "a prompt that is no text": (["infer", "\udcff\udcfe"], "UTF-8"),
    "more output than there is": (["infer", "hello", "--output-tokens", "9000000000"], "9000000000 output tokens"),
    "a node on every address": (["node", "serve", "--host", "0.0.0.0"], "node.announce"),
    "a passphrase nobody can be asked for": (["keys", "new", "--encrypt"], "RELAYMESH_PASSPHRASE"),
    "JSON of nothing": (["--json", "offers"], "after the command"),
    "a key that is not there": (["keys", "show", "--file", "absent.key"], "absent.key"),
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    settings = {"RELAYMESH_NETWORK_RELAYS": "ws://127.0.0.1:9", "RELAYMESH_CLIENT_DISCOVERY_SECONDS": "1"}
    return Home(tmp_path, settings)


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_done_is_one_sentence_and_a_failing_exit_code(home: Home, case: str) -> None:
    arguments, word = WRONG[case]
    ran = home.run(*arguments)
    assert ran.returncode not in (0, 130)
    assert word in ran.stderr
    assert "Traceback" not in ran.stderr and "Exception" not in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    assert ran.stdout == ""


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("not toml [", "TOML"),
        ("[nodes]\nlabel = 'x'", "nodes"),
        ("[node]\nlable = 'x'", "lable"),
        ("[node]\nport = 'x'", "port"),
        ("[node]\nport = -1", "port"),
        ("node = 1", "node"),
    ],
)
def test_a_settings_file_that_is_wrong_is_said_by_name(home: Home, text: str, word: str) -> None:
    (home.directory / "settings.toml").write_text(text)
    ran = home.run("offers", "--config", "settings.toml")
    assert ran.returncode == 1
    assert word in ran.stderr and len(ran.stderr.strip().splitlines()) == 1


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from relaymesh.cli.application import application\n"
        "import typer; typer.main.get_command(application)\n"
        "print([name for name in ('numpy', 'pydantic', 'websockets', 'aiohttp', 'bolt11', 'coincurve', 'anyio', "
        "'rich', 'pyln') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout.strip() == "[]"


def test_who_reads_no_further_ends_a_command_without_a_word(home: Home) -> None:
    environment = home.environment()
    environment.pop("PYTHONUNBUFFERED", None)  # so that what failed once would be written again at the exit
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as unread:
        ran = subprocess.run(
            [sys.executable, "-m", "relaymesh", "receipts", "list", "--json"],
            env=environment,
            stdout=unread,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert (ran.returncode, ran.stderr) == (1, b"")


def test_a_command_started_without_standard_streams_does_its_work(home: Home) -> None:
    command = f'exec "{sys.executable}" -m relaymesh receipts list <&- >&- 2>&-'
    ran = subprocess.run(["sh", "-c", command], env=home.environment(), timeout=30, check=False)
    assert ran.returncode == 0


def test_the_version_is_the_distributions(home: Home) -> None:
    assert home.run("--version").stdout.strip() == f"relaymesh {version('relaymesh')}"
    assert json.loads(home.run("--version", "--json").stdout) == {"version": version("relaymesh")}


@pytest.mark.parametrize(
    "group",
    ["", "node", "gateway", "relay", "wallet", "lightning", "receipts", "ledger", "fraud", "reputation", "keys"],
)
def test_a_list_of_commands_says_each_whole(group: str) -> None:
    ran = CliRunner().invoke(application, [*group.split(), "--help"])
    assert ran.exit_code == 0 and "..." not in ran.stdout.partition("Commands:")[2]


def test_every_command_takes_json() -> None:
    for path, command in commands():
        spelled = [name for parameter in command.params for name in parameter.opts]
        assert hasattr(command, "commands") or "--json" in spelled, path


def test_a_new_key_is_private_never_overwritten_and_its_secret_never_shown(home: Home) -> None:
    made = home.run("keys", "new", "--file", "me.key", "--json")
    facts = json.loads(made.stdout)
    file = home.directory / "me.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = file.read_text().strip()
    assert secret.startswith("nsec1") and secret not in made.stdout + made.stderr
    again = home.run("keys", "new", "--file", "me.key")
    assert again.returncode == 1 and file.read_text().strip() == secret
    shown = home.run("keys", "show", "--file", "me.key", "--json")
    assert json.loads(shown.stdout)["npub"] == facts["npub"]


def test_a_key_under_a_passphrase_opens_only_with_it(home: Home) -> None:
    home.settings["RELAYMESH_PASSPHRASE"] = "correct horse"
    made = home.run("keys", "new", "--file", "me.key", "--encrypt", "--json")
    assert (home.directory / "me.key").read_text().startswith("ncryptsec1")
    npub = json.loads(made.stdout)["npub"]
    assert json.loads(home.run("keys", "show", "--file", "me.key", "--json").stdout)["npub"] == npub
    home.settings["RELAYMESH_PASSPHRASE"] = "battery staple"
    wrong = home.run("keys", "show", "--file", "me.key")
    assert wrong.returncode == 1 and "password is wrong" in wrong.stderr


def test_a_node_opens_its_encrypted_key_with_the_passphrase(home: Home) -> None:
    home.settings["RELAYMESH_PASSPHRASE"] = "correct horse"
    home.run("keys", "new", "--encrypt")
    assert "no wallet is connected" in home.run("node", "serve").stderr, "the key is open, the next thing is missing"
    home.settings.pop("RELAYMESH_PASSPHRASE")
    assert "RELAYMESH_PASSPHRASE" in home.run("node", "serve").stderr


def test_an_empty_passphrase_protects_nothing_and_is_refused(home: Home) -> None:
    home.settings["RELAYMESH_PASSPHRASE"] = ""
    ran = home.run("keys", "new", "--file", "me.key", "--encrypt")
    assert ran.returncode == 1 and "RELAYMESH_PASSPHRASE" in ran.stderr
    assert not (home.directory / "me.key").exists()
