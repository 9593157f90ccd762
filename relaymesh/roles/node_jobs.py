"""The node's sessions and their jobs, each a machine joined to session, wallet, runner and ledger."""

from secrets import token_bytes
from typing import Final

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from relaymesh.errors import LedgerError, LocalProtocolError, RunnerError, RunnerRefused
from relaymesh.machines.job_events import (
    JobClosed,
    Received,
    RunnerFinished,
    RunnerProduced,
    RunnerStopped,
    Send,
    SessionEnded,
    SessionLost,
    SessionRestored,
    StartRunner,
    StopRunner,
)
from relaymesh.machines.node_job import NodeJob
from relaymesh.machines.node_job_interface import NodeJobEffect, NodeJobInput
from relaymesh.machines.records import Store
from relaymesh.machines.session_funds import FundsAsked, FundsRefused, FundsReserved, JobAbandoned, JobSettled
from relaymesh.machines.settlement import CreateInvoice, WatchInvoice
from relaymesh.nostr.keys import verify
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.ledger import JobQuery
from relaymesh.ports.runners import RunFinished, RunItem, RunOutput, RunRequest
from relaymesh.protocol.commitments import derive_job_commitments
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.key_schedule import SessionSecrets
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.protocol.session_messages import (
    CancelMessage,
    EndMessage,
    ErrorMessage,
    JobId,
    JobMessage,
    MeteringMessage,
    ResumeMessage,
    SessionMessage,
)
from relaymesh.roles.containment import INTERNAL_ERROR, Contained, report
from relaymesh.roles.driver import Driver
from relaymesh.roles.input_counting import count_input
from relaymesh.roles.node_account import NodeAccount, open_node_account
from relaymesh.roles.node_credit import JobRisk
from relaymesh.roles.node_invoices import NodeInvoices
from relaymesh.roles.node_places import Place
from relaymesh.roles.node_tools import NodeTools
from relaymesh.roles.ordered_writes import OrderedWrites
from relaymesh.roles.session_driver import SessionDriver, job_of
from relaymesh.units import MILLISECONDS_PER_SECOND

MAXIMUM_MESSAGES_PER_JOB: Final = 512
"""What a client may say about one job, over all its connections; more ends the session."""
MAXIMUM_STARTING_JOBS: Final = 4_096
"""Jobs of one session that are looked up or counted at the same time; more are refused."""
MAXIMUM_REMEMBERED_JOBS: Final = 4_096
"""So many jobs of its own a session knows by heart; with more it asks the ledger about each."""
MAXIMUM_EARLY_MESSAGES: Final = 16
"""What is kept of what a client says about a job that has not begun yet."""


