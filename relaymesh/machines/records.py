"""What the ledger keeps: every step of a job and of its payments, written before the step has any effect (RM-03).

Fields marked sensitive are encrypted at rest by the ledger's adapter and appear in no `repr`; a job's body and keys are
erased once it is terminal, preimages and quotes stay as proof.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, Literal, TypeVar

from relaymesh.nostr.event import EventId, PublicKey, VerifiedEvent
from relaymesh.units import AmountMsat

Side = Literal["client", "node"]
SESSION_ACCOUNT: Final = "session"
"""The job type of what is no job: the money of a prepaid session, which its jobs draw upon (no JOB can have it)."""


class TrancheState(Enum):
    """Where one tranche's payment stands (RM-03, "Exactly once")."""

    OFFERED = "offered"
    INVOICED = "invoiced"
    PAYING = "paying"
    UNKNOWN = "unknown"
    PAID = "paid"
    RELEASED = "released"
    FAILED = "failed"
    EXPIRED = "expired"


TERMINAL_TRANCHE_STATES = frozenset({TrancheState.RELEASED, TrancheState.FAILED, TrancheState.EXPIRED})


class JobState(Enum):
    """Where a job stands, as the ledger sees it."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TrancheRecord:
    """One tranche of one job, on one side.

    Args:
        client: The client session key; with job id and tranche it is the key of the row.
        tranche: From 0.
        invoice_label: What the node's wallet knows the invoice by; empty on the client's side.
        reason: Why it failed, for a person; empty otherwise.
        fee_msat: What routing cost the payer on top.
        preimage: Sensitive; the proof of payment once paid. On the node's side of a sealed tranche it is k, known from
            the beginning.
        opened_at_ms: When this side opened the tranche: the buyer when it decided to pay, the seller when it wanted to
            be paid. It never changes.
    """

    side: Side
    client: PublicKey
    job_id: str
    tranche: int
    state: TrancheState
    order: str
    units: int
    amount_msat: AmountMsat
    invoice_label: str = ""
    bolt11: str = ""
    payment_hash: str = ""
    fee_msat: AmountMsat = AmountMsat(0)
    reason: str = ""
    preimage: bytes | None = field(default=None, repr=False)
    opened_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job, on one side.

    Args:
        node: The node's key.
        quote_id: The quote whose row prices it.
        client_nonce: 32 bytes in hex; job id = SHA-256(session id ‖ client nonce).
        charged_msat: What the record says it cost; 0 until there is one.
        reason: How it ended, for a person; empty while it is open.
        output_units: The most output that the JOB asked for.
        body: Sensitive; the JOB's body, kept until the job is terminal so that it can be resent after a crash.
        keys: Sensitive; the job's commitment keys, on the client's side after the session's secret key; kept as long.
    """

    side: Side
    client: PublicKey
    job_id: str
    node: PublicKey
    session_id: str
    quote_id: EventId
    model: str
    job_type: str
    client_nonce: str
    maximum_msat: AmountMsat
    state: JobState
    created_at_ms: int
    charged_msat: AmountMsat = AmountMsat(0)
    reason: str = ""
    output_units: int = 0
    body: str = field(default="", repr=False)
    keys: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class EvidenceRecord:
    """A signed event worth keeping: quote, metering record or receipt of a job.

    Args:
        plaintext: Sensitive; what a sealed event says, so that it can be disclosed; empty for public kinds.
    """

    side: Side
    job_id: str
    event: VerifiedEvent
    plaintext: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """What a sealed tranche was delivered as: kept so that a preimage is enough to read it (RM-03, "Sealed delivery").

    Args:
        client: The client session key; with side, job id and tranche it is the key of the row, as of the tranche's.
        commitment: The node's signed 8774.
        leaves: The leaves as they were delivered, encrypted under k, in order; empty once they are no longer needed.
    """

    side: Side
    client: PublicKey
    job_id: str
    tranche: int
    commitment: VerifiedEvent
    leaves: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class PaymentRecord:
    """A payment of the client's side that is no tranche of a job: a router's fee, or one made by hand.

    Args:
        payment_hash: The key of the row, 64 lowercase hex characters.
        state: `paying`, `unknown`, `paid` or `failed`; what failed may be paid again.
        payee: The Lightning node that is paid (33 bytes, hex).
        description: What the invoice says it is for.
        fee_msat: What routing cost on top.
        opened_at_ms: When it was decided upon.
        reason: Why it failed or is unknown, for a person; empty otherwise.
        preimage: Sensitive; the proof of payment once paid.
    """

    payment_hash: str
    state: TrancheState
    payee: str
    description: str
    bolt11: str
    amount_msat: AmountMsat
    opened_at_ms: int
    fee_msat: AmountMsat = AmountMsat(0)
    reason: str = ""
    preimage: bytes | None = field(default=None, repr=False)


LedgerRecord = JobRecord | TrancheRecord | SealedRecord | EvidenceRecord | PaymentRecord


@dataclass(frozen=True, slots=True)
class Store:
    """Effect: write these records in one transaction, durably, before any later effect is carried out.

    Args:
        is_awaited: False where no money depends on it: then later effects need not wait, only later writes do.
    """

    records: tuple[LedgerRecord, ...]
    is_awaited: bool = True


EffectT = TypeVar("EffectT")


def join_stores(effects: Sequence[EffectT]) -> tuple[EffectT, ...]:
    """The same effects, where Stores that follow one another are one: what is durable together costs one flush."""
    joined: list[EffectT] = []
    for effect in effects:
        if isinstance(effect, Store) and joined and isinstance(last := joined[-1], Store):
            is_awaited = effect.is_awaited or last.is_awaited
            joined[-1] = replace(effect, records=last.records + effect.records, is_awaited=is_awaited)
        else:
            joined.append(effect)
    return tuple(joined)
