"""What is refused before a market is troubled with it."""

import pytest

from relaymesh.cli.wiring import check_can_pay
from relaymesh.errors import UsageError
from relaymesh.ports.lightning import WalletInfo
from relaymesh.units import AmountMsat


def wallet(spendable_msat: int) -> WalletInfo:
    return WalletInfo("02" * 33, "mine", "regtest", AmountMsat(7_000), AmountMsat(spendable_msat), AmountMsat(0))


def test_a_wallet_that_can_send_nothing_is_told_so_before_a_node_waits_for_it() -> None:
    with pytest.raises(UsageError, match="can send nothing now, of 7000 msat"):
        check_can_pay(wallet(0))
    check_can_pay(wallet(1))
