"""Paying over a wallet connection: once, with an outcome that is paid, failed or unknown, and unknown when in doubt.

RM-03, "Wallets"; NIP-47, `pay_invoice`. What a wallet service does and what follows from it:

- It may hear a request late, or its answer may be lost. So the payment is written down before it is asked for, asked
  for once, and looked up by its hash from then on; that it is "not found" counts for nothing while the request could
  still be carried out, which is until the invoice has expired.
- `PAYMENT_FAILED` may be a time-out of the wallet's own: two look-ups in a row have to agree with it.
- An answer that comes after the deadline is still taken.
- There is no way to limit the routing fee: what the wallet's own limit allows is what it may cost.
- A look-up that finds the invoice *incoming* tells that it is the wallet's own, whose payment would move nothing. The
  payee's key does not tell: many wallets of one custodian share a Lightning node.
"""

from collections.abc import Callable
from typing import Final

import anyio
import structlog

from relaymesh.adapters.invoices import decode_invoice_on_loop
from relaymesh.adapters.keyed_locks import KeyedLocks
from relaymesh.adapters.wallet_book import GRACE_SECONDS, WalletBook
from relaymesh.adapters.wallet_connect_link import Asked, WalletLink, WalletRefused, WalletUnreachable
from relaymesh.adapters.wallet_connect_replies import read_integer, read_payment, read_preimage
from relaymesh.errors import LedgerError, LightningError, RemoteProtocolError
from relaymesh.nostr.wallet_connect import LOOKUP_INVOICE, NOT_FOUND, PAY_INVOICE
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
from relaymesh.units import AmountMsat, Moment, Timestamp

REFUSED_BY_WALLET: Final = 210
"""The code of a payment that the wallet says it did not make; its own code is in the reason."""

_FIRST_LOOK_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 5.0
_LOOK_AFTER_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 8.0
_AGREEMENT_SECONDS: Final = 0.1
_SETTLE_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


