"""A client's dealings with routers while it buys: whom to ask, what a ranking may cost, who is not asked again."""

from collections import deque
from typing import Final

import structlog

from relaymesh.errors import LightningError, RemoteProtocolError
from relaymesh.machines.opening_events import RouterAnswered, RoutingRequest
from relaymesh.market.probation import RouterRecord
from relaymesh.nostr.event import PublicKey
from relaymesh.ports.lightning import PaymentRequest
from relaymesh.protocol.refusal import Refusal, RefusalCode
from relaymesh.roles.client_tools import ClientTools
from relaymesh.roles.containment import Contained
from relaymesh.roles.market_view import MarketView
from relaymesh.roles.routers import Examined, RouterExaminer
from relaymesh.units import AmountMsat

MAXIMUM_EXAMINED: Final = 64
"""So many examined answers are kept, the latest."""
_log = structlog.get_logger(__name__)


class RouterDealings:
    """The routers that a client uses: none, one or several.

    Args:
        examiner: Computes rankings again.
        routers: Whom to ask.
        tools: The wallet that a fee is paid from.
        market: Where routers announce what they want.
        maximum_fee_msat: The most that one ranking may cost.

    Attributes:
        examined: The latest answers, and what came of looking at them.
    """

    def __init__(
        self,
        examiner: RouterExaminer,
        routers: tuple[PublicKey, ...],
        tools: ClientTools,
        market: MarketView,
        maximum_fee_msat: AmountMsat,
    ) -> None:
        self.examined: deque[Examined] = deque(maxlen=MAXIMUM_EXAMINED)
        self._examiner, self._routers, self._tools, self._market = examiner, routers, tools, market
        self._maximum_fee_msat = maximum_fee_msat

    @property
    def records(self) -> dict[PublicKey, RouterRecord]:
        """What was seen of routers."""
        return self._examiner.records

    def routing(self) -> RoutingRequest | None:
        """Whom to ask now; a router that was found wrong is left out. None where nobody is left."""
        honest = tuple(router for router in self._routers if not self.records.get(router, RouterRecord()).wrong)
        return RoutingRequest(honest, pays_fees=self._maximum_fee_msat > 0) if honest else None

    async def take(self, answered: RouterAnswered) -> None:
        """Look at an answer, and pay a fee that is within what this client allows."""
        with Contained("router"):
            is_fee = isinstance(answered.answer, Refusal) and answered.answer.code is RefusalCode.PAYMENT_REQUIRED
            if is_fee and answered.bolt11 is not None and self._maximum_fee_msat > 0:
                await self._pay(answered.router, answered.bolt11)
                return
            examined = await self._examiner.examine(answered)
            self.examined.append(examined)
            if examined.recomputation is not None and examined.recomputation.faults:
                _log.warning("router_found_wrong", router=answered.router, faults=examined.recomputation.faults)

    async def _pay(self, router: PublicKey, bolt11: str) -> None:
        """Pay what the router announced, to whom it announced, and nothing else."""
        now = self._tools.clock().timestamp
        announced = next((each for each in self._market.directory.routers(now) if each.router == router), None)
        try:
            invoice = await self._tools.read_invoice(bolt11)
        except (LightningError, RemoteProtocolError) as error:
            _log.warning("router_fee_not_paid", router=router, reason=str(error))
            return
        if announced is None:
            reason = "it announces no fee"
        elif invoice.amount_msat != announced.announcement.fee_msat:
            reason = "its invoice is not of the fee that it announces"
        elif invoice.amount_msat > self._maximum_fee_msat:
            reason = "it wants more than may be paid"
        elif invoice.payee != announced.announcement.ln_pubkey:
            reason = "its invoice pays somebody else than it announces"
        else:
            fee_msat = self._tools.payment_policy.maximum_fee(invoice.amount_msat)
            await self._tools.wallet.pay(PaymentRequest(bolt11, invoice.payment_hash, fee_msat))
            return
        _log.warning("router_fee_not_paid", router=router, reason=reason)
