"""A client that buys through routers: none, one or several, honest or not, for nothing or for a fee."""

from dataclasses import replace

import anyio
import pytest

from relaymesh.machines.records import JobState, TrancheState
from relaymesh.market.probation import RouterRecord
from relaymesh.market.spending import SpendingLimits
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.lightning import DecodedInvoice
from relaymesh.ports.memory_lightning import decode_memory_invoice
from relaymesh.roles.client import ClientSettings
from relaymesh.roles.spending import LimitedPayer
from relaymesh.units import AmountMsat
from tests.roles.market import Market, Purchase, chat_row, loop_clock, purchase
from tests.roles.routers import RunningRouter, open_router

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("mine_in_place")]
FEE = AmountMsat(250)


def settings(*routers: RunningRouter, fee_msat: int = 0) -> ClientSettings:
    keys = tuple(router.key.public_key for router in routers)
    return ClientSettings(routers=keys, maximum_router_fee_msat=AmountMsat(fee_msat))


def is_done(bought: Purchase) -> bool:
    outcome = bought.bought.outcome
    return outcome is not None and outcome.state is JobState.DONE and outcome.is_verified


async def test_a_job_is_bought_from_a_node_that_a_router_asked() -> None:
    async with Market().open() as market:
        await market.add_node(chat_row(minimum_msat=AmountMsat(9_000)))
        cheap = await market.add_node(chat_row(minimum_msat=AmountMsat(10)))
        async with open_router(market) as router, market.client(settings(router)) as client:
            bought = await purchase(client)
            assert is_done(bought) and bought.bought.contract is not None
            assert bought.bought.contract.node == cheap.key.public_key
            await anyio.sleep(6)
            [examined] = client.routers.examined
            assert examined.is_right and examined.router == router.key.public_key
            assert client.routers.records[router.key.public_key].right == 1
            assert (await router.wallet.info()).balance_msat == 0, "no job's money comes this way"


async def test_two_routers_are_asked_and_both_are_examined() -> None:
    async with Market(relays=2).open() as market:
        await market.add_node()
        async with (
            open_router(market) as first,
            open_router(market) as second,
            market.client(settings(first, second)) as client,
        ):
            assert is_done(await purchase(client))
            await anyio.sleep(6)
            assert {each.router for each in client.routers.examined} == {first.key.public_key, second.key.public_key}


async def test_a_router_that_does_not_answer_keeps_nobody_from_buying() -> None:
    async with Market().open() as market:
        await market.add_node()
        silent = ClientSettings(routers=(KeyPair.generate().public_key,))
        async with market.client(silent) as client:
            assert is_done(await purchase(client))
            assert not client.routers.examined


async def test_a_router_that_was_found_wrong_is_not_asked_again() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with open_router(market) as router, market.client(settings(router)) as client:
            assert client.routers.routing() is not None
            client.routers.records[router.key.public_key] = RouterRecord(days=9, right=500, wrong=1)
            assert client.routers.routing() is None
            assert is_done(await purchase(client))
            assert router.role.counters.heard == 0


async def test_a_fee_within_the_limit_is_paid_and_brings_the_ranking() -> None:
    async with Market().open() as market:
        await market.add_node()
        async with open_router(market, fee_msat=FEE) as router, market.client(settings(router, fee_msat=FEE)) as client:
            await client.market.wait_complete(5)
            assert is_done(await purchase(client))
            await anyio.sleep(6)
            assert (await router.wallet.info()).balance_msat == FEE and router.role.counters.paid == 1
            [examined] = client.routers.examined
            assert examined.is_right


@pytest.mark.parametrize("is_allowed", [True, False])
async def test_a_fee_counts_among_what_is_spent_and_is_kept_in_the_ledger(is_allowed: bool) -> None:
    async def read(bolt11: str) -> DecodedInvoice:
        return decode_memory_invoice(bolt11)

    async with Market().open() as market:
        await market.add_node()
        async with open_router(market, fee_msat=FEE) as router, market.client(settings(router, fee_msat=FEE)) as client:
            most_msat = FEE + client.tools.payment_policy.maximum_fee(AmountMsat(FEE))
            limits = SpendingLimits(hour_msat=most_msat - (not is_allowed))
            limited = LimitedPayer(market.buyer, market.client_ledger, limits, read, loop_clock)
            client.tools.wallet = limited
            await client.market.wait_complete(5)
            await purchase(client)
            await anyio.sleep(6)
            assert (await router.wallet.info()).balance_msat == (FEE if is_allowed else 0)
            payments = await market.client_ledger.find_payments()
            assert [(each.state, each.amount_msat) for each in payments] == [(TrancheState.PAID, FEE)] * is_allowed


@pytest.mark.parametrize("allowed", [0, FEE - 1])
async def test_a_fee_above_the_limit_is_not_paid_and_the_job_is_bought_all_the_same(allowed: int) -> None:
    async with Market().open() as market:
        await market.add_node()
        async with (
            open_router(market, fee_msat=FEE) as router,
            market.client(settings(router, fee_msat=allowed)) as client,
        ):
            assert is_done(await purchase(client))
            await anyio.sleep(6)
            assert (await router.wallet.info()).balance_msat == 0


@pytest.mark.parametrize("change", [{"payee": "02" + "cd" * 32}, {"amount_msat": AmountMsat(FEE - 1)}])
async def test_an_invoice_that_is_not_what_was_announced_is_not_paid(change: dict[str, object]) -> None:
    def read(bolt11: str) -> DecodedInvoice:
        invoice = decode_memory_invoice(bolt11)
        return replace(invoice, **change) if invoice.amount_msat == FEE else invoice  # type: ignore[arg-type]  # as named

    async with Market().open() as market:
        await market.add_node()
        async with (
            open_router(market, fee_msat=FEE) as router,
            market.client(settings(router, fee_msat=FEE), read_invoice=read) as client,
        ):
            assert is_done(await purchase(client))
            await anyio.sleep(6)
            assert (await router.wallet.info()).balance_msat == 0
