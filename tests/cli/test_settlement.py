"""What a person sees of settlement, with real processes: which form is taken, why, and what is at stake."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.processes import Home

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def buyer(short_path: Path) -> Iterator[Home]:
    """A buyer of a market with one node, which offers whatever nodes offer by default."""
    buyer, operator = Home(short_path / "buyer"), Home(short_path / "operator")
    with ExitStack() as stack:
        for home in (buyer, operator):
            home.directory.mkdir()
        database = str(short_path / "relay.sqlite3")
        relay = stack.enter_context(buyer.serve("relay", "serve", "--port", "0", "--database", database, "--json"))
        lightning = stack.enter_context(buyer.serve("lightning", "serve", "--json"))
        for home, name in ((buyer, "buyer"), (operator, "node")):
            home.settings["RELAYMESH_NETWORK_RELAYS"] = relay.facts["relay_url"]
            home.settings["RELAYMESH_WALLET_LIGHTNING_RPC"] = lightning.facts["wallets"][name]["rpc_path"]
        buyer.settings["RELAYMESH_NETWORK_ALLOW_PRIVATE"] = "true"
        operator.settings["RELAYMESH_NODE_PORT"] = "0"
        operator.settings["RELAYMESH_NODE_RUNNER"] = "embedded"
        stack.enter_context(operator.serve("node", "serve", "--json"))
        yield buyer


def test_every_command_that_chooses_says_how_it_would_pay_and_why(buyer: Home) -> None:
    (quote,) = json.loads(buyer.run("quote", "hello", "--json").stdout)["quotes"]
    foreseen = json.loads(buyer.run("explain", "hello", "--json").stdout)["settlement"]
    assert quote["chosen_term"]["sentence"] == foreseen
    assert foreseen.startswith("prepay: somebody reads along")
    (stake,) = (term["exposure_buyer_msat"] for term in quote["settlement"] if term["order"] == "prepay")
    assert f"at most {stake} msat of ours and 0 msat of the node's" in foreseen

    kept = buyer.run("infer", "What is RelayMesh?", "--json")  # which nobody reads before its end
    assert kept.returncode == 0, kept.stderr
    bought = json.loads(kept.stdout)
    assert bought["verified"] and bought["settlement"]["form"] == "sealed"
    assert bought["settlement"]["sentence"].startswith("sealed: the node is not known")

    read = buyer.run("infer", "What is a node?")
    assert read.returncode == 0 and read.stdout
    assert "[prepay: somebody reads along" in read.stderr

    for form in ("sealed", "session"):
        required = buyer.run("infer", "--settlement", form, "What is a relay?")
        assert required.returncode == 0 and f"[{form}: the buyer requires it" in required.stderr, required.stderr
    checked = buyer.run("ledger", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_is_required_and_not_offered_is_not_bought(buyer: Home) -> None:
    without_key = buyer.run("infer", "--settlement", "postpay", "hello")
    assert without_key.returncode == 1 and "client.credit_key_file" in without_key.stderr
    credit_key = str(buyer.directory / "credit.key")
    assert buyer.run("keys", "new", "--file", credit_key).returncode == 0
    buyer.settings["RELAYMESH_CLIENT_CREDIT_KEY_FILE"] = credit_key
    refused = buyer.run("infer", "--settlement", "postpay", "hello")
    assert refused.returncode == 2 and "no common settlement" in refused.stderr and refused.stdout == ""
    del buyer.settings["RELAYMESH_CLIENT_CREDIT_KEY_FILE"]
    buyer.settings["RELAYMESH_CLIENT_MAXIMUM_EXPOSURE_MSAT"] = "1"
    bounded = buyer.run("infer", "hello")
    assert bounded.returncode == 2 and "over the limit of 1 msat" in bounded.stderr
    unknown = buyer.run("infer", "--settlement", "barter", "hello")
    assert unknown.returncode == 1 and "client.settlement" in unknown.stderr
