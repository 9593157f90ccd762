"""What of a job's output may leave the node, and what must be paid first: one class per order (RM-03, "Orders").

A delivery holds what the runner has produced. The job asks it for the next step until there is none, carries each out,
and asks again when something has changed. Nothing here has an effect of its own.
"""

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass

from relaymesh.machines.job_events import RunnerFinished, RunnerProduced
from relaymesh.machines.job_metering import JobMeter
from relaymesh.machines.sealed_tranche import MAXIMUM_SEALED_TRANCHE_BYTES
from relaymesh.machines.seller_settlement import SellerSettlement
from relaymesh.machines.settlement import TrancheWanted
from relaymesh.market.pricing import MAXIMUM_TRANCHES, TranchePlan, cost
from relaymesh.protocol.fields import MAXIMUM_QUANTITY, Order
from relaymesh.units import AmountMsat


@dataclass(frozen=True, slots=True)
class Emit:
    """Step: send this piece of output in clear."""

    piece: RunnerProduced


@dataclass(frozen=True, slots=True)
class Ask:
    """Step: have this tranche paid."""

    wanted: TrancheWanted


@dataclass(frozen=True, slots=True)
class Seal:
    """Step: seal these pieces as the next tranche, and have it paid."""

    pieces: tuple[RunnerProduced, ...]
    units: int
    amount_msat: AmountMsat


@dataclass(frozen=True, slots=True)
class Finish:
    """Step: all that will be delivered was delivered, and paid for where that comes after."""

    reason: str


Step = Emit | Ask | Seal | Finish


class Delivery(ABC):
    """The output of one job on its way.

    Args:
        plan: The tranches, as far as they can be planned.
        meter: Counts what was delivered; read here, written by the job.
        settlement: What was asked for and paid; read here as well.
    """

    def __init__(self, plan: TranchePlan, meter: JobMeter, settlement: SellerSettlement) -> None:
        self._plan, self._meter, self._settlement = plan, meter, settlement
        self._held: deque[RunnerProduced] = deque()
        self._finished: RunnerFinished | None = None
        self._cut_short = False

    @property
    def is_hungry(self) -> bool:
        """Whether the runner should go on; False while what it produced has to wait."""
        return not self._held

    def produced(self, piece: RunnerProduced) -> None:
        """The runner has produced this."""
        if not self._cut_short:
            self._held.append(piece)

    def finished(self, finished: RunnerFinished) -> None:
        """The runner is done."""
        if self._finished is None and not self._cut_short:
            self._finished = finished

    def drop(self) -> None:
        """Forget what has not left yet: the job is over."""
        self._held.clear()

    @abstractmethod
    def begin(self) -> Step | None:
        """What comes before the runner is started; None if nothing does."""

    @abstractmethod
    def next_step(self) -> Step | None:
        """What is to be done next; None to wait for the runner or for a payment."""

    def unpaid(self) -> tuple[int, AmountMsat]:
        """Units that were delivered, and what they cost, that nobody was asked to pay."""
        return 0, AmountMsat(0)

    def _units_with(self, piece: RunnerProduced | None = None) -> int:
        """Output delivered in the row's unit, with this piece if there is one."""
        if piece is None:
            return self._meter.output_units
        return self._meter.output_units_with(len(piece.data.encode()), piece.tokens)

    def _cut(self) -> None:
        """Deliver no more: the job ends as at its length."""
        self._held.clear()
        self._finished, self._cut_short = None, True

    def _finish(self) -> Finish:
        if self._finished is None:
            return Finish("length")
        self._meter.take_counts(self._finished.input_tokens, self._finished.output_tokens)
        return Finish(self._finished.finish_reason)

    @property
    def _is_over(self) -> bool:
        return not self._held and (self._finished is not None or self._cut_short)


class PrepaidDelivery(Delivery):
    """Output leaves as far as paid tranches reach; the next one is asked for ahead of its need."""

    def begin(self) -> Step | None:
        """The first tranche."""
        return self._ask()

    def next_step(self) -> Step | None:
        """Deliver what is paid, ask where that ends or is about to."""
        if self._held:
            return self._next_piece(self._held[0])
        if self._is_over:
            return self._finish()
        tranche = len(self._settlement.records)
        if self._settlement.has_open or tranche >= self._plan.count:
            return None
        return self._ask() if self._units_with() >= self._plan.units_ahead(tranche) else None

    def _next_piece(self, piece: RunnerProduced) -> Step | None:
        if not self._meter.has_room_for(len(piece.data.encode())):
            return self._stop_short()
        if self._units_with(piece) <= self._paid_units:
            return Emit(self._held.popleft())
        if self._settlement.has_open:
            return None
        tranche = len(self._settlement.records)
        if tranche >= self._plan.count or self._units_with() < self._plan.units_due(tranche):
            return self._stop_short()
        return self._ask()

    def _ask(self) -> Ask:
        tranche = len(self._settlement.records)
        return Ask(TrancheWanted(tranche, self._plan.units(tranche), self._plan.price(tranche)))

    def _stop_short(self) -> Finish:
        self._cut()
        return self._finish()

    @property
    def _paid_units(self) -> int:
        # Where output is free no tranche limits it.
        return MAXIMUM_QUANTITY if self._plan.row.output_msat == 0 else self._settlement.paid_units