class NodeJobRun:
    """One job: drives its machine and the runner."""

    def __init__(
        self,
        tools: NodeTools,
        machine: NodeJob,
        session: SessionDriver,
        model: str,
        place: Place,
        risk: JobRisk,
        account: NodeAccount | None = None,
    ) -> None:
        self._tools, self._machine, self._session, self._model = tools, machine, session, model
        self._place, self._risk, self._account = place, risk, account
        self._driver: Driver[NodeJobInput, NodeJobEffect] = Driver(machine, self._act, tools.clock, self._carry_out)
        self._invoices = NodeInvoices(tools.wallet, self._driver.tell)
        self._writes = OrderedWrites(tools.ledger)
        self._runner_scope = anyio.CancelScope()
        self._may_produce = anyio.Event()
        self._is_paused = self._is_under_way = False
        self._heard = 0

    def tell(self, message: NodeJobInput) -> None:
        """Hand the job something that happened."""
        self._driver.tell(message)

    def hear(self, message: SessionMessage) -> bool:
        """Hand the job what the client said about it; False if that is more than any client has to say."""
        self._heard += 1
        if self._heard > MAXIMUM_MESSAGES_PER_JOB:
            return False
        self._driver.tell(Received(message))
        return True

    def pause(self, paused: bool) -> None:
        """The client's credit is used up, or there is some again."""
        self._is_paused = paused
        self._may_produce.set()

    async def run(self) -> None:
        """Drive the job to its end; a ledger that fails ends the job where it stands, unpaid for what follows."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tools.places.lend, self._place)
            await self._driver.run()
            tasks.cancel_scope.cancel()

    def _act(self, driver: Driver[NodeJobInput, NodeJobEffect], effect: NodeJobEffect) -> bool:
        self._may_produce.set()  # whatever happened may be what the runner waits for
        match effect:
            case Store():
                if not self._writes.is_ahead(effect):
                    return False
                driver.start_soon(self._writes.write_ahead, effect.records)
            case Send(message):
                self._session.send(message, job_id=self._machine.message.job_id)
            case CreateInvoice() | WatchInvoice():
                driver.start_soon(self._invoices.work, effect)
            case FundsAsked() | JobSettled():
                assert self._account is not None
                self._account.tell(effect)
            case StartRunner(maximum_output_tokens):
                driver.start_soon(self._run_model, maximum_output_tokens)
            case StopRunner():
                self._runner_scope.cancel()
            case JobClosed():
                driver.stop()
        return True

    async def _carry_out(self, effect: NodeJobEffect) -> None:
        if not isinstance(effect, Store):
            raise LocalProtocolError(f"{type(effect).__name__} is never waited for")
        await self._writes.write(effect.records)
        self._risk.note(effect.records)

    async def _run_model(self, maximum_output_tokens: int) -> None:
        message = self._machine.message
        request = RunRequest(self._model, message.job_type, message.body, maximum_output_tokens)
        with self._runner_scope:
            try:
                await self._tools.places.keep(self._place)
                async with self._tools.runner.run(request) as items:
                    async for item in items:
                        self._take_item(item)
                        if not self._is_under_way:
                            self._is_under_way = True
                            await anyio.lowlevel.checkpoint()  # the first output leaves before a second is made
                        await self._wait_demand()
            except RunnerRefused as error:
                self._driver.tell(RunnerStopped(refuse(RefusalCode.UNSUPPORTED_PARAMETER, str(error))))
            except RunnerError as error:
                self._tools.is_runner_suspect = True
                report("runner", error)
                self._driver.tell(RunnerStopped(refuse(RefusalCode.RUNNER_FAILED, "the node's runner failed")))
            finally:
                self._tools.places.leave(self._place)  # what is left to do takes no machine

    async def _wait_demand(self) -> None:
        """Wait until more output is wanted: paid for (an unpaid invoice lapses), and within the client's credit."""
        while not self._may_go_on():
            with anyio.move_on_after(self._patience_seconds()) as waiting:
                is_paused = self._is_paused
                while not self._may_go_on() and self._is_paused == is_paused:
                    await self._may_produce.wait()
                    self._may_produce = anyio.Event()
            if waiting.cancelled_caught:
                self._driver.tell(RunnerStopped(refuse(RefusalCode.CANCELLED, "the client took no output in time")))
                return

    def _patience_seconds(self) -> float | None:
        return self._tools.job_settings.credit_ms / MILLISECONDS_PER_SECOND if self._is_paused else None

    def _take_item(self, item: RunItem) -> None:
        match item:
            case RunOutput(data):
                self._driver.tell(RunnerProduced(data))
            case RunFinished(input_tokens, output_tokens, finish_reason):
                self._driver.tell(RunnerFinished(input_tokens, output_tokens, finish_reason))

    def _may_go_on(self) -> bool:
        return self._machine.is_hungry and not self._is_paused


