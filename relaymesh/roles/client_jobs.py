"""The client's open session and its running jobs, each a machine joined to session, wallet and ledger."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup, TaskStatus

from relaymesh.errors import LedgerError, LocalProtocolError, SessionError
from relaymesh.machines.client_job import ClientJob
from relaymesh.machines.client_job_interface import ClientJobEffect, ClientJobInput
from relaymesh.machines.job_events import (
    CancelRequested,
    Deliver,
    ReadInvoice,
    Received,
    Send,
    SessionEnded,
    SessionRestored,
)
from relaymesh.machines.job_outcome import JobEnded
from relaymesh.machines.records import Store
from relaymesh.machines.session_account import admit_session_job
from relaymesh.machines.session_funds import FundsChanged, FundsRefused, JobAbandoned, JobBegun, JobSettled
from relaymesh.machines.settlement import LookUpPayment, Pay
from relaymesh.market.pricing import TranchePlan
from relaymesh.market.settlement_choice import ChosenTerm
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.protocol.commitments import derive_job_commitments
from relaymesh.protocol.contract import JobOrder, SessionContract
from relaymesh.protocol.key_schedule import SessionSecrets
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.protocol.session_messages import JobId, OutputMessage, SessionMessage
from relaymesh.roles.client_account import ClientAccount, open_client_account
from relaymesh.roles.client_payments import ClientPayments
from relaymesh.roles.client_tools import ClientTools
from relaymesh.roles.containment import INTERNAL_ERROR, Contained
from relaymesh.roles.driver import Driver
from relaymesh.roles.ordered_writes import OrderedWrites
from relaymesh.roles.output_queue import OutputQueue
from relaymesh.roles.session_driver import SessionDriver, job_of
from relaymesh.units import AmountMsat

FAREWELL_SECONDS: Final = 1
MAXIMUM_MESSAGES_PER_JOB: Final = 2_048
"""What a node may say about one job beside its output, over all connections; more ends the session."""


class RunningJob:
    """A job under way: `async with` it, iterate over its output, then ask for its outcome.

    Leaving the block before the job has ended cancels it, and waits at most a second for the node's record.
    """

    def __init__(self, tools: ClientTools, machine: ClientJob, session: SessionDriver) -> None:
        self.job_id = machine.job_id
        self._tools, self._session = tools, session
        self._driver: Driver[ClientJobInput, ClientJobEffect] = Driver(machine, self._act, tools.clock, self._carry_out)
        self._payments = ClientPayments(tools, self.job_id, self._driver.tell)
        self._writes = OrderedWrites(tools.ledger)
        self._outputs = OutputQueue()
        self._outcome: JobEnded | None = None
        self._ended = anyio.Event()
        self.failure: LedgerError | None = None
        self._machine = machine
        self._heard = 0
        self._has_broken_off = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._ended.is_set():
            self.cancel()
            with anyio.move_on_after(FAREWELL_SECONDS, shield=True):
                await self._ended.wait()
        if error is None and self._ended.is_set() and self._outputs.is_read:
            await self._erase()
        self._outputs.abandon()

    async def _erase(self) -> None:
        """The buyer has all output: what it was delivered as is kept no longer; if that fails, the next start does."""
        erasure = self._machine.output.erasure()
        if erasure:
            with Contained("erasure"):
                await self._tools.ledger.write(erasure)

    def outputs(self) -> AsyncIterator[str]:
        """The output, piece by piece, as it arrives; ends when there is no more."""
        return self._outputs

    async def wait_outcome(self) -> JobEnded:
        """How the job ended; waits for the machine, which has a deadline for everything.

        Raises:
            LedgerError: The ledger could not be written, so the job was stopped where it stood.
        """
        await self._ended.wait()
        if self.failure is not None:
            raise self.failure
        assert self._outcome is not None
        return self._outcome

    @property
    def is_settled(self) -> bool:
        """Whether the job ended as its machine wanted, with everything in the ledger."""
        return self._outcome is not None and not self._has_broken_off

    def cancel(self) -> None:
        """Stop the job; what was delivered is still accounted for."""
        self._outputs.abandon()
        self._driver.tell(CancelRequested())

    def tell(self, message: ClientJobInput) -> None:
        """Hand the job something that happened in its session."""
        self._driver.tell(message)

    def hear(self, message: SessionMessage) -> bool:
        """Hand the job what the node said about it; False if that is more than any node has to say."""
        if not isinstance(message, OutputMessage):  # of which a node sends no more than was granted
            self._heard += 1
            if self._heard > MAXIMUM_MESSAGES_PER_JOB:
                return False
        self._driver.tell(Received(message))
        return True

    async def run(self) -> None:
        """Drive the job to its end; what nobody foresaw ends it as failed, or as unknown if money is on its way."""
        try:
            with Contained("job") as job:
                await self._driver.run()
            if job.met(LedgerError):
                self.failure = LedgerError("the ledger could not be written, so the job was stopped where it stood")
            elif job.error is not None:
                self._has_broken_off = True
                self._outcome = self._machine.break_off(refuse(RefusalCode.INTERNAL, INTERNAL_ERROR))
        finally:
            self._outputs.end()
            self._session.finish_job(self.job_id)
            self._ended.set()

    def _act(self, driver: Driver[ClientJobInput, ClientJobEffect], effect: ClientJobEffect) -> bool:
        match effect:
            case Store():
                if not self._writes.is_ahead(effect):
                    return False
                driver.start_soon(self._writes.write_ahead, effect.records)
            case Deliver(data):
                return self._outputs.put(data)
            case Send(message):
                self._session.send(message, job_id=self.job_id)
            case ReadInvoice() | Pay() | LookUpPayment():
                driver.start_soon(self._payments.work, effect)
            case JobEnded():
                self._outcome = effect
                self._tools.experience.book(
                    self._machine.contract, effect, self._machine.order.model, self._tools.clock().timestamp
                )
                driver.stop()
        return True

    async def _carry_out(self, effect: ClientJobEffect) -> None:
        match effect:
            case Store(records):
                await self._writes.write(records)
            case Deliver(data):
                await self._outputs.wait_room()
                self._outputs.put(data)
            case _:
                raise LocalProtocolError(f"{type(effect).__name__} is never waited for")


class OpenSession:
    """A session that is open, or on its way: runs any number of jobs, each in a task of its own.

    Implements `relaymesh.roles.session_driver.SessionEvents`.
    """

    def __init__(
        self,
        contract: SessionContract,
        key: KeyPair,
        secrets: SessionSecrets,
        tools: ClientTools,
        chosen_term: ChosenTerm | None = None,
    ) -> None:
        self.contract, self.chosen_term = contract, chosen_term
        self._key, self._secrets, self._tools = key, secrets, tools
        self._jobs: dict[JobId, RunningJob] = {}
        self._driver: SessionDriver | None = None
        self._tasks: TaskGroup | None = None
        self._account = open_client_account(contract, tools, self._tell_jobs)
        self.is_closed = self._is_connected = False
        self.close_reason = ""

    async def run(self, driver: SessionDriver, *, task_status: TaskStatus[None]) -> None:
        """Drive the session and its jobs until it is closed."""
        self._driver = driver
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            if self._account is not None:
                tasks.start_soon(self._account.run, driver)
            task_status.started()
            await driver.run()

    @property
    def prepaid_msat(self) -> AmountMsat:
        """What was or may have been prepaid for the whole session; 0 where each job is paid by itself."""
        return AmountMsat(0) if self._account is None else self._account.machine.committed_msat

    @property
    def balance_msat(self) -> AmountMsat:
        """What is prepaid for the whole session and was not drawn yet."""
        return AmountMsat(0) if self._account is None else self._account.machine.funds.balance_msat

    @property
    def is_usable(self) -> bool:
        """Whether a further job may begin: the node is there, and we know of all our money and go on paying."""
        if self.is_closed or not self._is_connected:
            return False
        money = None if self._account is None else self._account.machine
        return money is None or (money.refusal is None and not money.is_unknown)

    def price(self, order: JobOrder) -> TranchePlan | Refusal:
        """The tranches of this job, as the session's quote prices them; a refusal where it does not fit."""
        row, term = self.contract.quote.row, self.contract.term
        input_units = len(order.body.encode()) if row.unit == "byte" else 0
        granted = admit_session_job(
            self.contract,
            input_units=input_units,
            maximum_output_units=order.output_units,
            maximum_msat=order.maximum_msat,
        )
        if isinstance(granted, Refusal):
            return granted
        return TranchePlan(row, input_units, granted, term.tranche_units if self._account is None else None)

    def start_job(self, order: JobOrder, plan: TranchePlan) -> RunningJob:
        """Begin a job; the JOB leaves with the next frame.

        Raises:
            SessionError: The session is over.
        """
        assert self._driver is not None and self._tasks is not None
        if self.is_closed:
            raise SessionError(f"the session is over: {self.close_reason}", retryable=True)
        job_id = order.job_id(self.contract.session_id)
        commitments = derive_job_commitments(self._secrets, job_id)
        machine = ClientJob(
            self.contract,
            order,
            plan,
            signer=self._key,
            verify=verify,
            commitments=commitments,
            recovery_keys=self._key.reveal_secret() + commitments.to_bytes(),
            known_payment_hashes=self._tools.known_payment_hashes,
            settings=self._tools.job_settings,
            account=None if self._account is None else self._account.machine,
        )
        job = RunningJob(self._tools, machine, self._driver)
        self._jobs[job_id] = job
        if self._account is not None:
            self._account.tell(JobBegun(job_id))
        self._tasks.start_soon(self._run_job, job)
        return job

    async def aclose(self, reason: str = "the client is done") -> None:
        """End the session with a goodbye; what is left of its prepaid money is booked, within a second."""
        if self._driver is not None and not self.is_closed:
            self._driver.end(reason)
        if self._account is not None:
            with anyio.move_on_after(FAREWELL_SECONDS, shield=True):
                await self._account.wait_closed()

    async def _run_job(self, job: RunningJob) -> None:
        try:
            await job.run()
        finally:
            self._jobs.pop(job.job_id, None)
            if self._account is not None:
                self._account.tell(JobSettled(job.job_id) if job.is_settled else JobAbandoned(job.job_id))

    def _tell_jobs(self, message: FundsChanged | FundsRefused) -> None:
        for job in self._jobs.values():
            job.tell(message)

    # ── SessionEvents ─────────────────────────────────────────────────────────────────────────────────────────────

    def session_opened(self, reconnected: bool) -> None:
        """Messages can be exchanged; after a reconnect every job says again what it needs."""
        self._is_connected = True
        if reconnected:
            for job in self._jobs.values():
                job.tell(SessionRestored())

    def session_interrupted(self) -> None:
        """The connection is gone; another may come: the jobs' own deadlines keep running."""
        self._is_connected = False

    def message_delivered(self, message: SessionMessage) -> None:
        """Hand a message to its job; what names no job of ours is dropped."""
        job_id = job_of(message)
        heard: RunningJob | ClientAccount | None = self._jobs.get(job_id) if job_id is not None else None
        if job_id == JobId(self.contract.session_id):
            heard = self._account
        if heard is not None and not heard.hear(message) and self._driver is not None:
            self._driver.end(f"more than {MAXIMUM_MESSAGES_PER_JOB} messages about one job")

    def output_paused(self, job_id: JobId, paused: bool) -> None:
        """Flow control is the node's affair."""

    def session_closed(self, reason: str) -> None:
        """The session is over: so are its jobs."""
        self.is_closed, self.close_reason = True, reason
        for job in self._jobs.values():
            job.tell(SessionEnded(reason))
        if self._account is not None:
            self._account.tell(SessionEnded(reason))
