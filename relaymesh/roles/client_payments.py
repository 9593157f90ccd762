"""The client's wallet as a job uses it, or a session's account: whoever asks is told the answer."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.job_events import InvoiceRead, ReadInvoice
from relaymesh.machines.settlement import LookUpPayment, Pay, PaymentResolved
from relaymesh.ports.lightning import (
    BAD_INVOICE,
    NOT_SENT,
    OVER_LIMIT,
    DecodedInvoice,
    PaymentAbsent,
    PaymentFailed,
    PaymentLookup,
    PaymentRequest,
    PaymentUnknown,
)
from relaymesh.protocol.payment import BadInvoice
from relaymesh.protocol.session_messages import JobId
from relaymesh.roles.client_tools import ClientTools
from relaymesh.roles.containment import Contained


class ClientPayments:
    """Reads invoices, pays them and looks payments up, for one job or session.

    Args:
        tools: The client's.
        job_id: Who pays, for spending limits.
        tell: Hands over what came of it.
    """

    def __init__(
        self, tools: ClientTools, job_id: JobId, tell: Callable[[InvoiceRead | PaymentResolved], None]
    ) -> None:
        self._tools, self._job_id, self._tell = tools, job_id, tell

    def work(self, effect: ReadInvoice | Pay | LookUpPayment) -> Coroutine[Any, Any, None]:
        """What is to be done about an effect, in a task of its own."""
        match effect:
            case ReadInvoice(tranche, bolt11):
                return self._read_invoice(tranche, bolt11)
            case Pay():
                self._tools.known_payment_hashes.add(effect.payment_hash)
                return self._pay(effect)
            case LookUpPayment(tranche, payment_hash):
                return self._ask_wallet(tranche, self._tools.wallet.lookup_payment(payment_hash))

    async def _read_invoice(self, tranche: int, bolt11: str) -> None:
        try:
            decoded: DecodedInvoice | BadInvoice = await self._tools.read_invoice(bolt11)
        except RemoteProtocolError as error:
            decoded = BadInvoice(str(error))
        self._tell(InvoiceRead(tranche, decoded))

    async def _pay(self, pay: Pay) -> None:
        policy = self._tools.payment_policy
        fee_msat = policy.maximum_fee(pay.amount_msat)
        request = PaymentRequest(pay.bolt11, pay.payment_hash, fee_msat, policy.deadline_ms, self._job_id)
        await self._ask_wallet(pay.tranche, self._pay_once(request))

    async def _pay_once(self, request: PaymentRequest) -> PaymentLookup:
        """Pay; a wallet that says it failed after something may have been sent is asked again by the payment hash."""
        outcome = await self._tools.wallet.pay(request)
        if isinstance(outcome, PaymentFailed) and outcome.code not in (NOT_SENT, BAD_INVOICE, OVER_LIMIT):
            looked_up = await self._tools.wallet.lookup_payment(request.payment_hash)
            return outcome if isinstance(looked_up, PaymentAbsent) else looked_up
        return outcome

    async def _ask_wallet(self, tranche: int, answer: Awaitable[PaymentLookup]) -> None:
        """Say what the wallet says; a wallet that fails has said nothing, and money may have moved."""
        lookup: PaymentLookup = PaymentUnknown("the wallet failed to answer")
        with Contained("payment"):
            lookup = await answer
        self._tell(PaymentResolved(tranche, lookup))
