"""`relaymesh wallet` in real processes: by a socket, by Nostr Wallet Connect and by LND's interface."""

import json
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from relaymesh.adapters.invoices import InvoiceDraft, encode_invoice
from relaymesh.units import AmountMsat, Timestamp
from tests.cli.processes import Home, Server, family

pytestmark = pytest.mark.timeout(180)

NOW = int(time.time())
DRAFT = InvoiceDraft("bcrt", AmountMsat(100_000), "aa" * 32, "bb" * 32, Timestamp(NOW), 600, "a job")
SECRET = b"\x01" * 32


@dataclass
class Town:
    """A relay, and a simulated network with wallet services at it."""

    home: Home
    relay: Server
    lightning: Server

    def wallet(self, name: str, how: str = "wallet_connect") -> str:
        return str(self.lightning.facts["wallets"][name][how])

    def run(self, *arguments: str, stdin: str = "") -> Any:
        """What a command that succeeds says."""
        ran = self.home.run("wallet", *arguments, "--json", stdin=stdin)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)


@pytest.fixture
def town(short_path: Path) -> Iterator[Town]:
    home = Home(short_path / "home")
    home.directory.mkdir()
    with ExitStack() as stack:
        database = str(short_path / "relay.sqlite3")
        relay = stack.enter_context(home.serve("relay", "serve", "--port", "0", "--database", database, "--json"))
        url = relay.facts["relay_url"]
        home.settings["RELAYMESH_NETWORK_RELAYS"] = url
        lightning = stack.enter_context(
            home.serve("lightning", "serve", "--wallet-connect", url, "--lnd-port", "0", "--json")
        )
        yield Town(home, relay, lightning)
    assert family(str(short_path)) == [], "a process was left behind"


def test_a_connected_wallet_pays_is_paid_and_remembers(town: Town) -> None:
    connection = Path(town.wallet("buyer")).read_text().strip()
    secret = connection.partition("secret=")[2]
    town.run("connect", "-", stdin=connection)
    (kept,) = (path for path in town.home.directory.rglob("connection-*") if path.suffix == "")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    before = town.run("balance")
    assert (before["balance_msat"], before["network"], before["receivable_msat"]) == (100_000_000, "regtest", None)
    asked = town.run("invoice", "50000", "--description", "lunch", "--wallet", town.wallet("node"))
    paid = town.run("pay", asked["bolt11"])
    assert (paid["outcome"], paid["amount_msat"]) == ("paid", 50_000)
    assert town.run("pay", asked["bolt11"]) == paid
    assert town.run("balance")["balance_msat"] == 100_000_000 - 50_000 - paid["fee_msat"]
    for wallet, direction in (("buyer", "outgoing"), ("node", "incoming")):
        for how in ("wallet_connect", "rpc_path", "lnd"):
            (seen,) = town.run("history", "--wallet", town.wallet(wallet, how))["transactions"]
            assert (seen["direction"], seen["state"], seen["amount_msat"]) == (direction, "settled", 50_000)
    said = town.home.run("wallet", "history")
    assert "50,000 msat" in said.stdout and "lunch" in said.stdout
    logs = "".join(path.read_text() for path in town.home.directory.glob("*.log"))
    settings = "".join(path.read_text() for path in town.home.directory.rglob("config.toml"))
    assert secret and secret not in logs + settings + town.lightning.output


@pytest.mark.parametrize("how", ["wallet_connect", "rpc_path"])
def test_an_invoice_that_must_not_be_paid_is_refused_in_a_sentence(town: Town, how: str) -> None:
    wallet = town.wallet("buyer", how)
    own = town.run("invoice", "1000", "--wallet", town.wallet("buyer", how))["bolt11"]
    good = town.run("invoice", "1000", "--wallet", town.wallet("node", how))["bolt11"]
    for arguments, word in (
        ([own], "own"),
        ([good, "--payee", "02" + "11" * 32], f"not 02{'11' * 32}"),
        ([encode_invoice(replace(DRAFT, created_at=Timestamp(NOW - 700)), SECRET)], "expired"),
        ([encode_invoice(replace(DRAFT, network="bc"), SECRET)], "another network"),
        ([encode_invoice(replace(DRAFT, amount_msat=None), SECRET)], "must name its amount"),
        ([good + "q" * 3_000], "at most 2048 bytes"),
        (["rubbish"], "must begin with a known network"),
    ):
        ran = town.home.run("wallet", "pay", *arguments, "--wallet", wallet)
        assert ran.returncode == 1 and word in ran.stderr, (arguments, ran.stderr)
        assert len(ran.stderr.strip().splitlines()) == 1 and ran.stdout == ""
    assert town.run("balance", "--wallet", wallet)["balance_msat"] == 100_000_000


