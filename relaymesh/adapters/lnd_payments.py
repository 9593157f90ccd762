"""Paying over LND: once, with an outcome that is paid, failed or unknown, and unknown whenever in doubt.

RM-03, "Wallets"; LND, `SendPaymentV2` and `TrackPaymentV2`. What LND does and what follows from it:

- It pays a payment hash once: asked again it says "invoice is already paid" or "payment is in transition" (code 6),
  and the payment is followed instead. Only what it calls failed is tried again, and it calls nothing failed of which a
  part may still arrive; it is asked twice all the same.
- The payment goes on when the stream of its progress breaks, and after a restart. So the stream runs in a task of its
  own, whose answer is taken also after the caller's deadline.
- A no that is not of that kind came before anything was sent, or while LND shut down in the middle: the payment is
  looked up, and failed only where LND does not know it.
- An answer that was lost may belong to a request that LND has yet to hear of. So the payment is written down before it
  is asked for, asked for once, and that it "isn't initiated" or failed counts only when its request was answered, or
  cannot be carried out any more: a minute after the invoice's expiry.
"""

import base64
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import structlog
from anyio.abc import TaskGroup

from relaymesh.adapters.invoices import decode_invoice_on_loop
from relaymesh.adapters.lnd_link import ALREADY_EXISTS, NOT_FOUND, LndLink, LndRefused, LndUnreachable
from relaymesh.adapters.lnd_replies import STOPPED, read_payment
from relaymesh.adapters.wallet_book import GRACE_SECONDS, WalletBook
from relaymesh.errors import LedgerError, LightningError, RemoteProtocolError
from relaymesh.ports.lightning import (
    BAD_INVOICE,
    NOT_SENT,
    DecodedInvoice,
    PaymentAbsent,
    PaymentFailed,
    PaymentLookup,
    PaymentOutcome,
    PaymentRequest,
    PaymentSucceeded,
    PaymentUnknown,
)
from relaymesh.units import Moment, Timestamp

_LOOK_SECONDS: Final = 5.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0
_LONGEST_ATTEMPT_SECONDS: Final = 60
_SELF_PAYMENT: Final = "self-payments not allowed"

_log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Sending:
    """A request to pay that is out: `outcome` once `ended` is set."""

    outcome: PaymentOutcome = field(default_factory=lambda: PaymentUnknown("LND did not answer in time"))
    ended: anyio.Event = field(default_factory=anyio.Event)


