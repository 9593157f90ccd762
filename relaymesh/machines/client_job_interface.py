"""What goes into a client's job machine, what comes out, and where it can stand (`relaymesh.machines.client_job`)."""

from enum import Enum
from typing import Final

from relaymesh.machines.job_events import (
    CancelRequested,
    Deliver,
    InvoiceRead,
    ReadInvoice,
    Received,
    Send,
    SessionEnded,
    SessionRestored,
)
from relaymesh.machines.job_outcome import JobEnded
from relaymesh.machines.machine import TransitionTable
from relaymesh.machines.records import Store
from relaymesh.machines.session_funds import FundsChanged, FundsRefused
from relaymesh.machines.settlement import LookUpPayment, Pay, PaymentResolved


class ClientJobState(Enum):
    """Where the job stands; what is paid is the settlement's own matter."""

    READY = "ready"
    WAITING = "waiting for the first output"
    STREAMING = "streaming"
    ENDING = "waiting for the metering record"
    DOUBTING = "waiting for the wallet's word"
    ENDED = "ended"


_S = ClientJobState
CLIENT_JOB_TRANSITIONS: Final = TransitionTable(
    _S.READY,
    (
        (_S.READY, "start", _S.WAITING),
        (_S.WAITING, "output", _S.STREAMING),
        (_S.WAITING, "end of output", _S.ENDING),
        (_S.STREAMING, "end of output", _S.ENDING),
        (_S.WAITING, "stop", _S.ENDING),
        (_S.STREAMING, "stop", _S.ENDING),
        (_S.ENDING, "payment in doubt", _S.DOUBTING),
        (_S.ENDING, "account", _S.ENDED),
        (_S.DOUBTING, "account", _S.ENDED),
    ),
)


ClientJobInput = (
    Received
    | InvoiceRead
    | PaymentResolved
    | FundsChanged
    | FundsRefused
    | CancelRequested
    | SessionRestored
    | SessionEnded
)
ClientJobEffect = Store | Send | ReadInvoice | Pay | LookUpPayment | Deliver | JobEnded