def test_lnd_is_connected_by_its_address_its_macaroon_and_its_certificate(town: Town) -> None:
    facts, macaroon = town.lightning.facts, town.wallet("buyer", "lnd_macaroon")
    secret = Path(macaroon).read_bytes()
    by_file = ["--macaroon", macaroon, "--certificate", facts["lnd_certificate"]]
    for arguments, word in (
        ([facts["lnd_url"]], "--macaroon"),
        ([facts["lnd_url"], "--macaroon", macaroon], "certificate is not the one"),
        ([Path(town.wallet("buyer", "lnd")).read_text().strip()], "is a secret"),
    ):
        ran = town.home.run("wallet", "connect", *arguments)
        assert ran.returncode == 1 and word in ran.stderr, (arguments, ran.stderr)
        assert len(ran.stderr.strip().splitlines()) == 1 and secret.hex() not in ran.stderr
    assert not list(town.home.directory.rglob("connection-*")) and not list(town.home.directory.rglob("config.toml"))
    town.run("connect", facts["lnd_url"], *by_file)
    (kept,) = (path for path in town.home.directory.rglob("connection-lnd-*") if path.suffix == "")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    asked = town.run("invoice", "50000", "--description", "lunch", "--wallet", town.wallet("node", "lnd"))
    paid = town.run("pay", asked["bolt11"])
    assert (paid["outcome"], paid["amount_msat"]) == ("paid", 50_000)
    town.run("connect", "-", stdin=Path(town.wallet("node", "lnd")).read_text())
    assert town.run("balance")["balance_msat"] == 1_050_000


def test_a_purchase_is_paid_over_lnd_on_both_sides(town: Town) -> None:
    config = town.home.directory / "node.toml"
    config.write_text(
        f'[wallet]\nconnection_file = "{town.wallet("node", "lnd")}"\n[node]\nport = 0\nrunner = "embedded"\n'
        "minimum_msat = 10\noutput_msat = 3000\ntranche_units = 32\n"
    )
    with town.home.serve("node", "serve", "--config", str(config), "--json"):
        ran = town.home.run("infer", "--allow-private", "--json", "--wallet", town.wallet("buyer", "lnd"), "What?")
        assert ran.returncode == 0, ran.stderr
        bought = json.loads(ran.stdout)
        assert bought["text"] and bought["verified"] and bought["paid_msat"] > 0
    assert (
        town.run("balance", "--wallet", town.wallet("node", "lnd"))["balance_msat"] == 1_000_000 + bought["paid_msat"]
    )


def test_what_may_be_spent_is_limited_over_all_commands_and_shown(town: Town) -> None:
    wallet = town.wallet("buyer", "rpc_path")
    town.home.settings |= {"RELAYMESH_WALLET_MAXIMUM_HOUR_MSAT": "60000", "RELAYMESH_WALLET_MAXIMUM_DAY_MSAT": "0"}
    first, second = (
        town.run("invoice", amount, "--wallet", town.wallet("node", "rpc_path"))["bolt11"]
        for amount in ("50000", "4000")
    )
    assert town.run("pay", first, "--wallet", wallet)["outcome"] == "paid"
    assert town.run("pay", first, "--wallet", wallet)["outcome"] == "paid"
    spent = 100_000_000 - town.run("balance", "--wallet", wallet)["balance_msat"]
    ran = town.home.run("wallet", "pay", second, "--max-fee-msat", "7000", "--wallet", wallet)
    assert ran.returncode == 1
    assert f"wallet.maximum_hour_msat allows 60,000 msat in an hour, of which {spent:,} are spent" in ran.stderr
    assert "this payment may cost 11,000" in ran.stderr
    assert town.run("pay", second, "--max-fee-msat", "5000", "--wallet", wallet)["outcome"] == "paid"
    told = town.run("balance", "--wallet", wallet)
    spent = 100_000_000 - told["balance_msat"]
    assert told["limits"] == [
        {"setting": "wallet.maximum_job_msat", "limit_msat": 1_000_000, "spent_msat": 0, "left_msat": 1_000_000},
        {"setting": "wallet.maximum_hour_msat", "limit_msat": 60_000, "spent_msat": spent, "left_msat": 60_000 - spent},
    ]
    said = town.home.run("wallet", "balance", "--wallet", wallet).stdout
    assert f"{60_000 - spent:,} msat left in an hour (wallet.maximum_hour_msat is 60,000)" in said
    checked = town.home.run("ledger", "check", "--side", "client").stdout
    assert "what was paid beside jobs is proved by its preimage, and nothing else has one: payments 2" in checked


