"""Paying over Core Lightning: once, with an outcome that is paid, failed or unknown, and unknown whenever in doubt.

RM-03, "Wallets". What a real node does (v26.06.6) and what follows from it:

- `xpay` first, `pay` where the node is too old to have it.
- `retry_for` does not bound the call, so the deadline is ours; afterwards the node is asked by payment hash.
- An error is no verdict: −3 and 200 mean that the payment is out already, 219 that it was paid, and whatever the code,
  an earlier attempt may still be on its way. The node's own list of payments decides, and since it lags behind by up to
  60 ms, two looks in a row have to agree before anything counts as failed.
- `xpay` remembers for about an hour where it once got stuck and then finds no route though there is one; it is told to
  forget, once, and asked again.
- A node pays its own invoice without moving any money: refused here.
"""

from collections import Counter
from typing import Any, Final

import anyio

from relaymesh.adapters.core_lightning_replies import read_payment, read_rows, read_success, read_text
from relaymesh.adapters.core_lightning_rpc import UNKNOWN_METHOD, NodeRefused, NodeRpc, NodeUnreachable
from relaymesh.adapters.invoices import decode_invoice_on_loop
from relaymesh.errors import LightningError, RemoteProtocolError
from relaymesh.ports.lightning import (
    BAD_INVOICE,
    NOT_SENT,
    PaymentAbsent,
    PaymentFailed,
    PaymentLookup,
    PaymentOutcome,
    PaymentRequest,
    PaymentSucceeded,
    PaymentUnknown,
)
from relaymesh.units import MAXIMUM_INTEGER

_NO_ROUTE: Final = 205
_ALREADY_OUT: Final = frozenset({-3, 200})
_ALREADY_PAID: Final = 219
_REMEMBERED: Final = "layer xpay"
_PAYMENTS_AT_ONCE: Final = 64
_LOOK_SECONDS: Final = 5.0
_FIRST_PAUSE_SECONDS: Final = 0.06
_LONGEST_PAUSE_SECONDS: Final = 0.5
_LONGEST_RETRY_SECONDS: Final = 60
_SETTLE_SECONDS: Final = 1.0
_SILENCE_SECONDS: Final = 30.0


