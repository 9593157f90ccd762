"""Open requests: a 28770 without a recipient, by which a buyer calls for bids (RM-01, "Open requests").

It is not sealed, since everybody may answer it, and so tells the shape of a job to everybody. What keeps strangers from
calling for ever is proof of work: a node gives at most one quote for it.
"""

from typing import Final

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import PublicKey, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.codec import CONVERSATION_WINDOW_SECONDS, TOPIC, check_size
from relaymesh.protocol.content import encode_content
from relaymesh.protocol.quote import OpenRequest
from relaymesh.units import Timestamp

OPEN_REQUEST_POW_BITS: Final = 16
"""The least work of an open request, whatever the offers say; a node whose `pow_bits` are higher wants those."""


def build_open_request(request: OpenRequest, author: PublicKey, created_at: Timestamp) -> UnsignedEvent:
    """The 28770 that calls for bids; proof of work, and the signature, are still to come."""
    tags = (
        ("t", TOPIC),
        ("m", request.model),
        ("j", request.job_type),
        ("expiration", str(created_at + CONVERSATION_WINDOW_SECONDS)),
    )
    return UnsignedEvent(author, created_at, Kind.QUOTE_REQUEST, tags, encode_content(request.to_fields()))


def is_open_request(event: VerifiedEvent) -> bool:
    """Whether an event is a 28770 that names no recipient."""
    return event.kind == Kind.QUOTE_REQUEST and not event.tag_values("p")


def read_open_request(event: VerifiedEvent) -> OpenRequest:
    """Read an open request; its time and its work are for the reader to check.

    Raises:
        RemoteProtocolError: It is none, too large, malformed, or its tags contradict its content.
    """
    if not is_open_request(event):
        raise RemoteProtocolError(f"an open request must be of kind {int(Kind.QUOTE_REQUEST)} and name no recipient")
    check_size(event)
    request = OpenRequest.from_text(event.content)
    if event.tag_values("t") != (TOPIC,):
        raise RemoteProtocolError(f"an open request must carry t={TOPIC}")
    if event.tag_values("m") != (request.model,) or event.tag_values("j") != (request.job_type,):
        raise RemoteProtocolError("an open request's m and j tags must be its model and job type")
    return request
