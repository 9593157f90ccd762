"""What a hostile peer or a broken world can do to a running node or client: an exchange ends, the role goes on.

Every test of a node ends with an honest purchase, and the market's task group fails a test in which a role has died.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import replace
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from relaymesh.errors import LedgerError, RunnerError, SessionError
from relaymesh.machines.job_settings import NodeJobSettings
from relaymesh.machines.opening_events import OpeningFailed
from relaymesh.machines.records import JobState, LedgerRecord
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.ledger import JobQuery
from relaymesh.ports.lightning import (
    Invoice,
    InvoiceRequest,
    PaymentLookup,
    PaymentOutcome,
    PaymentRequest,
    PaymentUnknown,
)
from relaymesh.ports.memory_ledger import MemoryLedger
from relaymesh.ports.memory_lightning import MemoryWallet
from relaymesh.ports.memory_runner import MemoryRunner, RunScript
from relaymesh.ports.memory_sessions import MemoryConnection
from relaymesh.ports.runners import RunItem, RunnerModel, RunOutput, RunRequest
from relaymesh.protocol.frames import Ready
from relaymesh.protocol.refusal import RefusalCode
from relaymesh.protocol.session_messages import (
    ByeMessage,
    CreditMessage,
    EndMessage,
    ErrorMessage,
    MeteringMessage,
    OutputMessage,
    PaidMessage,
    PingMessage,
    ResumeMessage,
    SessionMessage,
)
from relaymesh.roles.node_jobs import MAXIMUM_EARLY_MESSAGES, MAXIMUM_MESSAGES_PER_JOB
from relaymesh.units import AmountMsat, Timestamp
from tests.roles.market import PROMPT, Market, chat_row, purchase, wanted
from tests.roles.stranger import Stranger, ask_for_session

pytestmark = pytest.mark.anyio
CANARY = "zanzibar"
FREE = chat_row(input_msat=AmountMsat(0), output_msat=AmountMsat(0), minimum_msat=AmountMsat(0))


async def assert_serves(market: Market) -> None:
    """An honest stranger still gets what it pays for."""
    async with market.client() as client:
        bought = await purchase(client)
    outcome = bought.bought.outcome
    assert outcome is not None and outcome.state is JobState.DONE and outcome.is_verified, bought.bought.reason


def goodbyes(heard: list[SessionMessage]) -> list[str]:
    return [message.reason for message in heard if isinstance(message, ByeMessage)]


def refusals(heard: list[SessionMessage]) -> list[RefusalCode]:
    return [message.refusal.code for message in heard if isinstance(message, ErrorMessage)]


# ── a hostile client ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_job_and_a_goodbye_in_one_frame_cost_the_node_nothing() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        stranger = await Stranger.open(market)
        await stranger.send(stranger.job(), ByeMessage("so long"))
        await anyio.sleep(1)
        assert node.tools.places.running == 0
        await assert_serves(market)


async def test_resuming_a_job_again_and_again_gets_its_output_once_for_each_connection() -> None:
    async with Market().open() as market:
        node = await market.add_node(FREE, script=RunScript(pace_ms=100))
        stranger = await Stranger.open(market)
        job = stranger.job()
        resume, credit = ResumeMessage(job.job_id, 0), CreditMessage(job.job_id, 2**53 - 1)
        await stranger.send(job, credit, resume, resume)
        await stranger.hear(0.25)
        await stranger.greet()
        heard = []
        for _ in range(12):
            await stranger.send(resume, resume, credit, resume)
            heard += await stranger.hear(0.1)
        numbers = [message.number for message in heard if isinstance(message, OutputMessage)]
        assert numbers == list(range(len(PROMPT.split())))
        await anyio.sleep(12)
        assert node.tools.places.running == 0
        await assert_serves(market)


async def test_more_jobs_than_there_is_room_for_are_refused_one_by_one_and_the_session_lives() -> None:
    async with Market().open() as market:
        node = await market.add_node(maximum_jobs=4)
        stranger = await Stranger.open(market)
        await stranger.send(*[stranger.job() for _ in range(200)])
        heard = await stranger.hear()
        assert refusals(heard) == [RefusalCode.BUSY] * 196 and not goodbyes(heard)
        assert node.tools.places.running == 4
        await anyio.sleep(75)
        assert node.tools.places.running == 0, "invoices that nobody pays lapse, and give their places back"
        await assert_serves(market)


async def test_a_client_that_talks_without_end_about_one_job_loses_its_session() -> None:
    async with Market().open() as market:
        await market.add_node()
        stranger = await Stranger.open(market)
        job = stranger.job()
        await stranger.send(job)
        await stranger.hear(0.5)
        await stranger.send(*[PaidMessage(job.job_id, 0)] * (MAXIMUM_MESSAGES_PER_JOB + 1))
        assert ["messages about one job" in reason for reason in goodbyes(await stranger.hear())] == [True]
        await assert_serves(market)


class SlowlyCountingRunner(MemoryRunner):
    """Takes five seconds to count a job's input."""

    async def count_input_tokens(self, request: RunRequest) -> int | None:
        await anyio.sleep(5)
        return await super().count_input_tokens(request)


