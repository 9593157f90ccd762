"""`python -m tests.chaos.faulty_process`: runs `relaymesh` commands, each in a process of its own that is watched.

Starting Python and importing RelayMesh takes longer than a whole purchase, so this process imports everything once and
forks for every command. It is told what to run on standard input, a JSON object a line, and answers with a line each:
`{"plan", "arguments", "environment", "directory", "output", "errors"}` starts a command and answers its process id,
`{"wait": process id}` waits for its end and answers how it ended.
"""

import json
import os
import signal
import sys
import traceback
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

import relaymesh.cli.application
import relaymesh.cli.wiring as wiring
from relaymesh.adapters import core_lightning, invoices, sql_ledger, websocket_connection
from relaymesh.cli import main, recovering, wallet_wiring
from relaymesh.machines import invoice_checks
from relaymesh.machines.job_events import CancelRequested
from relaymesh.machines.job_settings import ClientJobSettings, NodeJobSettings
from relaymesh.machines.opening_events import OpeningSettings
from relaymesh.machines.session_interface import SessionSettings
from relaymesh.ports.lightning import DecodedInvoice
from relaymesh.ports.memory_runner import ECHO_MODEL, MemoryRunner, RunScript
from relaymesh.ports.runners import RunRequest
from relaymesh.roles import client_account, client_jobs, node_account, node_jobs, session_driver
from relaymesh.roles.client import ClientSettings
from relaymesh.roles.client_tools import ClientTools
from relaymesh.roles.driver import Driver
from relaymesh.roles.node import NodeSettings
from relaymesh.roles.node_tools import NodeTools
from tests.chaos.fault_plan import FaultPlan, effect_step
from tests.chaos.fault_watch import Watch, WatchedDriver, WatchedLedger, WatchedTables, replace_part, watched_context
from tests.chaos.faulty_wallet import FaultyWallet

LOADED = (relaymesh.cli.application, core_lightning, invoices, sql_ledger, websocket_connection)
"""Imported before the first fork, so that no command waits for them."""

PIECES = tuple(f"word {number:02}, " for number in range(12))
"""What the node's model says to everything: 12 pieces of 9 bytes."""
SESSION = SessionSettings(redial_after_ms=(50, 100), reconnect_in_ms=1_000)
OPENING = OpeningSettings(quote_ms=1_500, accept_ms=1_500, patience_ms=0)
CLIENT_JOB = ClientJobSettings(
    first_output_ms=1_500, first_output_etas=1, idle_ms=1_500, metering_ms=500, doubt_ms=1_500
)
NODE_JOB = NodeJobSettings(invoice_expiry_seconds=3, credit_ms=1_000, receipt_ms=300, disconnect_ms=500)


class WatchedRunner(MemoryRunner):
    """The model, whose first item is the effect of starting it."""

    watch: Watch

    def run(self, request: RunRequest) -> Any:
        return self._run_watched(request)

    @asynccontextmanager
    async def _run_watched(self, request: RunRequest) -> Any:
        async with super().run(request) as items:
            yield self._watched(items)

    async def _watched(self, items: Any) -> Any:
        is_first = True
        async for item in items:
            yield item
            if is_first:
                self.watch.reach(effect_step("StartRunner"), "after")
            is_first = False


def install(watch: Watch) -> None:
    """Join watched parts where production joins its own, and shorten every time that somebody waits for the dead."""
    tables = WatchedTables(watch)
    tables.install()
    WatchedDriver.watch, WatchedDriver.tables = watch, tables
    for module in (node_jobs, client_jobs, node_account, client_account):
        replace_part(module, "Driver", WatchedDriver)
    _watch_sessions(watch)
    _watch_wiring(watch)
    replace_part(invoice_checks, "INVOICE_MARGIN_SECONDS", 0)  # an invoice of 3 s is fresh enough here
    if watch.plan.buyer != "honest":
        WatchedDriver.after_output = staticmethod(_misbehave(watch.plan.buyer))


