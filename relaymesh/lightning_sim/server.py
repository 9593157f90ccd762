"""The simulated network on the event loop: one unix socket per node, one clock, one file."""

import fcntl
import os
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import anyio
import anyio.abc

from relaymesh.errors import UsageError
from relaymesh.lightning_sim.answers import Result, RpcFailure, Waiting
from relaymesh.lightning_sim.commands import answer, encode_reply
from relaymesh.lightning_sim.framing import RequestReader
from relaymesh.lightning_sim.ledger import Change
from relaymesh.lightning_sim.plan import NetworkPlan
from relaymesh.lightning_sim.simulation import Simulation
from relaymesh.lightning_sim.sockets import Connection, Listener
from relaymesh.lightning_sim.store import Store
from relaymesh.units import MILLISECONDS_PER_SECOND

RPC_FILE_NAME: Final = "lightning-rpc"
_STORE_FILE_NAME: Final = "network.sqlite3"
_LOCK_FILE_NAME: Final = "lock"
_LONGEST_SOCKET_PATH: Final = 103
_REQUESTS_AT_ONCE: Final = 256

ResultT = TypeVar("ResultT")


class LightningNetwork:
    """A running network; `start` makes one. Its methods are for tests that want something to go wrong."""

    def __init__(
        self,
        directory: Path,
        simulation: Simulation,
        store: Store,
        tasks: anyio.abc.TaskGroup,
        clock_ms: Callable[[], int],
    ) -> None:
        self.directory = directory
        self.simulation = simulation
        self._store = store
        self._tasks = tasks
        self._now_ms = clock_ms
        self._changed = anyio.Event()
        self._serving: dict[str, anyio.CancelScope] = {}
        self._listeners: list[Callable[[tuple[Change, ...]], None]] = []

    @classmethod
    @asynccontextmanager
    async def start(cls, directory: Path, plan: NetworkPlan, clock_ms: Callable[[], int]) -> AsyncIterator[Self]:
        """Run the network in `directory` until the block ends; what the folder holds from before goes on.

        Args:
            directory: Made where there is none, for its owner alone; one network at a time uses it.
            plan: What the network is to look like.
            clock_ms: The time, in Unix milliseconds.

        Raises:
            UsageError: The plan or the folder cannot be used.
            LedgerError: The folder's file cannot be used.
        """
        directory = _prepare(directory)
        with _locked(directory / _LOCK_FILE_NAME), Store(directory / _STORE_FILE_NAME) as store:
            simulation = Simulation(plan, store.load(), secrets.token_bytes)
            async with anyio.create_task_group() as tasks:
                network = cls(directory, simulation, store, tasks, clock_ms)
                simulation.open(network._now_ms())
                network._commit()
                tasks.start_soon(network._keep_time)
                for name in simulation.ledger.nodes:
                    network._open_socket(name)
                try:
                    yield network
                finally:
                    tasks.cancel_scope.cancel()
                    for name in simulation.ledger.nodes:
                        network.rpc_path(name).unlink(missing_ok=True)

    def rpc_path(self, name: str) -> Path:
        """The JSON-RPC socket of the wallet (or of `hub`)."""
        return self.directory / name / RPC_FILE_NAME

    def hold_payments(self, name: str, hold_ms: int | None = None) -> None:
        """Hold each payment to this node that long from now on, or until `release_payments`."""
        self.simulation.faults.hold_ms[name] = hold_ms

    def release_payments(self, name: str) -> None:
        """Hold no more, and let those that are held go on."""
        self.simulation.release(name, self._now_ms())
        self._commit()

    def refuse_next(self, name: str, failure: str) -> None:
        """Let this node answer the next payment that reaches it with a failure (`Faults.refuse_next`)."""
        self.simulation.faults.refuse_next.setdefault(name, deque()).append(failure)

    def kill_node(self, name: str) -> None:
        """As `kill -9`: connections break, the socket's file stays, payments stop where they are."""
        self.simulation.take_down(name)
        self._serving.pop(name).cancel()
        self._commit()

    def restart_node(self, name: str) -> None:
        """Bring a killed node back: it answers again, and payments go on."""
        self._open_socket(name)
        self.simulation.bring_up(name, self._now_ms())
        self._commit()

    async def ask(self, name: str, method: object, parameters: object) -> Result:
        """Carry out a command of this node's JSON-RPC; whatever it changed is in the file before this returns.

        Raises:
            RpcFailure: As a real node would refuse it.
        """
        found = self.change(lambda simulation, now_ms: answer(simulation, name, method, parameters, now_ms))
        return await self._wait(found) if isinstance(found, Waiting) else found

    def change(self, work: Callable[[Simulation, int], ResultT]) -> ResultT:
        """Do something to the network, with the time in Unix milliseconds, and write down what it changed."""
        try:
            return work(self.simulation, self._now_ms())
        finally:
            self._commit()

    def watch(self, listener: Callable[[tuple[Change, ...]], None]) -> Callable[[], None]:
        """Call `listener` with whatever is written down, until the function that this returns is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @property
    def next_change(self) -> anyio.Event:
        """Set when something changes, a node that is killed or restarted included."""
        return self._changed

    def _open_socket(self, name: str) -> None:
        path = self.rpc_path(name)
        if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
            raise UsageError(
                f"a socket's path can have {_LONGEST_SOCKET_PATH} bytes, {path} has more: use a shorter one"
            )
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._serving[name] = anyio.CancelScope()
        self._tasks.start_soon(self._serve, name, Listener(path), self._serving[name])

    async def _serve(self, name: str, listener: Listener, scope: anyio.CancelScope) -> None:
        with scope, listener:
            async with anyio.create_task_group() as tasks:
                while True:
                    tasks.start_soon(self._converse, name, await listener.accept())

    async def _converse(self, name: str, connection: Connection) -> None:
        """One connection: each request in a task of its own, since some wait."""
        reader, slots = RequestReader(), anyio.Semaphore(_REQUESTS_AT_ONCE)
        with connection:
            async with anyio.create_task_group() as tasks:
                while data := await connection.receive():
                    try:
                        requests = reader.feed(data)
                    except RpcFailure as failure:
                        await connection.send(encode_reply(None, failure))
                        break
                    for request in requests:
                        await slots.acquire()
                        tasks.start_soon(self._answer, name, request, connection, slots)
                tasks.cancel_scope.cancel()

    async def _answer(self, name: str, request: dict[str, Any], connection: Connection, slots: anyio.Semaphore) -> None:
        """Answer one request; whatever it changed is in the file first."""
        reply: Result | RpcFailure
        try:
            reply = await self.ask(name, request.get("method"), request.get("params"))
        except RpcFailure as failure:
            reply = failure
        await connection.send(encode_reply(request.get("id"), reply))
        slots.release()

    async def _wait(self, waiting: Waiting) -> Result:
        """Until the answer is there; bounded by the client, who closes the connection, as with a real node."""
        while True:
            await self._wait_for_change(waiting.until_ms)
            result = waiting.check(self._now_ms())
            if result is not None:
                return result

    async def _wait_for_change(self, until_ms: int | None) -> None:
        seconds = float("inf") if until_ms is None else (until_ms - self._now_ms()) / MILLISECONDS_PER_SECOND
        with anyio.move_on_after(seconds):
            await self._changed.wait()

    async def _keep_time(self) -> None:
        """Let what is due happen."""
        while True:
            await self._wait_for_change(self.simulation.deadline())
            self.simulation.advance(self._now_ms())
            self._commit()

    def _commit(self) -> None:
        """Write down what has changed, then let everybody look again who waits for something."""
        changes = self.simulation.ledger.take_changes()
        if changes:
            self._store.save(changes)
            for listener in tuple(self._listeners):
                listener(changes)
        self._changed.set()
        self._changed = anyio.Event()


def _prepare(directory: Path) -> Path:
    directory = directory.absolute()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {directory} cannot be made: {error.strerror}; choose another") from error
    return directory


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One network per folder: the lock goes with the process, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"a simulated network runs in {path.parent} already: stop it, or name another") from error
        yield
