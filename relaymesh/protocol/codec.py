"""Values into events and back: sealed conversation (2877x) and public state (3877x) (RM-01, "Events").

A sealed message is NIP-44 text; its plaintext carries a random `salt` and the event an `x` tag with the SHA-256 of the
plaintext, so that one message can later be shown as evidence without giving a conversation key away.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import EventId, PublicKey, Signer, Tags, UnsignedEvent, VerifiedEvent, is_hex_32
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.tags import indexed_values, read_expiration
from relaymesh.protocol.content import (
    MAXIMUM_EVENT_BYTES,
    MAXIMUM_PLAINTEXT_BYTES,
    PROTOCOL_VERSION,
    check_content,
    encode_content,
)
from relaymesh.protocol.fields import MAXIMUM_LABEL_BYTES
from relaymesh.protocol.handshake import PostedAccept, PostedRequest, SessionAccept, SessionRequest
from relaymesh.protocol.offer import Offer
from relaymesh.protocol.quote import ForwardedRequest, Quote, QuoteRequest, RefusalMessage
from relaymesh.protocol.ranking import Ranking
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.protocol.status import STATUS_LABEL, Status
from relaymesh.units import Moment, Timestamp

MarketMessage = (
    QuoteRequest
    | ForwardedRequest
    | Quote
    | SessionRequest
    | PostedRequest
    | SessionAccept
    | PostedAccept
    | RefusalMessage
    | Ranking
)

MESSAGE_KINDS: Final[dict[type[MarketMessage], Kind]] = {
    QuoteRequest: Kind.QUOTE_REQUEST,
    ForwardedRequest: Kind.QUOTE_REQUEST,
    Quote: Kind.QUOTE,
    SessionRequest: Kind.SESSION_REQUEST,
    PostedRequest: Kind.SESSION_REQUEST,
    SessionAccept: Kind.SESSION_ACCEPT,
    PostedAccept: Kind.SESSION_ACCEPT,
    RefusalMessage: Kind.REFUSAL,
    Ranking: Kind.RANKING,
}

TOPIC: Final = "relaymesh"
_LABEL: Final = re.compile(rf"[a-z0-9./@-]{{1,{MAXIMUM_LABEL_BYTES}}}")
MAXIMUM_INDEXED_TAGS: Final = 10
MAXIMUM_INDEXED_CHARACTERS: Final = 100
CONVERSATION_WINDOW_SECONDS: Final = 60
STATE_FUTURE_SECONDS: Final = 60


def seal_message(
    message: MarketMessage,
    *,
    author: PublicKey,
    signer: Signer,
    recipient: PublicKey,
    answers: EventId | None,
    created_at: Timestamp,
    entropy: bytes,
) -> UnsignedEvent:
    """Encrypt a message to its recipient; what comes back is ready for proof of work and for signing.

    Args:
        author: Who will sign; the same key as `signer`'s.
        answers: The event this message answers (`e`), None for an opening.
        entropy: 64 fresh random bytes: the salt and the NIP-44 nonce.
    """
    salt, nonce = entropy[:32], entropy[32:64]
    plaintext = encode_content({**message.to_fields(), "salt": salt.hex()})
    if len(plaintext.encode()) > MAXIMUM_PLAINTEXT_BYTES:
        raise RemoteProtocolError(f"a market message must be at most {MAXIMUM_PLAINTEXT_BYTES} bytes long")
    tags: Tags = (("p", recipient), ("x", hashlib.sha256(plaintext.encode()).hexdigest()))
    if answers is not None:
        tags = (("e", answers), *tags)
    expiration = str(created_at + CONVERSATION_WINDOW_SECONDS)
    tags = (*tags, ("expiration", expiration))
    content = signer.seal(plaintext, recipient, nonce)
    return UnsignedEvent(author, created_at, MESSAGE_KINDS[type(message)], tags, content)


def open_message(event: VerifiedEvent, signer: Signer) -> MarketMessage | Refusal:
    """Decrypt and read a sealed message that was sent to `signer`, or by it.

    Returns:
        The message; or, when it opens but cannot be understood, the refusal that its author deserves.

    Raises:
        RemoteProtocolError: It is too large, not sealed to this key, or does not open: there is nobody to answer.
    """
    check_size(event)
    recipients = event.tag_values("p")
    if len(recipients) != 1 or not is_hex_32(recipients[0]):
        raise RemoteProtocolError("a sealed message must name exactly one recipient")
    mine = event.public_key == signer.public_key
    counterparty = PublicKey(recipients[0]) if mine else event.public_key
    if not mine and recipients[0] != signer.public_key:
        raise RemoteProtocolError("the sealed message is for another key")
    plaintext = signer.open(event.content, counterparty)
    try:
        return read_plaintext(event, plaintext)
    except RemoteProtocolError as error:
        return refuse(RefusalCode.INVALID_MESSAGE, str(error))


def read_plaintext(event: VerifiedEvent, plaintext: str) -> MarketMessage | Refusal:
    """Read a sealed message whose plaintext somebody discloses: it must be what the event's `x` tag commits to.

    Returns:
        The message, or a refusal when it is of another version.

    Raises:
        RemoteProtocolError: The plaintext is another, or is no valid message.
    """
    if event.tag_value("x") != hashlib.sha256(plaintext.encode()).hexdigest():
        raise RemoteProtocolError("the x tag must be the SHA-256 of the plaintext")
    fields = check_content(plaintext, maximum_bytes=MAXIMUM_PLAINTEXT_BYTES)
    message_type = _message_type(event.kind, fields)
    if not is_hex_32(fields.get("salt")):
        raise RemoteProtocolError("the plaintext must carry a salt of 32 bytes in hex")
    version = fields.get("v")
    if version != PROTOCOL_VERSION or isinstance(version, bool):
        return refuse(RefusalCode.UNSUPPORTED_VERSION, f"this side speaks version {PROTOCOL_VERSION}")
    return message_type.from_checked(plaintext)


def _message_type(kind: int, fields: dict[str, Any]) -> type[MarketMessage]:
    """What a plaintext of this kind is to be read as: where a kind has two forms, one field tells them apart."""
    match kind:
        case Kind.QUOTE_REQUEST:
            return ForwardedRequest if "request" in fields else QuoteRequest
        case Kind.QUOTE:
            return Quote
        case Kind.SESSION_REQUEST:
            return SessionRequest if "quote" in fields else PostedRequest
        case Kind.SESSION_ACCEPT:
            return PostedAccept if "quote" in fields else SessionAccept
        case Kind.REFUSAL:
            return RefusalMessage
        case Kind.RANKING:
            return Ranking
        case _:
            raise RemoteProtocolError(f"kind {kind} is not a sealed message")


def is_timely(event: VerifiedEvent, now: Moment) -> bool:
    """Whether a conversation event (2877x) may be acted on now: within ±60 s of its making, before its expiration."""
    if abs(event.created_at - now.timestamp) > CONVERSATION_WINDOW_SECONDS:
        return False
    expiration = read_expiration(event)
    return expiration is None or now.timestamp < expiration


@dataclass(frozen=True, slots=True)
class SignedOffer:
    """An offer and the verified event it came in."""

    event: VerifiedEvent
    label: str
    offer: Offer

    @property
    def node(self) -> PublicKey:
        """Whose offer it is."""
        return self.event.public_key

    @property
    def address(self) -> str:
        """`38770:<node>:<label>`, as an `a` tag names it (NIP-01)."""
        return f"{int(Kind.OFFER)}:{self.event.public_key}:{self.label}"


@dataclass(frozen=True, slots=True)
class SignedStatus:
    """A status and the verified event it came in."""

    event: VerifiedEvent
    status: Status
    expires_at: Timestamp

    @property
    def node(self) -> PublicKey:
        """Whose status it is."""
        return self.event.public_key


def build_offer(offer: Offer, label: str, author: PublicKey, created_at: Timestamp) -> UnsignedEvent:
    """The 38770 that publishes this offer under this label."""
    tags: list[tuple[str, ...]] = [("t", TOPIC), ("d", label)]
    tags += [("m", model) for model in offer.models]
    tags += [("j", job_type) for job_type in offer.job_types]
    if offer.region is not None:
        tags.append(("r", offer.region))
    tags.append(("alt", f"RelayMesh offer: {', '.join(offer.models)}"[:200]))
    return UnsignedEvent(author, created_at, Kind.OFFER, tuple(tags), encode_content(offer.to_fields()))


def read_offer(event: VerifiedEvent) -> SignedOffer:
    """Read a 38770; RemoteProtocolError if it is not a valid offer."""
    label = read_state_label(event, Kind.OFFER)
    offer = Offer.from_text(event.content)
    if set(event.tag_values("m")) != set(offer.models) or set(event.tag_values("j")) != set(offer.job_types):
        raise RemoteProtocolError("an offer's m and j tags must be the models and job types of its rows")
    if event.tag_values("r") != (() if offer.region is None else (offer.region,)):
        raise RemoteProtocolError("an offer's r tag must be its region")
    return SignedOffer(event, label, offer)


def build_status(status: Status, author: PublicKey, created_at: Timestamp, expires_at: Timestamp) -> UnsignedEvent:
    """The 38771 that publishes this status until `expires_at` (three heartbeats from now)."""
    tags = (
        ("t", TOPIC),
        ("d", STATUS_LABEL),
        ("expiration", str(expires_at)),
        ("alt", f"RelayMesh node status: {status.state}"),
    )
    return UnsignedEvent(author, created_at, Kind.STATUS, tags, encode_content(status.to_fields()))


def read_status(event: VerifiedEvent) -> SignedStatus:
    """Read a 38771; RemoteProtocolError if it is not a valid status."""
    label = read_state_label(event, Kind.STATUS)
    expires_at = read_expiration(event)
    if label != STATUS_LABEL or expires_at is None:
        raise RemoteProtocolError(f"a status must carry d={STATUS_LABEL} and an expiration")
    return SignedStatus(event, Status.from_text(event.content), expires_at)


def is_label(text: str) -> bool:
    """Whether an offer may be called so (RM-01, "Offer")."""
    return _LABEL.fullmatch(text) is not None


def read_state_label(event: VerifiedEvent, kind: Kind) -> str:
    """The label of a 3877x of this kind, whose tags are as they must be (RM-01, "Events").

    Raises:
        RemoteProtocolError: It is of another kind or too large, or has too many tags, other topics or no label.
    """
    label = read_state_identifier(event, kind)
    if not is_label(label):
        raise RemoteProtocolError(
            f"state must carry one label of 1 to {MAXIMUM_LABEL_BYTES} characters of a-z, 0-9 and ./@-"
        )
    return label


def read_state_identifier(event: VerifiedEvent, kind: Kind) -> str:
    """The `d` of a 3877x of this kind, whatever it looks like; else as `read_state_label`."""
    if event.kind != kind:
        raise RemoteProtocolError(f"expected an event of kind {int(kind)}, not {event.kind}")
    check_size(event)
    indexed = indexed_values(event)
    if len(indexed) > MAXIMUM_INDEXED_TAGS or any(len(value) > MAXIMUM_INDEXED_CHARACTERS for _, value in indexed):
        raise RemoteProtocolError(
            f"state must have at most {MAXIMUM_INDEXED_TAGS} tags of one letter, of at most "
            f"{MAXIMUM_INDEXED_CHARACTERS} characters each"
        )
    identifiers = event.tag_values("d")
    if event.tag_values("t") != (TOPIC,) or len(identifiers) != 1:
        raise RemoteProtocolError(f"state must carry t={TOPIC} and one d tag")
    return identifiers[0]


def check_size(event: VerifiedEvent) -> None:
    """RemoteProtocolError for an event that is larger than any market event may be."""
    if event.size > MAXIMUM_EVENT_BYTES:
        raise RemoteProtocolError(f"a market event must be at most {MAXIMUM_EVENT_BYTES} bytes")