class WalletConnectPayer:
    """Implements `relaymesh.ports.lightning.Payer` over a wallet connection.

    Args:
        link: The conversation with the service.
        book: Remembers what was asked for.
        clock: To tell whether an invoice has expired.
    """

    def __init__(self, link: WalletLink, book: WalletBook, clock: Callable[[], Moment]) -> None:
        self._link = link
        self._book = book
        self._clock = clock
        self._out: dict[str, Asked] = {}
        self._asking = KeyedLocks()

    async def pay(self, request: PaymentRequest) -> PaymentOutcome:
        """As the port says."""
        deadline = anyio.current_time() + request.deadline_ms / 1000
        try:
            invoice = await decode_invoice_on_loop(request.bolt11)
        except RemoteProtocolError as error:
            return PaymentFailed(BAD_INVOICE, str(error))
        if invoice.payment_hash != request.payment_hash:
            return PaymentFailed(BAD_INVOICE, "the invoice has another payment hash than the one that was to be paid")
        async with self._asking.hold(request.payment_hash):
            begun = self._out.get(request.payment_hash) or await self._begin(invoice, deadline)
        if not isinstance(begun, Asked):
            return begun
        outcome = await self._wait(invoice, begun, deadline)
        if isinstance(outcome, PaymentSucceeded) and outcome.fee_msat > request.maximum_fee_msat:
            _log.warning("wallet_paid_a_high_fee", fee_msat=outcome.fee_msat, wanted_msat=request.maximum_fee_msat)
        return outcome

    async def lookup_payment(self, payment_hash: str) -> PaymentLookup:
        """As the port says; "failed" and "absent" count once no request of ours can be carried out any more."""
        await self._take_late_answer(payment_hash)
        seen = await self._look(payment_hash, _LOOK_SECONDS)
        if isinstance(seen, PaymentSucceeded):
            await self._close(payment_hash)
        if isinstance(seen, PaymentSucceeded | PaymentUnknown):
            return seen
        try:
            if await self._book.may_still_be_sent(payment_hash, self._clock().timestamp):
                return PaymentUnknown("the wallet may still make the payment, as it was asked to and did not answer")
        except LedgerError as error:
            return PaymentUnknown(str(error))
        return seen

    async def _begin(self, invoice: DecodedInvoice, deadline: float) -> Asked | PaymentOutcome:
        """Ask for the payment, if nothing speaks against it; what is known of it otherwise."""
        seconds = min(_FIRST_LOOK_SECONDS, max(deadline - anyio.current_time(), 0))
        try:
            found = await self._link.call(LOOKUP_INVOICE, {"payment_hash": invoice.payment_hash}, seconds)
        except WalletRefused as refused:
            if refused.code != NOT_FOUND:
                return await self._unless_asked(invoice, str(refused))
            found = None
        except LightningError as error:
            return await self._unless_asked(invoice, str(error))
        if found is not None and found.get("type") == "incoming":
            return PaymentFailed(BAD_INVOICE, "the invoice is this wallet's own, paying it would move no money")
        seen = PaymentAbsent() if found is None else self._read(found, invoice.payment_hash)
        if isinstance(seen, PaymentSucceeded):
            return seen
        if isinstance(seen, PaymentUnknown):
            return await self._watch(invoice.payment_hash, deadline, seen)
        return await self._ask(invoice, deadline)

    async def _ask(self, invoice: DecodedInvoice, deadline: float) -> Asked | PaymentOutcome:
        """Write the payment down and send the request."""
        payment_hash = invoice.payment_hash
        before = await self._unless_asked(invoice, "the wallet was asked for this payment before and did not answer")
        if isinstance(before, PaymentUnknown):
            return await self._watch(payment_hash, deadline, before)
        try:
            await self._book.ask_payment(payment_hash, Timestamp(invoice.expires_at + GRACE_SECONDS))
            seconds = max(deadline - anyio.current_time(), 0)
            self._out[payment_hash] = await self._link.ask(PAY_INVOICE, {"invoice": invoice.bolt11}, seconds)
        except WalletUnreachable as error:
            await self._close(payment_hash)
            return PaymentFailed(NOT_SENT, str(error))
        except LedgerError as error:
            return PaymentFailed(NOT_SENT, str(error))
        return self._out[payment_hash]

    async def _unless_asked(self, invoice: DecodedInvoice, reason: str) -> PaymentOutcome:
        """Nothing was sent just now: failed, or unknown where an earlier request may still be carried out."""
        try:
            is_asked = await self._book.may_still_be_sent(invoice.payment_hash, self._clock().timestamp)
        except LedgerError:
            is_asked = True
        return PaymentUnknown(reason) if is_asked else PaymentFailed(NOT_SENT, reason)

    async def _wait(self, invoice: DecodedInvoice, asked: Asked, deadline: float) -> PaymentOutcome:
        """Until there is an answer, or a look-up shows that it was paid, or time is up."""
        pause = _LOOK_AFTER_SECONDS
        while not asked.ended.is_set():
            left = deadline - anyio.current_time()
            if left <= 0:
                return PaymentUnknown("the wallet did not answer in time")
            with anyio.move_on_after(min(pause, left)):
                await asked.ended.wait()
                break
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            seen = await self._look(invoice.payment_hash, max(min(_LOOK_SECONDS, deadline - anyio.current_time()), 0))
            if isinstance(seen, PaymentSucceeded):
                await self._close(invoice.payment_hash)
                return seen
        return await self._conclude(invoice, asked, deadline)

    async def _conclude(self, invoice: DecodedInvoice, asked: Asked, deadline: float) -> PaymentOutcome:
        """Read the answer."""
        await self._close(invoice.payment_hash)
        try:
            result = asked.result()
            preimage = read_preimage(result, invoice.payment_hash)
            if preimage is not None:
                fee_msat = AmountMsat(read_integer(result, "fees_paid", default=0))
                return PaymentSucceeded(preimage, invoice.amount_msat, fee_msat)
            refusal = None
        except WalletUnreachable as error:
            return PaymentFailed(NOT_SENT, str(error))
        except WalletRefused as refused:
            refusal = PaymentFailed(REFUSED_BY_WALLET, f"{refused.reason} ({refused.code})")
        except LightningError:
            refusal = None
        return await self._settle(invoice.payment_hash, refusal, max(deadline, anyio.current_time() + _SETTLE_SECONDS))

    async def _settle(self, payment_hash: str, refusal: PaymentFailed | None, until: float) -> PaymentOutcome:
        """After a no: believed once two looks in a row say that no money is on its way."""
        looks_that_agree = 0
        while looks_that_agree < 2:
            seen = await self._look(payment_hash, max(until - anyio.current_time(), 0))
            if isinstance(seen, PaymentSucceeded):
                return seen
            looks_that_agree = 0 if isinstance(seen, PaymentUnknown) or refusal is None else looks_that_agree + 1
            if anyio.current_time() + _AGREEMENT_SECONDS > until and looks_that_agree < 2:
                return PaymentUnknown("the wallet's answer and what it says of the payment do not agree")
            await anyio.sleep(_AGREEMENT_SECONDS)
        assert refusal is not None
        return refusal

    async def _watch(self, payment_hash: str, deadline: float, seen: PaymentUnknown) -> PaymentOutcome:
        """Wait for a payment that is out already, and was not asked for by this process."""
        pause = _AGREEMENT_SECONDS
        while anyio.current_time() + pause < deadline:
            await anyio.sleep(pause)
            again = await self._look(payment_hash, _LOOK_SECONDS)
            if isinstance(again, PaymentSucceeded | PaymentFailed):
                return again
            pause = min(2 * pause, _LOOK_AFTER_SECONDS)
        return seen

    async def _look(self, payment_hash: str, seconds: float) -> PaymentLookup:
        """What the wallet says at this moment; unknown where it does not answer."""
        try:
            found = await self._link.call(LOOKUP_INVOICE, {"payment_hash": payment_hash}, seconds)
        except WalletRefused as refused:
            if refused.code == NOT_FOUND:
                return PaymentAbsent()
            return PaymentUnknown(f"the payment could not be looked up: {refused}")
        except LightningError as error:
            return PaymentUnknown(f"the payment could not be looked up: {error}")
        return self._read(found, payment_hash)

    def _read(self, found: dict[str, object], payment_hash: str) -> PaymentLookup:
        try:
            return read_payment(found, payment_hash)
        except LightningError as error:
            return PaymentUnknown(f"the payment could not be looked up: {error}")

    async def _take_late_answer(self, payment_hash: str) -> None:
        """An answer that came when nobody waited any more: from now on the wallet's look-ups count."""
        asked = self._out.get(payment_hash)
        if asked is not None and asked.ended.is_set():
            await self._close(payment_hash)

    async def _close(self, payment_hash: str) -> None:
        asked = self._out.pop(payment_hash, None)
        if asked is not None:
            self._link.forget(asked)
        try:
            await self._book.answer_payment(payment_hash)
        except LedgerError as error:  # then it stays in doubt until the invoice has expired, which does no harm
            _log.warning("wallet_book_not_written", reason=str(error))