class CoreLightningPayer:
    """Implements `relaymesh.ports.lightning.Payer` on a node's JSON-RPC.

    Args:
        rpc: The node.
        calls: Limits the short calls made to it at once.
    """

    def __init__(self, rpc: NodeRpc, calls: anyio.CapacityLimiter) -> None:
        self._rpc = rpc
        self._calls = calls
        self._payments = anyio.CapacityLimiter(_PAYMENTS_AT_ONCE)
        self._own_key: str | None = None
        self._has_xpay = True
        self._under_way: Counter[str] = Counter()
        self._unanswered: dict[str, float] = {}

    async def pay(self, request: PaymentRequest) -> PaymentOutcome:
        """As the port says."""
        deadline = anyio.current_time() + request.deadline_ms / 1000
        self._under_way[request.payment_hash] += 1
        try:
            refusal = await self._refuse(request, deadline)
            if refusal is not None:
                return refusal
            outcome = await self._attempt(request, deadline)
            if isinstance(outcome, PaymentFailed) and await self._forget_what_failed(outcome):
                outcome = await self._attempt(request, deadline)
            return outcome
        finally:
            self._under_way[request.payment_hash] -= 1
            self._under_way += Counter()  # drops what has reached 0

    async def lookup_payment(self, payment_hash: str) -> PaymentLookup:
        """As the port says; "failed" and "absent" need two looks that agree, and no request of ours still out."""
        seen = await self._look(payment_hash)
        if isinstance(seen, PaymentSucceeded | PaymentUnknown):
            return seen
        await anyio.sleep(2 * _FIRST_PAUSE_SECONDS)
        again = await self._look(payment_hash)
        if isinstance(again, PaymentSucceeded | PaymentUnknown):
            return again
        if type(again) is not type(seen) or self._may_still_be_sent(payment_hash, callers=0):
            return PaymentUnknown("the payment may still be sent")
        return again

    async def _refuse(self, request: PaymentRequest, deadline: float) -> PaymentOutcome | None:
        """Why the invoice must not even be tried; None where it may."""
        try:
            invoice = await decode_invoice_on_loop(request.bolt11)
        except RemoteProtocolError as error:
            return PaymentFailed(BAD_INVOICE, str(error))
        if invoice.payment_hash != request.payment_hash:
            return PaymentFailed(BAD_INVOICE, "the invoice has another payment hash than the one that was to be paid")
        try:
            own_key = await self._find_own_key(deadline)
        except LightningError as error:
            return self._not_sent(request, str(error))
        if invoice.payee == own_key:
            return PaymentFailed(BAD_INVOICE, "the invoice is this wallet's own, paying it would move no money")
        return None

    async def _find_own_key(self, deadline: float) -> str:
        if self._own_key is None:
            node = await self._rpc.call("getinfo", {}, self._calls, _remaining(deadline))
            self._own_key = read_text(node, "id")
        return self._own_key

    async def _attempt(self, request: PaymentRequest, deadline: float) -> PaymentOutcome:
        """Ask the node to pay, once, and find out what came of it."""
        try:
            reply = await self._send(request, deadline)
            return read_success(reply, request.payment_hash, "payment_preimage")
        except NodeUnreachable as error:
            return self._not_sent(request, str(error))
        except NodeRefused as refused:
            return await self._settle(request, refused, max(deadline, anyio.current_time() + _SETTLE_SECONDS))
        except LightningError as error:
            self._unanswered[request.payment_hash] = anyio.current_time() + _SILENCE_SECONDS
            seen = await self._look(request.payment_hash)
            return seen if isinstance(seen, PaymentSucceeded) else PaymentUnknown(str(error))

    async def _send(self, request: PaymentRequest, deadline: float) -> dict[str, Any]:
        """`xpay`, or `pay` on a node that does not know it."""
        limits = {
            "maxfee": int(request.maximum_fee_msat),
            "retry_for": min(max(request.deadline_ms // 1000, 1), _LONGEST_RETRY_SECONDS),
        }
        if self._has_xpay:
            parameters = {"invstring": request.bolt11, **limits}
            try:
                return await self._rpc.call("xpay", parameters, self._payments, _remaining(deadline))
            except NodeRefused as refused:
                if refused.code != UNKNOWN_METHOD:
                    raise
                self._has_xpay = False
        return await self._rpc.call("pay", {"bolt11": request.bolt11, **limits}, self._payments, _remaining(deadline))

    async def _settle(self, request: PaymentRequest, refused: NodeRefused, until: float) -> PaymentOutcome:
        """After an error: ask the node by payment hash until it is clear whether money is or may be on its way."""
        looks_that_agree = 0
        pause = _FIRST_PAUSE_SECONDS
        while True:
            seen = await self._look(request.payment_hash)
            if isinstance(seen, PaymentSucceeded):
                return seen
            is_out = isinstance(seen, PaymentUnknown) or self._may_still_be_sent(request.payment_hash, callers=1)
            contradicts = refused.code == _ALREADY_PAID or (
                refused.code in _ALREADY_OUT and isinstance(seen, PaymentAbsent)
            )
            looks_that_agree = 0 if is_out or contradicts else looks_that_agree + 1
            if looks_that_agree == 2:
                return PaymentFailed(refused.code, refused.reason)
            if anyio.current_time() + pause > until:
                return PaymentUnknown(f"the Lightning node could not say in time what became of the payment: {refused}")
            await anyio.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE_SECONDS)

    async def _look(self, payment_hash: str) -> PaymentLookup:
        """What the node's list of payments says at this moment; unknown where it does not answer."""
        try:
            reply = await self._rpc.call("listpays", {"payment_hash": payment_hash}, self._calls, _LOOK_SECONDS)
            return read_payment(read_rows(reply, "pays"), payment_hash)
        except LightningError as error:
            return PaymentUnknown(f"the payment could not be looked up: {error}")

    async def _forget_what_failed(self, outcome: PaymentFailed) -> bool:
        """Where the node found no route because of failures it remembers: make it forget them; whether it did."""
        if outcome.code != _NO_ROUTE or _REMEMBERED not in outcome.reason:
            return False
        try:
            cutoff = MAXIMUM_INTEGER  # whenever it was: the node's clock is not ours to guess
            await self._rpc.call("askrene-age", {"layer": "xpay", "cutoff": cutoff}, self._calls, _LOOK_SECONDS)
        except LightningError:
            return False
        return True

    def _may_still_be_sent(self, payment_hash: str, callers: int) -> bool:
        """Whether more than `callers` calls here are paying it now, or the node never answered one a moment ago."""
        now = anyio.current_time()
        self._unanswered = {known: until for known, until in self._unanswered.items() if until > now}
        return self._under_way[payment_hash] > callers or payment_hash in self._unanswered

    def _not_sent(self, request: PaymentRequest, reason: str) -> PaymentOutcome:
        if self._may_still_be_sent(request.payment_hash, callers=1):
            return PaymentUnknown(f"an earlier request may still be under way, and now: {reason}")
        return PaymentFailed(NOT_SENT, reason)


def _remaining(deadline: float) -> float:
    return max(deadline - anyio.current_time(), 0.0)
