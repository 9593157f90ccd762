"""The rules themselves: they let a real node's channels come to rest, which takes longer than its answers."""

from dataclasses import replace
from typing import Any

import anyio
import pytest
import trio.testing

from relaymesh.ports.lightning import DecodedInvoice, WalletInfo
from relaymesh.ports.memory_lightning import MemoryLightning, MemoryWallet, decode_memory_invoice
from relaymesh.units import AmountMsat
from tests.conformance.lightning.rules import RULES, Rule, WalletsUnderTest

pytestmark = pytest.mark.anyio

SETTLING_SECONDS = 0.15


class LateWallet(MemoryWallet):
    """Its balance is the one of 0.15 s ago, as where a payment is known before its channel has settled."""

    def __init__(self, network: MemoryLightning, name: str, balance_msat: int) -> None:
        super().__init__(network, name, balance_msat)
        self._seen = [(float("-inf"), balance_msat)]

    async def info(self) -> WalletInfo:
        """As the port says, late."""
        info, now = await super().info(), anyio.current_time()
        if info.balance_msat != self._seen[-1][1]:
            self._seen.append((now, info.balance_msat))
        settled = [balance_msat for seen_at, balance_msat in self._seen if seen_at <= now - SETTLING_SECONDS]
        return replace(info, balance_msat=AmountMsat(settled[-1]))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Trio's virtual clock, on which nothing sleeps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0.0)}


async def _decode(text: str) -> DecodedInvoice:
    return decode_memory_invoice(text)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_a_channel_that_settles_late_breaks_no_rule(rule: Rule) -> None:
    lightning = MemoryLightning()
    payer, payee = LateWallet(lightning, "payer", 50_000_000), LateWallet(lightning, "payee", 0)
    subject = WalletsUnderTest(payer, payee, _decode)
    await subject.pay(await subject.invoice())
    await rule(subject)