async def test_what_is_said_about_a_job_before_it_begins_is_kept_only_in_part() -> None:
    """What is kept counts towards what may be said about one job, and shows how much it was."""
    async with Market().open() as market:
        node = await market.add_node()
        node.tools.runner = SlowlyCountingRunner()
        stranger = await Stranger.open(market)
        job = stranger.job()
        await stranger.send(job, *[PaidMessage(job.job_id, 0)] * 400)
        await stranger.hear(6)
        await stranger.send(*[PaidMessage(job.job_id, 0)] * (MAXIMUM_MESSAGES_PER_JOB - MAXIMUM_EARLY_MESSAGES))
        assert goodbyes(await stranger.hear()) == []
        await stranger.send(PaidMessage(job.job_id, 0))
        assert len(goodbyes(await stranger.hear())) == 1
        await assert_serves(market)


async def test_a_job_of_another_client_is_none_of_a_strangers_business() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with market.client() as client:
            bought = await purchase(client)
        assert bought.bought.outcome is not None
        stranger = await Stranger.open(market)
        await stranger.send(ResumeMessage(bought.bought.outcome.job_id, 0))
        (answer,) = await stranger.hear()
        assert refusals([answer]) == [RefusalCode.INVALID_MESSAGE]


@pytest.mark.parametrize("is_another_session", [False, True])
async def test_a_job_that_is_sent_again_after_its_end_is_answered_with_its_record_and_not_run_again(
    is_another_session: bool,
) -> None:
    async with Market().open() as market:
        node = await market.add_node(FREE, job_settings=NodeJobSettings(receipt_ms=10))
        key = KeyPair.generate()
        stranger = await Stranger.open(market, key)
        job = stranger.job()
        await stranger.send(job, CreditMessage(job.job_id, 1_000))
        first = [message for message in await stranger.hear() if isinstance(message, MeteringMessage)]
        if is_another_session:
            job = replace(job, session=stranger.contract.session_id)
            stranger = await Stranger.open(market, key)
        await stranger.send(job, CreditMessage(job.job_id, 1_000))
        assert await stranger.hear() == [EndMessage(job.job_id), *first]
        assert node.runner.counts.started == len(first) == 1


async def test_a_client_that_comes_back_after_the_end_gets_the_record_again() -> None:
    async with Market().open() as market:
        await market.add_node(FREE, job_settings=NodeJobSettings(receipt_ms=10))
        stranger = await Stranger.open(market)
        job = stranger.job()
        await stranger.send(job, CreditMessage(job.job_id, 1_000))
        first = [message for message in await stranger.hear() if isinstance(message, MeteringMessage)]
        await stranger.greet()
        await stranger.send(ResumeMessage(job.job_id, 0))
        assert await stranger.hear() == [EndMessage(job.job_id), *first]


async def test_greeting_for_ever_without_a_word_ends_the_session() -> None:
    async with Market().open() as market:
        await market.add_node()
        stranger = await Stranger.open(market)
        begun = anyio.current_time()
        with pytest.raises(SessionError):
            while anyio.current_time() < begun + 60:
                await stranger.greet()
                await anyio.sleep(1)
        assert 30 <= anyio.current_time() - begun < 40
        await assert_serves(market)


