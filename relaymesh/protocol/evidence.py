"""Evidence: metering records and receipts as signed events, and what anyone can check about them offline (RM-03)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import Event, PublicKey, Tags, UnsignedEvent, VerifiedEvent, is_hex_32, parse_event
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.codec import TOPIC
from relaymesh.protocol.content import check_content, encode_content
from relaymesh.protocol.metering import MeteringRecord
from relaymesh.protocol.receipt import Receipt
from relaymesh.protocol.session_messages import JobId
from relaymesh.units import Timestamp

MAXIMUM_RECORD_BYTES: Final = 10_240
"""A metering record must fit into the receipt that embeds it."""

Verifier = Callable[[Event], VerifiedEvent]
"""Checks id and signature; raises RemoteProtocolError (`relaymesh.nostr.keys.verify` is the real one)."""


@dataclass(frozen=True, slots=True)
class SignedMetering:
    """A metering record and the verified event it came in; `client` is the session key it was made for."""

    event: VerifiedEvent
    record: MeteringRecord
    client: PublicKey


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt, the verified event it came in, and the verified metering record inside it."""

    event: VerifiedEvent
    receipt: Receipt
    metering: SignedMetering


def build_metering(
    record: MeteringRecord, *, author: PublicKey, client: PublicKey, created_at: Timestamp
) -> UnsignedEvent:
    """The 8770 that states this record to this client session key."""
    tags: Tags = (("t", TOPIC), ("p", client), ("alt", "RelayMesh metering record"))
    return UnsignedEvent(author, created_at, Kind.METERING, tags, encode_content(record.to_fields()))


def read_metering(event: VerifiedEvent) -> SignedMetering:
    """Read an 8770; RemoteProtocolError if it is not a valid metering record."""
    client = read_subject(event, Kind.METERING)
    if event.size > MAXIMUM_RECORD_BYTES:
        raise RemoteProtocolError(f"a metering record must be at most {MAXIMUM_RECORD_BYTES} bytes, to fit a receipt")
    return SignedMetering(event, MeteringRecord.from_text(event.content), client)


def build_receipt(receipt: Receipt, metering: SignedMetering, created_at: Timestamp) -> UnsignedEvent:
    """The 8771 with which the client session key answers a metering record."""
    tags: Tags = (
        ("t", TOPIC),
        ("p", metering.event.public_key),
        ("e", metering.event.id),
        ("alt", "RelayMesh receipt"),
    )
    return UnsignedEvent(metering.client, created_at, Kind.RECEIPT, tags, encode_content(receipt.to_fields()))


def read_receipt(event: VerifiedEvent, verify: Verifier) -> SignedReceipt:
    """Read an 8771 and verify the record inside it.

    Raises:
        RemoteProtocolError: The receipt or the record is invalid, or the receipt's author is not the record's client.
    """
    node = read_subject(event, Kind.RECEIPT)
    receipt = Receipt.from_text(event.content)
    metering = read_metering(verify(parse_event(receipt.metering)))
    if metering.client != event.public_key:
        raise RemoteProtocolError("a receipt is valid only if its author is the client that the record names")
    if metering.event.public_key != node or event.tag_value("e") != metering.event.id:
        raise RemoteProtocolError("a receipt's p and e tags must name the record it embeds")
    return SignedReceipt(event, receipt, metering)


def claimed_job(event: Event) -> JobId | None:
    """The job that an unverified 8770, or the 8770 inside an unverified 8771, says it is about; None if unreadable.

    Only to find the machine that waits for it and will check it.
    """
    try:
        fields = check_content(event.content)
        if event.kind == Kind.RECEIPT:
            fields = check_content(parse_event(fields.get("metering")).content)
    except RemoteProtocolError:
        return None
    job_id = fields.get("job")
    return JobId(job_id) if isinstance(job_id, str) else None


def read_subject(event: VerifiedEvent, kind: Kind) -> PublicKey:
    """The one other party that an 877x of this kind names; RemoteProtocolError if it is another kind or names none."""
    if event.kind != kind:
        raise RemoteProtocolError(f"expected an event of kind {int(kind)}, not {event.kind}")
    subjects = event.tag_values("p")
    if len(subjects) != 1 or not is_hex_32(subjects[0]):
        raise RemoteProtocolError("evidence must name exactly one other party in a p tag")
    return PublicKey(subjects[0])
