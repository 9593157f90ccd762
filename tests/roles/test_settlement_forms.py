"""Whole purchases under every form of settlement: which is chosen, that it serves, and that all agree on the money."""

import anyio
import pytest

from relaymesh.machines.records import JobState, TrancheState
from relaymesh.market.probation import NODE_OUTCOMES
from relaymesh.market.request import SettlementPolicy
from relaymesh.market.unpaid_work import Reservation, UnpaidWork
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.ledger import JobQuery
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.roles.client import ClientSettings
from relaymesh.units import AmountMsat
from tests.roles.market import PROMPT, Market, MarketNode, chat_row, open_session, purchase, wanted

pytestmark = pytest.mark.anyio

PREPAY = SettlementTerm(order="prepay", tranche_units=16)
SEALED = SettlementTerm(order="sealed", tranche_units=16)
POSTPAY = SettlementTerm(order="postpay", tranche_units=16)
SESSION = SettlementTerm(order="prepay", scope="session", tranche_units=8_000)


async def paid_by_both_books(market: Market, node: MarketNode) -> int:
    """What was paid, where both ledgers and both wallets agree on it."""
    sums: list[int] = []
    for ledger in (market.client_ledger, node.ledger):
        jobs = await ledger.find_jobs(JobQuery())
        assert await ledger.find_jobs(JobQuery(only_unresolved=True)) == ()
        tranches = [tranche for job in jobs for tranche in job.tranches]
        assert {tranche.state for tranche in tranches} <= {TrancheState.RELEASED}
        sums.append(sum(tranche.amount_msat for tranche in tranches))
    assert sums[0] == sums[1] == (await node.wallet.info()).balance_msat
    return sums[0]


@pytest.mark.parametrize(
    ("settlement", "streamed", "expected"),
    [
        ("auto", False, "sealed"),
        ("auto", True, "prepay"),
        ("sealed", True, "sealed"),
        ("prepay", False, "prepay"),
        ("session", False, "session"),
    ],
)
async def test_a_job_is_bought_in_the_form_that_was_chosen(
    settlement: SettlementPolicy, streamed: bool, expected: str
) -> None:
    async with Market().open() as market:
        node = await market.add_node(settlement=(PREPAY, SEALED, SESSION))
        async with market.client() as client:
            bought = await purchase(client, wanted(settlement=settlement, is_streamed=streamed))
        outcome, chosen = bought.bought.outcome, bought.bought.chosen_term
        assert outcome is not None and outcome.state is JobState.DONE and outcome.is_verified
        assert bought.text.split() == PROMPT.split()
        assert chosen is not None and chosen.term.form == expected
        paid_msat = await paid_by_both_books(market, node)
        assert paid_msat == (SESSION.tranche_units if expected == "session" else outcome.paid_msat)
        assert 0 < outcome.paid_msat <= paid_msat


async def test_a_buyer_whose_key_has_credit_pays_afterwards_and_a_stranger_does_not() -> None:
    async with Market().open() as market:
        key = KeyPair.generate()
        unpaid = UnpaidWork(lines={key.public_key: AmountMsat(10_000)})
        node = await market.add_node(settlement=(PREPAY, POSTPAY), unpaid=unpaid)
        forms = []
        for credit_key in (key, None):
            async with market.client(ClientSettings(credit_key=credit_key)) as client:
                job = wanted(is_streamed=True, has_credit=credit_key is not None)
                bought = (await purchase(client, job)).bought
                assert bought.outcome is not None and bought.outcome.state is JobState.DONE
                assert bought.chosen_term is not None
                forms.append(bought.chosen_term.term.form)
        assert forms == ["postpay", "prepay"]
        assert await paid_by_both_books(market, node) > 0
        assert unpaid.at_stake_msat(key.public_key) == 0


async def test_who_keeps_a_session_prepays_it_for_small_jobs_of_a_node_that_has_served() -> None:
    async with Market().open() as market:
        await market.add_node(settlement=(PREPAY, SEALED, SESSION))
        async with market.client() as client:
            for _ in range(NODE_OUTCOMES):
                assert (await purchase(client)).bought.reason == ""
            job = wanted(keeps_session=True)
            session = await open_session(client, job)
            assert session.chosen_term is not None and session.chosen_term.term.form == "session"
            assert "the job is small beside a tranche" in session.chosen_term.sentence
            await session.aclose()


async def test_who_has_served_well_is_prepaid_the_next_time() -> None:
    async with Market().open() as market:
        await market.add_node(settlement=(SEALED, PREPAY))
        forms = []
        async with market.client() as client:
            for _ in range(NODE_OUTCOMES + 2):
                bought = (await purchase(client)).bought
                assert bought.chosen_term is not None and bought.reason == ""
                forms.append(bought.chosen_term.term.form)
        assert forms == ["sealed"] * NODE_OUTCOMES + ["prepay"] * 2


async def test_a_buyer_who_requires_sealed_delivery_is_told_who_does_not_offer_it() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with market.client() as client:
            bought = await purchase(client, wanted(settlement="sealed"))
        assert bought.bought.outcome is None
        assert "no common settlement (settles by prepay only)" in bought.bought.reason


async def test_a_node_that_would_have_too_much_at_stake_is_passed_over_for_one_that_has_less() -> None:
    async with Market().open() as market:
        await market.add_node(chat_row(output_msat=3_000))
        small = await market.add_node(settlement=(SettlementTerm(order="prepay", tranche_units=8),))
        async with market.client() as client:
            bought = await purchase(client, wanted(is_streamed=True, maximum_exposure_msat=120))
        assert bought.bought.contract is not None, bought.bought.reason
        assert bought.bought.contract.node == small.key.public_key
        assert bought.bought.chosen_term is not None
        assert bought.bought.chosen_term.term.exposure_buyer_msat <= 120


async def test_a_node_with_as_much_unpaid_work_as_it_takes_on_is_asked_again_when_it_said() -> None:
    async with Market().open() as market, anyio.create_task_group() as tasks:
        unpaid = UnpaidWork(AmountMsat(10_000))
        others = unpaid.reserve(KeyPair.generate().public_key, None, "sealed", AmountMsat(10_000))
        assert isinstance(others, Reservation)
        await market.add_node(settlement=(SEALED, PREPAY), unpaid=unpaid)

        async def finish_others() -> None:
            await anyio.sleep(3)
            unpaid.release(others)

        tasks.start_soon(finish_others)
        async with market.client() as client:
            in_between = (await purchase(client)).bought
            assert in_between.chosen_term is not None and in_between.chosen_term.term.form == "prepay"
            bought = (await purchase(client, wanted(settlement="sealed"))).bought
        assert bought.reason == "" and [reason[:16] for _, reason in bought.tried] == ["payment-required"]
