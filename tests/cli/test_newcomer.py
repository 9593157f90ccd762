"""A newcomer's evening with real processes: relay, wallet, node, a first answer, its evidence; then everything dies."""

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.processes import Home, Server, family

pytestmark = pytest.mark.timeout(180)
CANARY = "zanzibar"


@dataclass
class Evening:
    """What is running, and the buyer's home."""

    buyer: Home
    operator: Home
    relay: Server
    lightning: Server
    node_config: Path


@pytest.fixture
def evening(short_path: Path) -> Iterator[Evening]:
    buyer, operator = Home(short_path / "buyer"), Home(short_path / "operator")
    for home in (buyer, operator):
        home.directory.mkdir()
    with ExitStack() as stack:
        relay = stack.enter_context(
            buyer.serve("relay", "serve", "--port", "0", "--database", str(short_path / "relay.sqlite3"), "--json")
        )
        lightning = stack.enter_context(buyer.serve("lightning", "serve", "--json"))
        for home in (buyer, operator):
            home.settings["RELAYMESH_NETWORK_RELAYS"] = relay.facts["relay_url"]
        config = operator.directory / "node.toml"
        rpc = lightning.facts["wallets"]["node"]["rpc_path"]
        config.write_text(
            f'[wallet]\nlightning_rpc = "{rpc}"\n[node]\nport = 0\nrunner = "embedded"\nminimum_msat = 10\n'
            "output_msat = 3000\ntranche_units = 32\n"
        )
        yield Evening(buyer, operator, relay, lightning, config)
    assert family(str(short_path)) == [], "a process was left behind"


def serve_node(evening: Evening) -> tuple[str, ...]:
    return "node", "serve", "--config", str(evening.node_config), "--json"


def test_a_newcomer_gets_an_answer_and_evidence_and_nothing_leaks(evening: Evening, short_path: Path) -> None:
    buyer = evening.buyer
    rpc = evening.lightning.facts["wallets"]["buyer"]["rpc_path"]
    assert json.loads(buyer.run("wallet", "connect", rpc, "--json").stdout)["network"] == "regtest"
    with evening.operator.serve(*serve_node(evening)) as node:
        offers = json.loads(buyer.run("offers", "--json").stdout)
        assert {row["model"] for row in offers} == set(node.facts["models"])
        quotes = json.loads(buyer.run("quote", "hello", "--json").stdout)["quotes"]
        assert quotes and quotes[0]["max_msat"] > 0
        bids = json.loads(buyer.run("quote", "--auction", "hello", "--json").stdout)["quotes"]
        assert [(bid["node"], bid["max_msat"]) for bid in bids] == [(quotes[0]["node"], quotes[0]["max_msat"])]
        explained = json.loads(buyer.run("explain", "hello", "--save", "choice.json", "--json").stdout)
        assert [row["node"] for row in explained["rows"] if row["chosen"]] == [quotes[0]["node"]]
        again = buyer.run("explain", "--replay", "choice.json", "--json")
        assert again.returncode == 0 and json.loads(again.stdout) == explained
        refused = buyer.run("infer", "hello")
        assert refused.returncode == 2 and "private" in refused.stderr
        ran = buyer.run("infer", "--allow-private", "--json", f"What is RelayMesh? {CANARY}")
        assert ran.returncode == 0, ran.stderr
        bought = json.loads(ran.stdout)
        assert bought["text"] and bought["verified"] and bought["paid_msat"] > 0
        assert node.interrupt() < 2.5
    assert {row["state"] for row in json.loads(buyer.run("offers", "--json").stdout)} == {"draining"}

    balance = json.loads(buyer.run("wallet", "balance", "--json").stdout)["balance_msat"]
    assert balance == 100_000_000 - bought["paid_msat"] - bought["fees_msat"]
    shown = buyer.run("receipts", "show", bought["job_id"][:12])
    (short_path / "evidence.json").write_text(shown.stdout)
    verified = buyer.run("receipts", "verify", str(short_path / "evidence.json"), "--json")
    assert verified.returncode == 0 and json.loads(verified.stdout)[0]["holds"]
    forged = shown.stdout.replace(str(bought["paid_msat"]), str(bought["paid_msat"] - 1))
    (short_path / "forged.json").write_text(forged)
    assert buyer.run("receipts", "verify", str(short_path / "forged.json")).returncode == 1
    assert_no_canary(short_path, bought["text"])


