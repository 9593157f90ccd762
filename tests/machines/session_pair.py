"""A prepaid session with real jobs on both sides, joined by hand: accounts, job machines, wallets, in any order."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from relaymesh.machines.client_job import ClientJob
from relaymesh.machines.job_events import (
    Deliver,
    JobClosed,
    Received,
    RunnerFinished,
    RunnerProduced,
    Send,
    SessionEnded,
    StartRunner,
    StopRunner,
)
from relaymesh.machines.job_outcome import JobEnded
from relaymesh.machines.node_job import NodeJob
from relaymesh.machines.records import Store
from relaymesh.machines.session_account import admit_session_job
from relaymesh.machines.session_funds import FundsAsked, FundsChanged, FundsRefused, FundsReserved, JobBegun, JobSettled
from relaymesh.market.pricing import TranchePlan
from relaymesh.nostr.keys import verify
from relaymesh.protocol.contract import JobOrder
from relaymesh.protocol.evidence import build_metering, read_metering
from relaymesh.protocol.metering import MeteringRecord
from relaymesh.protocol.session_messages import JobId, JobMessage, MeteringMessage
from relaymesh.roles.session_driver import job_of
from relaymesh.units import AmountMsat
from tests.machines.accounts import AccountPair
from tests.machines.pair import BODY, CLIENT, NODE, commitments, moment


@dataclass
class SessionPair(AccountPair):
    """Jobs under way at the same time, whose money is one.

    Args:
        jobs: Not used here.
        texts: What the runner produces for each job, piece by piece.
        forge_record: Changes a metering record, which the node then signs.
    """

    jobs: tuple[tuple[int, int], ...] = ()
    texts: tuple[tuple[str, ...], ...] = ()
    forge_record: Callable[[MeteringRecord], MeteringRecord] | None = None
    to_begin: deque[int] = field(default_factory=deque)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.to_begin = deque(range(len(self.texts)))
        self.clients: dict[JobId, ClientJob] = {}
        self.nodes: dict[JobId, NodeJob] = {}
        self.running: dict[JobId, deque[str]] = {}
        self.outcomes: dict[JobId, JobEnded] = {}
        self.delivered: dict[JobId, str] = {}

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        number = self.to_begin.popleft()
        order = JobOrder("tiny", "chat", BODY, 64, AmountMsat(100_000), bytes([number]) * 32)
        granted = admit_session_job(
            self.agreed, input_units=len(BODY), maximum_output_units=64, maximum_msat=order.maximum_msat
        )
        assert isinstance(granted, int)
        plan = TranchePlan(self.agreed.quote.row, len(BODY), granted, None)
        job = ClientJob(
            self.agreed,
            order,
            plan,
            signer=CLIENT,
            verify=verify,
            commitments=commitments(),
            account=self.client,
        )
        self.clients[job.job_id] = job
        self.client.receive(JobBegun(job.job_id), moment(self.now_ms))
        job.start(moment(self.now_ms))
        self.do_client_job(job)
        self.do_client()

    def deliver_to_node(self) -> None:
        message = self.to_node.popleft()
        assert not isinstance(message, str)
        job_id = job_of(message)
        assert job_id is not None
        if job_id == JobId(self.agreed.session_id):
            self.node.receive(Received(message), moment(self.now_ms))
        elif isinstance(message, JobMessage) and job_id not in self.nodes:
            job = NodeJob(
                self.agreed,
                message,
                input_tokens=7,
                signer=NODE,
                verify=verify,
                commitments=commitments(),
                funds=self.node.funds,
            )
            self.nodes[job_id] = job
            job.start(moment(self.now_ms))
            self.do_node_job(job)
        elif job_id in self.nodes:
            self.nodes[job_id].receive(Received(message), moment(self.now_ms))
            self.do_node_job(self.nodes[job_id])
        self.do_node()

    def deliver_to_client(self) -> None:
        message = self.to_client[0]
        job_id = None if isinstance(message, tuple) else job_of(message)
        if job_id is None or job_id == JobId(self.agreed.session_id):
            super().deliver_to_client()
            return
        self.to_client.popleft()
        assert not isinstance(message, tuple)
        if isinstance(message, MeteringMessage) and self.forge_record is not None:
            signed = read_metering(verify(message.event))
            forged = self.forge_record(signed.record)
            unsigned = build_metering(
                forged, author=NODE.public_key, client=CLIENT.public_key, created_at=signed.event.created_at
            )
            message = MeteringMessage(NODE.sign(unsigned))
        if job_id in self.clients:
            self.clients[job_id].receive(Received(message), moment(self.now_ms))
            self.do_client_job(self.clients[job_id])
        self.do_client()

    def run_model(self, job_id: JobId) -> None:
        pieces, job = self.running[job_id], self.nodes[job_id]
        if pieces:
            job.receive(RunnerProduced(pieces.popleft()), moment(self.now_ms))
        else:
            del self.running[job_id]
            job.receive(RunnerFinished(7, 1, "stop"), moment(self.now_ms))
        self.do_node_job(job)
        self.do_node()

    def end_session(self) -> None:
        """Jobs hear first that the session is over, then its accounts."""
        for client in self.clients.values():
            client.receive(SessionEnded("the client is done"), moment(self.now_ms))
            self.do_client_job(client)
        for node in self.nodes.values():
            node.receive(SessionEnded("the client is done"), moment(self.now_ms))
            self.do_node_job(node)
        super().end_session()

    def possible_steps(self) -> list[Callable[[], None]]:
        """Everything that can happen next."""
        steps = super().possible_steps()
        if self.to_begin and len(self.clients) - len(self.outcomes) < self.concurrent:
            steps.append(self.begin)
        return steps + [partial(self.run_model, job_id) for job_id in self.running if self.nodes[job_id].is_hungry]

    # ── effects ───────────────────────────────────────────────────────────────────────────────────────────────────

    def do_client_job(self, job: ClientJob) -> None:
        for effect in job.effects():
            match effect:
                case Store(records):
                    self.client_ledger += records
                case Send(message):
                    self.to_node.append(message)
                case Deliver(data):
                    self.delivered[job.job_id] = self.delivered.get(job.job_id, "") + data
                case JobEnded():
                    self.outcomes[job.job_id] = effect
                    self.booked[job.job_id] = effect.paid_msat
                    self.client.receive(JobSettled(job.job_id), moment(self.now_ms))
                case _:
                    raise AssertionError(f"a job of a session wants {effect}")

    def do_node_job(self, job: NodeJob) -> None:
        for effect in job.effects():
            match effect:
                case Store(records):
                    self.node_ledger += records
                case Send(message):
                    self.to_client.append(message)
                case FundsAsked() | JobSettled():
                    self.node.receive(effect, moment(self.now_ms))
                    self.do_node()
                case StartRunner():
                    self.running[job.message.job_id] = deque(self.text_of(job.message))
                case StopRunner():
                    self.running.pop(job.message.job_id, None)
                case JobClosed():
                    pass
                case _:
                    raise AssertionError(f"a job of a session wants {effect}")

    def tell_jobs(self, message: FundsChanged | FundsRefused) -> None:
        """The client's account tells every job."""
        for job in self.clients.values():
            job.receive(message, moment(self.now_ms))
            self.do_client_job(job)

    def tell_job(self, job_id: JobId, message: FundsReserved | FundsRefused) -> None:
        """The node's account tells one job."""
        self.nodes[job_id].receive(message, moment(self.now_ms))
        self.do_node_job(self.nodes[job_id])

    def text_of(self, message: JobMessage) -> tuple[str, ...]:
        return self.texts[bytes.fromhex(message.client_nonce)[0]]
