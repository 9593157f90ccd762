"""The spending limits that the settings name, around the wallet that pays, and what is left of them."""

from typing import Any

from relaymesh.cli.clock import system_clock
from relaymesh.cli.ledgers import open_existing_ledger
from relaymesh.market.spending import DAY_MS, Allowance, SpendingBook, SpendingLimits
from relaymesh.ports.ledger import Ledger
from relaymesh.ports.lightning import Payer
from relaymesh.roles.client_tools import PaymentPolicy
from relaymesh.roles.spending import LimitedPayer
from relaymesh.settings import Settings, Wallet
from relaymesh.units import MILLISECONDS_PER_SECOND, AmountMsat


def payment_policy(wallet: Wallet) -> PaymentPolicy:
    """What a payment may cost and take."""
    return PaymentPolicy(wallet.base_fee_msat, wallet.fee_ppm, wallet.payment_seconds * MILLISECONDS_PER_SECOND)


async def open_spending(payer: Payer, ledger: Ledger, wallet: Wallet, network: str) -> LimitedPayer:
    """The wallet within its limits, that knows from the client's ledger what was spent; jobs are recovered before."""
    from relaymesh.adapters.invoices import invoice_reader

    limited = LimitedPayer(payer, ledger, _limits(wallet), invoice_reader(network), system_clock)
    await limited.recall(payment_policy(wallet).maximum_fee)
    return limited


async def find_allowances(settings: Settings) -> tuple[Allowance, ...]:
    """Every limit and how much of it is used, by what the client's ledger says; nobody is asked."""
    limits, now_ms = _limits(settings.wallet), system_clock().unix_ms
    book = SpendingBook(limits)
    async with open_existing_ledger(settings, "client") as ledger:
        if ledger is not None:
            minutes = await ledger.paid_by_minute(now_ms - DAY_MS)
            book.recall((each.begins_at_ms, AmountMsat(each.paid_msat)) for each in minutes)
    return book.allowances(now_ms, "a job that has not begun")


def describe_allowance(allowance: Allowance) -> dict[str, Any]:
    """One limit, as JSON tells it."""
    return {
        "setting": allowance.setting,
        "limit_msat": allowance.limit_msat,
        "spent_msat": allowance.spent_msat,
        "left_msat": allowance.left_msat,
    }


def _limits(wallet: Wallet) -> SpendingLimits:
    return SpendingLimits(wallet.maximum_job_msat, wallet.maximum_hour_msat, wallet.maximum_day_msat)
