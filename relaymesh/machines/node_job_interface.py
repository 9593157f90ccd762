"""What goes into a node's job machine, what comes out of it, and where it can stand (`relaymesh.machines.node_job`)."""

from enum import Enum
from typing import Final

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
from relaymesh.machines.machine import TransitionTable
from relaymesh.machines.records import Store
from relaymesh.machines.session_funds import FundsAsked, FundsRefused, FundsReserved, JobSettled
from relaymesh.machines.settlement import CreateInvoice, InvoiceFailed, InvoiceIssued, InvoiceResolved, WatchInvoice


class NodeJobState(Enum):
    """Where the job stands."""

    READY = "ready"
    FUNDING = "waiting for the first payment"
    RUNNING = "running"
    CLOSING = "waiting for the receipt"
    ENDED = "ended"


_S = NodeJobState
NODE_JOB_TRANSITIONS: Final = TransitionTable(
    _S.READY,
    (
        (_S.READY, "refuse", _S.ENDED),
        (_S.READY, "admit", _S.FUNDING),
        (_S.READY, "begin", _S.RUNNING),
        (_S.FUNDING, "funded", _S.RUNNING),
        (_S.FUNDING, "stop", _S.CLOSING),
        (_S.RUNNING, "finish", _S.CLOSING),
        (_S.RUNNING, "stop", _S.CLOSING),
        (_S.CLOSING, "close", _S.ENDED),
    ),
)


NodeJobInput = (
    Received
    | InvoiceIssued
    | InvoiceFailed
    | InvoiceResolved
    | FundsReserved
    | FundsRefused
    | RunnerProduced
    | RunnerFinished
    | RunnerStopped
    | SessionLost
    | SessionRestored
    | SessionEnded
)
NodeJobEffect = (
    Store | Send | CreateInvoice | WatchInvoice | FundsAsked | JobSettled | StartRunner | StopRunner | JobClosed
)
