"""What the two sides of a session say to each other, as frozen values (RM-02, "Messages").

`relaymesh.protocol.session_codec` reads and writes them.
"""

import base64
from dataclasses import dataclass
from typing import NewType

from relaymesh.nostr.event import Event, EventId
from relaymesh.protocol.fields import JobType, Order
from relaymesh.protocol.refusal import Refusal
from relaymesh.units import AmountMsat

JobId = NewType("JobId", str)
"""SHA-256(session id ‖ client nonce), 64 lowercase hex characters."""

SessionId = NewType("SessionId", str)
"""32 random bytes chosen by the node, 64 lowercase hex characters."""


@dataclass(frozen=True, slots=True)
class JobMessage:
    """`JOB`, client to node: do this.

    Args:
        client_nonce: 32 fresh bytes in hex; the job id is SHA-256(session id ‖ nonce).
        quote_id: The quote whose row prices the job.
        body: The job itself, as JSON text in a string.
        output_units: The most output wanted, in the row's unit; both sides plan the same tranches from it.
        max_msat: The most the job may cost.
        session: The session the job id was made in, when that was an earlier one (after a crash).
    """

    job_id: JobId
    client_nonce: str
    quote_id: EventId
    model: str
    job_type: JobType
    body: str
    output_units: int
    max_msat: AmountMsat
    session: SessionId | None = None

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        fields: dict[str, object] = {
            "client_nonce": self.client_nonce,
            "quote_id": self.quote_id,
            "model": self.model,
            "job_type": self.job_type,
            "body": self.body,
            "output_units": self.output_units,
            "max_msat": self.max_msat,
        }
        if self.session is not None:
            fields["session"] = self.session
        return ["JOB", self.job_id, fields]


@dataclass(frozen=True, slots=True)
class InvoiceMessage:
    """`INVOICE`, node to client: pay this for one tranche, which holds `units` of output."""

    job_id: JobId
    tranche: int
    order: Order
    bolt11: str
    msat: AmountMsat
    units: int
    expires_at_ms: int

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        fields = {
            "tranche": self.tranche,
            "order": self.order,
            "bolt11": self.bolt11,
            "msat": self.msat,
            "units": self.units,
            "expires_at_ms": self.expires_at_ms,
        }
        return ["INVOICE", self.job_id, fields]


@dataclass(frozen=True, slots=True)
class PaidMessage:
    """`PAID`, client to node: a hint that a tranche was paid; settlement is what one's own wallet says."""

    job_id: JobId
    tranche: int

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        return ["PAID", self.job_id, self.tranche]


@dataclass(frozen=True, slots=True)
class OutputMessage:
    """`OUTPUT`, node to client: the `number`th piece of output, counted from 0, never empty."""

    job_id: JobId
    number: int
    data: str

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        return ["OUTPUT", self.job_id, self.number, self.data]


@dataclass(frozen=True, slots=True)
class SealedMessage:
    """`SEALED`, node to client: one encrypted leaf of a tranche (RM-03, "Sealed delivery")."""

    job_id: JobId
    tranche: int
    leaf: int
    ciphertext: bytes

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        return ["SEALED", self.job_id, self.tranche, self.leaf, base64.b64encode(self.ciphertext).decode()]


@dataclass(frozen=True, slots=True)
class CommitmentMessage:
    """`COMMITMENT`, node to client: the signed 8774 of a sealed tranche; the event is unverified."""

    event: Event

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        return ["COMMITMENT", self.event.to_json()]


@dataclass(frozen=True, slots=True)
class MeteringMessage:
    """`METERING`, node to client: the signed 8770 of a job; the event is unverified."""

    event: Event

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        return ["METERING", self.event.to_json()]


@dataclass(frozen=True, slots=True)
class ReceiptMessage:
    """`RECEIPT`, client to node: the signed 8771 that answers a metering record; the event is unverified."""

    event: Event

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        return ["RECEIPT", self.event.to_json()]


@dataclass(frozen=True, slots=True)
class QuoteMessage:
    """`QUOTE`, node to client: a fresh 28771 that renews the price within the session; the event is unverified."""

    event: Event

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        return ["QUOTE", self.event.to_json()]


@dataclass(frozen=True, slots=True)
class EndMessage:
    """`END`, node to client: this job has no more output."""

    job_id: JobId

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        return ["END", self.job_id]


@dataclass(frozen=True, slots=True)
class CreditMessage:
    """`CREDIT`, client to node: so many more bytes of OUTPUT data (as UTF-8) may be sent for this job.

    Grants add up, and hold only on the connection they were given on.
    """

    job_id: JobId
    amount_bytes: int

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        return ["CREDIT", self.job_id, self.amount_bytes]


@dataclass(frozen=True, slots=True)
class CancelMessage:
    """`CANCEL`, client to node: stop this job at once."""

    job_id: JobId

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        return ["CANCEL", self.job_id]


@dataclass(frozen=True, slots=True)
class ByeMessage:
    """`BYE`, either way: the session is over; `reason` is one sentence for a person."""

    reason: str

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        return ["BYE", self.reason]


@dataclass(frozen=True, slots=True)
class ErrorMessage:
    """`ERROR`, either way: this job is refused or over; `is_retryable` says whether asking again may help.

    The refusal's hint when to ask again travels as a last element, which is left out where there is none.
    """

    job_id: JobId
    refusal: Refusal
    is_retryable: bool

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        hint = () if self.refusal.retry_in_ms is None else (self.refusal.retry_in_ms,)
        return ["ERROR", self.job_id, self.refusal.to_wire(), self.is_retryable, *hint]


@dataclass(frozen=True, slots=True)
class PartMessage:
    """`PART`, either way: a slice of the JSON text of a message that is too long for one frame.

    Args:
        part_id: The same for all parts of one message; the sender never uses it again on this connection.
        index: From 0 to total − 1, sent in this order.
        total: 2 … 64.
        text: The slice; never empty.
    """

    part_id: int
    index: int
    total: int
    text: str

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        return ["PART", self.part_id, self.index, self.total, self.text]


@dataclass(frozen=True, slots=True)
class ResumeMessage:
    """`RESUME`, client to node, after a reconnect: go on with this job from the output with this number."""

    job_id: JobId
    next_output: int

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        return ["RESUME", self.job_id, self.next_output]


@dataclass(frozen=True, slots=True)
class PingMessage:
    """`PING`, either way: answer with a PONG of the same number."""

    number: int

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        return ["PING", self.number]


@dataclass(frozen=True, slots=True)
class PongMessage:
    """`PONG`, either way: the answer to a PING."""

    number: int

    def to_json(self) -> list[object]:
        """The message as a JSON array."""
        return ["PONG", self.number]


SessionMessage = (
    JobMessage
    | InvoiceMessage
    | PaidMessage
    | OutputMessage
    | SealedMessage
    | CommitmentMessage
    | MeteringMessage
    | ReceiptMessage
    | QuoteMessage
    | EndMessage
    | CreditMessage
    | CancelMessage
    | ByeMessage
    | ErrorMessage
    | PartMessage
    | ResumeMessage
    | PingMessage
    | PongMessage
)
