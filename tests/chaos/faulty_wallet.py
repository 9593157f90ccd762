"""A wallet behind the port that answers late, says that it failed and pays, says nothing, or says everything twice.

Everything else it hands on to the real one. The words are those of `FaultPlan.wallet`:

- `honest`: nothing is wrong with it;
- `late`: the answer to a payment is `PaymentUnknown`, and the payment goes on; a created invoice comes late;
- `lost`: the same, but nothing was sent, which the second look-up says;
- `fails`: it pays nothing and says so; it issues no invoice and says so;
- `lies`: it says that it failed, and had paid; it says that it issued no invoice, and had issued one;
- `silent`: it does what it is asked and never answers;
- `twice`: it is asked twice for everything, and both answers reach the job (`WatchedDriver.tell`).
"""

from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from relaymesh.errors import LightningError
from relaymesh.ports.lightning import (
    Invoice,
    InvoiceRequest,
    InvoiceState,
    PaymentFailed,
    PaymentLookup,
    PaymentOutcome,
    PaymentRequest,
    PaymentUnknown,
)
from tests.chaos.fault_plan import effect_step
from tests.chaos.fault_watch import Watch

NO_ROUTE: Final = 205


class FaultyWallet:
    """A wallet, watched, that behaves as the plan says."""

    def __init__(self, inner: Any, watch: Watch, tasks: TaskGroup) -> None:
        self._inner, self._watch, self._tasks = inner, watch, tasks
        self._looked_up: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # info, history, look-ups of invoices: nothing is decided by them

    async def pay(self, request: PaymentRequest) -> PaymentOutcome:
        self._watch.reach(effect_step("Pay"), "before")
        outcome = await self._pay(request)
        self._watch.reach(effect_step("Pay"), "after")
        return outcome

    async def _pay(self, request: PaymentRequest) -> PaymentOutcome:
        match self._watch.plan.wallet:
            case "late":
                self._tasks.start_soon(self._inner.pay, request)
                return PaymentUnknown("the wallet answers late")
            case "lost":
                return PaymentUnknown("the wallet's answer was lost")
            case "fails":
                return PaymentFailed(NO_ROUTE, "the wallet pays nobody")
            case "lies":
                await self._inner.pay(request)
                return PaymentFailed(NO_ROUTE, "the wallet says that it failed")
            case "silent":
                await self._inner.pay(request)
                await _wait_for_ever()
            case "twice":
                await self._inner.pay(request)
        outcome: PaymentOutcome = await self._inner.pay(request)
        return outcome

    async def lookup_payment(self, payment_hash: str) -> PaymentLookup:
        self._watch.reach(effect_step("LookUpPayment"), "before")
        lookup = await self._look_up(payment_hash)
        self._watch.reach(effect_step("LookUpPayment"), "after")
        return lookup

    async def _look_up(self, payment_hash: str) -> PaymentLookup:
        is_first = payment_hash not in self._looked_up
        self._looked_up.add(payment_hash)
        if self._watch.plan.wallet == "silent" or (is_first and self._watch.plan.wallet in ("late", "lost")):
            return PaymentUnknown("the wallet cannot say")
        lookup: PaymentLookup = await self._inner.lookup_payment(payment_hash)
        return lookup

    async def create_invoice(self, request: InvoiceRequest) -> Invoice:
        self._watch.reach(effect_step("CreateInvoice"), "before")
        invoice = await self._create_invoice(request)
        self._watch.note("invoice", payment_hash=invoice.payment_hash, amount_msat=invoice.amount_msat)
        self._watch.reach(effect_step("CreateInvoice"), "after")
        return invoice

    async def _create_invoice(self, request: InvoiceRequest) -> Invoice:
        match self._watch.plan.wallet:
            case "fails":
                raise LightningError("the wallet issues no invoice")
            case "lies":
                await self._inner.create_invoice(request)
                raise LightningError("the wallet says that it issued no invoice")
            case "silent":
                await self._inner.create_invoice(request)
                await _wait_for_ever()
            case "late" | "twice":
                await self._inner.create_invoice(request)
        invoice: Invoice = await self._inner.create_invoice(request)
        return invoice

    async def wait_invoice(self, label: str) -> InvoiceState:
        self._watch.reach(effect_step("WatchInvoice"), "before")
        state: InvoiceState = await self._inner.wait_invoice(label)
        if self._watch.plan.wallet in ("late", "twice"):
            state = await self._inner.wait_invoice(label)
        self._watch.reach(effect_step("WatchInvoice"), "after")
        return state


async def _wait_for_ever() -> None:
    await anyio.Event().wait()
