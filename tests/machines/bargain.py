"""Two job machines among liars, broken lines and wallets that answer whatever they like whenever they like.

One of the two may be a liar: what it says is changed on its way. What truly left the node and what was truly paid is
kept beside what is said about it, so that each honest side's loss can be reckoned after every single step.
"""

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from relaymesh.machines.client_job_interface import ClientJobState
from relaymesh.machines.job_events import (
    CancelRequested,
    Deliver,
    InvoiceRead,
    JobClosed,
    ReadInvoice,
    Received,
    RunnerStopped,
    Send,
    SessionEnded,
    SessionLost,
    SessionRestored,
    StartRunner,
    StopRunner,
)
from relaymesh.machines.job_outcome import JobEnded
from relaymesh.machines.node_job import NodeJob
from relaymesh.machines.node_job_interface import NodeJobState
from relaymesh.machines.records import (
    TERMINAL_TRANCHE_STATES,
    JobRecord,
    JobState,
    LedgerRecord,
    Store,
    TrancheRecord,
    TrancheState,
)
from relaymesh.machines.recovery import IN_DOUBT_STATES, account, end_job, resolve_payment
from relaymesh.machines.settlement import (
    CreateInvoice,
    InvoiceFailed,
    InvoiceIssued,
    InvoiceResolved,
    LookUpPayment,
    Pay,
    PaymentResolved,
    WatchInvoice,
)
from relaymesh.market.pricing import cost, quote_terms
from relaymesh.nostr.event import VerifiedEvent
from relaymesh.nostr.keys import verify
from relaymesh.protocol.contract import JobOrder, SessionContract
from relaymesh.protocol.fields import Order
from relaymesh.protocol.offer import PriceRow, SettlementTerm
from relaymesh.protocol.payment import DecodedInvoice, PaymentFailed, PaymentLookup, PaymentSucceeded, PaymentUnknown
from relaymesh.protocol.quote import JobShape
from relaymesh.protocol.refusal import RefusalCode, refuse
from relaymesh.protocol.sealed_commitment import build_sealed_commitment, read_sealed_commitment
from relaymesh.protocol.session_messages import (
    CancelMessage,
    CommitmentMessage,
    EndMessage,
    ErrorMessage,
    InvoiceMessage,
    JobMessage,
    OutputMessage,
    PaidMessage,
    ResumeMessage,
    SealedMessage,
    SessionMessage,
)
from relaymesh.units import AmountMsat, Moment, Timestamp
from tests.machines.pair import (
    CLIENT,
    LIGHTNING_NODE_ID,
    NODE,
    Pair,
    Wallets,
    commitments,
    contract,
    preimage_of,
)

Step = Callable[[], None]


def agree(
    row: PriceRow, form: Order, tranche_units: int | None, output_units: int, input_units: int
) -> SessionContract:
    """A contract whose quote states exactly what each side can lose."""
    shape = JobShape(input_tokens=7, input_bytes=input_units, output_tokens=output_units, output_bytes=output_units)
    offered = SettlementTerm(order=form, scope="job", tranche_units=tranche_units)
    (term,) = quote_terms(row, shape, (offered,), (form,))
    agreed = contract(row=row, tranche_units=tranche_units)
    return replace(agreed, term=term, quote=agreed.quote.model_copy(update={"settlement": (term,)}))


@dataclass
class Flight:
    """A payment on its way: what truly became of it, and what was said about it."""

    pay: Pay
    is_paid: bool | None = None
    has_answered: bool = False


@dataclass
class FickleWallets(Wallets):
    """Both wallets: what truly happened, whatever was said about it."""

    keys: dict[str, bytes] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    lapsed: set[str] = field(default_factory=set)

    def issue(self, wanted: CreateInvoice, now: Moment) -> InvoiceIssued:
        key = wanted.preimage or preimage_of(wanted.label)
        payment_hash = hashlib.sha256(key).hexdigest()
        expires_at = Timestamp(now.timestamp + wanted.expiry_seconds)
        self.keys[payment_hash], self.hashes[wanted.label] = key, payment_hash
        bolt11 = f"lntest{payment_hash}"
        self.invoices[bolt11] = DecodedInvoice(
            bolt11=bolt11,
            payment_hash=payment_hash,
            amount_msat=wanted.amount_msat,
            payee=LIGHTNING_NODE_ID,
            network="bcrt",
            created_at=now.timestamp,
            expires_at=expires_at,
            description=wanted.description,
        )
        return InvoiceIssued(wanted.tranche, bolt11, payment_hash, expires_at * 1_000)