def _watch_sessions(watch: Watch) -> None:
    write = session_driver.SessionDriver._write

    async def watched(driver: session_driver.SessionDriver) -> None:
        await write(driver)
        watch.written()

    replace_part(session_driver.SessionDriver, "_write", watched)


def _watch_wiring(watch: Watch) -> None:
    join: dict[str, Any] = vars(wiring)
    open_ledger, open_wallet = join["open_ledger"], join["open_wallet"]

    @asynccontextmanager
    async def open_faulty_wallet(*arguments: Any) -> Any:
        async with open_wallet(*arguments) as inner, anyio.create_task_group() as tasks:
            yield FaultyWallet(inner, watch, tasks)
            tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def open_memory_runner(_: Any) -> Any:
        fails_after = {"fails": 8, "breaks": 0}.get(watch.plan.runner)
        pieces = () if watch.plan.runner == "silent" else PIECES
        runner = WatchedRunner(RunScript(pieces=pieces, fails_after=fails_after), (ECHO_MODEL,))
        runner.watch = watch
        yield wiring.FoundRunner(runner, "the suite's own engine", (ECHO_MODEL,))

    open_watched_ledger = watched_context(open_ledger, lambda inner: WatchedLedger(inner, watch))
    for module in (wiring, recovering):
        replace_part(module, "open_ledger", open_watched_ledger)
    for module in (wiring, wallet_wiring):
        replace_part(module, "open_wallet", open_faulty_wallet)
    join["open_runner"] = open_memory_runner
    join["ClientTools"] = lambda **options: _watched_tools(watch, ClientTools(**options))
    join["ClientSettings"] = lambda **options: ClientSettings(**{**options, "opening": OPENING, "session": SESSION})
    join["NodeSettings"] = lambda **options: NodeSettings(**{**options, "session": SESSION})
    join["NodeTools"] = lambda *given, **options: _impatient(NodeTools(*given, **options))


def _watched_tools(watch: Watch, tools: ClientTools) -> ClientTools:
    async def read_invoice(bolt11: str) -> DecodedInvoice:
        try:
            return await tools.read_invoice(bolt11)
        finally:
            watch.reach(effect_step("ReadInvoice"), "after")

    return replace(tools, job_settings=CLIENT_JOB, read_invoice=read_invoice)


def _impatient(tools: NodeTools) -> NodeTools:
    return replace(tools, job_settings=NODE_JOB)


def _misbehave(buyer: str) -> Any:
    connections: list[Any] = []
    done: list[bool] = []
    made = websocket_connection.WebSocketConnection.connection_made

    def connection_made(connection: Any, transport: Any) -> None:
        connections.append(connection)
        made(connection, transport)

    replace_part(websocket_connection.WebSocketConnection, "connection_made", connection_made)

    def misbehave(driver: Driver[Any, Any]) -> None:
        if done:
            return
        done.append(True)
        match buyer:
            case "cancels":
                driver.tell(CancelRequested())
            case "interrupts":
                os.kill(os.getpid(), signal.SIGINT)
            case "disconnects":
                connections[-1].abort()  # the last one that was made is the session's

    return misbehave


def become(wanted: dict[str, Any]) -> None:
    """In a process of its own: the command, watched, to its end."""
    os.setsid()
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.chdir(wanted["directory"])
    for descriptor, path in ((1, wanted["output"]), (2, wanted["errors"])):
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(file, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - it stays open as long as the process
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = ["relaymesh", *wanted["arguments"]]
    install(Watch(FaultPlan(**wanted["plan"])))
    main()


def start(wanted: dict[str, Any]) -> int:
    """Fork; the process id of the command."""
    process_id = os.fork()
    if process_id:
        return process_id
    code = 1
    try:
        become(wanted)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def serve() -> None:
    """Do what is asked, one line after the other, until nobody asks any more."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        else:
            print(start(asked), flush=True)


if __name__ == "__main__":
    serve()