async def test_one_key_may_have_only_so_many_sessions_and_those_it_never_connects_to_are_given_up() -> None:
    async with Market().open() as market:
        await market.add_node()
        key, ephemeral = KeyPair.generate(), KeyPair.generate()
        answers = [await ask_for_session(market, key, ephemeral) for _ in range(20)]
        refused = [answer for answer in answers if isinstance(answer, OpeningFailed)]
        assert answers[16:] == refused
        assert {refusal.code for answer in refused for _, refusal in answer.refusals} == {RefusalCode.RATE_LIMITED}
        await assert_serves(market)
        await anyio.sleep(121)  # that long a key's requests are counted
        assert not isinstance(await ask_for_session(market, key, ephemeral), OpeningFailed)


async def test_a_peer_that_asks_and_never_reads_is_answered_so_far_and_no_further() -> None:
    async with Market().open() as market:
        await market.add_node()
        stranger = await Stranger.open(market)
        begun, sent = anyio.current_time(), 0
        with pytest.raises(SessionError):
            while sent < 10_000:
                await stranger.send(*[PingMessage(number) for number in range(50)])
                sent += 1
        assert sent < 1_000 and anyio.current_time() - begun < 30
        await assert_serves(market)


async def test_a_client_that_pays_and_then_takes_no_output_gives_its_place_back() -> None:
    async with Market().open() as market:
        node = await market.add_node(FREE, script=RunScript(pieces=("word ",) * 10_000))
        stranger = await Stranger.open(market)
        job = stranger.job()
        await stranger.send(job)
        for _ in range(8):
            await stranger.hear(100)
            await stranger.greet()
            await stranger.send(ResumeMessage(job.job_id, 0))  # it is there, and well
        assert node.tools.places.running == node.runner.counts.running == 0
        await assert_serves(market)


class StuckLedger(MemoryLedger):
    """A ledger that no longer answers."""

    async def next_sequence(self, scope: str, now: Timestamp) -> int:
        await anyio.sleep_forever()
        raise AssertionError("for ever is over")


async def test_a_node_that_cannot_say_goodbye_leaves_all_the_same() -> None:
    """Closing the links to relays that do not answer takes another second, and two are allowed."""
    async with Market().open() as market:
        node = await market.add_node()
        node.tools.ledger = StuckLedger()
        node.scope.cancel()
        await anyio.sleep(0.6)
        with pytest.raises(SessionError):
            await market.network.dialer().dial("ws://node-0.test")


# ── a hostile node ────────────────────────────────────────────────────────────────────────────────────────────────


class CheatingWallet(MemoryWallet):
    """Issues other invoices than it is asked for; made of an honest wallet."""

    def __init__(self, honest: MemoryWallet, cheat: str, accomplice: MemoryWallet) -> None:
        self.__dict__ = honest.__dict__
        self._cheat, self._accomplice, self._first = cheat, accomplice, ""

    async def create_invoice(self, request: InvoiceRequest) -> Invoice:
        match self._cheat:
            case "a higher amount":
                return await super().create_invoice(replace(request, amount_msat=AmountMsat(request.amount_msat + 1)))
            case "another payee":
                return await self._accomplice.create_invoice(request)
            case "the same hash twice":
                self._first = self._first or request.label
                return await super().create_invoice(replace(request, label=self._first))
            case _:
                return replace(await super().create_invoice(request), bolt11="lnbc1nonsense")


@pytest.mark.parametrize("cheat", ["a higher amount", "another payee", "nonsense"])
async def test_an_invoice_that_was_not_agreed_on_is_not_paid(cheat: str) -> None:
    async with Market().open() as market:
        node = await market.add_node()
        node.tools.wallet = CheatingWallet(node.wallet, cheat, market.lightning.wallet("accomplice"))
        async with market.client() as client:
            bought = await purchase(client)
        outcome = bought.bought.outcome
        assert outcome is not None and outcome.state is JobState.FAILED and outcome.refusal is not None
        assert outcome.refusal.code is RefusalCode.PAYMENT_MISMATCH
        assert market.buyer.balance_msat == 1_000_000


