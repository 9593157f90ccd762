"""What a node's `Reception` is told, what it is set to, and what it can want done."""

from dataclasses import dataclass
from typing import Final

from relaymesh.nostr.event import PublicKey, VerifiedEvent
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.open_request import OPEN_REQUEST_POW_BITS
from relaymesh.protocol.session_messages import SessionId

REMEMBERED_MS: Final = 120_000
"""So long an answer is kept, and a quote that was used; no quote stands longer."""


@dataclass(frozen=True, slots=True)
class ReceptionSettings:
    """What a node promises in its answers, and how much it lets strangers ask.

    Args:
        endpoints: Where clients connect; told only in a session accept.
        quote_validity_ms: How long a quote stands.
        eta_ms: When the first output usually comes.
        max_jobs: Concurrent jobs in one session.
        idle_ms: Sessions end after this long without a message.
        requests_per_key: In two minutes; more are refused as `rate-limited`. A client needs a few, since it makes a
            key for each session.
        requests_per_second: All strangers together; more are refused as `rate-limited`, and what was answered before is
            not answered again.
        open_requests_per_second: Of those that call on everybody; more are passed over in silence, and take nothing
            from those who ask this node.
        open_pow_bits: The least work of an open request, also of one that a router passes on.
    """

    endpoints: tuple[str, ...]
    quote_validity_ms: int = 60_000
    eta_ms: int = 1_000
    max_jobs: int = 64
    idle_ms: int = 300_000
    requests_per_key: int = 32
    requests_per_second: int = 500
    open_requests_per_second: int = 100
    open_pow_bits: int = OPEN_REQUEST_POW_BITS


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """A verified event that names this node, or calls on everybody, came from a relay.

    Args:
        session_id: 32 fresh random bytes, used if this opens a session.
        ephemeral_key: A fresh x-only key of ours, used if this opens a session.
    """

    event: VerifiedEvent
    relay_url: str
    session_id: SessionId
    ephemeral_key: PublicKey


@dataclass(frozen=True, slots=True)
class PublishAnswer:
    """Effect: send this answer on these relays."""

    event: VerifiedEvent
    relay_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AwaitSession:
    """Effect: a client will connect under this contract; `client_ephemeral_key` is its half of the secret."""

    contract: SessionContract
    client_ephemeral_key: PublicKey


ReceptionEffect = PublishAnswer | AwaitSession