class Bargain(Pair):
    """A pair of machines among liars and broken lines; `choose` decides everything that can go one way or another.

    Args:
        liar: Whose words are changed on their way: `client`, `node`, or nobody's.
    """

    wallets: FickleWallets

    def __init__(self, agreed: SessionContract, wanted: JobOrder, liar: str, choose: Callable[[int], int]) -> None:
        super().__init__(agreed=agreed, wanted=wanted, pieces=tuple(f"piece {number:02} " for number in range(9)))
        self.liar, self.choose = liar, choose
        self.wallets = FickleWallets()
        self.flights: dict[int, Flight] = {}
        self.look_ups: deque[int] = deque()
        self.pays: list[str] = []
        self.is_connected = True
        self.sent: dict[int, str] = {}
        self.committed: dict[int, int] = {}
        self.is_greedy = liar == "node" and choose(2) == 0

    # ── effects that differ from an honest pair's ──

    def do_client_effects(self) -> None:
        for effect in self.client.effects():
            match effect:
                case Store(records):
                    self.client_ledger += records
                case Send(message):
                    if self.is_connected:
                        self.to_node.append(message)
                case ReadInvoice(tranche, bolt11):
                    self.client.receive(InvoiceRead(tranche, self.decoded.get(bolt11)), self.now)
                    self.do_client_effects()
                case Pay(tranche, _, payment_hash):
                    self.pays.append(payment_hash)
                    self.flights[tranche] = Flight(effect)
                case LookUpPayment(tranche):
                    self.look_ups.append(tranche)
                case Deliver(data):
                    self.delivered.append(data)
                case JobEnded():
                    self.outcome = effect

    def do_node_effects(self) -> None:
        assert self.node is not None
        for effect in self.node.effects():
            match effect:
                case Store(records):
                    self.node_ledger += records
                case Send(message):
                    self.note_sent(message)
                    if self.is_connected and not self.is_greedy:
                        self.to_client.append(message)
                case CreateInvoice():
                    answer = self.wallets.issue(effect, self.now)
                    is_refused = self.choose(20) == 19
                    for _ in range(1 + (self.choose(4) == 3)):
                        self.node.receive(InvoiceFailed(effect.tranche, "no") if is_refused else answer, self.now)
                    self.do_node_effects()
                case WatchInvoice(tranche, label):
                    self.watched[tranche] = label
                case StartRunner():
                    self.running = deque(self.pieces)
                case StopRunner():
                    self.running = None
                case JobClosed():
                    self.closed = effect

    def note_sent(self, message: SessionMessage) -> None:
        """What leaves the node is what it gives away."""
        match message:
            case OutputMessage(number=number, data=data):
                self.sent[number] = data
            case CommitmentMessage(event):
                said = read_sealed_commitment(verify(event)).commitment
                self.committed[said.tranche] = sum(said.leaf_bytes)

    def deliver_to_node(self) -> None:
        if self.node is None and not isinstance(self.to_node[0], JobMessage):
            self.to_node.popleft()
            return
        if self.node is not None:
            super().deliver_to_node()
            return
        job = self.to_node.popleft()
        assert isinstance(job, JobMessage)
        self.node = NodeJob(
            self.agreed,
            job,
            input_tokens=7,
            signer=NODE,
            verify=verify,
            commitments=commitments(),
            sealing_secret=b"\x09" * 32,
        )
        self.node.start(self.now)
        self.do_node_effects()

    # ── what can happen ──

    def possible_steps(self) -> list[Step]:
        steps: list[Step] = []
        if self.is_connected and not self.is_greedy:  # a greedy node does nothing but ask
            steps += [self.deliver_to_node] * (3 if self.to_node else 0)
        if self.is_connected:
            steps += [self.deliver_to_client] * (3 if self.to_client else 0)
        if self.running is not None and self.node is not None and self.node.is_hungry:
            steps += [self.run_model] * 3
        steps += [partial(self.decide, flight) for flight in self.flights.values() if flight.is_paid is None]
        steps += [partial(self.answer, flight) for flight in self.flights.values() if not flight.has_answered]
        steps += [self.answer_look_up] * bool(self.look_ups)
        steps += [self.notice_payment] * bool(self.noticeable())
        return steps

    def mischief(self) -> list[Step]:
        """What need not happen, and does."""
        if self.is_greedy and self.choose(4):
            return [self.lie_to_client]
        steps: list[Step] = [self.break_line, self.wait]
        if self.liar == "client":
            steps += [self.say_to_node] * 3
        if self.liar == "node":
            steps += [self.lie_to_client] * 3
        if self.choose(12) == 11:
            steps += [self.cancel, self.fail_runner]
        return steps

    def decide(self, flight: Flight) -> None:
        """The payment reaches the node, or fails for good."""
        is_payable = flight.pay.payment_hash in self.wallets.keys and flight.pay.payment_hash not in self.wallets.lapsed
        flight.is_paid = is_payable and self.choose(4) != 3
        if flight.is_paid:
            paid = self.wallets.paid
            paid[flight.pay.payment_hash] = paid.get(flight.pay.payment_hash, 0) + flight.pay.amount_msat

    def answer(self, flight: Flight) -> None:
        """The client's wallet says what it knows, perhaps twice; if that is nothing, it has to be asked again."""
        flight.has_answered = True
        for _ in range(1 + (self.choose(4) == 3)):
            self.client.receive(PaymentResolved(flight.pay.tranche, self.truth(flight)), self.now)
        self.do_client_effects()

    def answer_look_up(self) -> None:
        """The client's wallet is asked again."""
        flight = self.flights[self.look_ups.popleft()]
        self.client.receive(PaymentResolved(flight.pay.tranche, self.truth(flight)), self.now)
        self.do_client_effects()

    def truth(self, flight: Flight) -> PaymentLookup:
        """What became of a payment."""
        if flight.is_paid is None:
            return PaymentUnknown("nobody can say")
        if not flight.is_paid:
            return PaymentFailed(205, "no route")
        key = self.wallets.keys[flight.pay.payment_hash]
        return PaymentSucceeded(key, flight.pay.amount_msat, AmountMsat(1))

    def noticeable(self) -> list[int]:
        """Tranches whose invoice was paid and the node has not heard of it."""
        return [tranche for tranche, label in self.watched.items() if self.wallets.hashes[label] in self.wallets.paid]

    def notice_payment(self) -> None:
        assert self.node is not None
        tranche = self.noticeable()[0]
        del self.watched[tranche]
        for _ in range(1 + (self.choose(4) == 3)):
            self.node.receive(InvoiceResolved(tranche, True), self.now)
        self.do_node_effects()

    def lapse(self) -> None:
        """Invoices that are too old can no longer be paid, and the node hears of it."""
        for tranche, label in list(self.watched.items()):
            payment_hash = self.wallets.hashes[label]
            invoice = self.wallets.invoices[f"lntest{payment_hash}"]
            if invoice.expires_at <= self.now.timestamp and payment_hash not in self.wallets.paid:
                self.wallets.lapsed.add(payment_hash)
                del self.watched[tranche]
                assert self.node is not None
                self.node.receive(InvoiceResolved(tranche, False), self.now)
                self.do_node_effects()

    def wait(self) -> None:
        """Time passes."""
        self.pass_time((50, 1_000, 6_000, 31_000, 61_000)[self.choose(5)])
        self.lapse()

    def break_line(self) -> None:
        """The connection breaks, and what was on it is lost; or it is there again."""
        self.is_connected = not self.is_connected
        if not self.is_connected:
            self.to_client.clear()
            self.to_node.clear()
            if self.node is not None:
                self.node.receive(SessionLost(), self.now)
                self.do_node_effects()
            return
        if self.node is not None:
            self.node.receive(SessionRestored(), self.now)
            self.do_node_effects()
        self.client.receive(SessionRestored(), self.now)
        self.do_client_effects()

    def cancel(self) -> None:
        self.client.receive(CancelRequested(), self.now)
        self.do_client_effects()

    def fail_runner(self) -> None:
        if self.node is not None and self.running is not None:
            self.running = None
            self.node.receive(RunnerStopped(refuse(RefusalCode.RUNNER_FAILED, "it broke")), self.now)
            self.do_node_effects()

    # ── lies ──

    def say_to_node(self) -> None:
        """A lying client says what it likes, and withholds what it does not."""
        job_id, busy = self.client.job_id, refuse(RefusalCode.BUSY, "no")
        words: list[SessionMessage] = [
            CancelMessage(job_id),
            ErrorMessage(job_id, busy, True),
            PaidMessage(job_id, self.choose(4)),
            ResumeMessage(job_id, self.choose(12)),
            self.client.job_message(),
        ]
        if self.choose(2) and self.to_node:
            self.to_node.popleft()
        elif self.node is not None:
            self.node.receive(Received(words[self.choose(len(words))]), self.now)
            self.do_node_effects()

    def lie_to_client(self) -> None:
        """A lying node changes, withholds or repeats what is next, or invents an invoice; a greedy one only asks."""
        if self.is_greedy:
            self.to_client = deque([self.next_invoice()])
            return
        match self.choose(4):
            case 0 if self.to_client:
                self.to_client.popleft()
            case 1 if self.to_client:
                self.to_client.appendleft(self.to_client[0])
            case 2 if self.to_client:
                self.to_client[0] = self.changed(self.to_client[0])
            case 3:
                self.to_client.append(self.invent_invoice())
            case _:
                pass

    def next_invoice(self) -> InvoiceMessage:
        """What a greedy node asks for: the next tranche at its price or more, and it delivers nothing."""
        tranche = len(self.client._settlement.records)
        plan, term = self.client._settlement._contract.plan, self.agreed.term
        index = min(tranche, plan.count - 1)
        stake = term.exposure_buyer_msat
        amount = (stake - self.paid_msat, stake + 1, *[plan.price(index)] * 4)[self.choose(6)]
        wanted = CreateInvoice(
            tranche, f"next {len(self.wallets.keys)}", max(AmountMsat(amount), AmountMsat(1)), "", 60
        )
        issued = self.wallets.issue(wanted, self.now)
        bolt11, expires_at_ms = issued.bolt11, issued.expires_at_ms
        if self.pays and self.choose(4) == 0:
            bolt11, wanted = (
                f"lntest{self.pays[-1]}",
                replace(wanted, amount_msat=self.flights[tranche - 1].pay.amount_msat),
            )
        return InvoiceMessage(
            self.client.job_id, tranche, term.order, bolt11, wanted.amount_msat, plan.units(index), expires_at_ms
        )

    def changed(self, message: SessionMessage) -> SessionMessage:
        match message:
            case InvoiceMessage():
                changes: list[dict[str, object]] = [
                    {"msat": AmountMsat(message.msat * 2)},
                    {"units": max(message.units - 1, 0)},
                    {"units": message.units + 1},
                    {"tranche": message.tranche + 1},
                    {"order": "prepay" if message.order != "prepay" else "sealed"},
                ]
                return replace(message, **changes[self.choose(len(changes))])  # type: ignore[arg-type]  # by its fields
            case OutputMessage():
                return replace(message, data=message.data[: self.choose(3)])
            case SealedMessage():
                return replace(message, ciphertext=bytes(len(message.ciphertext)))
            case CommitmentMessage(event):
                return CommitmentMessage(self.commit_otherwise(verify(event)))
            case _:
                return EndMessage(self.client.job_id)

    def commit_otherwise(self, event: VerifiedEvent) -> VerifiedEvent:
        said = read_sealed_commitment(event).commitment
        changes: list[dict[str, object]] = [
            {"msat": said.msat * 2},
            {"units": said.units * 2},
            {"payment_hash": "77" * 32},
            {"leaf_bytes": tuple(min(size * 2, 8_192) for size in said.leaf_bytes)},
            {"leaf_sha256": tuple("88" * 32 for _ in said.leaf_sha256)},
        ]
        lie = said.model_copy(update=changes[self.choose(len(changes))])
        author, client = NODE.public_key, CLIENT.public_key
        return NODE.sign(build_sealed_commitment(lie, author=author, client=client, created_at=self.now.timestamp))

    def invent_invoice(self) -> InvoiceMessage:
        tranche, units = self.choose(4), (0, 1, 16, 64)[self.choose(4)]
        term = self.agreed.term
        most = max(term.exposure_buyer_msat, term.exposure_node_msat)
        amount = AmountMsat(max((1, most // 2, most, most + 1)[self.choose(4)], 1))
        wanted = CreateInvoice(tranche, f"invented {len(self.wallets.keys)}", amount, "RelayMesh job", 60)
        issued = self.wallets.issue(wanted, self.now)
        expires_at_ms = issued.expires_at_ms
        return InvoiceMessage(self.client.job_id, tranche, term.order, issued.bolt11, amount, units, expires_at_ms)

    # ── reckoning ──

    @property
    def paid_msat(self) -> int:
        """What truly left the client's wallet."""
        return sum(self.wallets.paid.values())

    def check_losses(self) -> None:
        """Neither honest side has lost more than the quote says it can."""
        row, term = self.agreed.quote.row, self.agreed.term
        input_units = len(self.wanted.body.encode()) if row.unit == "byte" else 0
        received = self.client._observation.output_bytes
        sent = sum(len(data.encode()) for data in self.sent.values()) + sum(self.committed.values())
        if self.liar != "client" and (row.unit == "byte" or not received):  # nobody but the node can count tokens
            worth = cost(row, input_units, received) if received else 0
            assert self.paid_msat - worth <= term.exposure_buyer_msat
        if self.liar != "node":
            worth = cost(row, input_units, sent) if sent else 0
            assert worth - self.paid_msat <= term.exposure_node_msat

    def end(self) -> None:
        """Nothing happens any more but what must: wallets tell the truth, the session is over, time passes."""
        self.resolve_payments()
        self.client.receive(SessionEnded("the end"), self.now)
        self.do_client_effects()
        if self.node is not None:
            self.node.receive(SessionEnded("the end"), self.now)
            self.do_node_effects()
        for milliseconds in (300, 600, 1_200, 3_000, 61_000, 61_000):
            self.resolve_payments()
            self.pass_time(milliseconds)
            self.lapse()
        self.resolve_payments()

    def resolve_payments(self) -> None:
        """Every payment has an outcome, and whoever asks hears of it."""
        for flight in list(self.flights.values()):
            if flight.is_paid is None:
                self.decide(flight)
            if not flight.has_answered:
                self.answer(flight)
        while self.look_ups:
            self.answer_look_up()
        while self.noticeable():
            self.notice_payment()

    def recovered(self) -> list[LedgerRecord]:
        """The client's ledger after the next start: what was unknown at the end is looked up once more."""
        jobs = [record for record in self.client_ledger if isinstance(record, JobRecord)]
        rows = {record.tranche: record for record in self.client_ledger if isinstance(record, TrancheRecord)}
        if not jobs or jobs[-1].state is not JobState.UNKNOWN:
            return self.client_ledger
        resolved = tuple(
            resolve_payment(row, self.truth(self.flights[row.tranche])) if row.state in IN_DOUBT_STATES else row
            for row in rows.values()
        )
        return [
            end_job(jobs[-1], resolved, refuse(RefusalCode.CANCELLED, "the client was stopped")),
            *account(resolved),
        ]

    def check_end(self) -> None:
        """Everything honest is terminal, and every account agrees with the truth."""
        assert len(self.pays) == len(set(self.pays)), "a payment hash was paid twice"
        if self.liar != "client":
            assert self.client.state is ClientJobState.ENDED and self.outcome is not None
            self.check_ledger(self.recovered(), self.paid_msat)
        if self.liar != "node" and self.node is not None:
            assert self.node.state is NodeJobState.ENDED
            self.check_ledger(self.node_ledger, self.paid_msat)

    def check_ledger(self, ledger: list[LedgerRecord], paid_msat: int) -> None:
        tranches = {record.tranche: record for record in ledger if isinstance(record, TrancheRecord)}
        jobs = [record for record in ledger if isinstance(record, JobRecord)]
        assert {record.state for record in tranches.values()} <= TERMINAL_TRANCHE_STATES
        released = sum(each.amount_msat for each in tranches.values() if each.state is TrancheState.RELEASED)
        assert released == paid_msat
        if jobs:
            assert jobs[-1].state is not JobState.OPEN and jobs[-1].charged_msat == released
