"""What is refused before a market is troubled with it, and what is said of the runner in use."""

import pytest

from relaymesh.adapters import runner_discovery
from relaymesh.adapters.runner_discovery import FoundServer
from relaymesh.cli.wiring import _node_settings, check_can_pay, open_runner, tell_unread
from relaymesh.errors import UsageError
from relaymesh.market.surge import SurgeTerms
from relaymesh.ports.lightning import WalletInfo
from relaymesh.ports.runners import RunnerModel
from relaymesh.roles.recovery import Recovered
from relaymesh.settings import Node, Settings, Surge
from relaymesh.units import AmountMsat
from tests.adapters.model_server import MODEL, serve_model
from tests.conformance.ledger.records import make_job


def wallet(spendable_msat: int) -> WalletInfo:
    return WalletInfo("02" * 33, "mine", "regtest", AmountMsat(7_000), AmountMsat(spendable_msat), AmountMsat(0))


def test_a_wallet_that_can_send_nothing_is_told_so_before_a_node_waits_for_it() -> None:
    with pytest.raises(UsageError, match="can send nothing now, of 7000 msat"):
        check_can_pay(wallet(0))
    check_can_pay(wallet(1))


@pytest.mark.anyio
async def test_what_was_found_is_called_by_its_name_and_the_others_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve_model() as first:
        vllm = FoundServer("vLLM", "http://127.0.0.1:8000/v1", ("large",))

        async def find() -> tuple[FoundServer, ...]:
            return FoundServer("Ollama", first.url, (MODEL,)), vllm

        monkeypatch.setattr(runner_discovery, "find_servers", find)
        async with open_runner(Settings()) as found:
            assert (found.description, found.others) == (f"Ollama at {first.url.removesuffix('/v1')}", (vllm,))


@pytest.mark.anyio
async def test_a_password_in_a_model_servers_url_is_never_shown() -> None:
    async with serve_model() as server:
        url = server.url.replace("http://", "http://me:secret@")
        async with open_runner(Settings(node=Node(runner="openai", runner_url=url))) as found:
            assert found.description == server.url.removesuffix("/v1")


@pytest.mark.parametrize("label", ["", "Main", "a" * 30])
def test_a_label_that_no_offer_can_have_is_refused_by_its_setting(label: str) -> None:
    with pytest.raises(UsageError, match=f"node.label must be .*, not `{label}`"):
        _node_settings(Settings(node=Node(label=label)), (), "02" * 33)


def test_the_surge_that_is_set_is_the_nodes_and_one_that_bounds_nothing_is_refused_by_its_table() -> None:
    models = (RunnerModel("tiny", ("chat",)),)
    surge = Surge(minimum_permille=900, maximum_permille=2_500, step_permille=50, interval_seconds=300)
    assert _node_settings(Settings(node=Node(surge=surge)), models, "02" * 33).surge == SurgeTerms(900, 2_500, 50, 300)
    assert _node_settings(Settings(), models, "02" * 33).surge.is_off
    with pytest.raises(UsageError, match=r"\[node.surge\] make no prices"):
        _node_settings(Settings(node=Node(surge=Surge(step_permille=0))), models, "02" * 33)


def test_a_command_reminds_of_what_was_paid_and_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    for count, words in ((1, "output of 1 job was paid"), (2, "output of 2 jobs was paid")):
        tell_unread(Recovered((), (), (make_job(),) * count))
        said = capsys.readouterr()
        assert said.out == "" and words in said.err and "`relaymesh receipts recover` opens it" in said.err
    tell_unread(Recovered((), ()))
    assert capsys.readouterr().err == ""