def assert_no_canary(folder: Path, answer: str) -> None:
    """Neither prompt nor answer nor a secret key is in any file that anybody wrote."""
    secrets = [file.read_text().strip() for file in folder.rglob("*.key")]
    assert secrets
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix != ".key":
            content = file.read_bytes()
            assert CANARY.encode() not in content, file
            assert answer.strip().encode() not in content, file
            assert not any(secret.encode() in content for secret in secrets), file


def test_a_node_killed_in_mid_job_owes_nothing_after_its_restart(evening: Evening) -> None:
    buyer = evening.buyer
    evening.node_config.write_text(evening.node_config.read_text() + "output_tokens_per_second = 2\n")
    buyer.run("wallet", "connect", evening.lightning.facts["wallets"]["buyer"]["rpc_path"])
    with (
        evening.operator.serve(*serve_node(evening)) as node,
        buyer.serve("infer", "--allow-private", "What is RelayMesh?") as infer,
    ):
        assert infer.output, "the answer has begun"
        node.kill()
    ledger = evening.operator.directory / "data" / "relaymesh" / "node.sqlite3"
    assert states(ledger) == {"open"}
    with evening.operator.serve(*serve_node(evening)):
        assert states(ledger) == {"failed"}
    jobs = json.loads(evening.operator.run("receipts", "list", "--side", "node", "--json").stdout)
    assert [bool(job["metering_id"]) for job in jobs] == [True]
    paid = json.loads(buyer.run("receipts", "list", "--json").stdout)
    assert sum(job["charged_msat"] for job in jobs) >= sum(job["charged_msat"] for job in paid)


def states(ledger: Path) -> set[str]:
    connection = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
    try:
        return {state for (state,) in connection.execute("SELECT state FROM job")}
    finally:
        connection.close()


def test_a_buyer_stopped_while_its_payment_is_held_leaves_within_two_seconds_and_forgets_nothing(
    evening: Evening, short_path: Path
) -> None:
    held = short_path / "held"
    buyer = evening.buyer
    command = [sys.executable, "-m", "relaymesh.lightning_sim", "--directory", str(held)]
    wallets = ["--wallet", "buyer=100000000", "--wallet", "node=1000000", "--hold", "node=60"]
    process = subprocess.Popen([*command, *wallets], stdout=subprocess.PIPE, text=True, env=buyer.environment())
    try:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())["wallets"]
        evening.node_config.write_text(
            f'[wallet]\nlightning_rpc = "{facts["node"]["rpc_path"]}"\n[node]\nport = 0\nrunner = "embedded"\n'
        )
        buyer.run("wallet", "connect", facts["buyer"]["rpc_path"])
        ledger = buyer.directory / "data" / "relaymesh" / "client.sqlite3"
        with evening.operator.serve(*serve_node(evening)):
            infer = subprocess.Popen(
                [sys.executable, "-m", "relaymesh", "infer", "--allow-private", "What is RelayMesh?"],
                env=buyer.environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert wait_for_payment(ledger)
            infer.send_signal(2)
            output, errors = infer.communicate(timeout=2.5)
            assert infer.returncode != 0 and "Traceback" not in errors and output == ""
        assert states(ledger) <= {"open", "unknown"}
        jobs = json.loads(buyer.run("receipts", "list", "--json").stdout)
        assert len(jobs) == 1
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def wait_for_payment(ledger: Path) -> bool:
    """Wait until the ledger says that a payment is on its way: the row is written before the wallet is asked."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if ledger.exists():
            connection = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
            try:
                if connection.execute("SELECT 1 FROM tranche WHERE state = 'paying'").fetchone():
                    return True
            except sqlite3.OperationalError:
                pass
            finally:
                connection.close()
        threading.Event().wait(0.05)  # let the other processes run
    return False
