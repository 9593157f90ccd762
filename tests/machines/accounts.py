"""A session's two accounts joined by hand, with jobs that only ask, draw and end: what money does, and nothing else."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from relaymesh.machines.buyer_account import BuyerAccount
from relaymesh.machines.job_events import InvoiceRead, ReadInvoice, Received, Send, SessionEnded
from relaymesh.machines.records import JobRecord, LedgerRecord, Store, TrancheRecord
from relaymesh.machines.seller_account import SellerAccount
from relaymesh.machines.session_account import SessionTerms, read_terms
from relaymesh.machines.session_funds import (
    AccountClosed,
    Draw,
    FundsAsked,
    FundsChanged,
    FundsRefused,
    FundsReserved,
    JobBegun,
    JobSettled,
)
from relaymesh.machines.settlement import CreateInvoice, InvoiceResolved, Pay, PaymentResolved, WatchInvoice
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.payment import DecodedInvoice, PaymentLookup
from relaymesh.protocol.quote import QuotedTerm
from relaymesh.protocol.session_messages import InvoiceMessage, JobId, SessionMessage
from relaymesh.units import AmountMsat
from tests.machines.pair import Wallets, contract, moment

TRANCHE_MSAT = 1_000
EXPOSURE_MSAT = 1_250


def session_contract(tranche_msat: int = TRANCHE_MSAT, exposure_msat: int = EXPOSURE_MSAT) -> SessionContract:
    """A contract whose term is of session tranches."""
    term = QuotedTerm(
        order="prepay",
        scope="session",
        tranche_units=tranche_msat,
        exposure_buyer_msat=AmountMsat(exposure_msat),
        exposure_node_msat=AmountMsat(0),
    )
    return replace(contract(), term=term)


def terms_of(agreed: SessionContract) -> SessionTerms:
    terms = read_terms(agreed)
    assert terms is not None
    return terms


@dataclass
class FakeJob:
    """A job whose ceiling and draw a test chooses."""

    job_id: JobId
    ceiling_msat: int
    draw_msat: int
    state: str = "sent"


Forge = Callable[[InvoiceMessage, DecodedInvoice], tuple[InvoiceMessage, DecodedInvoice]]


@dataclass
class AccountPair:
    """Both accounts of one session and everything between them; `settle` lets happen what can, in any order.

    Args:
        jobs: Ceiling and draw of each job, in the order in which they are begun.
        concurrent: How many jobs the client has under way at most.
        forge: Changes an INVOICE on its way to the client.
        pay: What the client's wallet answers; None pays at once.
    """

    jobs: tuple[tuple[int, int], ...]
    concurrent: int = 1
    forge: Forge | None = None
    pay: Callable[[Pay], PaymentLookup | None] | None = None
    agreed: SessionContract = field(default_factory=session_contract)

    def __post_init__(self) -> None:
        terms = terms_of(self.agreed)
        self.wallets = Wallets()
        self.now_ms = 0
        self.node = SellerAccount(self.agreed, terms)
        self.client = BuyerAccount(self.agreed, terms)
        self.node.start(moment())
        self.client.start(moment())
        self.waiting = deque(
            FakeJob(JobId(f"{number:064x}"), ceiling, draw) for number, (ceiling, draw) in enumerate(self.jobs)
        )
        self.under_way: dict[JobId, FakeJob] = {}
        self.to_node: deque[SessionMessage | JobId] = deque()
        self.to_client: deque[SessionMessage | tuple[JobId, tuple[Draw, ...]]] = deque()
        self.payments: deque[PaymentResolved] = deque()
        self.watched: dict[int, str] = {}
        self.node_ledger: list[LedgerRecord] = []
        self.client_ledger: list[LedgerRecord] = []
        self.drawn: dict[JobId, int] = {}
        self.booked: dict[JobId, int] = {}
        self.refused: list[FundsRefused] = []
        self.waited: list[JobId] = []
        self.doubting: list[tuple[JobId, tuple[Draw, ...]]] = []
        self.decoded: dict[str, DecodedInvoice] = {}
        self.closed: list[str] = []
        self.most_at_stake = 0

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        job = self.waiting.popleft()
        self.under_way[job.job_id] = job
        self.client.receive(JobBegun(job.job_id), moment(self.now_ms))
        self.to_node.append(job.job_id)
        self.do_client()

    def deliver_to_node(self) -> None:
        message = self.to_node.popleft()
        if isinstance(message, str):
            job = self.under_way[message]
            job.state = "running" if self.node.funds.ask(message, AmountMsat(job.ceiling_msat)) else "waiting"
            if job.state == "waiting":
                self.waited.append(message)
            self.node.receive(FundsAsked(message), moment(self.now_ms))
        else:
            self.node.receive(Received(message), moment(self.now_ms))
        self.do_node()

    def end_job(self, job: FakeJob) -> None:
        amount = 0 if job.state == "refused" else job.draw_msat
        draws = self.node.funds.draw(job.job_id, AmountMsat(amount))
        assert sum(draw.amount_msat for draw in draws) == amount
        job.state = "ended"
        self.drawn[job.job_id] = amount
        self.to_client.append((job.job_id, draws))
        self.node.receive(JobSettled(job.job_id), moment(self.now_ms))
        self.do_node()

    def deliver_to_client(self) -> None:
        message = self.to_client.popleft()
        if isinstance(message, tuple):
            self.book(*message)
        else:
            if isinstance(message, InvoiceMessage):
                decoded = self.wallets.invoices[message.bolt11]
                if self.forge is not None:
                    message, decoded = self.forge(message, decoded)
                self.decoded[message.bolt11] = decoded
            self.client.receive(Received(message), moment(self.now_ms))
        self.do_client()

    def book(self, job_id: JobId, draws: tuple[Draw, ...]) -> None:
        """Book what a record says was drawn; it waits where our wallet has not said yet that this was paid."""
        stated = tuple((draw.payment_hash, draw.amount_msat) for draw in draws)
        if self.client.funds.match(stated, lambda _, payment_hash: payment_hash) is None:
            assert self.client.is_in_doubt
            self.doubting.append((job_id, draws))
            return
        self.booked[job_id] = sum(draw.amount_msat for draw in draws)
        del self.under_way[job_id]
        self.client.receive(JobSettled(job_id), moment(self.now_ms))

    def answer_payment(self) -> None:
        self.client.receive(self.payments.popleft(), moment(self.now_ms))
        self.do_client()

    def notice_payment(self) -> None:
        for tranche, label in list(self.watched.items()):
            if self._hash_of(label) in self.wallets.paid:
                del self.watched[tranche]
                self.node.receive(InvoiceResolved(tranche, True), moment(self.now_ms))
                self.do_node()
                return

    def lapse(self) -> None:
        """The node's wallet says that what was not paid no longer can be."""
        for tranche, label in list(self.watched.items()):
            if self._hash_of(label) not in self.wallets.paid:
                del self.watched[tranche]
                self.node.receive(InvoiceResolved(tranche, False), moment(self.now_ms))
                self.do_node()

    def end_session(self) -> None:
        """Both sides hear that the session is over; their jobs have ended."""
        self.client.receive(SessionEnded("the client is done"), moment(self.now_ms))
        self.do_client()
        self.node.receive(SessionEnded("the client is done"), moment(self.now_ms))
        self.do_node()

    def _hash_of(self, label: str) -> str:
        return next(payment_hash for payment_hash, known in self.wallets.labels.items() if known == label)

    # ── effects ───────────────────────────────────────────────────────────────────────────────────────────────────

    def do_client(self) -> None:
        for effect in self.client.effects():
            match effect:
                case Store(records):
                    self.client_ledger += records
                case Send(message):
                    self.to_node.append(message)
                case ReadInvoice(tranche, bolt11):
                    self.client.receive(InvoiceRead(tranche, self.decoded.get(bolt11)), moment(self.now_ms))
                    self.do_client()
                case Pay():
                    answer = self.pay(effect) if self.pay is not None else None
                    answer = answer or self.wallets.pay(effect.payment_hash, effect.amount_msat)
                    self.payments.append(PaymentResolved(effect.tranche, answer))
                case FundsRefused() | FundsChanged():
                    self.tell_jobs(effect)
                    self.do_client()
                case AccountClosed():
                    self.closed.append("client")
                case _:
                    pass
        at_stake = sum(self.wallets.paid.values()) - sum(self.booked.values())
        self.most_at_stake = max(self.most_at_stake, at_stake)

    def do_node(self) -> None:
        for effect in self.node.effects():
            match effect:
                case Store(records):
                    self.node_ledger += records
                case Send(message):
                    self.to_client.append(message)
                case CreateInvoice():
                    self.node.receive(self.wallets.issue(effect, moment(self.now_ms)), moment(self.now_ms))
                    self.do_node()
                case WatchInvoice(tranche, label):
                    self.watched[tranche] = label
                case FundsReserved(job_id=job_id) | FundsRefused(job_id=job_id):
                    assert job_id is not None
                    self.tell_job(job_id, effect)
                case AccountClosed():
                    self.closed.append("node")

    def tell_jobs(self, message: FundsChanged | FundsRefused) -> None:
        """The client's account tells every job."""
        if isinstance(message, FundsRefused):
            self.refused.append(message)
            return
        doubting, self.doubting = self.doubting, []
        for job_id, draws in doubting:
            self.book(job_id, draws)

    def tell_job(self, job_id: JobId, message: FundsReserved | FundsRefused) -> None:
        """The node's account tells one job."""
        self.under_way[job_id].state = "running" if isinstance(message, FundsReserved) else "refused"

    # ── the whole ─────────────────────────────────────────────────────────────────────────────────────────────────

    def possible_steps(self) -> list[Callable[[], None]]:
        """Everything that can happen next."""
        steps: list[Callable[[], None]] = []
        if self.waiting and len(self.under_way) < self.concurrent:
            steps.append(self.begin)
        if self.to_node:
            steps.append(self.deliver_to_node)
        if self.to_client:
            steps.append(self.deliver_to_client)
        if self.payments:
            steps.append(self.answer_payment)
        if any(self._hash_of(label) in self.wallets.paid for label in self.watched.values()):
            steps.append(self.notice_payment)
        steps += [partial(self.end_job, job) for job in self.under_way.values() if job.state in ("running", "refused")]
        return steps

    def settle(self, choose: Callable[[int], int] = lambda count: 0) -> None:
        """Let everything happen that can; `choose` picks among the possible steps."""
        for _ in range(10_000):
            steps = self.possible_steps()
            if not steps:
                return
            steps[choose(len(steps))]()
        raise AssertionError("the two accounts do not come to rest")


def last_account(ledger: list[LedgerRecord]) -> JobRecord:
    """The account's row as it was written last."""
    return [record for record in ledger if isinstance(record, JobRecord)][-1]


def last_tranches(ledger: list[LedgerRecord]) -> dict[int, TrancheRecord]:
    """Each tranche as it was written last."""
    return {record.tranche: record for record in ledger if isinstance(record, TrancheRecord)}