def test_a_job_beyond_a_limit_is_not_paid_and_says_why(town: Town) -> None:
    config = town.home.directory / "node.toml"
    config.write_text(
        f'[wallet]\nlightning_rpc = "{town.wallet("node", "rpc_path")}"\n[node]\nport = 0\nrunner = "embedded"\n'
        "minimum_msat = 1000\n"
    )
    town.home.settings["RELAYMESH_WALLET_MAXIMUM_DAY_MSAT"] = "5999"
    with town.home.serve("node", "serve", "--config", str(config), "--json"):
        wallet = town.wallet("buyer", "rpc_path")
        ran = town.home.run("infer", "--allow-private", "--wallet", wallet, "What is this?")
        assert ran.returncode != 0
        assert "wallet.maximum_day_msat allows 5,999 msat in a day" in ran.stderr
        assert town.run("balance", "--wallet", wallet)["balance_msat"] == 100_000_000
        logs = "".join(path.read_text() for path in town.home.directory.glob("*.log"))
        assert "5,999" not in logs


def test_a_connection_is_never_taken_from_the_command_line_and_never_repeated(town: Town) -> None:
    connection = Path(town.wallet("buyer")).read_text().strip()
    secret = connection.partition("secret=")[2]
    for ran in (
        town.home.run("wallet", "connect", connection),
        town.home.run("wallet", "connect", "-", stdin=connection.replace("secret=", "secret=0")),
        town.home.run("wallet", "connect", "-", stdin=""),
    ):
        assert ran.returncode == 1 and len(ran.stderr.strip().splitlines()) == 1
        assert secret not in ran.stderr + ran.stdout
    assert not list(town.home.directory.rglob("connection-*"))


def test_a_wallet_that_does_not_answer_is_not_remembered(town: Town) -> None:
    connection = Path(town.wallet("buyer")).read_text().strip()
    stranger = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    wallet = connection.partition("://")[2].partition("?")[0]
    ran = town.home.run("wallet", "connect", "-", stdin=connection.replace(wallet, stranger))
    assert ran.returncode == 1 and "no info event" in ran.stderr
    assert not list(town.home.directory.rglob("connection-*")) and not list(town.home.directory.rglob("config.toml"))


def test_a_purchase_is_paid_over_wallet_connections_on_both_sides(town: Town) -> None:
    config = town.home.directory / "node.toml"
    config.write_text(
        f'[wallet]\nconnection_file = "{town.wallet("node")}"\n[node]\nport = 0\nrunner = "embedded"\n'
        "minimum_msat = 10\noutput_msat = 3000\ntranche_units = 32\n"
    )
    with town.home.serve("node", "serve", "--config", str(config), "--json"):
        ran = town.home.run("infer", "--allow-private", "--json", "--wallet", town.wallet("buyer"), "What is this?")
        assert ran.returncode == 0, ran.stderr
        bought = json.loads(ran.stdout)
        assert bought["text"] and bought["verified"] and bought["paid_msat"] > 0
    assert town.run("balance", "--wallet", town.wallet("node"))["balance_msat"] == 1_000_000 + bought["paid_msat"]


def test_a_wallet_service_that_was_killed_goes_on_where_it_was(town: Town) -> None:
    asked = town.run("invoice", "7000", "--wallet", town.wallet("node"))
    town.lightning.kill()
    ran = town.home.run("wallet", "pay", asked["bolt11"], "--wallet", town.wallet("buyer"))
    assert ran.returncode == 1 and "cannot be reached" in ran.stderr
    url = town.relay.facts["relay_url"]
    with town.home.serve("lightning", "serve", "--wallet-connect", url, "--json"):
        assert town.run("pay", asked["bolt11"], "--wallet", town.wallet("buyer"))["outcome"] == "paid"
        assert town.run("balance", "--wallet", town.wallet("node"))["balance_msat"] == 1_007_000