class ArrearsDelivery(Delivery):
    """What `postpay` and `sealed` share: a tranche is invoiced for what is in it, once it is full or all is done."""

    def __init__(self, plan: TranchePlan, meter: JobMeter, settlement: SellerSettlement) -> None:
        super().__init__(plan, meter, settlement)
        self._began_at_units = self._taken = 0

    def begin(self) -> Step | None:
        """Nothing: the work comes first."""
        return None

    def next_step(self) -> Step | None:
        """Take pieces into the tranche, settle it, go on."""
        while not self._settlement.has_open:
            step: Step | None = None
            if self._held and not self._meter.has_room_for(self._pending_bytes + len(self._held[0].data.encode())):
                self._cut()
            elif self._held and self._fits(self._held[0]):
                self._taken += 1
                step = self._take(self._held.popleft())
            elif self._taken and (self._held or self._is_over):
                step = self._settle_tranche()
            elif self._held:
                self._cut()  # one piece is more than a whole tranche
            elif self._is_over:
                step = self._finish()
            else:
                return None
            if step is not None:
                return step
        return None

    def _settle_tranche(self) -> Step | None:
        """Have the tranche paid, or begin the next one at once where it costs nothing."""
        if len(self._settlement.records) >= MAXIMUM_TRANCHES - 1 and self._held:
            self._cut()
        amount_msat = self._due_msat
        self._began_at_units, self._taken = self._units_in_hand, 0
        return self._settle(amount_msat)

    def _fits(self, piece: RunnerProduced) -> bool:
        if self._plan.row.output_msat == 0:
            return True
        granted = min(self._began_at_units + self._plan.effective_units, self._plan.output_units)
        return self._units_in_hand_with(piece) <= granted

    @property
    def _due_msat(self) -> AmountMsat:
        """What everything in hand costs, less what was asked for before."""
        whole = cost(self._plan.row, self._plan.input_units, min(self._units_in_hand, self._plan.output_units))
        return AmountMsat(whole - self._settlement.asked_msat)

    @property
    @abstractmethod
    def _units_in_hand(self) -> int:
        """Units delivered and in the tranche, together."""

    @property
    def _pending_bytes(self) -> int:
        """Bytes in the tranche that the meter has not counted."""
        return 0

    @abstractmethod
    def _units_in_hand_with(self, piece: RunnerProduced) -> int:
        """The same, with this piece."""

    @abstractmethod
    def _take(self, piece: RunnerProduced) -> Step | None:
        """Put a piece into the tranche."""

    @abstractmethod
    def _settle(self, amount_msat: AmountMsat) -> Step | None:
        """Close the tranche; None if it costs nothing and needs no step."""


class PostpaidDelivery(ArrearsDelivery):
    """Output leaves at once, tranche by tranche; each is paid before the next begins."""

    def unpaid(self) -> tuple[int, AmountMsat]:
        """What was delivered since the last invoice."""
        return (self._new_units, self._due_msat) if self._taken else (0, AmountMsat(0))

    @property
    def _new_units(self) -> int:
        return self._units_in_hand - self._settlement.asked_units

    @property
    def _units_in_hand(self) -> int:
        return self._units_with()

    def _units_in_hand_with(self, piece: RunnerProduced) -> int:
        return self._units_with(piece)

    def _take(self, piece: RunnerProduced) -> Step:
        return Emit(piece)

    def _settle(self, amount_msat: AmountMsat) -> Step | None:
        if amount_msat == 0:
            return None
        return Ask(TrancheWanted(len(self._settlement.records), self._new_units, amount_msat))


class SealedDelivery(ArrearsDelivery):
    """Output is collected, sealed and delivered as ciphertext; what is paid counts as delivered."""

    def __init__(self, plan: TranchePlan, meter: JobMeter, settlement: SellerSettlement) -> None:
        super().__init__(plan, meter, settlement)
        self._pending: list[RunnerProduced] = []
        self._bytes = self._tokens = 0
        self._free: deque[RunnerProduced] = deque()

    def next_step(self) -> Step | None:
        """First what costs nothing, in clear; then the next tranche."""
        return Emit(self._free.popleft()) if self._free else super().next_step()

    @property
    def _units_in_hand(self) -> int:
        return self._meter.output_units_with(self._bytes, self._tokens)

    def _units_in_hand_with(self, piece: RunnerProduced) -> int:
        return self._meter.output_units_with(self._bytes + len(piece.data.encode()), self._tokens + piece.tokens)

    @property
    def _pending_bytes(self) -> int:
        return self._bytes

    def _fits(self, piece: RunnerProduced) -> bool:
        size = self._bytes + len(piece.data.encode())
        has_room = size + len(self._pending) + 1 <= MAXIMUM_SEALED_TRANCHE_BYTES
        return has_room and super()._fits(piece)

    def _take(self, piece: RunnerProduced) -> Step | None:
        self._pending.append(piece)
        self._bytes += len(piece.data.encode())
        self._tokens += piece.tokens
        return None

    def _settle(self, amount_msat: AmountMsat) -> Step | None:
        units = self._units_in_hand - (0 if self._meter.is_empty else self._units_with())
        pieces, self._pending = tuple(self._pending), []
        self._bytes = self._tokens = 0
        if amount_msat == 0:
            self._free.extend(pieces)
            return Emit(self._free.popleft())
        return Seal(pieces, units, amount_msat)


def make_delivery(order: Order, plan: TranchePlan, meter: JobMeter, settlement: SellerSettlement) -> Delivery:
    """The delivery for an order."""
    kinds: dict[Order, type[Delivery]] = {
        "prepay": PrepaidDelivery,
        "postpay": PostpaidDelivery,
        "sealed": SealedDelivery,
    }
    return kinds[order](plan, meter, settlement)
