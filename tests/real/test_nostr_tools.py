"""Our relay, as a process, served to nostr-tools, the library of most web clients."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.programs import require_program
from tests.relay.processes import complaints, relay_process

FOLDER = Path(__file__).parent / "nostr_tools"
NODE = require_program("node", FOLDER / "node_modules" / "nostr-tools")


@pytest.fixture(scope="module")
def relay_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with relay_process(tmp_path_factory.mktemp("relay") / "relay.sqlite3") as (process, url):
        yield url
        process.terminate()
        assert complaints(process) == ""


def play(relay_url: str, scenario: str) -> Any:
    finished = subprocess.run(
        [NODE, "client.mjs", relay_url, scenario], cwd=FOLDER, capture_output=True, text=True, timeout=30, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_it_gets_what_is_stored_then_the_end_then_what_is_new(relay_url: str) -> None:
    stored, end, live = play(relay_url, "subscription")
    assert stored == ['stored é "quoted"\n', True]
    assert (end, live) == ("end of stored events", ["live", True])


def test_it_finds_only_the_newest_of_what_is_replaced(relay_url: str) -> None:
    assert play(relay_url, "replacement") == ["10002 new", "30023 new"]


def test_what_it_deletes_is_gone_and_stays_out(relay_url: str) -> None:
    seen = play(relay_url, "deletion")
    assert seen["answer"] == {"accepted": True, "reason": ""}
    assert not seen["again"]["accepted"] and seen["again"]["reason"].startswith("blocked:")
    assert seen["found"] == ["kept"]


def test_it_counts(relay_url: str) -> None:
    assert play(relay_url, "count") == 3


def test_it_authenticates_and_may_then_publish_a_protected_event(relay_url: str) -> None:
    seen = play(relay_url, "authentication")
    assert not seen["before"]["accepted"] and seen["before"]["reason"].startswith("auth-required:")
    assert seen["after"] == {"accepted": True, "reason": ""} and seen["found"] == ["protected"]


def test_it_is_told_why_an_event_is_refused(relay_url: str) -> None:
    seen = play(relay_url, "refusal")
    assert not seen["accepted"] and seen["reason"].startswith("invalid:")