class LndPayer:
    """Implements `relaymesh.ports.lightning.Payer` over LND's REST interface.

    Args:
        link: The node.
        book: Remembers what was asked for.
        clock: To tell whether an invoice has expired.
        tasks: Where requests go on after their callers' deadlines.
    """

    def __init__(self, link: LndLink, book: WalletBook, clock: Callable[[], Moment], tasks: TaskGroup) -> None:
        self._link = link
        self._book = book
        self._clock = clock
        self._tasks = tasks
        self._out: dict[str, _Sending] = {}

    async def pay(self, request: PaymentRequest) -> PaymentOutcome:
        """As the port says."""
        deadline = anyio.current_time() + request.deadline_ms / 1000
        try:
            invoice = await decode_invoice_on_loop(request.bolt11)
        except RemoteProtocolError as error:
            return PaymentFailed(BAD_INVOICE, str(error))
        if invoice.payment_hash != request.payment_hash:
            return PaymentFailed(BAD_INVOICE, "the invoice has another payment hash than the one that was to be paid")
        sending = self._out.get(request.payment_hash)
        if sending is None:
            sending = self._out[request.payment_hash] = _Sending()
            self._tasks.start_soon(self._carry_out, request, invoice, sending)
        with anyio.move_on_after(max(deadline - anyio.current_time(), 0)):
            await sending.ended.wait()
        return sending.outcome

    async def lookup_payment(self, payment_hash: str) -> PaymentLookup:
        """As the port says; "failed" and "absent" count once no request of ours can be carried out any more."""
        seen = await self._look(payment_hash)
        if isinstance(seen, PaymentSucceeded):
            await self._close(payment_hash)
        if isinstance(seen, PaymentSucceeded | PaymentUnknown):
            return seen
        if payment_hash in self._out or await self._may_still_be_sent(payment_hash):
            return PaymentUnknown("LND may still make the payment, as it was asked to and did not answer")
        return seen

    async def _carry_out(self, request: PaymentRequest, invoice: DecodedInvoice, sending: _Sending) -> None:
        """Ask for the payment and hear what comes of it, until nobody could take it any more."""
        try:
            left = invoice.expires_at + GRACE_SECONDS - self._clock().timestamp
            with anyio.move_on_after(max(left, request.deadline_ms / 1000)):
                sending.outcome = await self._ask(request, invoice)
            if isinstance(sending.outcome, PaymentSucceeded | PaymentFailed):
                await self._close(request.payment_hash)
        finally:
            del self._out[request.payment_hash]
            sending.ended.set()

    async def _ask(self, request: PaymentRequest, invoice: DecodedInvoice) -> PaymentOutcome:
        """Ask for the payment, if nothing speaks against it; follow it where it is under way already."""
        payment_hash = request.payment_hash
        if await self._may_still_be_sent(payment_hash):
            return await self._watch(payment_hash)
        try:
            seen = await self._track(payment_hash)
            if isinstance(seen, PaymentSucceeded):
                return seen
            await self._book.ask_payment(payment_hash, Timestamp(invoice.expires_at + GRACE_SECONDS))
        except (LedgerError, LightningError) as error:  # a macaroon that is refused, LND still starting or away
            return PaymentFailed(NOT_SENT, str(error))
        body = {
            "payment_request": request.bolt11,
            "fee_limit_msat": str(int(request.maximum_fee_msat)),
            "timeout_seconds": min(max(request.deadline_ms // 1000, 1), _LONGEST_ATTEMPT_SECONDS),
            "no_inflight_updates": True,
        }
        try:
            async with self._link.stream("POST", "/v2/router/send", body) as results:
                outcome = await _last(results, payment_hash)
            return await self._confirm(outcome, payment_hash)
        except LndUnreachable as error:
            return PaymentFailed(NOT_SENT, str(error))
        except LndRefused as refused:
            return await self._understand(payment_hash, refused)
        except LightningError as error:
            _log.warning("lnd_payment_in_doubt", reason=str(error))
            return await self._watch(payment_hash)

    async def _confirm(self, outcome: PaymentOutcome, payment_hash: str) -> PaymentOutcome:
        """What failed has failed once LND says so again; that it was paid needs no more than its preimage."""
        pause = _FIRST_PAUSE_SECONDS
        while isinstance(outcome, PaymentFailed):
            seen = await self._look(payment_hash)
            if isinstance(seen, PaymentSucceeded | PaymentFailed):
                return seen
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return outcome

    async def _understand(self, payment_hash: str, refused: LndRefused) -> PaymentOutcome:
        """After a no, which is an answer: what LND knows of the payment decides; what it does not know was not sent."""
        if _SELF_PAYMENT in refused.reason:
            return PaymentFailed(BAD_INVOICE, "the invoice is this wallet's own, paying it would move no money")
        pause = _FIRST_PAUSE_SECONDS
        while True:
            seen = await self._look(payment_hash)
            if isinstance(seen, PaymentAbsent) and refused.code != ALREADY_EXISTS:
                return PaymentFailed(STOPPED, refused.reason)
            if isinstance(seen, PaymentSucceeded | PaymentFailed):
                return seen
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _watch(self, payment_hash: str) -> PaymentOutcome:
        """Nobody knows whether LND heard the request: only that it was paid counts, until time is up."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            seen = await self._look(payment_hash)
            if isinstance(seen, PaymentSucceeded):
                return seen
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _look(self, payment_hash: str) -> PaymentLookup:
        """What LND says at this moment; unknown where it does not answer."""
        try:
            return await self._track(payment_hash)
        except LightningError as error:
            return PaymentUnknown(f"the payment could not be looked up: {error}")

    async def _track(self, payment_hash: str) -> PaymentLookup:
        """What LND says at this moment; LightningError where it says nothing."""
        path = f"/v2/router/track/{base64.urlsafe_b64encode(bytes.fromhex(payment_hash)).decode()}"
        try:
            with anyio.move_on_after(_LOOK_SECONDS):
                async with self._link.stream("GET", path, query={"no_inflight_updates": "false"}) as results:
                    async for payment in results:
                        return read_payment(payment, payment_hash)
        except LndRefused as refused:
            if refused.code == NOT_FOUND:
                return PaymentAbsent()
            raise
        raise LightningError("LND did not answer in time", retryable=True)

    async def _may_still_be_sent(self, payment_hash: str) -> bool:
        try:
            return await self._book.may_still_be_sent(payment_hash, self._clock().timestamp)
        except LedgerError:
            return True

    async def _close(self, payment_hash: str) -> None:
        try:
            await self._book.answer_payment(payment_hash)
        except LedgerError as error:  # then it stays in doubt until the invoice has expired, which does no harm
            _log.warning("wallet_book_not_written", reason=str(error))


async def _last(results: AsyncGenerator[dict[str, Any], None], payment_hash: str) -> PaymentOutcome:
    """The outcome at the end of a payment's progress; LightningError where it ends without one."""
    async for payment in results:
        seen = read_payment(payment, payment_hash)
        if isinstance(seen, PaymentSucceeded | PaymentFailed):
            return seen
    raise LightningError("LND's account of the payment ended before the payment did")
