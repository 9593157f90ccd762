"""The gateway in a process of its own, as docs/how-to/buy.md has it: every line of that page is run."""

import json
import re
import shlex
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.processes import Home, Server
from tests.house import tree

PAGE = "docs/how-to/buy.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def lines_of(page: str) -> list[list[str]]:
    """The page's commands, each as its words."""
    blocks = [block.replace("\\\n", " ") for block in BLOCK.findall(tree.text_of(page) or "")]
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


def curl(words: list[str]) -> httpx.Response:
    """What curl would do."""
    options = [word for word in words if word not in ("-N", "-s")]
    url, *rest = options
    if not rest:
        return httpx.get(url, timeout=30)
    assert rest[0] == "--data" and len(rest) == 2
    return httpx.post(url, content=rest[1], headers={"content-type": "application/x-www-form-urlencoded"}, timeout=30)


ASKED = {"model": "auto", "messages": [{"role": "user", "content": "What is an offer?"}]}
SLOW = {"RELAYMESH_NODE_OUTPUT_TOKENS_PER_SECOND": "30"}


class Reader:
    """Somebody who follows the page, with ports of their own."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.home = Home(directory, {"RELAYMESH_CLIENT_DISCOVERY_SECONDS": "10", **SLOW})
        self.answers: list[httpx.Response] = []
        self.keys: list[str] = []
        self._stack = stack
        self._paths: dict[str, str] = {}
        self._url = ""
        self._gateway: Server | None = None

    def follow(self, words: list[str]) -> None:
        if words[0] == "curl":
            self.answers.append(curl([word.replace("http://127.0.0.1:8787/v1", self._url) for word in words[1:]]))
            return
        assert words.pop(0) == "relaymesh"
        told = [self._paths.get(word, word) for word in words]
        if words[1] != "serve":
            self.keys.append(self.home.run(*told).stdout.strip())
            return
        if words[0] == "gateway" and self._gateway is not None:
            self._gateway.stop()
        port = [] if words[0] == "lightning" else ["--port", "0"]
        server = self._stack.enter_context(self.home.serve(*told, *port, "--json"))
        self._learn(words[0], server)

    def _learn(self, what: str, server: Server) -> None:
        facts: dict[str, Any] = server.facts
        if what == "relay":
            self.home.settings["RELAYMESH_NETWORK_RELAYS"] = facts["relay_url"]
        elif what == "lightning":
            paths = {name: wallet["rpc_path"] for name, wallet in facts["wallets"].items()}
            self._paths = {"NODE_PATH": paths["node"], "BUYER_PATH": paths["buyer"]}
        elif what == "gateway":
            self._gateway, self._url = server, facts["url"]

    def ask(self, **headers: str) -> httpx.Response:
        return httpx.post(f"{self._url}/chat/completions", json=ASKED, headers=headers, timeout=30)

    def interrupt_a_stream(self, **headers: str) -> tuple[Server, str]:
        """Ctrl-C for the gateway while it answers: what it says to that, until the end."""
        url, asked = f"{self._url}/chat/completions", {**ASKED, "stream": True}
        with httpx.stream("POST", url, json=asked, headers=headers, timeout=30) as response:
            pieces = response.iter_text()
            assert "assistant" in next(pieces)
            ended = self.stop_gateway()
            return ended, "".join(pieces)

    def stop_gateway(self) -> Server:
        assert self._gateway is not None
        self._gateway.process.send_signal(signal.SIGINT)
        self._gateway.process.wait(10)
        return self._gateway


@pytest.mark.timeout(240)
def test_every_line_of_the_page_on_buying_does_what_it_says(short_path: Path) -> None:
    with ExitStack() as stack:
        reader = Reader(short_path, stack)
        for words in lines_of(PAGE):
            reader.follow(words)
        models, whole, streamed, embedded, explained, short = reader.answers
        without, with_key = reader.ask(), reader.ask(authorization=f"Bearer {reader.keys[0]}")
        ended, last = reader.interrupt_a_stream(authorization=f"Bearer {reader.keys[0]}")
        listed = reader.home.run("receipts", "list", "--json")
    assert [each.status_code for each in reader.answers] == [200] * 6, [each.text for each in reader.answers]
    assert models.json()["data"][0]["id"] == whole.json()["model"] == "relaymesh-tiny"
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert len(embedded.json()["data"]) == 2
    assert explained.json()["relaymesh"]["explanation"]["budget_msat"] == 20_000
    assert short.json()["usage"]["completion_tokens"] <= 16
    assert (without.status_code, with_key.status_code) == (401, 200)
    assert whole.headers["x-relaymesh-receipt"] in listed.stdout
    assert ended.process.returncode == 130
    assert '"code":"cancelled"' in last and last.endswith("data: [DONE]\n\n")
    assert '"cancelled"' in listed.stdout and '"open"' not in listed.stdout, "what was under way is accounted for"
    assert "internal_error" not in ended.errors.read_text()
    assert "offer" not in ended.errors.read_text(), "no prompt and no output is logged"
    keys = json.dumps((short_path / "keys.toml").read_text())
    assert reader.keys[0] not in keys and (short_path / "keys.toml").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--host", "0.0.0.0"], "gateway.allow_remote"),
        (["--host", "gateway.example"], "gateway.allow_remote"),
        (["--keys", "absent.toml"], "absent.toml"),
    ],
)
def test_a_gateway_that_must_not_run_says_why(short_path: Path, arguments: list[str], word: str) -> None:
    ran = Home(short_path).run("gateway", "serve", *arguments)
    assert ran.returncode == 1 and word in ran.stderr and len(ran.stderr.splitlines()) == 1


def test_beyond_this_machine_nobody_is_served_without_keys(short_path: Path) -> None:
    home = Home(short_path, {"RELAYMESH_GATEWAY_ALLOW_REMOTE": "true"})
    ran = home.run("gateway", "serve", "--host", "0.0.0.0")
    assert ran.returncode == 1 and "gateway.keys_file" in ran.stderr


def test_a_name_has_one_key(short_path: Path) -> None:
    home = Home(short_path)
    assert home.run("gateway", "add-key", "alice", "--keys", "keys.toml").returncode == 0
    before = (short_path / "keys.toml").read_text()
    ran = home.run("gateway", "add-key", "alice", "--keys", "keys.toml")
    assert ran.returncode == 1 and "name" in ran.stderr
    assert (short_path / "keys.toml").read_text() == before
