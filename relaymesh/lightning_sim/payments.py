"""Payments on their way: hop by hop to the payee, then the preimage or the failure hop by hop back.

Each hop locks its amount in its channel when it is offered and moves it, or lets it go, on the way back (BOLT 2,
"Removing an HTLC"). So every step conserves money, and a payment can stop anywhere for as long as it likes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from relaymesh.lightning_sim.answers import HOP_FAILED, REFUSED_BY_PAYEE, RpcFailure
from relaymesh.lightning_sim.faults import Faults
from relaymesh.lightning_sim.invoicing import find_payable, take_payment
from relaymesh.lightning_sim.ledger import Ledger
from relaymesh.lightning_sim.plan import NetworkPlan
from relaymesh.lightning_sim.records import AttemptRecord, ConstraintRecord, Hop, InvoiceRecord, NodeRecord, Traffic
from relaymesh.lightning_sim.routes import directed
from relaymesh.units import MILLISECONDS_PER_SECOND

LONGEST_HOLD_MS: Final = 600_000
"""A payment to a hold invoice goes back by itself after that, long before a channel would be closed over it."""

_REFUSAL = "incorrect_or_unknown_payment_details"
_NO_CHANNEL_LEFT = "We could not find a usable set of paths. All 1 channels to the source are disabled."


@dataclass(frozen=True, slots=True)
class Payments:
    """Moves attempts on; all state is in the ledger."""

    ledger: Ledger
    faults: Faults
    plan: NetworkPlan

    def send(self, attempt: AttemptRecord) -> None:
        """Offer the first hop of a new attempt; a node that pays itself is done at once."""
        payer = self.ledger.nodes[attempt.payer]
        self.ledger.put(replace(payer, payments_created=attempt.index))
        if attempt.hops:
            self._offer(replace(attempt, due_ms=attempt.created_ms + self._half_way_ms()))
            return
        invoice = find_payable(self.ledger, payer, attempt, attempt.created_ms)
        if invoice is None:
            raise RpcFailure(REFUSED_BY_PAYEE, f"Destination said it doesn't know invoice: {_REFUSAL}")
        take_payment(self.ledger, invoice, attempt.amount_msat, attempt.created_ms)
        self._complete(replace(attempt, preimage=invoice.preimage), attempt.created_ms)

    def deadline(self) -> int | None:
        """When the next step is due, in Unix milliseconds."""
        return min(
            (attempt.due_ms for attempt in self.ledger.pending.values() if attempt.due_ms is not None), default=None
        )

    def advance(self, now_ms: int) -> None:
        """Take every step that is due by now, in the order in which they are due."""
        while (due_ms := self.deadline()) is not None and due_ms <= now_ms:
            attempt = min(
                (attempt for attempt in self.ledger.pending.values() if attempt.due_ms == due_ms),
                key=lambda attempt: attempt.created_ms,
            )
            self._step(attempt, due_ms)

    def wake(self, now_ms: int) -> None:
        """After a node came back: go on with whatever waited for it."""
        for attempt in list(self.ledger.pending.values()):
            if attempt.due_ms is None and attempt.phase != "held":
                self.ledger.put(replace(attempt, due_ms=now_ms))

    def release(self, payee: str, now_ms: int) -> None:
        """Take, or refuse, what is held at this node."""
        for attempt in list(self.ledger.pending.values()):
            is_held = attempt.phase == "held" and self._receiver(attempt).name == payee
            invoice = self.ledger.invoice_with_hash(payee, attempt.payment_hash)
            if is_held and (invoice is None or invoice.holds != attempt.key):
                self.ledger.put(replace(attempt, due_ms=now_ms))

    def settle_held(self, invoice: InvoiceRecord, preimage: str, now_ms: int) -> None:
        """Tell the preimage of an accepted hold invoice: its payment goes on."""
        attempt = self.ledger.pending[invoice.holds]
        invoice = replace(invoice, preimage=preimage, holds="")
        self._take(attempt, invoice, now_ms)

    def cancel_held(self, invoice: InvoiceRecord, now_ms: int) -> None:
        """Give a hold invoice up: its payment, if one is held, goes back."""
        attempt = self.ledger.pending.get(invoice.holds)
        self.ledger.put(replace(invoice, status="expired", holds=""))
        if attempt is not None:
            self._fail(attempt, REFUSED_BY_PAYEE, f"Destination said it doesn't know invoice: {_REFUSAL}", now_ms)

    def _step(self, attempt: AttemptRecord, now_ms: int) -> None:
        hop = attempt.hops[attempt.position]
        if self.faults.down & {hop.wallet, self.ledger.hub.name}:
            phase = "forward" if attempt.phase == "held" else attempt.phase
            self.ledger.put(replace(attempt, phase=phase, due_ms=None))
        elif attempt.phase == "settling":
            self._settle_hop(attempt, now_ms)
        elif attempt.phase == "failing":
            self._fail_hop(attempt, now_ms)
        elif attempt.position + 1 < len(attempt.hops):
            self._forward(attempt, now_ms)
        elif attempt.phase == "forward" and (payee := self._receiver(attempt)).name in self.faults.hold_ms:
            hold_ms = self.faults.hold_ms[payee.name]
            self.ledger.put(replace(attempt, phase="held", due_ms=None if hold_ms is None else now_ms + hold_ms))
        else:
            self._arrive(attempt, now_ms)

    def _forward(self, attempt: AttemptRecord, now_ms: int) -> None:
        """At the hub: pass it on to the payee's channel, if that can carry it."""
        hop = attempt.hops[attempt.position + 1]
        channel = self.ledger.channels[hop.wallet]
        is_refused = self.faults.take_refusal(self.ledger.hub.name) is not None
        is_short = self.ledger.spendable_msat(channel, by_hub=True) < hop.amount_msat
        if not is_refused and not is_short and hop.wallet not in self.faults.down:
            self._offer(replace(attempt, position=attempt.position + 1, due_ms=now_ms + self._half_way_ms()))
            return
        name = directed(channel, to_hub=False)
        path = "->".join(self.ledger.channels[h.wallet].short_channel_id for h in attempt.hops)
        maximum_msat = hop.amount_msat - 1
        self.ledger.put(ConstraintRecord(attempt.payer, name, maximum_msat, now_ms // MILLISECONDS_PER_SECOND))
        self._fail(
            attempt,
            HOP_FAILED,
            f"Failed after 1 attempts. We got temporary_channel_failure for {name}, assuming it can't carry "
            f"{hop.amount_msat}msat. Then routing failed: We could not find a usable set of paths. "
            f"The shortest path is {path}, but {name} layer xpay says max is {maximum_msat}msat",
            now_ms,
        )

    def _arrive(self, attempt: AttemptRecord, now_ms: int) -> None:
        """At the payee: take it, or say why not."""
        payee = self._receiver(attempt)
        refusal = self.faults.take_refusal(payee.name)
        invoice = find_payable(self.ledger, payee, attempt, now_ms)
        known = self.ledger.invoice_with_hash(payee.name, attempt.payment_hash)
        if known is not None and known.holds == attempt.key:
            self._hold_on(attempt, known, now_ms)
        elif refusal not in (None, _REFUSAL):
            first = attempt.hops[0]
            name = directed(self.ledger.channels[first.wallet], to_hub=first.to_hub)
            words = f"Failed after 1 attempts. Unexpected error ({refusal}) from final node: disabling {name}"
            self._fail(
                attempt, HOP_FAILED, f"{words} for this payment. Then routing failed: {_NO_CHANNEL_LEFT}", now_ms
            )
        elif refusal is not None or invoice is None:
            self._fail(attempt, REFUSED_BY_PAYEE, f"Destination said it doesn't know invoice: {_REFUSAL}", now_ms)
        elif not invoice.preimage:
            self.ledger.put(replace(invoice, status="accepted", holds=attempt.key))
            self.ledger.put(replace(attempt, phase="held", due_ms=now_ms + LONGEST_HOLD_MS))
        else:
            self._take(attempt, invoice, now_ms)

    def _hold_on(self, attempt: AttemptRecord, invoice: InvoiceRecord, now_ms: int) -> None:
        """A payment that is held has been held for too long, or its payee has come back."""
        if attempt.phase == "held":
            self.cancel_held(invoice, now_ms)
        else:
            self.ledger.put(replace(attempt, phase="held", due_ms=now_ms + LONGEST_HOLD_MS))

    def _take(self, attempt: AttemptRecord, invoice: InvoiceRecord, now_ms: int) -> None:
        take_payment(self.ledger, invoice, attempt.amount_msat, now_ms)
        due_ms = now_ms + self._half_way_ms()
        self.ledger.put(replace(attempt, phase="settling", preimage=invoice.preimage, due_ms=due_ms))

    def _fail(self, attempt: AttemptRecord, code: int, message: str, now_ms: int) -> None:
        due_ms = now_ms + self._half_way_ms()
        self.ledger.put(replace(attempt, phase="failing", failure_code=code, failure_message=message, due_ms=due_ms))

    def _offer(self, attempt: AttemptRecord) -> None:
        """Lock the amount of the hop at the attempt's position."""
        hop = attempt.hops[attempt.position]
        self._count(
            hop,
            lambda traffic: replace(
                traffic,
                payments_offered=traffic.payments_offered + 1,
                offered_msat=traffic.offered_msat + hop.amount_msat,
            ),
        )
        self.ledger.put(attempt)

    def _settle_hop(self, attempt: AttemptRecord, now_ms: int) -> None:
        """The preimage has come back over one hop: its amount changes sides."""
        hop = attempt.hops[attempt.position]
        channel = self.ledger.channels[hop.wallet]
        moved_msat = -hop.amount_msat if hop.to_hub else hop.amount_msat
        self.ledger.put(replace(channel, wallet_msat=channel.wallet_msat + moved_msat))
        self._count(
            hop,
            lambda traffic: replace(
                traffic,
                payments_fulfilled=traffic.payments_fulfilled + 1,
                fulfilled_msat=traffic.fulfilled_msat + hop.amount_msat,
            ),
        )
        if attempt.position > 0:
            self.ledger.put(replace(attempt, position=attempt.position - 1, due_ms=now_ms + self._half_way_ms()))
            return
        hub, fee_msat = self.ledger.hub, attempt.sent_msat - attempt.amount_msat
        self.ledger.put(replace(hub, fees_collected_msat=hub.fees_collected_msat + fee_msat))
        self._complete(attempt, now_ms)

    def _fail_hop(self, attempt: AttemptRecord, now_ms: int) -> None:
        """The failure has come back over one hop: its amount is free again."""
        if attempt.position > 0:
            self.ledger.put(replace(attempt, position=attempt.position - 1, due_ms=now_ms + self._half_way_ms()))
            return
        self.ledger.put(replace(attempt, phase="done", status="failed", completed_ms=now_ms, due_ms=None))

    def _complete(self, attempt: AttemptRecord, now_ms: int) -> None:
        self.ledger.put(replace(attempt, phase="done", status="complete", completed_ms=now_ms, due_ms=None))

    def _count(self, hop: Hop, change: Callable[[Traffic], Traffic]) -> None:
        channel = self.ledger.channels[hop.wallet]
        if hop.to_hub:
            self.ledger.put(replace(channel, from_wallet=change(channel.from_wallet)))
        else:
            self.ledger.put(replace(channel, from_hub=change(channel.from_hub)))

    def _receiver(self, attempt: AttemptRecord) -> NodeRecord:
        """The node at the far end of the hop where the attempt is."""
        hop = attempt.hops[attempt.position]
        return self.ledger.hub if hop.to_hub else self.ledger.nodes[hop.wallet]

    def _half_way_ms(self) -> int:
        return self.plan.payment_latency_ms // 2
