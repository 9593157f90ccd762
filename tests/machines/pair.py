"""A client job and a node job joined by hand: queues for the session, a table for the wallets, a number for time."""

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from relaymesh.machines.client_job import ClientJob
from relaymesh.machines.job_events import (
    Deliver,
    InvoiceRead,
    JobClosed,
    ReadInvoice,
    Received,
    RunnerFinished,
    RunnerProduced,
    Send,
    StartRunner,
    StopRunner,
)
from relaymesh.machines.job_outcome import JobEnded
from relaymesh.machines.node_job import NodeJob
from relaymesh.machines.records import LedgerRecord, Store
from relaymesh.machines.settlement import (
    CreateInvoice,
    InvoiceIssued,
    InvoiceResolved,
    LookUpPayment,
    Pay,
    PaymentResolved,
    WatchInvoice,
)
from relaymesh.market.admission import admit_job
from relaymesh.market.pricing import TranchePlan
from relaymesh.nostr.event import EventId
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.protocol.codec import seal_message
from relaymesh.protocol.commitments import JobCommitments
from relaymesh.protocol.contract import JobOrder, SessionContract
from relaymesh.protocol.fields import Order
from relaymesh.protocol.offer import PriceRow
from relaymesh.protocol.payment import (
    DecodedInvoice,
    PaymentLookup,
    PaymentSucceeded,
)
from relaymesh.protocol.quote import Quote, QuotedTerm
from relaymesh.protocol.refusal import Refusal
from relaymesh.protocol.session_messages import InvoiceMessage, SessionId, SessionMessage
from relaymesh.units import AmountMsat, Instant, Moment, Timestamp

NODE = KeyPair(b"\x01" * 32)
CLIENT = KeyPair(b"\x02" * 32)
LIGHTNING_NODE_ID = "02" + "ab" * 32
START_MS = 1_800_000_000_000
BODY = '{"messages":[{"role":"user","content":"the canary prompt"}]}'


def moment(milliseconds: int = 0) -> Moment:
    return Moment(Instant(milliseconds * 1_000), START_MS + milliseconds)


def price_row(unit: str = "byte", output_msat: int = 2_000, **changes: object) -> PriceRow:
    fields = {
        "model": "tiny",
        "job_types": ("chat",),
        "unit": unit,
        "per": 1_000,
        "input_msat": AmountMsat(500),
        "output_msat": AmountMsat(output_msat),
        "minimum_msat": AmountMsat(10),
        "context_limit": 4_096,
        "output_limit": 512,
        "capabilities": ("stream",),
    }
    return PriceRow.model_validate({**fields, **changes})


