"""What a handshake agreed on, and what one job under it asks for: the values both sides' machines work from (RM-02)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from relaymesh.nostr.event import EventId, PublicKey, VerifiedEvent
from relaymesh.protocol.fields import JobType
from relaymesh.protocol.guarantee import SignedGuarantee
from relaymesh.protocol.quote import Quote, QuotedTerm
from relaymesh.protocol.session_codec import compute_job_id
from relaymesh.protocol.session_messages import JobId, JobMessage, SessionId
from relaymesh.units import AmountMsat


@dataclass(frozen=True, slots=True)
class SessionContract:
    """What the quote, the session request and the session accept add up to.

    Args:
        node: The node's key.
        client: The client session key, made for this session.
        session_id: The session.
        request_id: The 28772.
        accept_id: The 28773.
        quote_event: The node's signed 28771, as the evidence that prices are checked against.
        quote: What it says.
        term: The settlement term that both sides named.
        lightning_node_id: The offer's `ln_pubkey`: who invoices must pay.
        guarantee: Who answers for what the client leaves unpaid, where somebody does.
        quote_plaintext: What the quote's event says, as it was sealed: the client's, who may have to disclose it.
    """

    node: PublicKey
    client: PublicKey
    session_id: SessionId
    request_id: EventId
    accept_id: EventId
    quote_event: VerifiedEvent
    quote: Quote
    term: QuotedTerm
    lightning_node_id: str
    guarantee: SignedGuarantee | None = None
    quote_plaintext: str = field(default="", repr=False, compare=False)

    @property
    def guarantor(self) -> PublicKey | None:
        """The long-term key that answers for the client, as far as the node was shown one."""
        return None if self.guarantee is None else self.guarantee.guarantor


@dataclass(frozen=True, slots=True)
class JobOrder:
    """One job as the buyer wants it.

    Args:
        body: JSON text in the shape of the OpenAI API for the job type.
        output_units: The most output wanted, in the quoted row's unit.
        maximum_msat: The most the job may cost.
        client_nonce: 32 fresh random bytes.
    """

    model: str
    job_type: JobType
    body: str
    output_units: int
    maximum_msat: AmountMsat
    client_nonce: bytes

    def job_id(self, session_id: SessionId) -> JobId:
        """SHA-256(session id ‖ client nonce) (RM-02, "Jobs")."""
        return compute_job_id(session_id, self.client_nonce)

    def to_message(self, contract: SessionContract) -> JobMessage:
        """The JOB that asks for it under this contract."""
        return JobMessage(
            job_id=self.job_id(contract.session_id),
            client_nonce=self.client_nonce.hex(),
            quote_id=contract.quote_event.id,
            model=self.model,
            job_type=self.job_type,
            body=self.body,
            output_units=self.output_units,
            max_msat=self.maximum_msat,
        )


class Commitments(Protocol):
    """What only the two parties of a session can compute about one job's content (RM-02, "Privacy").

    Made for the job when it begins, from keys that outlive the session. `relaymesh.protocol.commitments` has the real
    one; the simulator's returns tokens.
    """

    def commit_prompt(self, body: str) -> str:
        """HMAC-SHA256 of the JOB's body, in hex."""
        ...

    def commit_output(self, outputs: Sequence[str]) -> str:
        """HMAC-SHA256 of the whole output (all pieces joined), in hex."""
        ...

    def payment_salt(self, tranche: int) -> bytes:
        """The 32 bytes that a tranche's payment commitment is salted with."""
        ...
