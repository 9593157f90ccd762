"""What can happen to a job on either side, and what either side can want done: the inputs and effects both share."""

from dataclasses import dataclass

from relaymesh.machines.records import JobState
from relaymesh.protocol.payment import InvoiceReading
from relaymesh.protocol.refusal import Refusal
from relaymesh.protocol.session_messages import SessionMessage


@dataclass(frozen=True, slots=True)
class Received:
    """The session delivered this message for this job."""

    message: SessionMessage


@dataclass(frozen=True, slots=True)
class InvoiceRead:
    """The invoice was decoded, or it must not be paid whatever it is for."""

    tranche: int
    decoded: InvoiceReading


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The buyer no longer wants the job."""


@dataclass(frozen=True, slots=True)
class SessionLost:
    """The connection broke; the session may still come back."""


@dataclass(frozen=True, slots=True)
class SessionRestored:
    """The session is connected again after it was lost."""


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The session is over for good; `reason` is one sentence for a person."""

    reason: str


@dataclass(frozen=True, slots=True)
class Send:
    """Effect: send this message over the session."""

    message: SessionMessage


@dataclass(frozen=True, slots=True)
class ReadInvoice:
    """Effect: decode this invoice and hand it back as `InvoiceRead`."""

    tranche: int
    bolt11: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """Effect: give this piece of output to the buyer."""

    data: str


@dataclass(frozen=True, slots=True)
class RunnerProduced:
    """The runner produced a piece of output; `tokens` is how many of its tokens that was."""

    data: str
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class RunnerFinished:
    """The runner is done; token counts are the engine's own."""

    input_tokens: int
    output_tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class RunnerStopped:
    """The runner failed or refused."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class StartRunner:
    """Effect: run the job; the engine must stop after so many output tokens, whatever the body asks for."""

    maximum_output_tokens: int


@dataclass(frozen=True, slots=True)
class StopRunner:
    """Effect: stop the runner at once, if it runs."""


@dataclass(frozen=True, slots=True)
class JobClosed:
    """Effect, the last one: the job needs nothing more."""

    state: JobState