def contract(
    row: PriceRow | None = None,
    tranche_units: int | None = 16,
    exposure_msat: int = 100_000,
    settlement_order: Order = "prepay",
    **changes: object,
) -> SessionContract:
    row = row or price_row()
    term = QuotedTerm(
        order=settlement_order,
        tranche_units=tranche_units,
        exposure_buyer_msat=AmountMsat(0 if settlement_order == "postpay" else exposure_msat),
        exposure_node_msat=AmountMsat(0 if settlement_order == "prepay" else exposure_msat),
    )
    quote = Quote(
        request_id=EventId("11" * 32),
        offer_id=EventId("22" * 32),
        offer_seq=1,
        row=row,
        estimated_msat=AmountMsat(100),
        max_msat=AmountMsat(100_000),
        settlement=(term,),
        valid_until_ms=START_MS + 60_000,
        eta_in_ms=100,
    )
    draft = seal_message(
        quote,
        author=NODE.public_key,
        signer=NODE,
        recipient=CLIENT.public_key,
        answers=EventId("11" * 32),
        created_at=Timestamp(START_MS // 1_000),
        entropy=b"q" * 64,
    )
    event = NODE.sign(draft)
    return SessionContract(
        node=NODE.public_key,
        client=CLIENT.public_key,
        session_id=SessionId("33" * 32),
        request_id=EventId("44" * 32),
        accept_id=EventId("55" * 32),
        quote_event=event,
        quote=quote.model_copy(update=changes),
        term=term,
        lightning_node_id=LIGHTNING_NODE_ID,
        quote_plaintext=CLIENT.open(event.content, event.public_key),
    )


def order(output_units: int = 64, maximum_msat: int = 100_000, body: str = BODY) -> JobOrder:
    return JobOrder("tiny", "chat", body, output_units, AmountMsat(maximum_msat), b"\x07" * 32)


def plan_for(agreed: SessionContract, wanted: JobOrder) -> TranchePlan:
    row = agreed.quote.row
    input_units = len(wanted.body.encode()) if row.unit == "byte" else 0
    granted = admit_job(
        row, input_units=input_units, maximum_output_units=wanted.output_units, maximum_msat=wanted.maximum_msat
    )
    assert not isinstance(granted, Refusal)
    return TranchePlan(row, input_units, granted, agreed.term.tranche_units)


def commitments() -> JobCommitments:
    return JobCommitments(b"p" * 32, b"o" * 32, b"s" * 32)


def preimage_of(label: str) -> bytes:
    return hashlib.sha256(label.encode()).digest()


@dataclass
class Wallets:
    """Both wallets at once: what was invoiced, what was paid."""

    invoices: dict[str, DecodedInvoice] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    paid: dict[str, int] = field(default_factory=dict)
    preimages: dict[str, bytes] = field(default_factory=dict)

    def issue(self, wanted: CreateInvoice, now: Moment) -> InvoiceIssued:
        preimage = wanted.preimage or preimage_of(wanted.label)
        payment_hash = hashlib.sha256(preimage).hexdigest()
        self.preimages[wanted.label] = preimage
        invoice = DecodedInvoice(
            bolt11=f"lntest{payment_hash}",
            payment_hash=payment_hash,
            amount_msat=wanted.amount_msat,
            payee=LIGHTNING_NODE_ID,
            network="bcrt",
            created_at=now.timestamp,
            expires_at=Timestamp(now.timestamp + wanted.expiry_seconds),
            description=wanted.description,
        )
        self.invoices[invoice.bolt11] = invoice
        self.labels[payment_hash] = wanted.label
        return InvoiceIssued(wanted.tranche, invoice.bolt11, payment_hash, invoice.expires_at * 1_000)

    def pay(self, payment_hash: str, amount_msat: int) -> PaymentSucceeded:
        self.paid[payment_hash] = self.paid.get(payment_hash, 0) + amount_msat
        preimage = self.preimages[self.labels[payment_hash]]
        return PaymentSucceeded(preimage, AmountMsat(amount_msat), AmountMsat(1))


@dataclass
class Pair:
    """Two machines and everything between them; `step` moves one thing, `settle` everything.

    Args:
        pieces: What the runner produces, in order.
        pay: What the client's wallet answers; None pays at once.
        forge: Changes an INVOICE and what it decodes to on its way to the client.
    """

    agreed: SessionContract = field(default_factory=contract)
    wanted: JobOrder = field(default_factory=order)
    pieces: tuple[str, ...] = ("one ", "two ", "three ", "four ", "five ")
    pay: Callable[[Pay], PaymentLookup | None] | None = None
    forge: Callable[[InvoiceMessage, DecodedInvoice], tuple[InvoiceMessage, DecodedInvoice]] | None = None
    input_tokens: int = 7

    def __post_init__(self) -> None:
        self.wallets = Wallets()
        self.now_ms = 0
        self.client = ClientJob(
            self.agreed,
            self.wanted,
            plan_for(self.agreed, self.wanted),
            signer=CLIENT,
            verify=verify,
            commitments=commitments(),
        )
        self.node: NodeJob | None = None
        self.to_node: deque[SessionMessage] = deque()
        self.to_client: deque[SessionMessage] = deque()
        self.watched: dict[int, str] = {}
        self.client_ledger: list[LedgerRecord] = []
        self.node_ledger: list[LedgerRecord] = []
        self.delivered: list[str] = []
        self.log: list[tuple[str, object]] = []
        self.payments: deque[PaymentResolved] = deque()
        self.outcome: JobEnded | None = None
        self.closed: JobClosed | None = None
        self.running: deque[str] | None = None
        self.decoded: dict[str, DecodedInvoice] = {}

    @property
    def now(self) -> Moment:
        return moment(self.now_ms)

    def start(self) -> None:
        self.client.start(self.now)
        self.do_client_effects()

    def do_client_effects(self) -> None:
        for effect in self.client.effects():
            self.log.append(("client", effect))
            match effect:
                case Store(records):
                    self.client_ledger += records
                case Send(message):
                    self.to_node.append(message)
                case ReadInvoice(tranche, bolt11):
                    self.client.receive(InvoiceRead(tranche, self.decoded.get(bolt11)), self.now)
                    self.do_client_effects()
                case Pay():
                    answer = self.pay(effect) if self.pay is not None else None
                    if answer is None:
                        answer = self.wallets.pay(effect.payment_hash, effect.amount_msat)
                    self.payments.append(PaymentResolved(effect.tranche, answer))
                case LookUpPayment():
                    pass  # tests answer look-ups themselves
                case Deliver(data):
                    self.delivered.append(data)
                case JobEnded():
                    self.outcome = effect

    def do_node_effects(self) -> None:
        assert self.node is not None
        for effect in self.node.effects():
            self.log.append(("node", effect))
            match effect:
                case Store(records):
                    self.node_ledger += records
                case Send(message):
                    self.to_client.append(message)
                case CreateInvoice():
                    self.node.receive(self.wallets.issue(effect, self.now), self.now)
                    self.do_node_effects()
                case WatchInvoice(tranche, label):
                    self.watched[tranche] = label
                case StartRunner():
                    self.running = deque(self.pieces)
                case StopRunner():
                    self.running = None
                case JobClosed():
                    self.closed = effect

    def deliver_to_node(self) -> None:
        message = self.to_node.popleft()
        if self.node is None:
            self.node = NodeJob(
                self.agreed,
                message,  # type: ignore[arg-type]  # the first message of a job is its JOB
                input_tokens=self.input_tokens,
                signer=NODE,
                verify=verify,
                commitments=commitments(),
                sealing_secret=b"k" * 32,
            )
            self.node.start(self.now)
        else:
            self.node.receive(Received(message), self.now)
        self.do_node_effects()

    def deliver_to_client(self) -> None:
        message = self.to_client.popleft()
        if isinstance(message, InvoiceMessage):
            decoded = self.wallets.invoices[message.bolt11]
            if self.forge is not None:
                message, decoded = self.forge(message, decoded)
            self.decoded[message.bolt11] = decoded
        self.client.receive(Received(message), self.now)
        self.do_client_effects()

    def notice_payment(self) -> None:
        """The node's wallet says that a watched invoice was paid."""
        assert self.node is not None
        for tranche, label in list(self.watched.items()):
            payment_hash = hashlib.sha256(self.wallets.preimages[label]).hexdigest()
            if payment_hash in self.wallets.paid:
                del self.watched[tranche]
                self.node.receive(InvoiceResolved(tranche, True), self.now)
                self.do_node_effects()
                return

    def answer_payment(self) -> None:
        self.client.receive(self.payments.popleft(), self.now)
        self.do_client_effects()

    def run_model(self) -> None:
        assert self.node is not None and self.running is not None
        if self.running:
            self.node.receive(RunnerProduced(self.running.popleft()), self.now)
        else:
            self.running = None
            self.node.receive(RunnerFinished(7, len(self.pieces), "stop"), self.now)
        self.do_node_effects()

    def possible_steps(self) -> list[Callable[[], None]]:
        """Everything that can happen next."""
        steps: list[Callable[[], None]] = []
        if self.to_node:
            steps.append(self.deliver_to_node)
        if self.to_client:
            steps.append(self.deliver_to_client)
        if self.payments:
            steps.append(self.answer_payment)
        paid = {hashlib.sha256(self.wallets.preimages[label]).hexdigest() for label in self.watched.values()}
        if paid & self.wallets.paid.keys():
            steps.append(self.notice_payment)
        if self.running is not None and self.node is not None and self.node.is_hungry:
            steps.append(self.run_model)
        return steps

    def settle(self, choose: Callable[[int], int] = lambda count: 0, limit: int = 10_000) -> None:
        """Let everything happen that can; `choose` picks among the possible steps."""
        for _ in range(limit):
            steps = self.possible_steps()
            if not steps:
                return
            steps[choose(len(steps))]()
        raise AssertionError("the two machines do not come to rest")

    def pass_time(self, milliseconds: int) -> None:
        """Move the clock and let both machines act on what is due."""
        self.now_ms += milliseconds
        self.client.handle_deadline(self.now)
        self.do_client_effects()
        if self.node is not None:
            self.node.handle_deadline(self.now)
            self.do_node_effects()
