"""The router's commands with real processes: it serves, is asked, is compared, is paid its fee, and ends at once."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.processes import Home, family

pytestmark = pytest.mark.timeout(180)


@dataclass
class Street:
    """A relay, wallets and a node, and the homes of a client and a router."""

    client: Home
    router: Home
    router_wallet: str
    client_wallet: str


@pytest.fixture
def street(short_path: Path) -> Iterator[Street]:
    homes = [Home(short_path / name) for name in ("client", "operator", "router")]
    for home in homes:
        home.directory.mkdir()
    client, operator, router = homes
    with ExitStack() as stack:
        database = str(short_path / "relay.sqlite3")
        relay = stack.enter_context(client.serve("relay", "serve", "--port", "0", "--database", database, "--json"))
        wallets = ("--wallet", "buyer=1000000", "--wallet", "node=1000", "--wallet", "router=1000")
        lightning = stack.enter_context(client.serve("lightning", "serve", *wallets, "--json"))
        paths = {name: wallet["rpc_path"] for name, wallet in lightning.facts["wallets"].items()}
        for home in homes:
            home.settings["RELAYMESH_NETWORK_RELAYS"] = relay.facts["relay_url"]
            home.settings["RELAYMESH_NETWORK_ALLOW_PRIVATE"] = "true"
        operator.settings["RELAYMESH_NODE_PORT"] = "0"
        serving = ("node", "serve", "--runner", "embedded", "--wallet", paths["node"], "--json")
        stack.enter_context(operator.serve(*serving))
        yield Street(client, router, paths["router"], paths["buyer"])
    assert family(str(short_path)) == [], "a process was left behind"


def check_mistakes(street: Street) -> None:
    """What is asked for wrongly is refused in a sentence."""
    for arguments, said in (
        (("router", "ask", "npub1nobody", "Hello"), "npub"),
        (("router", "compare", "Hello"), "no router announces itself"),
        (("router", "announce", "--policy", "kindest"), "policy"),
        (("router", "announce", "--fee-msat", "5"), "no wallet is connected"),
    ):
        ran = street.client.run(*arguments)
        assert ran.returncode != 0 and said in ran.stderr and "Traceback" not in ran.stderr, arguments


def test_a_router_is_asked_compared_and_bought_through_and_ends_at_once(street: Street) -> None:
    check_mistakes(street)
    announced = json.loads(street.router.run("router", "announce", "--json").stdout)
    with street.router.serve("router", "serve", "--json") as router:
        assert announced["router"] == router.facts["router"]
        name = router.facts["router"]
        asked = json.loads(street.client.run("router", "ask", name, "Hello", "--json").stdout)
        [answer] = asked["routers"]
        assert answer["is_right"] and answer["agreement_milli"] == 1_000 and answer["weight_milli"] == 0
        assert [row["asked"] for row in answer["ranking"]["rows"]] == [True]
        assert [quote["node"] for quote in asked["quotes"]] == asked["own"]
        told = street.client.run("router", "compare", "Hello")
        assert told.returncode == 0 and "comes out the same" in told.stdout and "100.0%" in told.stdout
        street.client.settings["RELAYMESH_CLIENT_ROUTERS"] = name
        bought = street.client.run("infer", "Hello", "--wallet", street.client_wallet, "--json")
        assert bought.returncode == 0, bought.stderr
        assert router.interrupt() < 2 and router.process.returncode == 130
        assert "router_stopped" in router.errors.read_text() and "Hello" not in router.errors.read_text()


def test_a_fee_is_asked_for_and_paid_where_the_client_allows_it(street: Street) -> None:
    serving = ("router", "serve", "--fee-msat", "500", "--wallet", street.router_wallet, "--json")
    with street.router.serve(*serving) as router:
        refused = street.client.run("router", "ask", router.facts["router"], "Hello")
        assert refused.returncode == 2 and "payment-required" in refused.stdout
        street.client.settings["RELAYMESH_CLIENT_ROUTERS"] = router.facts["router"]
        street.client.settings["RELAYMESH_CLIENT_MAXIMUM_ROUTER_FEE_MSAT"] = "500"
        bought = street.client.run("infer", "Hello", "--wallet", street.client_wallet, "--json")
        assert bought.returncode == 0, bought.stderr
        balance = json.loads(street.router.run("wallet", "balance", "--wallet", street.router_wallet, "--json").stdout)
        assert balance["balance_msat"] == 1_500
