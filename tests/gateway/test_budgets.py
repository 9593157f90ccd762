"""API keys and their budgets: who is let in, what counts, and that no number of requests at once goes beyond."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from relaymesh.adapters.budget_file import Budget, BudgetFile, Exhausted, Reserved, open_budget_file
from relaymesh.errors import UsageError
from relaymesh.gateway.api_keys import ApiKey, KeyRing, hash_key, new_key, read_keys
from relaymesh.market.spending import DAY_MS
from relaymesh.ports.memory_runner import RunScript
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.units import AmountMsat
from tests.gateway.place import chat, gateway_to
from tests.roles.market import Market, chat_row, loop_clock

pytestmark = pytest.mark.anyio
ALICE = {"authorization": "Bearer alice-key"}


def key(**changes: Any) -> ApiKey:
    return ApiKey(**{"name": "alice", "sha256": hash_key("alice-key"), **changes})


@asynccontextmanager
async def ring(folder: Path, *keys: ApiKey) -> AsyncIterator[KeyRing]:
    async with open_budget_file(folder / "budgets.sqlite3") as file:
        yield KeyRing(keys, file, loop_clock)


async def test_only_a_known_key_is_let_in_and_then_from_any_host(tmp_path: Path) -> None:
    async with Market().open() as market, ring(tmp_path, key()) as keys:
        await market.add_node()
        async with gateway_to(market, keys) as http:
            elsewhere = {**ALICE, "host": "gateway.example"}
            let_in = await http.post("/chat/completions", json=chat(), headers=elsewhere)
            others: list[dict[str, str]] = [{}, {"authorization": "Bearer other"}, {"authorization": "alice-key"}]
            refused = [await http.post("/chat/completions", json=chat(), headers=each) for each in others]
            refused += [await http.get(page, headers=each) for each in others for page in ("/models", "/models/echo")]
    assert let_in.status_code == 200
    assert {each.status_code for each in refused} == {401}
    assert all(each.json()["error"]["code"] == "invalid_api_key" for each in refused)


async def test_what_was_spent_is_counted_with_its_fees_and_known_after_a_restart(tmp_path: Path) -> None:
    async with Market().open() as market:
        await market.add_node(chat_row(minimum_msat=AmountMsat(1_000)))
        async with ring(tmp_path, key(total_msat=1_200)) as keys, gateway_to(market, keys) as http:
            first = await http.post("/chat/completions", json=chat(), headers=ALICE)
        async with ring(tmp_path, key(total_msat=1_200)) as keys, gateway_to(market, keys) as http:
            second = await http.post("/chat/completions", json=chat(), headers=ALICE)
        told = first.json()["relaymesh"]
        async with open_budget_file(tmp_path / "budgets.sqlite3") as file:
            assert await file.spent("alice", 0) == told["cost_msat"] + told["fees_msat"] > 1_000
        assert 1_000_000 - (await market.buyer.info()).balance_msat == told["cost_msat"] + told["fees_msat"]
    assert first.status_code == 200
    assert second.status_code == 402 and second.json()["error"]["param"] == "relaymesh.max_msat", second.text


async def test_an_empty_budget_is_402_and_names_the_limit(tmp_path: Path) -> None:
    async with Market().open() as market, ring(tmp_path, key(day_msat=1)) as keys:
        await market.add_node(chat_row(minimum_msat=AmountMsat(0), input_msat=AmountMsat(0), output_msat=AmountMsat(0)))
        async with gateway_to(market, keys) as http:
            await keys.purse(key(day_msat=1)).reserve("echo", AmountMsat(1))
            response = await http.post("/chat/completions", json=chat(), headers=ALICE)
    assert response.status_code == 402 and response.json()["error"]["code"] == "key_budget_spent"
    assert "day_msat of this key is 1 msat" in response.json()["error"]["message"]


async def test_many_requests_at_once_stay_within_one_budget(tmp_path: Path) -> None:
    limit = 2_500
    async with Market().open() as market, ring(tmp_path, key(total_msat=limit)) as keys:
        free_of_fees = chat_row(minimum_msat=AmountMsat(400), input_msat=AmountMsat(0), output_msat=AmountMsat(1))
        node = await market.add_node(free_of_fees, maximum_jobs=16, script=RunScript(pace_ms=5))
        statuses: list[int] = []
        async with gateway_to(market, keys) as http, anyio.create_task_group() as tasks:

            async def ask() -> None:
                statuses.append((await http.post("/chat/completions", json=chat(), headers=ALICE)).status_code)

            for _ in range(12):
                tasks.start_soon(ask)
        earned = (await node.wallet.info()).balance_msat
        async with open_budget_file(tmp_path / "budgets.sqlite3") as file:
            counted = await file.spent("alice", 0)
    assert set(statuses) == {200, 402}
    assert earned == 400 * statuses.count(200) <= counted <= limit + statuses.count(200) * 10  # a job's routing fees


async def test_a_reader_who_leaves_has_spent_what_was_paid_and_nothing_stays_set_aside(tmp_path: Path) -> None:
    async with Market().open() as market, ring(tmp_path, key(total_msat=100_000)) as keys:
        node = await market.add_node(script=RunScript(pieces=("word ",) * 400, pace_ms=5), tranche_units=16)
        async with (
            gateway_to(market, keys) as http,
            http.stream("POST", "/chat/completions", json=chat(stream=True), headers=ALICE) as response,
        ):
            async for line in response.aiter_lines():
                if "word" in line:
                    break
        spent = 1_000_000 - (await market.buyer.info()).balance_msat
        assert (await node.wallet.info()).balance_msat <= spent
        async with open_budget_file(tmp_path / "budgets.sqlite3") as file:
            assert await file.spent("alice", 0) == spent > 0


async def test_keys_that_share_a_prepaid_session_each_pay_for_their_own_jobs(tmp_path: Path) -> None:
    bob = ApiKey("bob", hash_key("bob-key"))
    terms = (SettlementTerm(order="prepay", scope="session", tranche_units=20_000),)
    async with Market().open() as market, ring(tmp_path, key(), bob) as keys:
        node = await market.add_node(settlement=terms)
        async with gateway_to(market, keys) as http:
            asked = chat(relaymesh={"settlement": "session"})
            hers = [await http.post("/chat/completions", json=asked, headers=ALICE) for _ in range(2)]
            his = await http.post("/chat/completions", json=asked, headers={"authorization": "Bearer bob-key"})
        costs = [each.json()["usage"]["cost_msat"] for each in (*hers, his)]
        async with open_budget_file(tmp_path / "budgets.sqlite3") as file:
            assert await file.spent("alice", 0) >= costs[0] + costs[1] > 0
            assert await file.spent("bob", 0) >= costs[2] > 0
        assert (await node.wallet.info()).balance_msat == 20_000, "one tranche paid for all three"


async def test_a_key_for_some_models_buys_no_other_and_each_within_its_own_limit(tmp_path: Path) -> None:
    mine = key(models={"echo": 10_000})
    async with Market().open() as market, ring(tmp_path, mine) as keys:
        await market.add_node()
        await market.add_node(chat_row(model="large", output_msat=AmountMsat(1)))
        async with gateway_to(market, keys) as http:
            other = await http.post("/chat/completions", json=chat(model="large"), headers=ALICE)
            fallback = await http.post("/chat/completions", json=chat(model="large", models=["echo"]), headers=ALICE)
            anyone = await http.post("/chat/completions", json=chat(model="auto"), headers=ALICE)
            await keys.purse(mine).reserve("echo", AmountMsat(10_000))
            spent = await http.post("/chat/completions", json=chat(), headers=ALICE)
    assert other.status_code == 403 and other.json()["error"]["code"] == "model_not_allowed"
    assert fallback.json()["model"] == anyone.json()["model"] == "echo"
    assert spent.status_code == 402 and "models.echo" in spent.json()["error"]["message"]


async def test_each_limit_has_its_own_span_and_the_least_is_granted(tmp_path: Path) -> None:
    async with open_budget_file(tmp_path / "budgets.sqlite3") as file:
        budget = Budget(total_msat=1_000, day_msat=300, model_day_msat=200)
        ask = [("alice", "a", 250, 0), ("alice", "b", 250, 1), ("bob", "a", 250, 1), ("alice", "b", 9, 2)]
        granted = [await file.reserve(name, model, AmountMsat(msat), budget, at) for name, model, msat, at in ask]
        assert [each.msat if isinstance(each, Reserved) else each for each in granted] == [
            200,
            100,
            200,
            Exhausted("day_msat", 300, 300),
        ]
        assert isinstance(granted[0], Reserved)
        await file.settle(granted[0].number, AmountMsat(150))
        assert await file.spent("alice", -1) == 250
        later = await file.reserve("alice", "a", AmountMsat(9_999), Budget(total_msat=260, day_msat=100), DAY_MS + 1)
        assert isinstance(later, Reserved) and later.msat == 10, "a day later only the total counts what was before"
        await file.settle(later.number, AmountMsat(0))
        assert await file.spent("alice", -1) == 250


async def test_two_gateways_on_one_file_stay_within_one_budget_together(tmp_path: Path) -> None:
    path = tmp_path / "budgets.sqlite3"
    granted: list[int] = []
    async with open_budget_file(path) as one, open_budget_file(path) as other, anyio.create_task_group() as tasks:

        async def ask(file: BudgetFile) -> None:
            reserved = await file.reserve("alice", "a", AmountMsat(10), Budget(total_msat=1_000), 0)
            granted.append(reserved.msat if isinstance(reserved, Reserved) else 0)

        for _ in range(150):
            tasks.start_soon(ask, one)
            tasks.start_soon(ask, other)
    assert sum(granted) == 1_000 and granted.count(0) == 200


def test_a_new_key_reads_back_with_its_budget() -> None:
    secret, table = new_key("team ü", Budget(5, 6), {'a "b".c': 7, "llama": 0})
    (read,) = read_keys(table, "keys.toml")
    assert read == ApiKey("team ü", hash_key(secret), 5, 6, {'a "b".c': 7, "llama": 0})
    assert secret not in table and len(secret) > 30


@pytest.mark.parametrize(
    "text",
    [
        "not toml [",
        "name = 'x'",
        "[[key]]\nname = 'x'",
        "[[key]]\nname = 'x'\nsha256 = 'y'\nspent = 1",
        "[[key]]\nname = 'x'\nsha256 = 'y'\nday_msat = -1",
        "[[key]]\nname = 'x'\nsha256 = 'y'\nday_msat = '1'",
        "[[key]]\nname = 'x'\nsha256 = 'y'\n[[key]]\nname = 'x'\nsha256 = 'z'",
    ],
)
def test_keys_that_are_wrong_are_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(UsageError):
        read_keys(text, "keys.toml")