class ServedSession:
    """One session of a node (`relaymesh.roles.session_driver.SessionEvents`)."""

    def __init__(self, contract: SessionContract, secrets: SessionSecrets, tools: NodeTools, model: str) -> None:
        self.contract = contract
        self._secrets, self._tools, self._model = secrets, tools, model
        self._jobs: dict[JobId, NodeJobRun] = {}
        self._starting: dict[JobId, list[SessionMessage]] = {}
        self._begun: set[JobId] = set()
        self._waiting: dict[JobId, Place] = {}
        self._account = open_node_account(contract, tools, self._tell_job)
        self._tasks: TaskGroup | None = None
        self.driver: SessionDriver | None = None

    async def run(self) -> None:
        """Drive the session and its jobs until it is closed."""
        assert self.driver is not None
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            if self._account is not None:
                tasks.start_soon(self._account.run, self.driver)
            await self.driver.run()

    def session_opened(self, reconnected: bool) -> None:
        """Messages can be exchanged."""
        if reconnected:
            for each in self._listeners():
                each.tell(SessionRestored())

    def session_interrupted(self) -> None:
        """The connection is gone; jobs give the client some time to come back."""
        for job in self._jobs.values():
            job.tell(SessionLost())

    def session_closed(self, reason: str) -> None:
        """The session is over: so are its jobs."""
        for each in self._listeners():
            each.tell(SessionEnded(reason))
        for place in self._waiting.values():
            self._tools.places.give_up(place, reason)

    def output_paused(self, job_id: JobId, paused: bool) -> None:
        """The client's credit for a job is used up, or there is some again."""
        job = self._jobs.get(job_id)
        if job is not None:
            job.pause(paused)

    def message_delivered(self, message: SessionMessage) -> None:
        """Hand a message to its job; a JOB begins one."""
        job_id = job_of(message)
        if job_id is None or self._tasks is None:
            return
        heard = self._account if job_id == JobId(self.contract.session_id) else self._jobs.get(job_id)
        if heard is not None:
            if not heard.hear(message):
                self._end(f"more than {MAXIMUM_MESSAGES_PER_JOB} messages about one job")
        elif job_id in self._waiting and isinstance(message, CancelMessage):
            self._tools.places.give_up(self._waiting[job_id], "the client cancelled the job")
        elif job_id in self._starting:
            if len(self._starting[job_id]) < MAXIMUM_EARLY_MESSAGES:
                self._starting[job_id].append(message)
        elif len(self._starting) >= MAXIMUM_STARTING_JOBS:
            self._refuse(job_id, refuse(RefusalCode.BUSY, "too many jobs begin at once; ask again in a second"))
        elif isinstance(message, JobMessage):
            self._begin(message)
        elif isinstance(message, ResumeMessage):
            self._starting[job_id] = []
            self._tasks.start_soon(self._recall, job_id)

    def _listeners(self) -> list[NodeJobRun | NodeAccount]:
        """Who is told of what befalls the session: its jobs, and after them its money."""
        return [*self._jobs.values(), *((self._account,) if self._account is not None else ())]

    def _tell_job(self, job_id: JobId, message: FundsReserved | FundsRefused) -> None:
        job = self._jobs.get(job_id)
        if job is not None:
            job.tell(message)

    def _begin(self, message: JobMessage) -> None:
        assert self._tasks is not None
        place = self._tools.places.ask(self.contract.client)
        if isinstance(place, Refusal):
            self._refuse(message.job_id, place)
            return
        self._starting[message.job_id] = []
        if place.began_at is None:
            self._waiting[message.job_id] = place
        self._tasks.start_soon(self._run_job, message, place)

    async def _run_job(self, message: JobMessage, place: Place) -> None:
        """Run one job to its end, once it has a place; whatever goes wrong with it is the end of it alone."""
        try:
            with Contained("job") as job:
                refusal = await self._tools.places.wait(place)
                self._waiting.pop(message.job_id, None)
                if refusal is None:
                    await self._serve(message, place)
                else:
                    self._refuse(message.job_id, refusal)
            self._give_up(message.job_id, job)
        finally:
            self._waiting.pop(message.job_id, None)
            self._jobs.pop(message.job_id, None)
            self._tools.places.leave(place)

    async def _serve(self, message: JobMessage, place: Place) -> None:
        machine = await self._prepare(message)
        if machine is None:
            return
        assert self.driver is not None
        risk = JobRisk.take(self._tools.unpaid, self.contract, self._tools.clock().timestamp)
        if isinstance(risk, Refusal):
            self._refuse(message.job_id, risk)
            return
        job = NodeJobRun(self._tools, machine, self.driver, self._model, place, risk, self._account)
        self._jobs[message.job_id] = job
        for early in self._starting.pop(message.job_id):
            job.hear(early)
        try:
            await job.run()
        finally:
            risk.end()

    async def _recall(self, job_id: JobId) -> None:
        """A client came back for a job that does not run here any more: its record is sent again."""
        with Contained("job") as job:
            if await self._is_known(job_id):
                await self._resend_record(job_id)
            else:
                self._refuse(job_id, refuse(RefusalCode.INVALID_MESSAGE, "this node knows no such job of yours"))
        self._give_up(job_id, job)

    def _give_up(self, job_id: JobId, job: Contained) -> None:
        """Forget a job that is over, and say so where it ended by an error of ours."""
        assert self.driver is not None
        self._starting.pop(job_id, None)
        if job.error is not None and self._account is not None:
            self._account.tell(JobAbandoned(job_id))
        if job.error is not None:
            reason = "the node could not use its ledger" if job.met(LedgerError) else INTERNAL_ERROR
            self._refuse(job_id, refuse(RefusalCode.INTERNAL, reason))
        self.driver.finish_job(job_id)

    def _is_new(self, message: JobMessage) -> bool:
        """Whether no ledger can know this job: its id was made in this session, and the session has not seen it yet."""
        if message.session is not None or message.job_id in self._begun or len(self._begun) >= MAXIMUM_REMEMBERED_JOBS:
            return False
        self._begun.add(message.job_id)
        return True

    async def _is_known(self, job_id: JobId) -> bool:
        """Whether this client's job is in the ledger; another client's job of the same id is none of its business."""
        found = await self._tools.ledger.find_jobs(JobQuery(side="node", job_id=job_id))
        return any(each.job.client == self.contract.client for each in found)

    async def _prepare(self, message: JobMessage) -> NodeJob | None:
        """A machine for this job; None when it is refused, or was done before and its record is sent again."""
        if not self._is_new(message) and await self._is_known(message.job_id):
            await self._resend_record(message.job_id)
            return None
        tokens = await count_input(self._tools, self.contract, self._model, message)
        if isinstance(tokens, Refusal):
            self._refuse(message.job_id, tokens)
            return None
        if self.driver is None or self.driver.is_closed:
            return None  # the session ended meanwhile, and its keys are erased
        commitments = derive_job_commitments(self._secrets, message.job_id)
        return NodeJob(
            self.contract,
            message,
            input_tokens=tokens,
            signer=self._tools.key,
            verify=verify,
            commitments=commitments,
            recovery_keys=commitments.to_bytes(),
            sealing_secret=token_bytes(32),
            settings=self._tools.job_settings,
            funds=None if self._account is None else self._account.machine.funds,
        )

    async def _resend_record(self, job_id: JobId) -> None:
        assert self.driver is not None
        for evidence in await self._tools.ledger.find_evidence(job_id):
            is_record = evidence.event.kind == Kind.METERING and evidence.side == "node"
            if is_record and evidence.event.tag_value("p") == self.contract.client:
                self.driver.send(EndMessage(job_id), MeteringMessage(evidence.event), job_id=job_id)
                return
        self._refuse(job_id, refuse(RefusalCode.REPLAYED, "this job was begun before and cannot begin again"))

    def _end(self, reason: str) -> None:
        assert self.driver is not None
        self.driver.end(reason)

    def _refuse(self, job_id: JobId, refusal: Refusal) -> None:
        assert self.driver is not None
        self.driver.send(ErrorMessage(job_id, refusal, refusal.is_retryable))