async def test_an_invoice_that_was_paid_for_one_tranche_pays_for_no_other() -> None:
    async with Market().open() as market:
        node = await market.add_node(chat_row(input_msat=AmountMsat(0), minimum_msat=AmountMsat(0)))
        node.tools.wallet = CheatingWallet(node.wallet, "the same hash twice", node.wallet)
        async with market.client() as client:
            bought = await purchase(client, wanted("sixteen bytes are one tranche, and these are more than that"))
        outcome = bought.bought.outcome
        assert outcome is not None and outcome.state is JobState.FAILED and outcome.refusal is not None
        assert outcome.refusal.code is RefusalCode.PAYMENT_MISMATCH and "hash" in outcome.refusal.reason
        assert outcome.paid_msat == node.wallet.balance_msat == chat_row().output_msat * 16 // 1_000


@pytest.mark.parametrize("manner", ["silent", "closes", "nonsense", "forged"])
async def test_an_endpoint_that_is_no_node_costs_the_buyer_some_seconds_and_no_money(manner: str) -> None:
    async with Market().open() as market:
        await market.add_node()

        async def misbehave(connection: MemoryConnection) -> None:
            with suppress(SessionError):
                if manner == "nonsense":
                    await connection.send(b"\x00" * 70_000)
                elif manner == "forged":
                    await connection.send(Ready(b"\x00" * 32, b"\x00" * 32).to_text())
                if manner != "silent":
                    await connection.aclose()

        async with anyio.create_task_group() as tasks:
            market.network.close_door("ws://node-0.test")
            market.network.open_door("ws://node-0.test", lambda there: tasks.start_soon(misbehave, there))
            async with market.client() as client:
                with anyio.fail_after(60):
                    bought = await purchase(client)
        assert bought.bought.reason and bought.text == ""
        assert market.buyer.balance_msat == 1_000_000


# ── a broken world ────────────────────────────────────────────────────────────────────────────────────────────────


