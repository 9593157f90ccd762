"""Real processes, killed at any moment with `kill -9`: afterwards both ledgers and both wallets agree to the msat."""

import json
import random
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.processes import Home

ROUNDS = 12


def start_buying(buyer: Home) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "relaymesh", "infer", "--allow-private", "What is RelayMesh?"]
    return subprocess.Popen(
        command, env=buyer.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def charged(home: Home, side: str) -> int:
    jobs = json.loads(home.run("receipts", "list", "--side", side, "--json").stdout)
    assert all(job["state"] not in ("open", "unknown") for job in jobs), "a row was left unresolved"
    return sum(job["charged_msat"] for job in jobs)


def balance(home: Home, rpc: str) -> int:
    home.settings["RELAYMESH_WALLET_LIGHTNING_RPC"] = rpc
    return int(json.loads(home.run("wallet", "balance", "--json").stdout)["balance_msat"])


@pytest.mark.chaos
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("victim", ["client", "node", "both"])
def test_whoever_is_killed_whenever_the_money_is_accounted_for(short_path: Path, victim: str) -> None:
    chance = random.Random(victim)
    buyer, operator = Home(short_path / "buyer"), Home(short_path / "operator")
    with ExitStack() as stack:
        for home in (buyer, operator):
            home.directory.mkdir()
        database = str(short_path / "relay.sqlite3")
        relay = stack.enter_context(buyer.serve("relay", "serve", "--port", "0", "--database", database, "--json"))
        lightning = stack.enter_context(buyer.serve("lightning", "serve", "--json"))
        purses = lightning.facts["wallets"]
        for home, name in ((buyer, "buyer"), (operator, "node")):
            home.settings["RELAYMESH_NETWORK_RELAYS"] = relay.facts["relay_url"]
            home.settings["RELAYMESH_WALLET_LIGHTNING_RPC"] = purses[name]["rpc_path"]
        # Who lost money to newcomers again and again is careful with them; here it is killing that cost it.
        buyer.settings["RELAYMESH_CLIENT_NEWCOMER_MSAT"] = "1000000000"
        config = operator.directory / "node.toml"
        config.write_text(
            '[node]\nport = 0\nrunner = "embedded"\nminimum_msat = 10\noutput_msat = 3000\ntranche_units = 24\n'
            "output_tokens_per_second = 40\n"
        )
        serving = ("node", "serve", "--config", str(config), "--json")
        for _ in range(ROUNDS):
            with operator.serve(*serving) as node:
                buying = start_buying(buyer)
                threading.Event().wait(chance.uniform(0.8, 4.0))
                if victim in ("client", "both"):
                    buying.kill()
                if victim in ("node", "both"):
                    node.kill()
                buying.wait(60)
        with operator.serve(*serving):  # each start resolves what the kill left open, and so does the next purchase
            assert buyer.run("infer", "--allow-private", "What is a node?").returncode == 0
        paid = purses["buyer"]["balance_msat"] - balance(buyer, purses["buyer"]["rpc_path"])
        received = balance(operator, purses["node"]["rpc_path"]) - purses["node"]["balance_msat"]
        assert charged(operator, "node") == received
        assert charged(buyer, "client") == received
        assert 0 <= paid - received <= ROUNDS * 64, "only routing fees are missing"