class FailingLedger(MemoryLedger):
    """A ledger whose disk is full from some write on, until it is mended."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.left: float = writes

    async def write(self, records: tuple[LedgerRecord, ...]) -> None:
        if self.left < 1:
            raise LedgerError("the disk is full")
        self.left -= 1
        await super().write(records)


@pytest.mark.parametrize("writes", range(8))
async def test_a_node_whose_ledger_fails_says_so_to_the_client_and_serves_again_once_it_is_mended(writes: int) -> None:
    async with Market().open() as market:
        node = await market.add_node()
        ledger = FailingLedger(writes)
        node.tools.ledger = ledger
        async with market.client() as client:
            bought = await purchase(client)
        outcome = bought.bought.outcome
        if outcome is not None and outcome.state is not JobState.DONE:
            assert outcome.refusal is not None and outcome.refusal.code is RefusalCode.INTERNAL
            assert "ledger" in outcome.refusal.reason
            assert outcome.paid_msat == node.wallet.balance_msat
        assert node.tools.places.running == 0
        ledger.left = float("inf")
        await assert_serves(market)


@pytest.mark.parametrize("writes", range(6))
async def test_a_client_whose_ledger_fails_stops_and_has_paid_nothing_that_is_not_in_it(writes: int) -> None:
    async with Market().open() as market:
        node = await market.add_node()
        ledger = market.client_ledger = FailingLedger(writes)
        async with market.client() as client:
            with pytest.raises(LedgerError):
                await purchase(client)
            await anyio.sleep(1)
        jobs = await ledger.find_jobs(JobQuery(side="client"))
        written = {tranche.amount_msat for job in jobs for tranche in job.tranches}
        assert node.wallet.balance_msat <= sum(written)
        assert node.tools.places.running <= 1
        await anyio.sleep(75)
        ledger.left = float("inf")
        await assert_serves(market)


class AbsentRunner(MemoryRunner):
    """A model server that nobody has started."""

    async def models(self) -> tuple[RunnerModel, ...]:
        raise RunnerError("the model server at 10.0.0.7 cannot be reached", retryable=True)

    def run(self, request: RunRequest) -> AbstractAsyncContextManager[AsyncIterator[RunItem]]:
        raise RunnerError("the model server at 10.0.0.7 cannot be reached", retryable=True)


async def test_a_node_whose_runner_is_down_takes_money_for_nothing_once_at_most() -> None:
    async with Market().open() as market:
        node = await market.add_node()
        node.tools.runner = AbsentRunner()
        async with market.client() as client:
            bought = await purchase(client)
        taken = node.wallet.balance_msat
        assert bought.bought.outcome is not None and bought.bought.outcome.paid_msat == taken
        with capture_logs() as logs:
            async with market.client() as client:
                for _ in range(3):
                    bought = await purchase(client)
                    assert bought.bought.reason.startswith(RefusalCode.RUNNER_UNAVAILABLE.value)
                    assert "10.0.0.7" not in bought.bought.reason, "where it is concerns nobody but the operator"
        assert ["10.0.0.7" in line["reason"] for line in logs] == [True] * 3
        assert node.wallet.balance_msat == taken
        node.tools.runner = MemoryRunner()
        await assert_serves(market)


class BrokenRunner(MemoryRunner):
    """Fails with whatever it is given, in the place it is given, and quotes the job as it does."""

    def __init__(self, error: type[Exception], place: str) -> None:
        super().__init__()
        self._error, self._place = error, place

    async def count_input_tokens(self, request: RunRequest) -> int | None:
        if self._place == "counting":
            raise self._error(request.body)
        return await super().count_input_tokens(request)

    def run(self, request: RunRequest) -> AbstractAsyncContextManager[AsyncIterator[RunItem]]:
        return aclosing(self._fail(request))

    async def _fail(self, request: RunRequest) -> Any:
        if self._place == "in mid-stream":
            yield RunOutput(CANARY)
        raise self._error(request.body)


@pytest.mark.parametrize("place", ["counting", "running", "in mid-stream"])
async def test_a_runner_with_a_bug_ends_the_job_and_its_words_reach_no_log(place: str) -> None:
    async with Market().open() as market:
        node = await market.add_node()
        node.tools.runner = BrokenRunner(ValueError, place)
        with capture_logs() as logs:
            async with market.client() as client:
                bought = await purchase(client, wanted(CANARY))
        assert bought.bought.reason.startswith(RefusalCode.INTERNAL.value)
        assert [line["event"] for line in logs] == ["internal_error"] and CANARY not in str(logs)
        await assert_kept_from_evidence(market)
        node.tools.runner = MemoryRunner()
        await assert_serves(market)


async def assert_kept_from_evidence(market: Market) -> None:
    """Prompt and output are in nothing that was signed, and in no ledger once the job is over."""
    for ledger in (market.client_ledger, *[node.ledger for node in market.nodes]):
        for evidence in await ledger.find_evidence():
            assert CANARY not in str(evidence)


class ForgetfulWallet(MemoryWallet):
    """Pays, and then fails to say so, quoting what it should not; looked up, it fails a few times more."""

    def __init__(self, honest: MemoryWallet, failures: int) -> None:
        self.__dict__ = honest.__dict__
        self._failures, self.looked_up = failures, 0

    async def pay(self, request: PaymentRequest) -> PaymentOutcome:
        await super().pay(request)
        raise ValueError(request.bolt11)

    async def lookup_payment(self, payment_hash: str) -> PaymentLookup:
        self.looked_up += 1
        if self.looked_up <= self._failures:
            return PaymentUnknown("not now")
        return await super().lookup_payment(payment_hash)


async def test_a_payment_that_the_wallet_lost_sight_of_is_looked_up_until_it_is_found_and_paid_once() -> None:
    async with Market().open() as market:
        node = await market.add_node(tranche_units=None)
        wallet = market.buyer = ForgetfulWallet(market.buyer, failures=3)
        with capture_logs() as logs:
            async with market.client() as client:
                bought = await purchase(client)
        outcome = bought.bought.outcome
        assert outcome is not None and outcome.state is JobState.DONE and outcome.is_verified
        assert wallet.looked_up == 4
        assert outcome.paid_msat == node.wallet.balance_msat == 1_000_000 - wallet.balance_msat - outcome.fees_msat
        assert [line["event"] for line in logs] == ["internal_error"] and "lnmemory1" not in str(logs)
